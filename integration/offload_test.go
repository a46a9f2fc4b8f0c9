package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"ripstop/integration/lab"
)

// exact sends bytes over TCP and wants the same bytes at the other end.
func (s *story) exact(from, to string, addr netip.Addr, size int) {
	s.Helper()
	l, err := s.Container(to).ListenTCP(netip.AddrPortFrom(addr, 0))
	if err != nil {
		s.Fatal(err)
	}
	defer l.Close()
	sum := make(chan [32]byte, 1)
	go func() { // ends with the connection
		defer close(sum)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		h := sha256.New()
		if n, _ := io.Copy(h, c); n == int64(size) {
			sum <- [32]byte(h.Sum(nil))
		}
	}()
	data := make([]byte, size)
	random := rand.NewChaCha8([32]byte{1})
	random.Read(data)
	ctx, cancel := context.WithTimeout(s.ctx, 20*time.Second)
	defer cancel()
	c, err := s.Container(from).DialTCP(ctx, netip.AddrPortFrom(addr, uint16(l.Addr().(*net.TCPAddr).Port)))
	if err != nil {
		s.Fatal(err)
	}
	deadline, _ := ctx.Deadline()
	c.SetDeadline(deadline)
	if _, err := io.Copy(c, bytes.NewReader(data)); err != nil {
		s.Fatalf("%s to %s: %v", from, to, err)
	}
	c.Close()
	select {
	case got, ok := <-sum:
		if !ok || got != sha256.Sum256(data) {
			s.Fatalf("%s to %s: the bytes are not the same", from, to)
		}
	case <-ctx.Done():
		s.Fatalf("%s to %s: %d bytes did not arrive", from, to, size)
	}
}

// needEthtool skips a test where ethtool is not installed, and fails it in CI.
func needEthtool(t *testing.T) {
	t.Helper()
	_, err := exec.LookPath("ethtool")
	switch {
	case err == nil:
	case os.Getenv("RIPSTOP_CI") != "":
		t.Fatal(err)
	default:
		t.Skip("ethtool is not installed")
	}
}

// TestOffloads: bytes and datagrams arrive unchanged with every offload on, off,
// and mixed between hosts, over a relay, and where the receiver's interface
// verifies every checksum.
func TestOffloads(t *testing.T) {
	needEthtool(t)
	for _, c := range []struct {
		name string
		off  map[string]string // by host: what is not used
		bare bool              // the container's interfaces have no offload at all
	}{
		{name: "all on"},
		{name: "all off", off: map[string]string{"a": "all", "b": "all", "c": "all"}},
		{name: "off at one end", off: map[string]string{"a": "all"}},
		{name: "no trains at the relay", off: map[string]string{"b": "gso,gro"}},
		{name: "no tunnels at one end", off: map[string]string{"a": "tunnel"}},
		{name: "no super-frames at one end", off: map[string]string{"c": "tso,uso"}},
		{name: "sums verified", bare: true},
		{name: "sums verified, no checksum offload", off: map[string]string{"c": "checksum"}, bare: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := tell(t, line("a", "b", "c"))
			var before string
			for _, h := range s.names() {
				cfg := lab.StartConfig{}
				if before != "" {
					cfg.Peers = []string{before}
				}
				if off := c.off[h]; off != "" {
					cfg.Args = []string{"--no-offload", off}
				}
				s.up(h, cfg)
				before = h
			}
			s.reach(s.names()...)
			for _, h := range s.names() {
				s.offloads(h, c.off[h])
			}
			addrs := s.attach("a1", "b1", "c1")
			s.known(3)
			if c.bare {
				for _, name := range []string{"a1", "b1", "c1"} {
					s.withoutOffloads(name)
				}
			}
			for _, pair := range [][2]int{{0, 1}, {0, 2}, {2, 0}} {
				from, to := []string{"a1", "b1", "c1"}[pair[0]], []string{"a1", "b1", "c1"}[pair[1]]
				s.answered(from, addrs[pair[1]], s.ping(from, addrs[pair[1]], lab.PingConfig{Count: 3, Size: 1472, Payload: []byte("payload")}))
				s.exact(from, to, addrs[pair[1]], 3<<20)
				s.datagrams(from, to, addrs[pair[1]], []int{1, 2, 64, 555, 1200, 1312, 1313, 1472, 1473, 4000, 20000})
			}
			if c.bare {
				for _, name := range []string{"a1", "b1", "c1"} {
					if n := s.checksumErrors(name); n != 0 {
						t.Errorf("%s counted %d wrong checksums", name, n)
					}
				}
			}
		})
	}
}

