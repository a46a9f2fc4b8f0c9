package integration

import (
	"flag"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ripstop/integration/lab"
	"ripstop/mesh/api"
)

// long has scenarios wait as long as people would have to, and try everything.
var long = flag.Bool("long", false, "wait the minute after which a host may be removed, measure idle hosts, ping with every size")

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

// TestHostGoneAlone: of two hosts one is gone for good. Nobody is left to say so too:
// the other one takes its blocks only when forced, and says so.
func TestHostGoneAlone(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a", "b"}, Links: []lab.LinkConfig{{Hosts: []string{"a", "b"}}}})
	s.upAll("--ipalloc-range", "10.40.0.0/16")
	s.reach("a", "b")
	for _, h := range s.names() {
		if _, err := s.allocate(h, "vm"); err != nil {
			t.Fatal(err)
		}
	}
	s.sameMaps("a", "b")
	if err := s.Host("b").Daemon().Kill(); err != nil {
		t.Fatal(err)
	}
	s.eventually("b is missed", func() error {
		for _, h := range s.ipam("a").Hosts {
			if h.Nickname == "b" && h.Reachable {
				return fmt.Errorf("%+v", h)
			}
		}
		return nil
	})
	remove := func(says string, flags ...string) {
		t.Helper()
		r, err := s.Host("a").Ripstop(s.ctx, append([]string{"rmpeer", "b", "--yes"}, flags...)...)
		if err != nil || r.Code != 1 || !strings.Contains(r.Err, says) {
			t.Errorf("rmpeer %v: %+v, %v", flags, r, err)
		}
	}
	remove("b was heard", "--force") // force stands for witnesses, not for the minute
	if !*long {
		t.Log("the minute after which b may be removed is not waited for without -long")
		return
	}
	time.Sleep(61 * time.Second)
	remove("--force")
	if out := s.run("a", "rmpeer", "b", "--yes", "--force"); !strings.Contains(out, "blocks of b taken over") {
		t.Errorf("rmpeer --force says %q", out)
	}
	s.eventually("all is a's", func() error {
		if r := s.ipam("a").Ranges; len(r) != 1 || r[0].Host != s.status("a").Name {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	forced := func(e api.IPAMEvent) bool { return e.Kind == "taken" && strings.Contains(e.Text, "forced") }
	if events := s.ipam("a").Events; !slices.ContainsFunc(events, forced) {
		t.Errorf("events of a: %+v", events)
	}
	if _, err := s.Host("b").Start(lab.StartConfig{}); err != nil {
		t.Fatal(err)
	}
	s.reach("a", "b")
	s.sameMaps("a", "b")
	s.eventually("b keeps what nobody else has", func() error {
		if i := s.ipam("b"); i.Used != 1 || i.Fenced != 0 {
			return fmt.Errorf("%+v", i.Uses)
		}
		return nil
	})
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
