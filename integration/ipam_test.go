package integration

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
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

// long has scenarios wait as long as people would have to.
var long = flag.Bool("long", false, "wait the minute after which a host may be removed")

// TestHostGone: a host is killed for good. At once it cannot be removed, and what it
// owned cannot be given out; a minute later its space is somebody else's. When it
// comes back, the address that another one has by then is fenced, and the rest works.
func TestHostGone(t *testing.T) {
	names := []string{"a", "b", "c"}
	s := tell(t, lab.Config{Hosts: names, Links: []lab.LinkConfig{{Hosts: names}}, Containers: 2})
	s.upAll("--ipalloc-range", "10.40.0.0/16")
	s.reach(names...)
	var theirs netip.Prefix
	lost, rest := s.joinWith("c1"), s.joinWith("c2")
	s.joinWith("b1")
	s.known(3)
	for _, r := range s.ipam("c").Ranges {
		if r.Host == s.status("c").Name && !theirs.IsValid() {
			theirs, _ = r.First.Prefix(28)
		}
	}
	s.sameMaps(names...)
	if err := s.Host("c").Daemon().Kill(); err != nil {
		t.Fatal(err)
	}
	s.eventually("c is missed", func() error {
		for _, h := range s.ipam("a").Hosts {
			if h.Nickname == "c" && h.Reachable {
				return fmt.Errorf("%+v", h)
			}
		}
		return nil
	})
	if r, err := s.Host("a").Ripstop(s.ctx, "rmpeer", "c", "--yes"); err != nil || r.Code != 1 || !strings.Contains(r.Err, "c was heard") || !strings.Contains(r.Err, "1m0s") {
		t.Errorf("rmpeer at once: %+v, %v", r, err)
	}
	if _, err := s.allocate("a", "early", "--subnet", theirs.String(), "--deadline", "2s"); err == nil || !strings.Contains(err.Error(), "out of reach: c") || !strings.Contains(err.Error(), "rmpeer") {
		t.Errorf("an address out of c's part: %v", err)
	}
	if !*long {
		t.Log("the minute after which c may be removed is not waited for without -long")
		return
	}
	time.Sleep(61 * time.Second)
	start := time.Now()
	if out := s.run("a", "rmpeer", "c", "--yes"); !strings.Contains(out, "blocks of c taken over") {
		t.Errorf("rmpeer says %q", out)
	}
	s.eventually("its space is given out", func() error {
		_, err := s.allocate("a", "later", "--subnet", theirs.String(), "--deadline", "1s")
		return err
	})
	if took := time.Since(start); took > 10*time.Second && !raced() {
		t.Errorf("it took %v, want 10s", took)
	}
	s.sameMaps("a", "b")
	if err := s.Container("a1").Attach(s.ctx, lost[0].String()+"/16", "--move"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Host("c").Start(lab.StartConfig{}); err != nil {
		t.Fatal(err)
	}
	s.reach(names...)
	s.eventually("c has fenced what a has now, and nothing else", func() error {
		for _, e := range s.status("c").Endpoints {
			if e.Name == "c1" && (e.State != "fenced" || len(e.Fenced) == 0) || e.Name == "c2" && e.State != "here" {
				return fmt.Errorf("%+v", e)
			}
		}
		return nil
	})
	s.sameMaps(names...)
	s.answered("b1", rest[0], s.ping("b1", rest[0], lab.PingConfig{Count: 3}))
	s.answered("b1", lost[0], s.ping("b1", lost[0], lab.PingConfig{Count: 3}))
	if events := s.ipam("c").Events; !slices.ContainsFunc(events, func(e api.IPAMEvent) bool { return e.Kind == "fenced" }) {
		t.Errorf("events of c: %+v", events)
	}
	t.Logf("status ipam of c:\n%s", s.run("c", "status", "ipam"))
}

// TestLastAddress: a small range is given out to its last address over three hosts,
// no address twice; the next request ends in time and says why. What is released can
// be given again after its rest only.
func TestLastAddress(t *testing.T) {
	names := []string{"a", "b", "c"}
	s := tell(t, lab.Config{Hosts: names, Links: []lab.LinkConfig{{Hosts: names}}})
	s.upAll("--ipalloc-range", "10.40.0.0/28")
	s.reach(names...)
	who := make(map[netip.Addr]string)
	var slowest time.Duration
	for i := range 14 {
		name := fmt.Sprintf("vm%d", i)
		start := time.Now()
		a, err := s.allocate(names[i%3], name)
		if err != nil {
			t.Fatalf("address %d of 14: %v", i+1, err)
		}
		slowest = max(slowest, time.Since(start))
		if who[a] != "" {
			t.Errorf("%v is given to %s and to %s", a, who[a], name)
		}
		who[a] = name
	}
	for _, h := range names {
		start := time.Now()
		_, err := s.allocate(h, "more")
		took := time.Since(start)
		if err == nil || !strings.Contains(err.Error(), "no address of 10.40.0.0/28 is free") || took > 11*time.Second {
			t.Errorf("%s, full: after %v: %v", h, took, err)
		}
		t.Logf("%s says after %v: %v", h, took.Round(10*time.Millisecond), err)
	}
	t.Logf("14 addresses, the slowest after %v", slowest.Round(time.Millisecond))
}

// TestDonation: a host that joins late lives on its share, and then on what others
// donate; each of its addresses comes soon.
func TestDonation(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a", "b"}, Links: []lab.LinkConfig{{Hosts: []string{"a", "b"}}}})
	s.up("a", lab.StartConfig{Args: []string{"--ipalloc-range", "10.40.0.0/25"}})
	if _, err := s.allocate("a", "first"); err != nil {
		t.Fatal(err)
	}
	s.up("b", lab.StartConfig{Args: []string{"--ipalloc-range", "10.40.0.0/25"}, Peers: []string{"a"}})
	s.reach("a", "b")
	client := api.NewClient(s.Host("b").Socket())
	defer client.Close()
	var slowest time.Duration
	for i := range 125 {
		start := time.Now()
		if _, err := client.Allocate(s.ctx, api.AllocateRequest{For: fmt.Sprint("vm", i)}); err != nil {
			t.Fatalf("address %d: %v", i+1, err)
		}
		slowest = max(slowest, time.Since(start))
	}
	t.Logf("125 addresses of 126, the slowest after %v", slowest.Round(time.Millisecond))
	if slowest > time.Second && !raced() {
		t.Errorf("one took %v, want 1s", slowest)
	}
}

// TestKilledWhileSaving: a daemon is killed again and again while addresses are given
// out and released; what was acknowledged is there at the next start, as it was.
func TestKilledWhileSaving(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a"}})
	random := rand.New(rand.NewPCG(1, 2))
	given := make(map[string]netip.Addr)
	var mu sync.Mutex
	names, kills := 0, 15
	for kill := range kills {
		s.up("a", lab.StartConfig{})
		has := make(map[string]netip.Addr)
		owner := make(map[netip.Addr]string)
		for _, u := range s.ipam("a").Uses {
			if u.State == "used" {
				has[u.For] = u.Address.Addr()
				if owner[u.Address.Addr()] != "" {
					t.Errorf("%v is used twice", u.Address)
				}
				owner[u.Address.Addr()] = u.For
			}
		}
		for name, a := range given {
			if has[name] != a {
				t.Fatalf("after %d kills %s has %v, acknowledged was %v", kill, name, has[name], a)
			}
		}
		ctx, cancel := context.WithCancel(s.ctx)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				client := api.NewClient(s.Host("a").Socket())
				defer client.Close()
				for {
					mu.Lock()
					names++
					name := fmt.Sprint("vm", names)
					mu.Unlock()
					a, err := client.Allocate(ctx, api.AllocateRequest{For: name})
					if err != nil {
						return
					}
					mu.Lock()
					given[name] = a.Addresses[0].Addr()
					mu.Unlock()
					if names%3 == 0 { // from the moment it is asked for, either is true
						mu.Lock()
						delete(given, name)
						mu.Unlock()
						client.Release(ctx, api.ReleaseRequest{For: name})
					}
				}
			})
		}
		time.Sleep(time.Duration(20+random.IntN(200)) * time.Millisecond)
		if err := s.Host("a").Daemon().Kill(); err != nil {
			t.Fatal(err)
		}
		cancel()
		wg.Wait()
	}
	t.Logf("%d kills, %d addresses acknowledged and kept", kills, len(given))
	if len(given) < kills {
		t.Errorf("only %d addresses were given", len(given))
	}
}

