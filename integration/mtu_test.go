package integration

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"ripstop/integration/lab"
	"ripstop/mesh/api"
)

// links are what `status links --json` shows on a host.
func (s *story) links(host string) []api.Link {
	s.Helper()
	var answer struct{ Links []api.Link }
	if err := json.Unmarshal([]byte(s.run(host, "status", "links", "--json")), &answer); err != nil {
		s.Fatalf("%s: status links: %v", host, err)
	}
	return answer.Links
}

// payload is what fits into one packet of an underlay: a link uses IPv4 or IPv6.
func payload(l api.Link, mtu int) int {
	if remote, err := netip.ParseAddrPort(l.Remote); err == nil && remote.Addr().Is6() {
		return mtu - 48
	}
	return mtu - 28
}

// measured waits until the hosts' links are known to carry packets of mtu bytes, and
// trains.
func (s *story) measured(mtu int, hosts ...string) {
	s.Helper()
	s.eventually(fmt.Sprintf("links carry packets of %d bytes, in trains", mtu), func() error {
		for _, h := range hosts {
			for _, l := range s.links(h) {
				if l.MTU != payload(l, mtu) || l.Train < 8 {
					return fmt.Errorf("%s shows %d bytes and trains of %d to %s", h, l.MTU, l.Train, l.Remote)
				}
			}
		}
		return nil
	})
}

// tries is how often a size or a flow may suffer from a machine that is busy with
// something else; what does not pass for its size fails every time.
const tries = 3

// sizes pings with every size from 1 to most, in steps, and wants answers.
func (s *story) sizes(from string, to netip.Addr, most, step int) {
	s.Helper()
	for size := 1; size <= most; size = min(size+step, most) {
		for try := 1; ; try++ {
			if s.ping(from, to, lab.PingConfig{Size: size})[0].Answered {
				break
			}
			s.Logf("%s pings %s with %d bytes: not answered, try %d", from, to, size, try)
			if try == tries {
				s.FailNow()
			}
		}
		if size == most {
			break
		}
	}
}

// tcp wants TCP to flow from one container to another.
func (s *story) tcp(from, to string, addr netip.Addr) {
	s.Helper()
	received, took, err := lab.Throughput(s.ctx, s.Container(from).Place, s.Container(to).Place, addr, 500*time.Millisecond)
	if err != nil || received < 1<<20 {
		s.Fatalf("TCP from %s to %s: %d bytes, %v", from, to, received, err)
	}
	s.Logf("TCP from %s to %s: %.2f Gbit/s", from, to, float64(received)*8/took.Seconds()/1e9)
}

// udp wants every datagram of a slow flow of some size to arrive.
func (s *story) udp(from, to string, addr netip.Addr, size int) {
	s.Helper()
	for try := 1; ; try++ {
		flow, err := lab.StartFlow(lab.FlowConfig{From: s.Container(from).Place, To: s.Container(to).Place, Addr: addr, Size: size, Interval: 5 * time.Millisecond})
		if err != nil {
			s.Fatal(err)
		}
		time.Sleep(500 * time.Millisecond)
		r := flow.Stop(500 * time.Millisecond)
		if r.Lost() == 0 {
			return
		}
		s.Logf("UDP of %d bytes from %s to %s, try %d: %v", size, from, to, try, r)
		if try == tries {
			s.FailNow()
		}
	}
}

// TestMTU: whatever the underlay carries in one packet is found out, and frames of
// every size pass, direct and over a relay.
func TestMTU(t *testing.T) {
	for _, mtu := range []int{1280, 1400, 1500, 9000} {
		t.Run(fmt.Sprint(mtu), func(t *testing.T) {
			s := tell(t, lab.Config{Hosts: []string{"a", "b", "c"}, Containers: 1, Links: []lab.LinkConfig{
				{Hosts: []string{"a", "b"}, MTU: mtu}, {Hosts: []string{"b", "c"}, MTU: mtu},
			}})
			s.upAll()
			s.reach(s.names()...)
			addrs := s.attach("a1", "b1", "c1")
			s.known(3)
			s.measured(mtu, s.names()...)
			for i, to := range []string{"b1", "c1"} {
				s.sizes("a1", addrs[i+1], 8000, 397)
				s.tcp("a1", to, addrs[i+1])
				s.tcp(to, "a1", addrs[0])
				for _, size := range []int{100, 1200, 4000} {
					s.udp("a1", to, addrs[i+1], size)
				}
			}
		})
	}
}

