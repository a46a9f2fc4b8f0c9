package offload

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ripstop/tun"
)

// inNamespace moves the calling test into a network namespace of its own, which
// ends with the test's thread.
func inNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		missing(t, fmt.Sprintf("no network namespace for the test: %v", err))
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		missing(t, err.Error())
	}
	// Not there in every kernel, and 1 in every new namespace that has it.
	os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("0"), 0)
	os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-ip6tables", []byte("0"), 0)
}

func missing(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("RIPSTOP_CI") != "" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// rig is a TAP on a bridge with one container, whose end is captured:
//
//	WriteBatch -> TAP rs0 - bridge rsbr - veth c0 | c1 -> packet socket
type rig struct {
	tap     tun.Device
	host    netlink.Link // c0
	capture int
}

func newRig(t *testing.T) *rig {
	t.Helper()
	inNamespace(t)
	tap, err := tun.OpenTAP(tun.Config{Name: "rs0", Queues: 1, Offloads: tun.OffloadAll})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tap.Close() })
	if _, err := tun.SetUpBridge(tun.BridgeConfig{Name: "rsbr", TAP: tap.Name()}); err != nil {
		t.Fatal(err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = "c0", 9000
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "c1", PeerMTU: 9000}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"c1", "c0", "rsbr"} {
		if err := netlink.LinkSetUp(link(t, name)); err != nil {
			t.Fatal(err)
		}
	}
	r := &rig{tap: tap, host: link(t, "c0")}
	if err := netlink.LinkSetMaster(r.host, link(t, "rsbr")); err != nil {
		t.Fatal(err)
	}
	if r.capture, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(r.capture) })
	unix.SetsockoptInt(r.capture, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	if err := unix.SetsockoptInt(r.capture, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
		t.Fatal(err)
	}
	all := &unix.SockaddrLinklayer{Protocol: unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8&0xffff, Ifindex: link(t, "c1").Attrs().Index}
	if err := unix.Bind(r.capture, all); err != nil {
		t.Fatal(err)
	}
	return r
}

func link(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(name, err)
	}
	return l
}

// ethtool switches an old-style feature, one with a command of its own.
func ethtool(t *testing.T, name string, command, value uint32) {
	t.Helper()
	data := [2]uint32{command, value}
	var request struct {
		name [unix.IFNAMSIZ]byte
		data *[2]uint32
		_    [16]byte
	}
	copy(request.name[:], name)
	request.data = &data
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		t.Fatalf("ethtool %#x on %s: %v", command, name, errno)
	}
}

// next is the next frame from the test's MAC, with the outer tag that the kernel
// took off put back, and whether its checksum is unfinished.
func (r *rig) next(t *testing.T) (frame []byte, unfinished bool) {
	t.Helper()
	buf, control := make([]byte, 1<<17), make([]byte, 256)
	for end := time.Now().Add(5 * time.Second); ; {
		left := unix.NsecToTimeval(max(time.Until(end).Nanoseconds(), 1e6))
		unix.SetsockoptTimeval(r.capture, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &left)
		n, controlLen, _, from, err := unix.Recvmsg(r.capture, buf, control, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Fatalf("nothing more arrives: %v", err)
		}
		if from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING || n < 14 || buf[6] != 2 || buf[11] != 1 || buf[7] != 0 {
			continue
		}
		frame = bytes.Clone(buf[:n])
		messages, err := unix.ParseSocketControlMessage(control[:controlLen])
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA {
				continue
			}
			aux := (*unix.TpacketAuxdata)(unsafe.Pointer(&m.Data[0]))
			unfinished = aux.Status&unix.TP_STATUS_CSUMNOTREADY != 0
			if aux.Status&unix.TP_STATUS_VLAN_VALID != 0 {
				tag := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, aux.Vlan_tpid), aux.Vlan_tci)
				frame = slices.Insert(frame, 12, tag...)
			}
		}
		return frame, unfinished
	}
}

