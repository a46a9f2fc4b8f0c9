package integration

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ripstop/integration/lab"
	"ripstop/mesh/api"
)

// ipam is what a host says of the address map.
func (s *story) ipam(host string) api.IPAM {
	s.Helper()
	var all api.IPAM
	if err := json.Unmarshal([]byte(s.run(host, "status", "ipam", "--json")), &all); err != nil {
		s.Fatalf("%s: status ipam: %v", host, err)
	}
	return all
}

// join attaches containers without an address, and returns what they got.
func (s *story) join(containers ...string) []netip.Addr {
	s.Helper()
	var all []netip.Addr
	for _, c := range containers {
		all = append(all, s.joinWith(c)[0])
	}
	return all
}

// joinWith attaches a container with further flags, and returns its addresses.
func (s *story) joinWith(container string, flags ...string) (all []netip.Addr) {
	s.Helper()
	c := s.Container(container)
	args := append([]string{"attach", c.Netns(), "--name", container, "--json"}, flags...)
	var e api.Endpoint
	if err := json.Unmarshal([]byte(s.run(c.Host().Name(), args...)), &e); err != nil || len(e.Addresses) == 0 {
		s.Fatalf("%s: attach: %+v, %v", container, e, err)
	}
	for _, p := range e.Addresses {
		all = append(all, p.Addr())
	}
	return all
}

// allocate gives an address to a name on a host.
func (s *story) allocate(host, name string, flags ...string) (netip.Addr, error) {
	s.Helper()
	r, err := s.Host(host).Ripstop(s.ctx, append([]string{"ipam", "allocate", name, "--json"}, flags...)...)
	if err != nil {
		s.Fatal(err)
	}
	if r.Code != 0 {
		return netip.Addr{}, fmt.Errorf("exit code %d: %s", r.Code, strings.TrimSpace(r.Err))
	}
	var a api.Address
	if err := json.Unmarshal([]byte(r.Out), &a); err != nil || len(a.Addresses) == 0 {
		s.Fatalf("%s: allocate %s: %q, %v", host, name, r.Out, err)
	}
	return a.Addresses[0].Addr(), nil
}

// sameMaps wants the same owner of every address on all hosts.
func (s *story) sameMaps(hosts ...string) time.Duration {
	s.Helper()
	return s.eventually("the address maps are equal", func() error {
		first := s.ipam(hosts[0]).Ranges
		for _, h := range hosts[1:] {
			if r := s.ipam(h).Ranges; len(r) == 0 || !reflect.DeepEqual(r, first) {
				return fmt.Errorf("%s and %s differ", hosts[0], h)
			}
		}
		return nil
	})
}

