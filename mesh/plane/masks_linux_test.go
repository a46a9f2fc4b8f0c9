package plane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ripstop/crypto"
	"ripstop/tun"
	"ripstop/tun/netns"
	"ripstop/tun/tuntest"
)

const (
	tso     = tun.OffloadTSO4 | tun.OffloadTSO6 | tun.OffloadECN
	uso     = tun.OffloadUSO4 | tun.OffloadUSO6
	allMask = tun.OffloadChecksum | tso | uso
)

// kernel is a host with one container:
//
//	plane ─ TAP rs0 ─ bridge rsbr ─ veth c0 │ c1 ─ the container's TCP and UDP, and c1.7 behind a tag
//
// c0 has no offload at all: what the plane writes is segmented and finished there, by
// the sum that the plane gave, and the container verifies it.
type kernel struct {
	container *netns.NS
	tap       tun.Device
	tags      bool // there is c1.7
}

func newKernel(t *testing.T, number int, mask tun.OffloadMask, mtu int) *kernel {
	t.Helper()
	k := new(kernel)
	var spaces [2]*netns.NS
	for i := range spaces {
		ns, err := netns.NewAnonymous()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ns.Close() })
		spaces[i] = ns
	}
	k.container = spaces[1]
	if err := spaces[0].Do(func() (err error) {
		// Not there in every kernel, and 1 in every new namespace that has it.
		os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("0"), 0)
		os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-ip6tables", []byte("0"), 0)
		if k.tap, err = tun.OpenTAP(tun.Config{Name: "rs0", Queues: 1, Offloads: mask}); err != nil {
			return err
		}
		if _, err := tun.SetUpBridge(tun.BridgeConfig{Name: "rsbr", TAP: k.tap.Name()}); err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = "c0", mtu
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "c1", PeerMTU: uint32(mtu), PeerNamespace: netlink.NsFd(spaces[1].FD())}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		bridge, err := netlink.LinkByName("rsbr")
		if err != nil {
			return err
		}
		for _, command := range []uint32{unix.ETHTOOL_STXCSUM, unix.ETHTOOL_STSO, unix.ETHTOOL_SGSO} {
			if err := switchOff("c0", command); err != nil {
				return fmt.Errorf("ethtool %#x: %w", command, err)
			}
		}
		return errors.Join(netlink.LinkSetMaster(veth, bridge), netlink.LinkSetUp(bridge), netlink.LinkSetUp(veth))
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.tap.Close() })
	if err := k.container.Do(func() error {
		c1, err := netlink.LinkByName("c1")
		if err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex = "c1.7", c1.Attrs().Index
		tagged := &netlink.Vlan{LinkAttrs: attrs, VlanId: 7}
		k.tags = true
		if err := netlink.LinkAdd(tagged); errors.Is(err, unix.EOPNOTSUPP) {
			k.tags = false
		} else if err != nil {
			return err
		}
		for _, a := range []struct {
			link   netlink.Link
			prefix string
		}{{c1, "10.32.0.%d/24"}, {c1, "fd32::%d/64"}, {tagged, "10.37.0.%d/24"}, {tagged, "fd37::%d/64"}} {
			if a.link == tagged && !k.tags {
				continue
			}
			if err := netlink.LinkSetUp(a.link); err != nil {
				return err
			}
			address, err := netlink.ParseAddr(fmt.Sprintf(a.prefix, number))
			if err != nil {
				return err
			}
			address.Flags = unix.IFA_F_NODAD
			if err := netlink.AddrAdd(a.link, address); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := spaces[0].Do(waitUp); err != nil {
		t.Fatal(err)
	}
	return k
}

// waitUp waits until the kernel has told the bridge that c0 is up, which takes it up to a
// second: until then the port takes nothing.
func waitUp() error {
	for end := time.Now().Add(patience); time.Now().Before(end); <-time.After(10 * time.Millisecond) {
		c0, err := netlink.LinkByName("c0")
		if err != nil {
			return err
		}
		if c0.Attrs().OperState == netlink.OperUp {
			return nil
		}
	}
	return errors.New("c0 does not come up")
}

// switchOff takes an old-style feature, one with a command of its own, from an interface.
func switchOff(name string, command uint32) error {
	data := [2]uint32{command, 0}
	var request struct {
		name [unix.IFNAMSIZ]byte
		data *[2]uint32
		_    [16]byte
	}
	copy(request.name[:], name)
	request.data = &data
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return errno
	}
	return nil
}

// refused is how many segments and datagrams the container had with a wrong sum.
func (k *kernel) refused(t *testing.T) int {
	t.Helper()
	total := 0
	if err := k.container.Do(func() error {
		snmp, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		lines := strings.Split(string(snmp), "\n")
		for i := 0; i+1 < len(lines); i += 2 {
			if at := slices.Index(strings.Fields(lines[i]), "InCsumErrors"); at >= 0 {
				n := 0
				fmt.Sscan(strings.Fields(lines[i+1])[at], &n)
				total += n
			}
		}
		snmp6, err := os.ReadFile("/proc/thread-self/net/snmp6")
		for line := range strings.Lines(string(snmp6)) {
			if name, value, _ := strings.Cut(line, " "); strings.HasSuffix(strings.Fields(name + " ")[0], "InCsumErrors") {
				n := 0
				fmt.Sscan(value, &n)
				total += n
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return total
}

// TestKernelsVerify: what containers of two kernels say to each other arrives unchanged
// and with right sums for pairs of masks, where the receiving kernel makes and verifies
// every sum: TCP and USO, IPv4 and IPv6, plain and tagged, longer than the path and not.
func TestKernelsVerify(t *testing.T) {
	tuntest.NeedRoot(t)
	for _, c := range []struct {
		name string
		a, b tun.OffloadMask
	}{
		{"all and all", allMask, allMask},
		{"all and none", allMask, 0},
		{"none and none", 0, 0},
		{"checksum and all", tun.OffloadChecksum, allMask},
		{"no uso and no tso", tun.OffloadChecksum | tso, tun.OffloadChecksum | uso},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ends := []*kernel{newKernel(t, 1, c.a, 1500), newKernel(t, 2, c.b, 1500)}
			l := newLab(t, 2, crypto.CipherAuto)
			for i, h := range l.hosts {
				cfg := h.cfg
				cfg.Device = ends[i].tap
				h.Plane = New(cfg)
			}
			l.session(l.hosts[0], l.hosts[1], true)
			l.trains(64)
			l.publish()
			l.run(func() {
				for i, from := range ends {
					to := ends[1-i]
					formats := []string{"10.32.0.%d", "fd32::%d", "10.37.0.%d", "fd37::%d"}
					if !from.tags {
						t.Log("this kernel has no VLAN interfaces")
						formats = formats[:2]
					}
					for _, format := range formats {
						address := netip.MustParseAddr(fmt.Sprintf(format, 2-i))
						say(t, from, to, address)
						tell(t, from, to, address)
					}
				}
				for i, h := range l.hosts { // before the devices are closed
					for name, n := range h.Counters().All() {
						if strings.HasPrefix(name, "drop_") {
							t.Errorf("host %d: %s %d", i+1, name, n)
						}
					}
				}
			})
			for i, k := range ends {
				if n := k.refused(t); n != 0 {
					t.Errorf("container %d refused %d wrong sums", i+1, n)
				}
			}
		})
	}
}

// TestKernelsFinish: what a plane writes to a real device is, cut and finished by a real
// kernel, byte for byte what was sent, tagged or not, in whatever form either end has it.
func TestKernelsFinish(t *testing.T) {
	tuntest.NeedRoot(t)
	for _, sender := range []string{"all", "none"} {
		for name, mask := range map[string]tun.OffloadMask{
			"all": allMask, "no uso": tun.OffloadChecksum | tso, "no tso": tun.OffloadChecksum | uso, "checksum": tun.OffloadChecksum, "none": 0,
		} {
			t.Run(sender+" to "+name, func(t *testing.T) {
				t.Parallel()
				k := newKernel(t, 2, mask, 20000)
				frames := k.listen(t)
				l := newLab(t, 2, crypto.CipherAuto)
				a, b := l.hosts[0], l.hosts[1]
				a.device = tuntest.NewDevice(tuntest.Config{Capabilities: masks[sender]})
				for h, device := range map[*host]tun.Device{a: a.device, b: k.tap} {
					cfg := h.cfg
					cfg.Device = device
					h.Plane = New(cfg)
				}
				l.session(a, b, true)
				l.trains(64)
				l.publish()
				l.run(func() {
					for _, s := range streams(rand.New(rand.NewPCG(7, 9)), []*host{a, b, b}) {
						for i := range s.sent {
							given, seen := s.sent[i].leaves(masks[sender], 1472-overhead)
							for k, w := range given {
								if !a.device.InjectOffload(0, w.Bytes, w.Offload) {
									t.Fatal("not injected")
								}
								for _, want := range seen[k] {
									if got := frames(); !bytes.Equal(got, want) {
										t.Fatalf("%d bytes arrive\n%x\nwant %d\n%x\ncounters %v %v", len(got), got[:min(len(got), 140)], len(want), want[:min(len(want), 140)], a.Counters().All(), b.Counters().All())
									}
								}
							}
						}
					}
				})
			})
		}
	}
}

// listen returns what gives the next frame of a stream that comes to the container, the
// outer tag that its kernel took off put back.
func (k *kernel) listen(t *testing.T) func() []byte {
	t.Helper()
	var fd int
	if err := k.container.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		c1, err := netlink.LinkByName("c1")
		if err != nil {
			return err
		}
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
		limit := unix.NsecToTimeval(int64(patience))
		return errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8, Ifindex: c1.Attrs().Index}))
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	buf, control := make([]byte, 1<<17), make([]byte, 256)
	return func() []byte {
		for {
			n, controlLen, _, _, err := unix.Recvmsg(fd, buf, control, 0)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return nil
			}
			if n < 14 || !bytes.Equal(buf[6:11], []byte{2, 0, 0, 1, 0}) {
				continue
			}
			frame := bytes.Clone(buf[:n])
			messages, err := unix.ParseSocketControlMessage(control[:controlLen])
			if err != nil {
				return nil
			}
			for _, m := range messages {
				if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA {
					continue
				}
				aux := (*unix.TpacketAuxdata)(unsafe.Pointer(&m.Data[0]))
				if aux.Status&unix.TP_STATUS_VLAN_VALID != 0 {
					tag := []byte{byte(aux.Vlan_tpid >> 8), byte(aux.Vlan_tpid), byte(aux.Vlan_tci >> 8), byte(aux.Vlan_tci)}
					frame = slices.Insert(frame, 12, tag...)
				}
			}
			return frame
		}
	}
}

