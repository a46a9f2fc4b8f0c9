package integration

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
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

// sweep pings with every size, in payload bytes, and wants each answered with what was
// sent.
func (s *story) sweep(from string, to netip.Addr, sizes []int) {
	s.Helper()
	for try := 1; ; try++ {
		bad, err := s.Container(from).Sweep(s.ctx, to, sizes)
		if err != nil {
			s.Fatal(err)
		}
		if len(bad) == 0 {
			return
		}
		s.Logf("%s pings %s: %d of %d sizes are not answered, try %d: %v", from, to, len(bad), len(sizes), try, bad[:min(len(bad), 20)])
		if try == tries {
			s.FailNow()
		}
		sizes = bad
	}
}

// every is the sizes from 1 to most, in steps.
func every(most, step int) []int {
	var sizes []int
	for size := 1; size < most; size += step {
		sizes = append(sizes, size)
	}
	return append(sizes, most)
}

// tcp wants TCP to flow from one container to another.
func (s *story) tcp(from, to string, addr netip.Addr) {
	s.Helper()
	received, took, err := lab.Throughput(s.ctx, s.Container(from).Place, s.Container(to).Place, addr, 200*time.Millisecond)
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

// containerMTUs are those of a host's containers in TestMTU: what every IPv6 link
// carries, Ethernet, and jumbo frames.
var containerMTUs = [...]int{1280, 1500, 9000}

// TestMTU: whatever the underlay carries in one packet is found out, and packets of
// every size that a container may send pass, direct and over a relay, both ways, also
// where sender and receiver have another MTU.
func TestMTU(t *testing.T) {
	for _, mtu := range []int{1280, 1400, 1500, 9000} {
		t.Run(fmt.Sprint(mtu), func(t *testing.T) {
			s := tell(t, lab.Config{Hosts: []string{"a", "b", "c"}, Containers: len(containerMTUs), Links: []lab.LinkConfig{
				{Hosts: []string{"a", "b"}, MTU: mtu}, {Hosts: []string{"b", "c"}, MTU: mtu},
			}})
			s.upAll()
			s.reach(s.names()...)
			addrs := make(map[string]netip.Addr)
			for i, own := range containerMTUs {
				for j, h := range s.names() {
					name := fmt.Sprint(h, i+1)
					addrs[name] = netip.AddrFrom4([4]byte{10, 32, byte(i), byte(j + 1)})
					if err := s.Container(name).Attach(s.ctx, addrs[name].String()+"/16", "--mtu", strconv.Itoa(own)); err != nil {
						t.Fatal(err)
					}
				}
			}
			s.known(len(addrs))
			s.measured(mtu, s.names()...)
			for i, own := range containerMTUs {
				from := fmt.Sprint("a", i+1)
				for _, host := range []string{"b", "c"} {
					to := fmt.Sprint(host, i+1)
					s.passes(from, to, addrs, own, mtu)
				}
			}
			for _, pair := range [][2]string{{"a2", "b3"}, {"a3", "c2"}, {"a2", "c1"}} {
				s.passes(pair[0], pair[1], addrs, 1500, mtu)
			}
		})
	}
}

// passes wants traffic of every kind to pass between two containers that send packets
// of up to own bytes, over an underlay of mtu bytes, and longer datagrams in pieces.
func (s *story) passes(from, to string, addrs map[string]netip.Addr, own, mtu int) {
	s.Helper()
	s.sweep(from, addrs[to], edges(own, mtu))
	s.tcp(from, to, addrs[to])
	s.tcp(to, from, addrs[from])
	s.datagrams(from, to, addrs[to], []int{1, 100, 1200, 1400, 1472, own - 29, own - 28, own - 27, 3 * own, 20000})
}

// edges are ping sizes in payload bytes up to a container's MTU and a bit more, which its
// kernel cuts: every one with -long, else all small ones, some of each length, and all
// around where something changes. That is where a packet just fits into a datagram,
// direct or relayed, over IPv4 or IPv6, and where one more piece is needed.
func edges(own, mtu int) []int {
	const headers = 28 // IPv4 and ICMP
	most := own + headers
	if *long {
		return every(most, 1)
	}
	sizes := every(most, 61)
	around := func(from, to int) {
		for size := max(1, from); size <= min(to, most); size++ {
			sizes = append(sizes, size)
		}
	}
	around(1, 80)
	around(own-headers-20, most)
	around(mtu-headers-20, mtu-headers+20)
	const frame = 14 + headers
	for _, ip := range []int{20, 40} {
		for _, relay := range []int{0, 48} {
			room := mtu - ip - 8 - relay - 44 // UDP; header, record and tag of a datagram
			for n := 1; (n-1)*room < most; n++ {
				around(n*(room&^7)-frame-20, n*(room&^7)-frame+20)
			}
			around(room-frame-20, room-frame+20)
		}
	}
	slices.Sort(sizes)
	return slices.Compact(sizes)
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
	s.sweep("a1", addrs[2], every(8000, 7))
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
			s.sweep("a1", addrs[1], every(4000, 7))
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