// TestMTUOfEachLink: a link that carries less than others holds for what is relayed over
// it, though the sender's own link carries more.
func TestMTUOfEachLink(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a", "b", "c"}, Containers: 1, Links: []lab.LinkConfig{
		{Hosts: []string{"a", "b"}, MTU: 9000}, {Hosts: []string{"b", "c"}, MTU: 1280},
	}})
	s.upAll()
	s.reach(s.names()...)
	addrs := s.attach("a1", "b1", "c1")
	s.known(3)
	s.measured(9000, "a")
	s.measured(1280, "c")
	s.sizes("a1", addrs[2], 8000, 397)
	s.tcp("a1", "c1", addrs[2])
	s.tcp("c1", "a1", addrs[0])
	s.udp("a1", "c1", addrs[2], 1300)
}

// TestMTUChanges: a link that comes to carry less is noticed by the traffic over it, and
// soon.
func TestMTUChanges(t *testing.T) {
	for _, c := range []struct {
		name string
		ends []string // whose interface tells
	}{
		{"known at both ends", []string{"a", "b"}},
		{"known at one end", []string{"b"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := tell(t, lab.Config{Hosts: []string{"a", "b", "c"}, Containers: 1, Links: []lab.LinkConfig{
				{Hosts: []string{"a", "b"}, MTU: 1500}, {Hosts: []string{"b", "c"}, MTU: 1500},
			}})
			s.upAll()
			s.reach(s.names()...)
			addrs := s.attach("a1", "b1", "c1")
			s.known(3)
			s.measured(1500, s.names()...)
			flow, err := lab.StartFlow(lab.FlowConfig{From: s.Container("a1").Place, To: s.Container("b1").Place, Addr: addrs[1], Size: 1300, Interval: 5 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(500 * time.Millisecond)
			for _, end := range c.ends {
				if err := s.Link("a", "b").End(end).SetMTU(1400); err != nil {
					t.Fatal(err)
				}
			}
			took := s.eventually("a has noticed", func() error { return s.limit("a", "b", 1400) })
			s.eventually("datagrams flow again", func() error {
				if silence := flow.Silence(); silence > 100*time.Millisecond {
					return fmt.Errorf("silent for %v", silence)
				}
				return nil
			})
			report := flow.Stop(500 * time.Millisecond)
			t.Log(report)
			if took > 5*time.Second || report.Gap > 4*time.Second {
				t.Errorf("noticed after %v, with a gap of %v", took, report.Gap)
			}
			if n := len(s.links("a")); n != 1 {
				t.Errorf("%d links", n)
			}
			s.sizes("a1", addrs[1], 4000, 397)
			s.tcp("a1", "b1", addrs[1])
			s.tcp("b1", "a1", addrs[0])
			s.eventually("relayed frames fit, too", func() error {
				r, err := s.Container("a1").Ping(s.ctx, addrs[2], lab.PingConfig{Size: 1300})
				if err != nil || !r[0].Answered {
					return fmt.Errorf("no answer, %v", err)
				}
				return nil
			})
			s.tcp("c1", "a1", addrs[0])
		})
	}
}

// limit wants a link to be known to carry packets of mtu bytes.
func (s *story) limit(from, to string, mtu int) error {
	s.Helper()
	for _, l := range s.links(from) {
		if l.Nickname == to && l.MTU == payload(l, mtu) {
			return nil
		}
	}
	return fmt.Errorf("%s shows %+v", from, s.links(from))
}