// say sends bytes over TCP and wants the same at the other end.
func say(t *testing.T, from, to *kernel, address netip.Addr) {
	t.Helper()
	deadline := time.Now().Add(patience)
	var listener *net.TCPListener
	if err := to.container.Do(func() (err error) {
		listener, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(address, 5000)))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	listener.SetDeadline(deadline)
	heard := make(chan []byte, 1)
	go func() {
		defer close(heard)
		c, err := listener.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(deadline)
		b, _ := io.ReadAll(c)
		heard <- b
	}()
	data := make([]byte, 1<<18+7)
	r := rand.NewChaCha8([32]byte{byte(len(address.AsSlice()))})
	r.Read(data)
	var c net.Conn
	if err := from.container.Do(func() (err error) {
		// One address: no second attempt on another goroutine, which would be home.
		dialer := net.Dialer{Deadline: deadline, FallbackDelay: -1}
		c, err = dialer.DialContext(context.Background(), "tcp", netip.AddrPortFrom(address, 5000).String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(deadline)
	if _, err := c.Write(data); err != nil {
		t.Errorf("%s: %v", address, err)
	}
	c.Close()
	if b := <-heard; !bytes.Equal(b, data) {
		t.Errorf("%s: %d bytes arrived of %d, or others", address, len(b), len(data))
	}
}

// tell sends UDP super-frames whose datagrams fit the path, and do not, and wants each
// datagram.
func tell(t *testing.T, from, to *kernel, address netip.Addr) {
	t.Helper()
	at := net.UDPAddrFromAddrPort(netip.AddrPortFrom(address, 6000))
	var receiver, sender *net.UDPConn
	if err := to.container.Do(func() (err error) { receiver, err = net.ListenUDP("udp", at); return err }); err != nil {
		t.Fatal(err)
	}
	defer receiver.Close()
	if err := from.container.Do(func() (err error) { sender, err = net.DialUDP("udp", nil, at); return err }); err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	receiver.SetDeadline(time.Now().Add(patience))
	raw, err := sender.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{33, 1101, 1440} {
		raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, size) })
		if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, 12*size+size/2)
		for i := range data {
			data[i] = byte(i*7 + i>>8)
		}
		if _, err := sender.Write(data); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 2000)
		for off := 0; off < len(data); off += size {
			n, err := receiver.Read(buf)
			if err != nil {
				t.Fatalf("%s, datagrams of %d: %v", address, size, err)
			}
			if want := data[off:min(off+size, len(data))]; !bytes.Equal(buf[:n], want) {
				t.Fatalf("%s: a datagram of %d bytes, want %d, or other bytes", address, n, len(want))
			}
		}
	}
}
