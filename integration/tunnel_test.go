package integration

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ripstop/integration/lab"
)

// TestTunnelsInside: containers with VXLAN devices of their own talk through them, with
// and without checksums around, whatever each host has of tunnel offload, and where every
// checksum is verified.
func TestTunnelsInside(t *testing.T) {
	needEthtool(t)
	for _, c := range []struct {
		name string
		off  map[string]string
		bare bool
	}{
		{name: "on"},
		{name: "off at one end", off: map[string]string{"a": "tunnel"}},
		{name: "off", off: map[string]string{"a": "tunnel", "b": "tunnel"}},
		{name: "no offload at one end", off: map[string]string{"b": "all"}},
		{name: "sums verified", bare: true},
		{name: "sums verified, off at one end", off: map[string]string{"b": "tunnel"}, bare: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := tell(t, line("a", "b"))
			for i, h := range s.names() {
				cfg := lab.StartConfig{Peers: s.names()[:i]}
				if off := c.off[h]; off != "" {
					cfg.Args = []string{"--no-offload", off}
				}
				s.up(h, cfg)
			}
			s.reach(s.names()...)
			addrs := s.attach("a1", "b1")
			s.known(2)
			if c.bare {
				s.withoutOffloads("a1")
				s.withoutOffloads("b1")
			}
			for id, sum := range []string{"noudpcsum", "udpcsum"} {
				s.tunnel("a1", addrs[1], id, 1, sum)
				s.tunnel("b1", addrs[0], id, 2, sum)
				a, b := tunnelAddr(id, 1), tunnelAddr(id, 2)
				s.answered("a1", b, s.ping("a1", b, lab.PingConfig{Count: 3}))
				s.exact("a1", "b1", b, 3<<20)
				s.exact("b1", "a1", a, 3<<20)
				bytes, took, err := lab.Throughput(s.ctx, s.Container("a1").Place, s.Container("b1").Place, b, time.Second)
				if err != nil {
					s.Fatal(err)
				}
				s.Logf("%s: %.2f Gbit/s through VXLAN with %s", c.name, float64(bytes)*8/took.Seconds()/1e9, sum)
			}
			for _, h := range s.names() {
				for name, n := range s.status(h).Counters {
					if strings.HasPrefix(name, "drop_offload") || name == "drop_record_malformed" {
						t.Errorf("%s: %s is %d", h, name, n)
					}
				}
			}
			if c.bare {
				for _, name := range []string{"a1", "b1"} {
					if n := s.checksumErrors(name); n != 0 {
						t.Errorf("%s counted %d wrong checksums", name, n)
					}
				}
			}
		})
	}
}

func tunnelAddr(id, end int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 99, byte(id), byte(end)})
}

// tunnel gives a container a VXLAN device of its own.
func (s *story) tunnel(container string, remote netip.Addr, id, end int, sum string) {
	s.Helper()
	for _, l := range []string{
		fmt.Sprintf("link add v%d type vxlan id %d dstport %d remote %s %s", id, id+7, 4789+id, remote, sum),
		fmt.Sprintf("addr add %s/24 dev v%d", tunnelAddr(id, end), id),
		fmt.Sprintf("link set v%d mtu 1290 up", id),
	} {
		r, err := s.Container(container).Exec(s.ctx, "ip", strings.Fields(l)...)
		if err != nil || r.Code != 0 {
			s.Fatalf("%s: ip %s: %+v, %v", container, l, r, err)
		}
	}
}
