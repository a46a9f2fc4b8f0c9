package integration

import (
	"fmt"
	"testing"

	"ripstop/integration/lab"
	"ripstop/mesh/api"
)

// link is what a host shows of its link with another.
func (s *story) link(host, with string) (api.Link, error) {
	s.Helper()
	links := s.links(host)
	for _, l := range links {
		if l.Nickname == with && l.Path == "udp" {
			return l, nil
		}
	}
	return api.Link{}, fmt.Errorf("%s shows %+v", host, links)
}

// TestTrainsDamaged: a host whose network card damages what came by one call to the
// kernel, and nothing else, gets single datagrams from its peer, of full size, and every
// byte arrives. The other direction keeps its trains.
func TestTrainsDamaged(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a", "b"}, Containers: 1, Links: []lab.LinkConfig{{Hosts: []string{"a", "b"}}}})
	// A train crosses the veth pair as one packet of its whole length. The byte lies in the
	// first datagram's sealed part.
	s.nft("b", fmt.Sprintf(`table netdev card { chain in { type filter hook ingress device %s priority 0;
		meta l4proto udp meta length > 3000 counter @th,480,8 set 0xa5; }
	}`, s.Link("a", "b").End("b").Device()))
	s.upAll()
	s.reach("a", "b")
	addrs := s.attach("a1", "b1")
	s.known(2)
	s.eventually("a sends single datagrams to b, and b trains to a", func() error {
		out, err := s.link("a", "b")
		if err != nil {
			return err
		}
		back, err := s.link("b", "a")
		if err != nil {
			return err
		}
		if out.MTU != payload(out, 1500) || back.MTU != payload(back, 1500) || out.Train != 1 || back.Train < 32 {
			return fmt.Errorf("%d bytes and trains of %d there, %d bytes and %d back", out.MTU, out.Train, back.MTU, back.Train)
		}
		return nil
	})
	forged := func() uint64 { return s.status("b").Counters["drop_datagram_forged"] }
	s.eventually("a's tries have come to b damaged", func() error {
		if n := forged(); n < 3 {
			return fmt.Errorf("%d datagrams were damaged", n)
		}
		return nil
	})
	before := forged()
	s.exact("a1", "b1", addrs[1], 20<<20)
	s.exact("b1", "a1", addrs[0], 20<<20)
	s.datagrams("a1", "b1", addrs[1], []int{1, 1200, 1472, 4000, 20000})
	// Traffic by trains would be damaged hundreds of times. A's tries on the path by IPv6,
	// should it become the better one, are three, and an end of those before as many.
	if n := forged() - before; n > 8 {
		t.Errorf("%d datagrams were damaged by traffic", n)
	}
}