// TestKernelJoin writes joined trains to a TAP and captures them in a container:
// as they are; after the kernel segmented them; and with the checksum offload of
// the host's veth end off as well, where the kernel finishes the sums and a wrong
// pseudo-header sum shows.
func TestKernelJoin(t *testing.T) {
	r := newRig(t)
	usable := r.tap.Capabilities()
	data := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i*7 + i>>8)
		}
		return b
	}
	tag := [][2]uint16{{0x8100, 7}}
	hop := []extension{{0, make([]byte, 7)}}
	destination := []extension{{60, []byte{0, 1, 4, 0, 0, 0, 0}}}
	stamps := []byte{1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8}
	cases := []struct {
		name string
		p    packet
	}{
		{"TCPv4", packet{tcp: true, flags: 0x18}},
		{"TCPv6", packet{v6: true, tcp: true, flags: 0x18}},
		{"UDPv4", packet{}},
		{"UDPv6", packet{v6: true}},
		{"TCPv4 tagged", packet{tags: tag, tcp: true, flags: 0x10}},
		{"TCPv6 tagged", packet{tags: tag, v6: true, tcp: true, flags: 0x10}},
		{"UDPv4 tagged", packet{tags: tag}},
		{"UDPv6 tagged", packet{tags: tag, v6: true}},
		{"TCPv4 tagged twice", packet{tags: [][2]uint16{{0x88a8, 5}, {0x8100, 7}}, tcp: true, flags: 0x10}},
		{"TCPv6 behind hop-by-hop", packet{v6: true, extensions: hop, tcp: true, flags: 0x11}},
		{"UDPv6 behind hop-by-hop", packet{v6: true, extensions: hop}},
		{"TCPv6 behind destination options", packet{v6: true, extensions: destination, tcp: true, flags: 0x10}},
		{"UDPv6 behind destination options", packet{v6: true, extensions: destination}},
		{"TCPv4 with CWR", packet{tcp: true, flags: 0xd8}},
		{"TCPv6 with CWR", packet{v6: true, tcp: true, flags: 0x90}},
		{"TCPv4 with time stamps", packet{tcp: true, flags: 0x10, tcpOptions: stamps, id: 0xfffd, sequence: 1<<32 - 2000}},
		{"TCPv4 with IPv4 options", packet{ipOptions: []byte{1, 1, 1, 0}, tcp: true, flags: 0x10, frag: 0x4000}},
	}
	// written joins each run, checks it, and writes it.
	var j Joiner
	written := func(t *testing.T, runs ...[]*packet) (frames [][]byte) {
		for _, run := range runs {
			var in [][]byte
			for _, s := range run {
				b, _, _ := s.frame(partial)
				in = append(in, b)
			}
			out := joinAll(t, &j, in)
			if len(out) != 1 {
				t.Fatalf("%d frames of %d became %d", len(run), len(in), len(out))
			}
			frames = append(frames, whole(&out[0]))
			if n, err := r.tap.Queues()[0].WriteBatch(out); n != 1 || err != nil {
				t.Fatal(n, err)
			}
		}
		return frames
	}
	const (
		asItIs = iota
		segmented
		finished
	)
	for mode, name := range []string{"as it is", "segmented", "finished"} {
		switch mode {
		case segmented:
			if err := netlink.LinkSetGSOMaxSize(r.host, 1000); err != nil { // less than any of the test's: nothing passes whole
				t.Fatal(err)
			}
		case finished:
			ethtool(t, "c0", unix.ETHTOOL_STXCSUM, 0)
			ethtool(t, "c0", unix.ETHTOOL_STSO, 0)
			ethtool(t, "c0", unix.ETHTOOL_SGSO, 0)
		}
		for _, c := range cases {
			for _, size := range []int{1300, 1301} {
				t.Run(fmt.Sprintf("%s/%s/%d", name, c.name, size), func(t *testing.T) {
					if !c.p.tcp && !usable.UDP || !usable.TCP {
						t.Skip("this kernel has no such super-frames")
					}
					p := c.p
					p.hops, p.ports, p.payload = 64, [2]uint16{4000, 5000}, data(7*size+size/3)
					train := p.cut(size)
					// Whole; split in two by a loss; and single frames.
					runs := [][]*packet{train, train[:3], train[4:], train[:1], train[7:]}
					frames := written(t, runs...)
					for i, run := range runs {
						if mode == asItIs {
							if got, unfinished := r.next(t); !bytes.Equal(got, frames[i]) || !unfinished {
								t.Fatalf("run %d: unfinished %v\n%x\nwant\n%x", i, unfinished, got[:min(len(got), 100)], frames[i][:min(len(frames[i]), 100)])
							}
							continue
						}
						want := pseudo
						if mode == finished {
							want = exact
						}
						for k, s := range run {
							got, unfinished := r.next(t)
							if b, _, _ := s.frame(want); !bytes.Equal(got, b) || unfinished != (mode == segmented) {
								t.Fatalf("run %d, segment %d: unfinished %v\n%x\nwant\n%x", i, k, unfinished, got[:min(len(got), 100)], b[:min(len(b), 100)])
							}
						}
					}
				})
			}
		}
	}
}

