package integration

import (
	"net/netip"
	"strings"
	"testing"

	"ripstop/integration/lab"
)

// TestOffloadsMixed: IPv6, and what containers tag, arrive unchanged between a host
// that uses every offload and one that uses none, where the receiver's interface
// verifies every checksum.
func TestOffloadsMixed(t *testing.T) {
	needEthtool(t)
	s := tell(t, line("a", "b"))
	s.up("a", lab.StartConfig{})
	s.up("b", lab.StartConfig{Peers: []string{"a"}, Args: []string{"--no-offload", "all"}})
	s.reach("a", "b")
	names := []string{"a1", "b1"}
	own := func(network byte, i int) (v4, v6 netip.Addr) {
		return netip.AddrFrom4([4]byte{10, network, 0, byte(i + 1)}), netip.AddrFrom16([16]byte{0: 0xfd, 1: network, 15: byte(i + 1)})
	}
	networks := []byte{32}
	for i, name := range names {
		v4, v6 := own(32, i)
		if err := s.Container(name).Attach(s.ctx, v4.String()+"/24", "--address", v6.String()+"/64", "--allow-address", "any"); err != nil {
			t.Fatal(err)
		}
		s.withoutOffloads(name)
	}
	s.known(2)
	r, err := s.Container("a1").Exec(s.ctx, "ip", "link", "add", "link", "rip0", "name", "probe", "type", "vlan", "id", "8")
	switch {
	case err != nil:
		t.Fatal(err)
	case r.Code == 0:
		networks = append(networks, 37)
		for i, name := range names {
			c := s.Container(name).Place
			v4, v6 := own(37, i)
			s.ip(c, "link", "add", "link", "rip0", "name", "rip0.7", "type", "vlan", "id", "7")
			s.ip(c, "link", "set", "rip0.7", "up")
			s.ip(c, "addr", "add", v4.String()+"/24", "dev", "rip0.7")
			s.ip(c, "addr", "add", v6.String()+"/64", "dev", "rip0.7", "nodad")
		}
	case strings.Contains(r.Err, "not supported"), strings.Contains(r.Err, "Unknown device type"):
		t.Log("this kernel has no VLAN interfaces")
	default:
		t.Fatalf("VLAN: %+v", r)
	}
	for i, from := range names {
		for _, network := range networks {
			v4, v6 := own(network, 1-i)
			for _, addr := range []netip.Addr{v4, v6} {
				s.exact(from, names[1-i], addr, 2<<20)
				s.datagrams(from, names[1-i], addr, []int{1, 64, 1200, 1313, 1452, 4000, 20000})
			}
		}
	}
	for _, name := range names {
		if n := s.checksumErrors(name); n != 0 {
			t.Errorf("%s counted %d wrong checksums", name, n)
		}
	}
}
