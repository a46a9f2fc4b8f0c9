package offload

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ripstop/tun"
	"ripstop/tun/netns"
)

// host is a namespace whose TCP speaks through a TAP of its own.
type host struct {
	ns  *netns.NS
	tap tun.Device
	// How many frames carry cut, how many it joined, and how many segments were of tunnels.
	cut, joined, tunnelled atomic.Int64
}

func newHost(t *testing.T, number byte, mtu int) *host {
	t.Helper()
	ns, err := netns.NewAnonymous()
	if err != nil {
		missing(t, fmt.Sprintf("no network namespace for the test: %v", err))
	}
	t.Cleanup(func() { ns.Close() })
	h := &host{ns: ns}
	err = ns.Do(func() error {
		if h.tap, err = tun.OpenTAP(tun.Config{Name: "rs0", MTU: mtu, Queues: 1, Offloads: tun.OffloadAll}); err != nil {
			return err
		}
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/rs0/disable_ipv6", []byte("0"), 0); err != nil {
			return err
		}
		l, err := netlink.LinkByName("rs0")
		if err != nil {
			return err
		}
		for _, a := range []string{fmt.Sprintf("10.32.0.%d/24", number), fmt.Sprintf("fd32::%d/64", number)} {
			address, err := netlink.ParseAddr(a)
			if err != nil {
				return err
			}
			address.Flags = unix.IFA_F_NODAD
			if err := netlink.AddrAdd(l, address); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.tap.Close() })
	return h
}

// carry takes frames from h to other over a path of size payload bytes, until h's
// TAP is closed: cut and joined, or cut and finished one by one.
func (h *host) carry(t *testing.T, other *host, size int, join bool) {
	in := make([]tun.Frame, 16)
	for i := range in {
		in[i].Buf = make([]byte, tun.BufferSize)
	}
	segments := make([]tun.Frame, maxSegments)
	for i := range segments {
		segments[i].Buf = make([]byte, tun.Headroom+2048)
	}
	out := other.tap.Queues()[0]
	write := func(f tun.Frame) {
		if _, err := out.WriteBatch([]tun.Frame{f}); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	}
	var j Joiner
	for {
		n, err := h.tap.Queues()[0].ReadBatch(in)
		if err != nil {
			return
		}
		for i := range in[:n] {
			f := &in[i]
			s, ok := Parse(f.Bytes(), f.Offload)
			if !ok || f.Offload.Type == tun.GSONone && s.Step(size) > size {
				if !Complete(f.Bytes(), f.Offload) {
					t.Errorf("neither cut nor finished: %+v", f.Offload)
				}
				write(tun.Frame{Buf: f.Buf, Off: f.Off, Len: f.Len})
				continue
			}
			if s.Count(size) > 1 {
				h.cut.Add(1)
			}
			first := 0
			flush := func() {
				if j.Len() > 1 {
					h.joined.Add(1)
				}
				if j.Len() > 0 && j.Frame(&segments[first]) {
					write(segments[first])
				}
				j.Reset()
			}
			for k := range s.Count(size) {
				g := &segments[k]
				g.Off = tun.Headroom
				g.Len = s.Put(g.Buf[g.Off:], f.Bytes(), k, size)
				add, complete := j.Add, CompleteSegment
				if in := s.InnerL3(); in != 0 {
					h.tunnelled.Add(1)
					add = func(b []byte) bool { return j.AddTunnelled(b, in) }
					complete = func(b []byte) bool { return CompleteTunnelled(b, in) }
				}
				if !join {
					if !complete(g.Bytes()) {
						t.Error("a segment can't be finished")
					}
					write(tun.Frame{Buf: g.Buf, Off: g.Off, Len: g.Len})
					continue
				}
				if !add(g.Bytes()) {
					flush()
					add(g.Bytes())
				}
				if j.Len() == 1 {
					first = k
				}
			}
			flush()
		}
	}
}

// TestKernelPath: TCP and USO of two kernels over a path that carries less than
// they think, joined on the far side or finished there, frame by frame, so that the
// receiving kernel verifies each sum. What arrives is what was sent.
func TestKernelPath(t *testing.T) {
	for _, join := range []bool{true, false} {
		for _, mtu := range []int{1500, 9000} {
			t.Run(fmt.Sprintf("joined %v, MTU %d", join, mtu), func(t *testing.T) {
				a, b := newHost(t, 1, mtu), newHost(t, 2, mtu)
				var loops sync.WaitGroup
				loops.Go(func() { a.carry(t, b, 1288, join) })
				loops.Go(func() { b.carry(t, a, 1288, join) })
				defer loops.Wait()
				defer b.tap.Close()
				defer a.tap.Close()
				for _, address := range []string{"10.32.0.2", "fd32::2"} {
					stream(t, a, b, address)
					if a.tap.Capabilities().UDP {
						datagrams(t, a, b, address)
					}
				}
				if a.cut.Load() == 0 || join != (a.joined.Load() > 0) {
					t.Errorf("%d frames were cut, %d joined: the test shows nothing", a.cut.Load(), a.joined.Load())
				}
				t.Logf("%d frames cut, %d joined", a.cut.Load(), a.joined.Load())
			})
		}
	}
}