// TestKernelTunnelJoin is TestKernelJoin for the trains of tunnels: nobody but this
// kernel's segmentation says what a tunnelled super-frame means.
func TestKernelTunnelJoin(t *testing.T) {
	r := newRig(t)
	usable := r.tap.Capabilities()
	if !usable.Tunnel || !usable.TunnelChecksum {
		t.Skip("this kernel has no such super-frames")
	}
	stamps := []byte{1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8}
	cases := []struct {
		name string
		p    tunnelled
	}{
		{"IPv4 in IPv4", tunnelled{inner: packet{flags: 0x18}}},
		{"IPv6 in IPv4", tunnelled{inner: packet{v6: true, flags: 0x18}}},
		{"IPv4 in IPv6", tunnelled{outer: packet{v6: true}, inner: packet{flags: 0x10}}},
		{"IPv6 in IPv6", tunnelled{outer: packet{v6: true}, inner: packet{v6: true, flags: 0x10}}},
		{"with CWR", tunnelled{inner: packet{flags: 0xd8}}},
		{"with time stamps", tunnelled{outer: packet{id: 0xfffe, frag: 0x4000}, inner: packet{flags: 0x10, tcpOptions: stamps, id: 0xfffd, sequence: 1<<32 - 2000}}},
		{"tagged", tunnelled{outer: packet{tags: [][2]uint16{{0x8100, 7}}}, inner: packet{flags: 0x10}}},
		{"tagged inside", tunnelled{encap: encapsulations["VXLAN, tag inside"], inner: packet{flags: 0x10}}},
		{"GENEVE", tunnelled{encap: encapsulations["GENEVE with options"], inner: packet{v6: true, flags: 0x10}}},
		{"no Ethernet inside", tunnelled{encap: encapsulations["VXLAN-GPE without Ethernet"], inner: packet{flags: 0x10}}},
	}
	var j Joiner
	const (
		asItIs = iota
		segmented
		finished
	)
	for mode, name := range []string{"as it is", "segmented", "finished"} {
		switch mode {
		case segmented:
			if err := netlink.LinkSetGSOMaxSize(r.host, 1000); err != nil {
				t.Fatal(err)
			}
		case finished:
			ethtool(t, "c0", unix.ETHTOOL_STXCSUM, 0)
			ethtool(t, "c0", unix.ETHTOOL_STSO, 0)
			ethtool(t, "c0", unix.ETHTOOL_SGSO, 0)
		}
		for _, c := range cases {
			for _, summed := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/outer sum %v", name, c.name, summed), func(t *testing.T) {
					p := c.p
					p.summed = summed
					if p.encap == nil {
						p.encap = encapsulations["VXLAN"]
					}
					p.outer.hops, p.outer.ports = 64, [2]uint16{4444, 4789}
					p.inner.hops, p.inner.ports, p.inner.tcp = 64, [2]uint16{4000, 5000}, true
					p.inner.payload = make([]byte, 7*1237+300)
					for i := range p.inner.payload {
						p.inner.payload[i] = byte(i*7 + i>>8)
					}
					train := p.cut(1237)
					runs := [][]*tunnelled{train, train[:3], train[4:], train[:1], train[7:]}
					var frames [][]byte
					for _, run := range runs {
						var in [][]byte
						var places []int
						for _, s := range run {
							b, at, _, _ := s.frame(partial)
							in, places = append(in, b), append(places, at)
						}
						out := joinTunnelled(t, &j, in, places)
						if len(out) != 1 {
							t.Fatalf("%d frames became %d", len(in), len(out))
						}
						frames = append(frames, whole(&out[0]))
						if n, err := r.tap.Queues()[0].WriteBatch(out); n != 1 || err != nil {
							t.Fatal(n, err)
						}
					}
					for i, run := range runs {
						if mode == asItIs {
							if got, unfinished := r.next(t); !bytes.Equal(got, frames[i]) || !unfinished {
								t.Fatalf("run %d: unfinished %v\n%x\nwant\n%x", i, unfinished, got[:min(len(got), 130)], frames[i][:min(len(frames[i]), 130)])
							}
							continue
						}
						for k, s := range run {
							got, unfinished := r.next(t)
							want, _, _, _ := s.frame(exact)
							if mode == segmented {
								want, _ = s.single()
							}
							if !bytes.Equal(got, want) || unfinished != (mode == segmented) {
								t.Fatalf("run %d, segment %d of %d: unfinished %v\n%x\nwant\n%x", i, k, len(run), unfinished, got[:min(len(got), 130)], want[:min(len(want), 130)])
							}
						}
					}
				})
			}
		}
	}
}
