package integration

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ripstop/integration/lab"
)

// copyState copies what makes a host itself.
func (s *story) copyState(from, to string) {
	s.Helper()
	dir := s.Host(to).State()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		s.Fatal(err)
	}
	for _, name := range []string{"seed", "network", "format"} {
		b, err := os.ReadFile(filepath.Join(s.Host(from).State(), name))
		if err != nil {
			s.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			s.Fatal(err)
		}
	}
}

// capture watches a container's interface until the scenario ends.
func (s *story) capture(container string) *lab.Capture {
	s.Helper()
	c, err := s.Container(container).Capture("rip0")
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { c.Stop() })
	return c
}

// mac is the MAC of a container's endpoint.
func (s *story) mac(container string) (mac [6]byte) {
	s.Helper()
	for _, h := range s.names() {
		for _, e := range s.status(h).Endpoints {
			if e.Name == container {
				if _, err := fmt.Sscanf(e.MAC, "%02x:%02x:%02x:%02x:%02x:%02x", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5]); err != nil {
					s.Fatal(err)
				}
				return mac
			}
		}
	}
	s.Fatalf("no endpoint is called %s", container)
	return mac
}

// incoming counts the frames that came in at c and contain marker.
func incoming(c *lab.Capture, marker []byte) int {
	n := 0
	for _, f := range c.Frames() {
		if !f.Out && bytes.Contains(f.Data, marker) {
			n++
		}
	}
	return n
}

// arrives waits until as many frames with marker came in.
func (s *story) arrives(what string, c *lab.Capture, marker []byte, n int) {
	s.Helper()
	s.eventually(what, func() error {
		if got := incoming(c, marker); got != n {
			return fmt.Errorf("%d frames came, want %d", got, n)
		}
		return nil
	})
}

// TestUnusualFrames: whatever is Ethernet passes between containers of two hosts
// with a relay in between.
func TestUnusualFrames(t *testing.T) {
	s := tell(t, line("a", "b", "c"))
	s.upAll()
	s.reach(s.names()...)
	s.attach("a1", "b1", "c1")
	s.known(3)
	from, to := s.mac("a1"), s.mac("c1")
	in, out := s.capture("a1"), s.capture("c1")
	ethernet := func(rest ...byte) []byte { return append(append(append([]byte(nil), to[:]...), from[:]...), rest...) }
	for i, c := range []struct {
		name  string
		frame []byte
	}{
		{"EtherType for experiments", ethernet(0x88, 0xb5)},
		{"802.1Q tag", ethernet(0x81, 0x00, 0x00, 0x2a, 0x88, 0xb5)},
		{"802.1ad tag", ethernet(0x88, 0xa8, 0x00, 0x2a, 0x88, 0xb5)},
		{"802.3 length and LLC", ethernet(0x00, 0x40, 0xaa, 0xaa, 0x03)},
	} {
		marker := fmt.Appendf(nil, "unusual frame number %d with a marker", i)
		if err := in.Inject(append(c.frame, append(marker, make([]byte, 40)...)...)); err != nil {
			t.Fatal(err)
		}
		s.arrives(c.name+" arrives", out, marker, 1)
	}
	// IPv6 between link-local addresses, neighbour discovery included.
	link := netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: to[0] ^ 2, 9: to[1], 10: to[2], 11: 0xff, 12: 0xfe, 13: to[3], 14: to[4], 15: to[5]}).WithZone("rip0")
	s.eventually("link-local addresses answer", func() error {
		r, err := s.Container("a1").Ping(s.ctx, link, lab.PingConfig{})
		if err != nil || !r[0].Answered {
			return fmt.Errorf("no answer, %v", err)
		}
		return nil
	})
}

// TestMulticast reaches the containers of all hosts, exactly once each.
func TestMulticast(t *testing.T) {
	s := tell(t, line("a", "b", "c", "d"))
	s.upAll()
	s.reach(s.names()...)
	addrs := s.attach("a1", "b1", "c1", "d1")
	s.known(4)
	in := s.capture("a1")
	outs := []*lab.Capture{s.capture("b1"), s.capture("c1"), s.capture("d1")}
	from := s.mac("a1")
	const frames = 20
	marker := []byte("a multicast datagram with a marker")
	for range frames {
		if err := in.Inject(udpFrame([6]byte{1, 0, 0x5e, 1, 2, 3}, from, addrs[0], netip.MustParseAddr("239.1.2.3"), marker)); err != nil {
			t.Fatal(err)
		}
	}
	for i, c := range outs {
		s.arrives(fmt.Sprintf("host %d has them", i+2), c, marker, frames)
	}
	time.Sleep(500 * time.Millisecond)
	for i, c := range outs {
		if n := incoming(c, marker); n != frames {
			t.Errorf("host %d received %d frames for %d", i+2, n, frames)
		}
	}
}

// udpFrame is a UDP datagram without checksum, which IPv4 allows.
func udpFrame(to, from [6]byte, source, destination netip.Addr, payload []byte) []byte {
	b := append(append(append([]byte(nil), to[:]...), from[:]...), 8, 0)
	ip := make([]byte, 28)
	ip[0], ip[8], ip[9] = 0x45, 8, 17
	binary.BigEndian.PutUint16(ip[2:], uint16(28+len(payload)))
	copy(ip[12:], source.AsSlice())
	copy(ip[16:], destination.AsSlice())
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum))
	binary.BigEndian.PutUint16(ip[20:], 4000)
	binary.BigEndian.PutUint16(ip[22:], 4000)
	binary.BigEndian.PutUint16(ip[24:], uint16(8+len(payload)))
	return append(append(b, ip...), payload...)
}

