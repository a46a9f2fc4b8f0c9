package integration

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ripstop/integration/lab"
)

// flows starts numbered datagrams between two containers, one stream each way.
func (s *story) flows(a, b string, addrA, addrB netip.Addr) [2]*lab.Flow {
	s.Helper()
	var flows [2]*lab.Flow
	for i, c := range []lab.FlowConfig{
		{From: s.Container(a).Place, To: s.Container(b).Place, Addr: addrB},
		{From: s.Container(b).Place, To: s.Container(a).Place, Addr: addrA},
	} {
		f, err := lab.StartFlow(c)
		if err != nil {
			s.Fatal(err)
		}
		flows[i] = f
	}
	return flows
}

// flowing waits until more of both streams arrived, and still do.
func (s *story) flowing(what string, flows [2]*lab.Flow) {
	s.Helper()
	before := [2]int{flows[0].Report().Received, flows[1].Report().Received}
	s.eventually(what, func() error {
		for i, f := range flows {
			if n := f.Report().Received - before[i]; n < 50 {
				return fmt.Errorf("%d more came", n)
			}
			if silence := f.Silence(); silence > 100*time.Millisecond {
				return fmt.Errorf("silent for %v", silence)
			}
		}
		return nil
	})
}

// finish stops the streams and wants nothing to have come twice.
func (s *story) finish(flows [2]*lab.Flow) {
	s.Helper()
	for _, f := range flows {
		report := f.Stop(300 * time.Millisecond)
		s.Log(report)
		if report.Duplicates != 0 {
			s.Errorf("%d datagrams came twice", report.Duplicates)
		}
		if report.Received == 0 {
			s.Error("no datagram came at all")
		}
	}
}

// diamond is a–b–d and a–c–d: two relays between the ends.
func diamond() lab.Config {
	return lab.Config{
		Hosts: []string{"a", "b", "c", "d"}, Containers: 1,
		Links: []lab.LinkConfig{
			{Hosts: []string{"a", "b"}}, {Hosts: []string{"b", "d"}},
			{Hosts: []string{"a", "c"}}, {Hosts: []string{"c", "d"}},
		},
	}
}

