package integration

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"ripstop/integration/lab"
)

// masquerade makes a host a home router: what comes from inside leaves with its own
// address on link, and nothing that nobody inside asked for comes in.
func (s *story) masquerade(router string, link *lab.Link) {
	s.Helper()
	h := s.Host(router)
	err := h.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) })
	if err != nil {
		s.Fatal(err)
	}
	out := link.End(router).Device()
	s.nft(router, fmt.Sprintf(`table ip nat {
		chain leaving { type nat hook postrouting priority 100; oifname %[1]s masquerade; }
		chain here { type filter hook input priority 0; iifname %[1]s ct state new drop; }
		chain through { type filter hook forward priority 0; iifname %[1]s ct state new drop; }
	}`, out))
}

// nft runs a line of nft in a host.
func (s *story) nft(host, line string) {
	s.Helper()
	if r, err := s.Host(host).Exec(s.ctx, "nft", line); err != nil || r.Code != 0 {
		s.Fatalf("nft: %+v, %v", r, err)
	}
}

// TestTwoNATs: a and b are behind NATs of their own, and only c can be dialled. c tells
// each of them where it sees it, gossip tells the other, and their probes make the
// holes: frames between them take the direct path, without a link that others would
// count on. When that is cut, c relays again.
//
//	a ── ra (NAT) ──┬── rb (NAT) ── b
//	                c
func TestTwoNATs(t *testing.T) {
	s := tell(t, lab.Config{
		Hosts: []string{"a", "b", "c", "ra", "rb"}, Containers: 1,
		Links: []lab.LinkConfig{
			{Hosts: []string{"a", "ra"}, NoIPv6: true}, {Hosts: []string{"b", "rb"}, NoIPv6: true},
			{Hosts: []string{"ra", "rb", "c"}, NoIPv6: true},
		},
	})
	outside := s.Link("ra", "rb", "c")
	for _, inside := range []string{"a", "b"} {
		router := "r" + inside
		s.masquerade(router, outside)
		via := s.Link(inside, router).End(router).IPv4().String()
		if r, err := s.Host(inside).Exec(s.ctx, "ip", "route", "add", "default", "via", via); err != nil || r.Code != 0 {
			t.Fatalf("ip route: %+v, %v", r, err)
		}
	}
	s.up("c", lab.StartConfig{})
	for _, inside := range []string{"a", "b"} {
		s.up(inside, lab.StartConfig{Peers: []string{outside.End("c").IPv4().String()}})
	}
	s.reach("a", "b", "c")
	mapping := outside.End("ra").IPv4().String() + ":6783"
	s.eventually("a tells where c sees it", func() error {
		if all := s.status("a").Advertise; !slices.Contains(all, mapping) {
			return fmt.Errorf("it tells %v, want %s among them", all, mapping)
		}
		return nil
	})
	path := func(from, to string) string {
		for _, p := range s.status(from).Peers {
			if p.Nickname == to {
				return p.Path
			}
		}
		return "none"
	}
	become := func(want string) func() error {
		return func() error {
			if there, back := path("a", "b"), path("b", "a"); there != want || back != want {
				return fmt.Errorf("a to b by %s, b to a by %s", there, back)
			}
			return nil
		}
	}
	s.eventually("a and b have a direct path", become("udp"))
	for _, l := range s.status("a").Links {
		if l.Nickname == "b" {
			t.Errorf("a shows a link with b: %+v", l)
		}
	}
	addrs := s.attach("a1", "b1")
	s.eventually("b1 answers", func() error {
		replies, err := s.Container("a1").Ping(s.short(), addrs[1], lab.PingConfig{})
		if err == nil && !replies[0].Answered {
			err = fmt.Errorf("no answer")
		}
		return err
	})
	relayed := s.status("c").Counters["datagrams_relayed"]
	s.answered("a1", addrs[1], s.ping("a1", addrs[1], lab.PingConfig{Count: 50}))
	if n := s.status("c").Counters["datagrams_relayed"] - relayed; n > 10 {
		t.Errorf("c relayed %d datagrams of 50 echoes between a and b", n)
	}

	flows := s.flows("a1", "b1", addrs[0], addrs[1])
	s.flowing("datagrams flow", flows)
	s.nft("rb", fmt.Sprintf("insert rule ip nat through ip saddr %s drop", outside.End("ra").IPv4()))
	s.eventually("c relays when the direct path is cut", become("relay"))
	s.flowing("datagrams flow by way of c", flows)
	s.finish(flows)
}