// TestAttachWithoutAddress: two hosts, nothing said about addresses: containers and a
// host itself get one of each family, all different, and reach each other by both;
// what is detached is free again, and a daemon that was started again knows who has what.
func TestAttachWithoutAddress(t *testing.T) {
	cfg := lab.Config{Hosts: []string{"a", "b"}, Links: []lab.LinkConfig{{Hosts: []string{"a", "b"}}}, Containers: 2}
	s := tell(t, cfg)
	s.upAll()
	s.reach("a", "b")
	start := time.Now()
	a1, b1 := s.joinWith("a1"), s.joinWith("b1")
	s.Logf("the first two addresses after %v", time.Since(start).Round(time.Millisecond))
	a2 := s.joinWith("a2")
	s.known(3)
	if len(a1) != 2 || len(b1) != 2 || a1[0] == b1[0] || a1[0] == a2[0] || !netip.MustParsePrefix("10.32.0.0/12").Contains(a1[0]) || !a1[1].Is6() {
		t.Fatalf("addresses %v, %v, %v", a1, b1, a2)
	}
	for _, to := range [][]netip.Addr{b1, a2} {
		s.answered("a1", to[0], s.ping("a1", to[0], lab.PingConfig{Count: 3}))
		s.answered("a1", to[1], s.ping("a1", to[1], lab.PingConfig{Count: 3}))
	}
	if out := s.run("b", "expose"); !strings.Contains(out, "/12") {
		t.Errorf("expose says %q", out)
	}
	own := s.status("b").Addresses
	if len(own) != 2 {
		t.Fatalf("b is exposed with %v", own)
	}
	s.known(4)
	s.answered("a1", own[0].Addr(), s.ping("a1", own[0].Addr(), lab.PingConfig{Count: 3}))
	if again := s.joinWith("a1"); again[0] != a1[0] || again[1] != a1[1] {
		t.Errorf("attached twice, a1 has %v, then %v", a1, again)
	}

	if err := s.Host("a").Daemon().Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Host("a").Start(lab.StartConfig{}); err != nil {
		t.Fatal(err)
	}
	s.reach("a", "b")
	if i := s.ipam("a"); i.Used != 2 {
		t.Errorf("after the restart a uses %+v", i.Uses)
	}
	if err := s.Container("a2").Detach(s.ctx); err != nil {
		t.Fatal(err)
	}
	again := s.joinWith("a2")
	if again[0] == a2[0] {
		t.Errorf("%v was given again at once", a2[0])
	}
	s.known(4)
	s.answered("b1", again[0], s.ping("b1", again[0], lab.PingConfig{Count: 3}))
	s.run("b", "hide")
	if i := s.ipam("b"); i.Used != 1 || i.Resting != 1 {
		t.Errorf("after hide b uses %+v", i.Uses)
	}
	t.Logf("status ipam:\n%s", s.run("a", "status", "ipam"))
}