// TestRelayDies: the relay in use is killed without a word; traffic goes over the
// other one.
func TestRelayDies(t *testing.T) {
	s := tell(t, diamond())
	s.upAll()
	s.reach(s.names()...)
	addrs := s.attach("a1", "d1")
	s.known(2)
	s.answered("a1", addrs[1], s.ping("a1", addrs[1], lab.PingConfig{Count: 3}))
	flows := s.flows("a1", "d1", addrs[0], addrs[1])
	s.flowing("datagrams flow", flows)
	time.Sleep(500 * time.Millisecond)
	before := map[string]uint64{}
	for _, relay := range []string{"b", "c"} {
		before[relay] = s.status(relay).Counters["datagrams_relayed"]
	}
	time.Sleep(500 * time.Millisecond)
	victim := "b"
	if s.status("c").Counters["datagrams_relayed"]-before["c"] > s.status("b").Counters["datagrams_relayed"]-before["b"] {
		victim = "c"
	}
	if err := s.Host(victim).Daemon().Kill(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	s.flowing("datagrams flow over the other relay", flows)
	time.Sleep(500 * time.Millisecond)
	s.finish(flows)
}

// TestKilledUnderTraffic: the daemon of an end is killed and started again.
func TestKilledUnderTraffic(t *testing.T) {
	s := tell(t, line("a", "b", "c"))
	s.upAll()
	s.reach(s.names()...)
	addrs := s.attach("a1", "c1")
	s.known(2)
	s.answered("a1", addrs[1], s.ping("a1", addrs[1], lab.PingConfig{Count: 3}))
	flows := s.flows("a1", "c1", addrs[0], addrs[1])
	s.flowing("datagrams flow", flows)
	for _, victim := range []string{"c", "b"} {
		if err := s.Host(victim).Daemon().Kill(); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Host(victim).Start(lab.StartConfig{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		s.flowing("datagrams flow after "+victim+" was killed and started", flows)
	}
	s.finish(flows)
}

// TestBetterPathAppears: a direct link is taken once it is there.
func TestBetterPathAppears(t *testing.T) {
	cfg := line("a", "b", "c")
	cfg.Links = append(cfg.Links, lab.LinkConfig{Hosts: []string{"a", "c"}})
	s := tell(t, cfg)
	if err := s.Link("a", "c").Cut(); err != nil {
		t.Fatal(err)
	}
	s.upAll()
	s.reach(s.names()...)
	if err := s.hops("a", "c", 2); err != nil {
		t.Fatal(err)
	}
	addrs := s.attach("a1", "b1", "c1")
	s.known(3)
	s.answered("a1", addrs[2], s.ping("a1", addrs[2], lab.PingConfig{Count: 3}))
	flows := s.flows("a1", "c1", addrs[0], addrs[2])
	s.flowing("datagrams flow over the relay", flows)
	if err := s.Link("a", "c").Heal(); err != nil {
		t.Fatal(err)
	}
	s.eventually("the direct link is used", func() error { return s.hops("a", "c", 1) })
	time.Sleep(500 * time.Millisecond)
	s.flowing("datagrams flow over the direct link", flows)
	s.finish(flows)
}

// TestUDPBlocked: without UDP frames go over TCP, and back when it passes again.
func TestUDPBlocked(t *testing.T) {
	s := tell(t, line("a", "b", "c"))
	s.upAll()
	s.reach(s.names()...)
	addrs := s.attach("a1", "b1", "c1")
	s.known(3)
	path := func(want string) func() error {
		return func() error {
			for _, l := range s.status("a").Links {
				if l.Nickname == "b" && (l.Path != want || l.State != "up") {
					return fmt.Errorf("the link is %s over %s", l.State, l.Path)
				}
			}
			return nil
		}
	}
	s.eventually("frames go over UDP", path("udp"))
	flows := s.flows("a1", "c1", addrs[0], addrs[2])
	s.flowing("datagrams flow", flows)
	if err := s.Link("a", "b").Impair(lab.Rule{UDP: true}); err != nil {
		t.Fatal(err)
	}
	s.eventually("frames go over TCP", path("tcp"))
	s.flowing("datagrams flow over TCP", flows)
	s.answered("a1", addrs[1], s.ping("a1", addrs[1], lab.PingConfig{Count: 10, Size: 1200}))
	received, took, err := lab.Throughput(s.ctx, s.Container("a1").Place, s.Container("b1").Place, addrs[1], time.Second)
	if err != nil || received == 0 {
		t.Fatalf("TCP inside TCP: %d bytes, %v", received, err)
	}
	t.Logf("over TCP %.2f Gbit/s", float64(received)*8/took.Seconds()/1e9)
	if err := s.Link("a", "b").Heal(); err != nil {
		t.Fatal(err)
	}
	s.eventually("frames go over UDP again", path("udp"))
	s.flowing("datagrams flow over UDP again", flows)
	s.finish(flows)
}

// TestUDPNeverPassed: hosts that were never reached by UDP link over TCP.
func TestUDPNeverPassed(t *testing.T) {
	s := tell(t, line("a", "b"))
	if err := s.Link("a", "b").Impair(lab.Rule{UDP: true}); err != nil {
		t.Fatal(err)
	}
	s.upAll()
	s.reach("a", "b")
	addrs := s.attach("a1", "b1")
	s.known(2)
	s.answered("a1", addrs[1], s.ping("a1", addrs[1], lab.PingConfig{Count: 10}))
}

// TestMoveEndpoint: a container appears on another host with its MAC and address.
func TestMoveEndpoint(t *testing.T) {
	cfg := line("a", "b", "c")
	cfg.Containers = 2
	s := tell(t, cfg)
	s.upAll()
	s.reach(s.names()...)
	const mac, address = "02:00:5e:00:53:01", "10.32.0.9"
	to := netip.MustParseAddr(address)
	if err := s.Container("a1").Attach(s.ctx, "10.32.0.1/24"); err != nil {
		t.Fatal(err)
	}
	if err := s.Container("b1").Attach(s.ctx, address+"/24", "--mac", mac); err != nil {
		t.Fatal(err)
	}
	s.known(2)
	s.answered("a1", to, s.ping("a1", to, lab.PingConfig{Count: 3}))
	if r, err := s.Host("c").Ripstop(s.ctx, "attach", s.Container("c1").Netns(), "--address", address+"/24", "--mac", mac); err != nil || r.Code != 1 {
		t.Fatalf("an address in use was given away: %+v, %v", r, err)
	}
	if r, err := s.Host("c").Ripstop(s.ctx, "expose", "--address", address+"/24"); err != nil || r.Code != 1 ||
		!strings.Contains(r.Err, "in use on host b") || strings.Contains(r.Err, "--move") { // a flag that expose has not
		t.Fatalf("expose with an address in use: %+v, %v", r, err)
	}
	if err := s.Container("c1").Attach(s.ctx, address+"/24", "--mac", mac, "--move"); err != nil {
		t.Fatal(err)
	}
	took := s.eventually("a1 reaches the endpoint where it is now", func() error {
		r, err := s.Container("a1").Ping(s.ctx, to, lab.PingConfig{Timeout: 100 * time.Millisecond})
		if err != nil || !r[0].Answered {
			return fmt.Errorf("no answer, %v", err)
		}
		return nil
	})
	if took > 5*time.Second {
		t.Errorf("the move took %v", took)
	}
	s.eventually("every host shows it on c, and only there", func() error {
		for _, h := range s.names() {
			n := 0
			for _, e := range s.status(h).Endpoints {
				if e.MAC == mac {
					n++
					if e.HostNickname != "c" || e.State != "here" && e.State != "remote" {
						return fmt.Errorf("%s shows %+v", h, e)
					}
				}
			}
			if n != 1 {
				return fmt.Errorf("%s shows it %d times", h, n)
			}
		}
		return nil
	})
	inside, err := s.Container("b1").Interfaces()
	if err != nil || len(inside) != 0 {
		t.Errorf("its old place still has the interfaces %v, %v", inside, err)
	}
	s.wantPorts("b")
}

// wantPorts compares the host ends of attachments that a host has.
func (s *story) wantPorts(host string, want ...string) {
	s.Helper()
	all, err := s.Host(host).Interfaces()
	if err != nil {
		s.Fatal(err)
	}
	all = slices.DeleteFunc(all, func(name string) bool { return !strings.HasPrefix(name, "ripv") })
	slices.Sort(all)
	if !slices.Equal(all, want) {
		s.Errorf("%s has the ports %v, want %v", host, all, want)
	}
}

// TestLeftoversOfTheDead: what a killed daemon or a dead caller left on the bridge goes
// at the next start and at reset, and another daemon's ports on this host stay.
func TestLeftoversOfTheDead(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a", "b"}, Containers: 1})
	host := s.Host("a")
	d := s.up("a", lab.StartConfig{})
	s.attach("a1")
	port := s.status("a").Endpoints[0].HostPort
	ip := func(args ...string) {
		t.Helper()
		if r, err := host.Exec(s.ctx, "ip", args...); err != nil || r.Code != 0 {
			t.Fatalf("ip %v: %+v, %v", args, r, err)
		}
	}
	ip("link", "add", "other", "type", "bridge")
	for name, bridge := range map[string]string{"ripvdead": "ripstop", "ripvother": "other", "ripvlone": ""} {
		ip("link", "add", name, "type", "veth", "peer", "name", "x"+name)
		ip("link", "set", name, "alias", "ripstop")
		if bridge != "" {
			ip("link", "set", name, "master", bridge)
		}
	}
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	s.up("a", lab.StartConfig{})
	s.wantPorts("a", port, "ripvlone", "ripvother")

	// A caller in another network namespace is told so, and nothing stays there.
	r, err := s.Host("b").Exec(s.ctx, program, "--socket", host.Socket(), "attach", s.Container("b1").Netns(), "--address", "10.32.0.7/24")
	if err != nil || r.Code != 1 || !strings.Contains(r.Err, "in the daemon's own network namespace") {
		t.Errorf("attach in another namespace: %+v, %v", r, err)
	}
	s.wantPorts("b")

	s.run("a", "reset", "--yes")
	s.wantPorts("a", "ripvother")
}

// TestAddressClaimedTwice: two hosts that could not hear each other gave one
// address away; both settle it alike.
func TestAddressClaimedTwice(t *testing.T) {
	s := tell(t, line("a", "b"))
	if err := s.Link("a", "b").Cut(); err != nil {
		t.Fatal(err)
	}
	s.upAll()
	for _, c := range []string{"a1", "b1"} {
		if err := s.Container(c).Attach(s.ctx, "10.99.0.5/24"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Link("a", "b").Heal(); err != nil {
		t.Fatal(err)
	}
	s.reach("a", "b")
	s.eventually("one holds it and the other is fenced, on both hosts", func() error {
		winner := map[string]bool{}
		for _, h := range []string{"a", "b"} {
			states := map[string]int{}
			for _, e := range s.status(h).Endpoints {
				states[e.State]++
				if e.State != "fenced" {
					winner[e.HostNickname] = true
				}
			}
			if states["fenced"] != 1 || states["here"]+states["remote"] != 1 {
				return fmt.Errorf("%s shows %v", h, states)
			}
		}
		if len(winner) != 1 {
			return fmt.Errorf("they disagree: %v", winner)
		}
		return nil
	})
	if links := s.status("a").Links; len(links) != 1 || links[0].State != "up" {
		t.Errorf("the conflict touched the link: %+v", links)
	}
}

// TestClone: a copied state directory ends the newcomer with exit code 6, and the
// first one goes on.
func TestClone(t *testing.T) {
	names := []string{"a", "b", "c"}
	s := tell(t, lab.Config{Hosts: names, Links: []lab.LinkConfig{{Hosts: names}}})
	s.up("a", lab.StartConfig{})
	s.up("b", lab.StartConfig{Peers: []string{"a"}})
	s.reach("a", "b")
	s.copyState("b", "c")
	d, err := s.Host("c").Start(lab.StartConfig{Peers: []string{"a"}, NoWait: true})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	select {
	case <-d.Done():
	case <-time.After(patience):
		t.Fatal("the clone runs on")
	}
	if d.Code() != 6 {
		t.Errorf("the clone ended with code %d, want 6; log:\n%s", d.Code(), d.Log())
	}
	// What it says is to be done: without the seed alone, the rest of a copy cannot be read.
	if log := d.Log(); !strings.Contains(log, "a directory of its own") || strings.Contains(log, "`seed`") {
		t.Errorf("the clone does not say what helps:\n%s", log)
	}
	took := time.Since(start)
	t.Logf("the clone ended after %v", took.Round(10*time.Millisecond))
	if took > 5*time.Second {
		t.Errorf("the clone ran for %v, want at most 5 s", took)
	}
	s.reach("a", "b")
}