// TestRoutedHost: a host without a bridge has one address and talks to containers
// of bridged hosts, in both directions and over a relay.
func TestRoutedHost(t *testing.T) {
	s := tell(t, line("a", "b", "c"))
	s.up("a", lab.StartConfig{Args: []string{"--mode", "routed", "--address", "10.32.0.1/24", "--address", "fd00:32::1/64"}})
	s.up("b", lab.StartConfig{Peers: []string{"a"}})
	s.up("c", lab.StartConfig{Peers: []string{"b"}})
	s.reach(s.names()...)
	for c, address := range map[string]string{"b1": "2", "c1": "3"} {
		if err := s.Container(c).Attach(s.ctx, "10.32.0."+address+"/24", "--address", "fd00:32::"+address+"/64"); err != nil {
			t.Fatal(err)
		}
	}
	s.known(3)
	for _, net := range []string{"10.32.0.", "fd00:32::"} {
		own := netip.MustParseAddr(net + "1")
		for c, n := range map[string]string{"b1": "2", "c1": "3"} {
			to := netip.MustParseAddr(net + n)
			s.eventually(fmt.Sprintf("%s answers the routed host", to), func() error {
				r, err := s.Host("a").Ping(s.ctx, to, lab.PingConfig{})
				if err != nil || !r[0].Answered {
					return fmt.Errorf("no answer, %v", err)
				}
				return nil
			})
			s.answered(c, own, s.ping(c, own, lab.PingConfig{Count: 5, Size: 1200}))
		}
	}
	received, took, err := lab.Throughput(s.ctx, s.Container("c1").Place, s.Host("a").Place, netip.MustParseAddr("10.32.0.1"), 500*time.Millisecond)
	if err != nil || received == 0 {
		t.Fatalf("TCP to the routed host: %d bytes, %v", received, err)
	}
	t.Logf("TCP %.2f Gbit/s", float64(received)*8/took.Seconds()/1e9)
}

// TestCipherNone: a network made without a cipher works the same.
func TestCipherNone(t *testing.T) {
	s := tell(t, line("a", "b", "c"))
	s.token = s.secret("none")
	wire, err := s.Link("a", "b").End("a").Capture()
	if err != nil {
		t.Fatal(err)
	}
	s.upAll()
	s.reach(s.names()...)
	addrs := s.attach("a1", "b1", "c1")
	s.known(3)
	marker := []byte("32-byte-marker-of-a-frame-inside")
	for _, to := range addrs[1:] {
		s.answered("a1", to, s.ping("a1", to, lab.PingConfig{Count: 10, Size: 256, Payload: marker}))
	}
	if got := s.status("a").Cipher; got != "none" {
		t.Errorf("status says cipher %q", got)
	}
	if err := wire.Stop(); err != nil {
		t.Fatal(err)
	}
	if wire.Contains(marker) == 0 {
		t.Error("nothing in clear on the wire: is there a cipher after all?")
	}
}

// TestIPv6Underlay joins hosts that have no IPv4 between them.
func TestIPv6Underlay(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a", "b", "c"}, Containers: 1, Links: []lab.LinkConfig{
		{Hosts: []string{"a", "b"}, NoIPv4: true}, {Hosts: []string{"b", "c"}, NoIPv4: true},
	}})
	s.upAll()
	s.reach(s.names()...)
	addrs := s.attach("a1", "b1", "c1")
	s.known(3)
	s.answered("a1", addrs[2], s.ping("a1", addrs[2], lab.PingConfig{Count: 10, Size: 1472}))
}

// TestTunnelInsideItself: the underlay port reached over the overlay carries
// nothing, and exposed addresses are never dialled.
func TestTunnelInsideItself(t *testing.T) {
	s := tell(t, line("a", "b"))
	s.upAll()
	s.reach("a", "b")
	s.run("a", "expose", "--address", "10.32.0.100/24")
	s.run("b", "expose", "--address", "10.32.0.101/24")
	s.attach("a1")
	s.known(3)
	exposed := netip.MustParseAddr("10.32.0.101")
	s.answered("a1", exposed, s.ping("a1", exposed, lab.PingConfig{Count: 3}))
	if conn, err := s.Container("a1").DialTCP(s.short(), netip.AddrPortFrom(exposed, 6783)); err == nil {
		conn.Close()
		t.Error("the underlay port answers TCP on the overlay")
	}
	for _, h := range []string{"a", "b"} {
		for _, addr := range s.status(h).Advertise {
			if ap, err := netip.ParseAddrPort(addr); err != nil || ap.Addr().Is4() && ap.Addr().As4()[0] == 10 {
				t.Errorf("%s advertises %s, %v", h, addr, err)
			}
		}
		for _, l := range s.status(h).Links {
			for _, p := range l.Paths {
				if ap, err := netip.ParseAddrPort(p.Remote); err == nil && ap.Addr().Is4() && ap.Addr().As4()[0] == 10 {
					t.Errorf("%s has a path to %s", h, p.Remote)
				}
			}
		}
	}
	// Told to dial an overlay address, a host refuses.
	s.run("a", "connect", exposed.String())
	s.eventually("the target inside the overlay is refused", func() error {
		for _, target := range s.status("a").Targets {
			if target.Target == exposed.String() && target.Error != "" && target.State != "up" {
				return nil
			}
		}
		return fmt.Errorf("targets %+v", s.status("a").Targets)
	})
}