// TestAllocationSpeed prints how fast addresses come from a host's own blocks, each
// on the disk before its answer.
func TestAllocationSpeed(t *testing.T) {
	const callers, lasts = 16, 3 * time.Second
	s := tell(t, lab.Config{Hosts: []string{"a"}})
	s.up("a", lab.StartConfig{})
	if _, err := s.allocate("a", "first"); err != nil {
		t.Fatal(err)
	}
	times := make([][]time.Duration, callers)
	errs := make([]error, callers)
	var wg sync.WaitGroup
	begin := time.Now()
	for i := range callers {
		wg.Go(func() {
			client := api.NewClient(s.Host("a").Socket())
			defer client.Close()
			for n := 0; time.Since(begin) < lasts && errs[i] == nil; n++ {
				start := time.Now()
				_, errs[i] = client.Allocate(s.ctx, api.AllocateRequest{For: fmt.Sprintf("vm%d.%d", i, n)})
				times[i] = append(times[i], time.Since(start))
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	all := slices.Sorted(slices.Values(slices.Concat(times...)))
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	rate := float64(len(all)) / took.Seconds()
	t.Logf("%d callers: %.0f addresses/s, half of them in %v, p99 %v, the slowest %v", callers, rate, all[len(all)/2], all[len(all)*99/100], all[len(all)-1])
	if rate < 500 && !raced() {
		t.Errorf("%.0f addresses/s", rate)
	}
}

// TestLeave: a host hands its blocks over and gives out nothing afterwards; the other
// has all. The last host cannot leave, nor one with something attached.
func TestLeave(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a", "b"}, Links: []lab.LinkConfig{{Hosts: []string{"a", "b"}}}, Containers: 1})
	s.upAll()
	s.reach("a", "b")
	s.join("a1", "b1")
	leave := func(host string) lab.Result {
		t.Helper()
		r, err := s.Host(host).Ripstop(s.ctx, "leave")
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := leave("b"); r.Code != 1 || !strings.Contains(r.Err, "in use here") || !strings.Contains(r.Err, "detach") {
		t.Errorf("leave with something attached: %+v", r)
	}
	if err := s.Container("b1").Detach(s.ctx); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if r := leave("b"); r.Code != 0 || !strings.Contains(r.Out, "blocks handed over") {
		t.Fatalf("leave: %+v", r)
	} else {
		t.Logf("after %v: %s%s", time.Since(start).Round(time.Millisecond), r.Err, r.Out)
	}
	s.eventually("all is a's", func() error {
		if r := s.ipam("a").Ranges; len(r) != 1 || r[0].Host != s.status("a").Name {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	if _, err := s.allocate("b", "more"); err == nil || !strings.Contains(err.Error(), "has left") {
		t.Errorf("an address of a host that left: %v", err)
	}
	if err := s.Host("b").Daemon().Stop(); err != nil {
		t.Fatal(err)
	}
	if err := s.Container("a1").Detach(s.ctx); err != nil {
		t.Fatal(err)
	}
	s.eventually("b is missed", func() error {
		for _, p := range s.status("a").Peers {
			if p.Reachable {
				return fmt.Errorf("%+v", p)
			}
		}
		return nil
	})
	if r := leave("a"); r.Code != 1 || !strings.Contains(r.Err, "ripstop reset") {
		t.Errorf("leave of the last host: %+v", r)
	}
}

// TestAddressMisuse: what cannot be is refused with a sentence that says what is wrong.
func TestAddressMisuse(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a"}, Containers: 2})
	host := s.Host("a")
	for _, args := range [][]string{
		{"link", "add", "uplink", "type", "veth", "peer", "name", "uppeer"}, {"link", "set", "uplink", "up"}, {"link", "set", "uppeer", "up"},
		{"address", "add", "10.50.1.1/24", "dev", "uplink"},
	} {
		if r, err := host.Exec(s.ctx, "ip", args...); err != nil || r.Code != 0 {
			t.Fatalf("ip %v: %+v, %v", args, r, err)
		}
	}
	secret := filepath.Join(s.Dir(), "secret")
	if err := os.WriteFile(secret, []byte(s.token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		flags []string
		says  string
	}{
		{[]string{"--ipalloc-range", "10.50.0.0/16"}, "route to 10.50.1.0/24 on uplink"},
		{[]string{"--ipalloc-range", "10.50.1.128/25"}, "route to 10.50.1.0/24 on uplink"},
		{[]string{"--ipalloc-range", "10.51.0.0/16", "10.51.0.7"}, "overlaps with the peer 10.51.0.7"},
		{[]string{"--ipalloc-range", "10.51.0.0/31"}, "must have 4 to"},
	} {
		r, err := host.Exec(s.ctx, program, append([]string{"up", "--secret-file", secret, "--state", host.State(), "--socket", host.Socket()}, c.flags...)...)
		if err != nil || r.Code == 0 || !strings.Contains(r.Err, c.says) {
			t.Errorf("up %v: %+v, %v", c.flags, r, err)
		}
	}
	s.up("a", lab.StartConfig{Args: []string{"--ipalloc-range", "10.51.0.0/16", "--ipalloc-default-subnet", "10.51.1.0/24", "--ipalloc-reserve", "10.51.1.0/28", "--ipv6", "off"}})
	first := s.joinWith("a1")
	if len(first) != 1 || first[0] != netip.MustParseAddr("10.51.1.16") {
		t.Errorf("the first address is %v, want 10.51.1.16", first)
	}
	if err := host.Daemon().Stop(); err != nil {
		t.Fatal(err)
	}
	s.up("a", lab.StartConfig{})
	for _, c := range []struct{ args, says string }{
		{"attach " + s.Container("a2").Netns() + " --address 10.51.1.16/16", "in use"},
		{"attach " + s.Container("a2").Netns() + " --subnet 10.52.0.0/16", "no address of the range 10.51.0.0/16"},
		{"attach " + s.Container("a2").Netns() + " --deadline 1m", "at most 25s"},
		{"ipam claim gw 10.51.1.16", "by \"a1\""},
		{"ipam claim gw 10.52.0.1", "outside the range"},
		{"ipam claim gw 10.51.255.255/16", "broadcast"},
		{"ipam allocate a1@rip", "names with @"},
		{"ipam release nobody", "has no such address"},
		{"ipam start", "there is an address map already"},
		{"ipam adopt", "no other address map was met"},
		{"rmpeer nobody --yes", "no host nobody is known"},
		{"rmpeer a --yes", "ripstop leave"},
	} {
		r, err := host.Ripstop(s.ctx, strings.Fields(c.args)...)
		if err != nil || r.Code != 1 || !strings.Contains(r.Err, c.says) {
			t.Errorf("%s: %+v, %v", c.args, r, err)
		}
	}
	if i := s.ipam("a"); i.Range.String() != "10.51.0.0/16" || i.Subnet.String() != "10.51.1.0/24" || i.Range6.IsValid() || i.Used != 1 {
		t.Errorf("after the restart: %+v", i)
	}
	if err := host.Daemon().Stop(); err != nil {
		t.Fatal(err)
	}
	r, err := host.Exec(s.ctx, program, "up", "--state", host.State(), "--socket", host.Socket(), "--ipalloc-range", "10.53.0.0/16")
	if err != nil || r.Code != 1 || !strings.Contains(r.Err, "ripstop reset") {
		t.Errorf("another range: %+v, %v", r, err)
	}
	s.up("a", lab.StartConfig{})
}