// TestAddressesPartlyChosen: a subnet's address, one kept for a name, one that is
// given and claimed, one that moves to another host, and a routed host's own.
func TestAddressesPartlyChosen(t *testing.T) {
	cfg := lab.Config{Hosts: []string{"a", "b", "r"}, Links: []lab.LinkConfig{{Hosts: []string{"a", "b", "r"}}}, Containers: 2}
	s := tell(t, cfg)
	s.up("a", lab.StartConfig{})
	s.up("b", lab.StartConfig{Peers: []string{"a"}})
	s.up("r", lab.StartConfig{Peers: []string{"a"}, Args: []string{"--mode", "routed"}})
	s.reach("a", "b", "r")

	part := netip.MustParsePrefix("10.33.7.0/24")
	a1 := s.joinWith("a1", "--subnet", "net:"+part.String())
	if len(a1) != 2 || !part.Contains(a1[0]) {
		t.Errorf("out of %v came %v", part, a1)
	}
	kept := s.joinWith("b1", "--sticky")
	if err := s.Container("b1").Detach(s.ctx); err != nil {
		t.Fatal(err)
	}
	other := s.joinWith("b2")
	if again := s.joinWith("b1", "--sticky"); again[0] != kept[0] || again[0] == other[0] {
		t.Errorf("kept for b1: %v, given again: %v, another one's: %v", kept, again, other)
	}

	// What b has nobody else gets, not by name either, until it moves.
	attach := func(flags ...string) lab.Result {
		c := s.Container("a2")
		r, err := s.Host("a").Ripstop(s.ctx, append([]string{"attach", c.Netns(), "--name", "a2", "--address", other[0].String() + "/12"}, flags...)...)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := attach(); r.Code != 1 || !strings.Contains(r.Err, "in use") || !strings.Contains(r.Err, "b") {
		t.Errorf("an address in use: %+v", r)
	}
	if r := attach("--move"); r.Code != 0 {
		t.Fatalf("a move: %+v", r)
	}
	s.eventually("the claim has moved with the address", func() error {
		for _, host := range []string{"a", "b"} {
			for _, u := range s.ipam(host).Uses {
				used := u.State == "used" || u.State == "foreign"
				if u.Address.Addr() == other[0] && used != (host == "a") {
					return fmt.Errorf("%s shows %+v", host, u)
				}
			}
		}
		return nil
	})

	var own []netip.Prefix
	s.eventually("the routed host has an address", func() error {
		if own = s.status("r").Addresses; len(own) == 0 {
			return fmt.Errorf("none yet")
		}
		return nil
	})
	s.eventually("b1 reaches the routed host", func() error {
		if r, err := s.Container("b1").Ping(s.ctx, own[0].Addr(), lab.PingConfig{}); err != nil || !r[0].Answered {
			return fmt.Errorf("no answer from %v, %v", own, err)
		}
		return nil
	})
	if err := s.Host("r").Daemon().Stop(); err != nil {
		t.Fatal(err)
	}
	s.up("r", lab.StartConfig{Args: []string{"--mode", "routed"}})
	s.eventually("the routed host has its address again", func() error {
		if again := s.status("r").Addresses; !reflect.DeepEqual(again, own) {
			return fmt.Errorf("it had %v and has %v", own, again)
		}
		return nil
	})
}

// TestThreeFounders: three hosts started at once, each told of all three: everybody
// has an address soon, without another word.
func TestThreeFounders(t *testing.T) {
	names := []string{"a", "b", "c"}
	s := tell(t, lab.Config{Hosts: names, Links: []lab.LinkConfig{{Hosts: names}}, Containers: 1})
	var line []string
	for _, h := range s.Hosts() {
		line = append(line, h.Ends()[0].IPv4().String())
	}
	start := time.Now()
	var wg sync.WaitGroup
	got := make([]netip.Addr, len(names))
	errs := make([]error, len(names))
	for i, h := range s.Hosts() {
		wg.Go(func() {
			if _, errs[i] = h.Start(lab.StartConfig{Secret: s.token, Peers: line}); errs[i] == nil {
				got[i], errs[i] = s.allocate(h.Name(), "vm")
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	if got[0] == got[1] || got[1] == got[2] || got[0] == got[2] || errs[0] != nil || errs[1] != nil || errs[2] != nil {
		t.Fatalf("addresses %v, %v", got, errs)
	}
	t.Logf("three addresses %v after the start", took.Round(10*time.Millisecond))
	if took > 5*time.Second && !raced() {
		t.Errorf("it took %v, want 5s", took)
	}
	for _, h := range names {
		if f := s.ipam(h).Founders; len(f) != 3 {
			t.Errorf("%s says the map was begun by %v", h, f)
		}
	}
}

// TestAllocateInPartition: two and three of five hosts go on giving out addresses
// while nothing passes between them. Healed, no two have the same one, the maps
// become equal, and no link was closed.
func TestAllocateInPartition(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a", "b", "c", "d", "e"}, Containers: 1, Links: []lab.LinkConfig{
		{Hosts: []string{"a", "b"}}, {Hosts: []string{"b", "c"}}, {Hosts: []string{"c", "d", "e"}}}})
	s.upAll("--ipalloc-range", "10.40.0.0/16")
	s.reach(s.names()...)
	who := make(map[netip.Addr]string)
	give := func(host, name string) {
		t.Helper()
		a, err := s.allocate(host, name)
		if err != nil {
			t.Fatalf("%s: %v", host, err)
		}
		if other := who[a]; other != "" {
			t.Errorf("%v is given to %s on %s and to %s", a, name, host, other)
		}
		who[a] = name + " on " + host
	}
	for _, h := range s.names() {
		give(h, "before")
	}
	s.sameMaps(s.names()...)
	since := make(map[string]time.Time)
	for _, h := range s.names() {
		for _, l := range s.status(h).Links {
			since[h+" "+l.Nickname] = l.Since
		}
	}
	if err := s.Link("b", "c").Cut(); err != nil {
		t.Fatal(err)
	}
	s.eventually("the halves have lost each other", func() error {
		for _, p := range append(s.status("a").Peers, s.status("e").Peers...) {
			if p.Reachable && (p.Nickname == "c" || p.Nickname == "b") && !(p.Nickname == "b" && p.Via == "") && !(p.Nickname == "c" && p.Via == "") {
				return fmt.Errorf("%+v", p)
			}
		}
		return nil
	})
	for i := range 4 {
		for _, h := range s.names() {
			give(h, fmt.Sprintf("meanwhile%d", i))
		}
	}
	addrs := s.join("a1", "b1", "c1", "d1", "e1")
	if err := s.Link("b", "c").Heal(); err != nil {
		t.Fatal(err)
	}
	s.reach(s.names()...)
	if took := s.sameMaps(s.names()...); took > 10*time.Second && !raced() {
		t.Errorf("it took %v, want 10s", took)
	}
	for i, a := range addrs {
		if other := who[a]; other != "" {
			t.Errorf("%v is attached and given to %s", a, other)
		}
		who[a] = s.names()[i] + "1"
	}
	for _, h := range s.names() {
		if i := s.ipam(h); i.Fenced > 0 || i.Conflicts > 0 {
			t.Errorf("%s: %d fenced, %d conflicts: %+v", h, i.Fenced, i.Conflicts, i.Events)
		}
		for _, l := range s.status(h).Links {
			if was := since[h+" "+l.Nickname]; l.Nickname+h != "bc" && l.Nickname+h != "cb" && !l.Since.Equal(was) {
				t.Errorf("the link of %s with %s was closed: since %v, before %v", h, l.Nickname, l.Since, was)
			}
		}
	}
	s.known(5)
	s.answered("a1", addrs[4], s.ping("a1", addrs[4], lab.PingConfig{Count: 3}))
}

// TestTwoMapsMeet: two hosts that knew nothing of each other have given out addresses,
// the same one for a start. They link all the same, both go on, and both say what is
// to be decided; when b adopts a's map there is one, and only what clashes is fenced.
func TestTwoMapsMeet(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a", "b"}, Links: []lab.LinkConfig{{Hosts: []string{"a", "b"}}}})
	given := make(map[string]netip.Addr)
	for _, h := range s.names() {
		s.up(h, lab.StartConfig{Args: []string{"--ipalloc-range", "10.40.0.0/16"}})
		var err error
		if given[h], err = s.allocate(h, "vm"); err != nil {
			t.Fatal(err)
		}
	}
	other, err := s.allocate("b", "other")
	if err != nil || given["a"] != given["b"] {
		t.Fatalf("apart, they gave %v and %v, %v", given, other, err)
	}
	peer, _ := s.Host("b").Addr(s.Host("a"))
	s.run("b", "connect", peer.String())
	s.reach("a", "b")
	s.eventually("both say that they have met", func() error {
		for _, h := range s.names() {
			if e := s.ipam(h).Events; !slices.ContainsFunc(e, func(e api.IPAMEvent) bool {
				return e.Kind == "meeting" && strings.Contains(e.Text, "ripstop ipam adopt")
			}) {
				return fmt.Errorf("events of %s: %+v", h, e)
			}
		}
		return nil
	})
	for _, h := range s.names() {
		if _, err := s.allocate(h, "meanwhile"); err != nil {
			t.Errorf("%s, with two maps: %v", h, err)
		}
	}
	s.run("b", "ipam", "adopt")
	s.sameMaps("a", "b")
	// What b gave out it asks a for: the addresses that a gave out as well are fenced.
	s.eventually("the two addresses that both gave out are fenced on b", func() error {
		fenced := make(map[netip.Addr]bool)
		uses := s.ipam("b").Uses
		for _, u := range uses {
			fenced[u.Address.Addr()] = u.State == "fenced"
		}
		if i := s.ipam("a"); i.Fenced > 0 || len(i.Uses) < 2 {
			return fmt.Errorf("a uses %+v", i.Uses)
		}
		for _, u := range s.ipam("a").Uses {
			if u.State == "used" && u.Address.Addr() != given["a"] && u.Address.Addr() != other {
				return fmt.Errorf("a uses %v", u)
			}
		}
		if !fenced[given["b"]] || !fenced[other] {
			return fmt.Errorf("b has %+v", uses)
		}
		return nil
	})
	fresh, err := s.allocate("b", "fresh")
	if err != nil || fresh == given["a"] || fresh == other {
		t.Errorf("after all, b gives %v, %v", fresh, err)
	}
	if links := s.status("a").Links; len(links) != 1 {
		t.Errorf("links of a: %+v", links)
	}
}