// stream sends 8 MB from a to b and compares.
func stream(t *testing.T, a, b *host, address string) {
	t.Helper()
	var listener net.Listener
	var err error
	if doErr := b.ns.Do(func() error {
		listener, err = net.Listen("tcp", net.JoinHostPort(address, "5000"))
		return err
	}); doErr != nil {
		t.Fatal(doErr)
	}
	defer listener.Close()
	deadline := time.Now().Add(20 * time.Second)
	listener.(*net.TCPListener).SetDeadline(deadline)
	got := make(chan [32]byte, 1)
	go func() {
		defer close(got)
		c, err := listener.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(deadline)
		sum := sha256.New()
		io.Copy(sum, c)
		got <- [32]byte(sum.Sum(nil))
	}()
	data := make([]byte, 8<<20)
	r := rand.New(rand.NewPCG(15, 16))
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	var c net.Conn
	if err := a.ns.Do(func() error {
		// One address: no second attempt on another goroutine, which would be home.
		dialer := net.Dialer{Deadline: deadline, FallbackDelay: -1}
		c, err = dialer.DialContext(context.Background(), "tcp", net.JoinHostPort(address, "5000"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(deadline)
	if _, err := c.Write(data); err != nil {
		t.Error(err)
	}
	c.Close()
	if sum := <-got; sum != sha256.Sum256(data) {
		t.Errorf("%s: something else arrived, or not all", address)
	}
}

// datagrams sends one UDP super-frame from a to b and compares.
func datagrams(t *testing.T, a, b *host, address string) {
	t.Helper()
	var receiver, sender net.PacketConn
	to := &net.UDPAddr{IP: net.ParseIP(address), Port: 6000}
	err := b.ns.Do(func() (err error) { receiver, err = net.ListenUDP("udp", to); return err })
	if err == nil {
		defer receiver.Close()
		err = a.ns.Do(func() (err error) { sender, err = net.DialUDP("udp", nil, to); return err })
	}
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	const size = 1100
	raw, err := sender.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, size) })
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("datagram"), 2000)
	if _, err := sender.(*net.UDPConn).Write(data); err != nil {
		t.Fatal(err)
	}
	receiver.SetDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 2000)
	for from := 0; from < len(data); from += size {
		n, _, err := receiver.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		if want := data[from:min(from+size, len(data))]; !bytes.Equal(buf[:n], want) {
			t.Fatalf("a datagram of %d bytes, want %d, or other bytes", n, len(want))
		}
	}
}

// TestKernelTunnelPath is TestKernelPath through VXLAN and GENEVE devices of the two
// kernels, which take what they are given for a tunnel's datagrams: their own, with the
// outer checksum and without.
func TestKernelTunnelPath(t *testing.T) {
	for _, c := range []struct {
		name, link string
	}{
		{"VXLAN over IPv4", "type vxlan id 7 dstport 4789 remote 10.32.0.%d udpcsum"},
		{"VXLAN over IPv4 without outer sum", "type vxlan id 7 dstport 4789 remote 10.32.0.%d noudpcsum"},
		{"VXLAN over IPv6", "type vxlan id 7 dstport 4789 remote fd32::%d"},
		{"VXLAN over IPv6 without outer sum", "type vxlan id 7 dstport 4789 remote fd32::%d udp6zerocsumtx udp6zerocsumrx"},
		{"VXLAN over a tagged device", "type vxlan id 7 dstport 4789 remote 10.34.0.%d udpcsum"},
		{"GENEVE over IPv4", "type geneve id 7 remote 10.32.0.%d"},
	} {
		for _, join := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, joined %v", c.name, join), func(t *testing.T) {
				a, b := newHost(t, 1, 1500), newHost(t, 2, 1500)
				if !a.tap.Capabilities().Tunnel {
					t.Skip("this kernel has no such super-frames")
				}
				for number, h := range map[int]*host{1: a, 2: b} {
					if strings.Contains(c.name, "tagged") {
						for _, line := range []string{
							"link add link rs0 name rs0.5 type vlan id 5",
							fmt.Sprintf("addr add 10.34.0.%d/24 dev rs0.5", number),
							"link set rs0.5 up",
						} {
							if out := h.ip(t, strings.Fields(line)...); out != "" {
								t.Skipf("this kernel has no such device: %s", out)
							}
						}
					}
					add := strings.Fields("link add v0 " + fmt.Sprintf(c.link, 3-number))
					if out := h.ip(t, add...); out != "" {
						t.Skipf("this kernel has no such device: %s", out)
					}
					for _, line := range []string{
						fmt.Sprintf("addr add 10.33.0.%d/24 dev v0", number),
						fmt.Sprintf("addr add fd33::%d/64 dev v0 nodad", number),
						"link set v0 mtu 1400 up",
					} {
						if out := h.ip(t, strings.Fields(line)...); out != "" {
							t.Fatal(out)
						}
					}
				}
				var loops sync.WaitGroup
				loops.Go(func() { a.carry(t, b, 1200, join) })
				loops.Go(func() { b.carry(t, a, 1200, join) })
				defer loops.Wait()
				defer b.tap.Close()
				defer a.tap.Close()
				for _, address := range []string{"10.33.0.2", "fd33::2"} {
					stream(t, a, b, address)
					datagrams(t, a, b, address)
				}
				if a.tunnelled.Load() < 1000 || join != (a.joined.Load() > 0) {
					t.Errorf("%d segments of tunnels, %d frames joined: the test shows nothing", a.tunnelled.Load(), a.joined.Load())
				}
				t.Logf("%d frames cut into %d segments of tunnels, %d joined", a.cut.Load(), a.tunnelled.Load(), a.joined.Load())
			})
		}
	}
}

// ip runs the program ip in the host, and returns what it complains of.
func (h *host) ip(t *testing.T, args ...string) (complaint string) {
	t.Helper()
	if err := h.ns.Do(func() error {
		out, err := exec.Command("ip", args...).CombinedOutput()
		if err != nil {
			complaint = fmt.Sprintf("ip %s: %v: %s", strings.Join(args, " "), err, out)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return complaint
}