// offloads checks that status tells which offloads are used: all but those that are
// switched off, and what rests on them.
func (s *story) offloads(host, off string) {
	s.Helper()
	rests := map[string][]string{"tso": {"checksum"}, "uso": {"checksum"}, "tunnel": {"checksum", "tso", "uso"}}
	all := s.status(host).Offloads
	for _, o := range all {
		without := off == "all"
		for _, name := range strings.Split(off, ",") {
			without = without || name == o.Name || slices.Contains(rests[o.Name], name)
		}
		if o.Used == without || o.Used == (o.Why != "") {
			s.Errorf("%s, without %q: %+v", host, off, o)
		}
	}
	if len(all) != 6 {
		s.Errorf("%s: offloads %+v", host, all)
	}
	for _, l := range s.links(host) {
		if (off == "all" || strings.Contains(off, "gso")) && l.Train > 1 {
			s.Errorf("%s, without %q: trains of %d to %s", host, off, l.Train, l.Nickname)
		}
	}
}

// withoutOffloads takes every offload from both ends of a container's interface:
// what arrives then has to have right checksums, for they are verified.
func (s *story) withoutOffloads(container string) {
	s.Helper()
	off := []string{"tx", "off", "rx", "off", "gso", "off", "tso", "off", "gro", "off"}
	inside, err := s.Container(container).Exec(s.ctx, "ethtool", append([]string{"-K", "rip0"}, off...)...)
	if err != nil || inside.Code != 0 {
		s.Fatalf("%s: ethtool: %+v, %v", container, inside, err)
	}
	for _, h := range s.names() {
		for _, e := range s.status(h).Endpoints {
			if e.Name == container && e.State == "here" {
				outside, err := s.Host(h).Exec(s.ctx, "ethtool", append([]string{"-K", e.HostPort}, off...)...)
				if err != nil || outside.Code != 0 {
					s.Fatalf("%s: ethtool: %+v, %v", e.HostPort, outside, err)
				}
			}
		}
	}
}

// checksumErrors is how many TCP segments and UDP datagrams a container refused.
func (s *story) checksumErrors(container string) int {
	s.Helper()
	r, err := s.Container(container).Exec(s.ctx, "cat", "/proc/net/snmp", "/proc/net/snmp6")
	if err != nil || r.Code != 0 {
		s.Fatalf("%s: %+v, %v", container, r, err)
	}
	total := 0
	var names []string
	for l := range strings.Lines(r.Out) {
		fields := strings.Fields(l)
		if len(fields) == 2 && strings.HasSuffix(fields[0], "InCsumErrors") { // of IPv6
			n := 0
			fmt.Sscan(fields[1], &n)
			total += n
			continue
		}
		if len(names) != len(fields) || names[0] != fields[0] {
			names = fields
			continue
		}
		for i, name := range names {
			if name == "InCsumErrors" {
				n := 0
				fmt.Sscan(fields[i], &n)
				total += n
			}
		}
		names = nil
	}
	return total
}

// datagrams sends UDP datagrams of some sizes and wants each back as it was.
func (s *story) datagrams(from, to string, addr netip.Addr, sizes []int) {
	s.Helper()
	server, err := s.Container(to).ListenUDP(netip.AddrPortFrom(addr, 0))
	if err != nil {
		s.Fatal(err)
	}
	defer server.Close()
	go func() { // ends when server is closed
		b := make([]byte, 1<<16)
		for {
			n, peer, err := server.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			server.WriteToUDPAddrPort(b[:n], peer)
		}
	}()
	own := netip.IPv4Unspecified()
	if addr.Is6() {
		own = netip.IPv6Unspecified()
	}
	client, err := s.Container(from).ListenUDP(netip.AddrPortFrom(own, 0))
	if err != nil {
		s.Fatal(err)
	}
	defer client.Close()
	target := server.LocalAddr().(*net.UDPAddr).AddrPort()
	got := make([]byte, 1<<16)
	for _, size := range sizes {
		sent := bytes.Repeat([]byte{byte(size), 0xa5, byte(size >> 8)}, size/3+1)[:size]
		var n int
		for try := range 3 { // UDP may lose one
			if _, err := client.WriteToUDPAddrPort(sent, target); err != nil {
				s.Fatal(err)
			}
			client.SetReadDeadline(time.Now().Add(time.Second))
			if n, _, err = client.ReadFromUDPAddrPort(got); err == nil {
				break
			}
			if try == 2 {
				s.Fatalf("%s to %s: %d bytes did not come back", from, to, size)
			}
		}
		if !bytes.Equal(got[:n], sent) {
			s.Fatalf("%s to %s: %d bytes came back as %d others", from, to, size, n)
		}
	}
}
