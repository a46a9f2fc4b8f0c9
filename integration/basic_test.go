package integration

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"ripstop/integration/lab"
)

// answered wants every ping answered.
func (s *story) answered(from string, to netip.Addr, replies []lab.PingReply) {
	s.Helper()
	for i, r := range replies {
		if !r.Answered {
			s.Fatalf("%s pings %s: number %d of %d was not answered", from, to, i+1, len(replies))
		}
	}
}

func TestTwoHosts(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a", "b"}, Links: []lab.LinkConfig{{Hosts: []string{"a", "b"}}}, Containers: 1})
	s.upAll()
	s.reach("a", "b")
	addrs := s.attach("a1", "b1")
	s.known(2)
	s.answered("a1", addrs[1], s.ping("a1", addrs[1], lab.PingConfig{Count: 20}))
	s.answered("b1", addrs[0], s.ping("b1", addrs[0], lab.PingConfig{Count: 20, Size: 1200}))
	received, took, err := lab.Throughput(s.ctx, s.Container("a1").Place, s.Container("b1").Place, addrs[1], time.Second)
	if err != nil || received == 0 {
		t.Fatalf("TCP: %d bytes, %v", received, err)
	}
	t.Logf("TCP %.2f Gbit/s", float64(received)*8/took.Seconds()/1e9)
	for _, h := range s.Hosts() {
		if err := h.Daemon().Stop(); err != nil {
			t.Error(err)
		}
	}
}

// TestThreeHostsAtOnce: the same line on each host, with all three in it.
func TestThreeHostsAtOnce(t *testing.T) {
	names := []string{"a", "b", "c"}
	s := tell(t, lab.Config{Hosts: names, Links: []lab.LinkConfig{{Hosts: names}}, Containers: 1})
	var line []string
	for _, h := range s.Hosts() {
		line = append(line, h.Ends()[0].IPv4().String())
	}
	var wg sync.WaitGroup
	errs := make([]error, len(names))
	for i, h := range s.Hosts() {
		wg.Go(func() { _, errs[i] = h.Start(lab.StartConfig{Secret: s.token, Peers: line}) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	s.reach(names...)
	for _, h := range names {
		self := 0
		for _, target := range s.status(h).Targets {
			if target.State == "self" {
				self++
			}
		}
		if self != 1 {
			t.Errorf("%s: %d targets are shown as self, want 1: %+v", h, self, s.status(h).Targets)
		}
		if links := s.status(h).Links; len(links) != 2 {
			t.Errorf("%s has %d links, want 2", h, len(links))
		}
	}
	addrs := s.attach("a1", "b1", "c1")
	s.known(3)
	s.answered("a1", addrs[2], s.ping("a1", addrs[2], lab.PingConfig{Count: 5}))
	s.answered("c1", addrs[1], s.ping("c1", addrs[1], lab.PingConfig{Count: 5}))
}

// line is hosts that can reach only their neighbours.
func line(names ...string) lab.Config {
	cfg := lab.Config{Hosts: names, Containers: 1}
	for i := range names[1:] {
		cfg.Links = append(cfg.Links, lab.LinkConfig{Hosts: names[i : i+2]})
	}
	return cfg
}

// TestLineOfFour: the ends talk over two relays as on one Ethernet, and the
// relays counted what passed.
func TestLineOfFour(t *testing.T) {
	s := tell(t, line("a", "b", "c", "d"))
	s.upAll()
	s.reach(s.names()...)
	addrs := s.attach("a1", "d1")
	s.known(2)
	// The first answers settle neighbours and sessions.
	s.answered("a1", addrs[1], s.ping("a1", addrs[1], lab.PingConfig{Count: 5}))
	before := map[string]uint64{"b": s.status("b").Counters["datagrams_relayed"], "c": s.status("c").Counters["datagrams_relayed"]}
	const pings = 50
	replies := s.ping("a1", addrs[1], lab.PingConfig{Count: pings, Interval: 10 * time.Millisecond})
	s.answered("a1", addrs[1], replies)
	for _, r := range replies {
		if r.TTL != 64 {
			t.Fatalf("an answer came with TTL %d, want 64: this is one Ethernet", r.TTL)
		}
	}
	for relay, n := range before {
		// An echo each way, and now and then a neighbour check of the containers.
		if got := s.status(relay).Counters["datagrams_relayed"] - n; got < 2*pings || got > 2*pings+20 {
			t.Errorf("%s relayed %d datagrams for %d echoes both ways", relay, got, pings)
		}
	}
	for _, p := range s.status("a").Peers {
		if p.Nickname == "d" && (p.Hops != 3 || p.Via != "b" || p.Path != "relay") {
			t.Errorf("a shows the way to d as %+v", p)
		}
	}
}

// TestCutAndReroute: in a ring a cut link is gone round, and healed it is used again.
func TestCutAndReroute(t *testing.T) {
	cfg := line("a", "b", "c", "d")
	cfg.Links = append(cfg.Links, lab.LinkConfig{Hosts: []string{"a", "d"}})
	s := tell(t, cfg)
	s.upAll()
	s.reach(s.names()...)
	addrs := s.attach("a1", "b1", "c1", "d1")
	s.known(4)
	s.answered("a1", addrs[1], s.ping("a1", addrs[1], lab.PingConfig{Count: 3}))
	flow, err := lab.StartFlow(lab.FlowConfig{From: s.Container("a1").Place, To: s.Container("b1").Place, Addr: addrs[1]})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	if err := s.Link("a", "b").Cut(); err != nil {
		t.Fatal(err)
	}
	s.eventually("a goes round to b", func() error { return s.hops("a", "b", 3) })
	s.eventually("datagrams flow again", func() error {
		if silence := flow.Silence(); silence > 200*time.Millisecond {
			return fmt.Errorf("silent for %v", silence)
		}
		return nil
	})
	if err := s.Link("a", "b").Heal(); err != nil {
		t.Fatal(err)
	}
	s.eventually("a uses the link again", func() error { return s.hops("a", "b", 1) })
	time.Sleep(500 * time.Millisecond)
	report := flow.Stop(500 * time.Millisecond)
	t.Log(report)
	if report.Duplicates != 0 {
		t.Errorf("%d datagrams came twice", report.Duplicates)
	}
	if report.Gap > 10*time.Second {
		t.Errorf("traffic paused for %v", report.Gap)
	}
}

// hops wants a way of n links from one host to another.
func (s *story) hops(from, to string, n int) error {
	for _, p := range s.status(from).Peers {
		if p.Nickname == to {
			if p.Hops != n {
				return fmt.Errorf("%s is %d hops away", to, p.Hops)
			}
			return nil
		}
	}
	return fmt.Errorf("%s does not know %s", from, to)
}

// TestWrongSecrets: another token gets no byte, another passphrase at most
// message 2 and no name.
func TestWrongSecrets(t *testing.T) {
	for _, c := range []struct {
		name         string
		right, wrong func(s *story) string
		most         int
	}{
		{"token", func(s *story) string { return s.token }, func(s *story) string { return s.secret("auto") }, 0},
		{"passphrase", func(*story) string { return "correct horse battery staple" }, func(*story) string { return "incorrect horse battery" }, 1024},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := tell(t, lab.Config{Hosts: []string{"a", "b"}, Links: []lab.LinkConfig{{Hosts: []string{"a", "b"}}}})
			wire, err := s.Link("a", "b").End("a").Capture()
			if err != nil {
				t.Fatal(err)
			}
			s.up("a", lab.StartConfig{Secret: c.right(s), Args: []string{"--nickname", "alpha-nickname"}})
			s.up("b", lab.StartConfig{Secret: c.wrong(s), Peers: []string{"a"}})
			s.eventually("b shows what is most likely wrong", func() error {
				for _, target := range s.status("b").Targets {
					if strings.Contains(target.Error, "another secret") {
						return nil
					}
				}
				return fmt.Errorf("targets %+v", s.status("b").Targets)
			})
			for _, h := range []string{"a", "b"} {
				if st := s.status(h); len(st.Peers) != 0 || len(st.Links) != 0 {
					t.Errorf("%s has peers %+v and links %+v", h, st.Peers, st.Links)
				}
			}
			if err := wire.Stop(); err != nil {
				t.Fatal(err)
			}
			if n := payloadFrom(wire, s.Link("a", "b").End("a").IPv4(), 6783); n > c.most*20 || c.most == 0 && n != 0 {
				t.Errorf("a sent %d bytes to a stranger", n)
			}
			if wire.Contains([]byte("alpha-nickname")) != 0 {
				t.Error("a's nickname is on the wire")
			}
		})
	}
}

// payloadFrom counts the TCP and UDP payload bytes that left an address and port.
func payloadFrom(c *lab.Capture, addr netip.Addr, port uint16) int {
	total := 0
	for _, f := range c.Frames() {
		b := f.Data
		if len(b) < 34 || b[12] != 8 || b[13] != 0 || netip.AddrFrom4([4]byte(b[26:30])) != addr {
			continue
		}
		ip := b[14:]
		length := int(ip[2])<<8 | int(ip[3])
		l4 := ip[int(ip[0]&15)*4 : min(length, len(ip))]
		switch {
		case ip[9] == 6 && len(l4) >= 20:
			total += len(l4) - int(l4[12]>>4)*4
		case ip[9] == 17 && len(l4) >= 8:
			total += len(l4) - 8
		}
	}
	return total
}

// TestPlaintext: what containers send is nowhere on an underlay wire, nor in a
// relay's memory.
func TestPlaintext(t *testing.T) {
	s := tell(t, line("a", "b", "c"))
	var wires []*lab.Capture
	for _, pair := range [][2]string{{"a", "b"}, {"b", "c"}} {
		w, err := s.Link(pair[0], pair[1]).End(pair[0]).Capture()
		if err != nil {
			t.Fatal(err)
		}
		wires = append(wires, w)
	}
	s.upAll()
	s.reach(s.names()...)
	const name = "endpoint-name-that-must-stay-hidden"
	marker := []byte("32-byte-marker-of-a-frame-inside")
	if err := s.Container("a1").Attach(s.ctx, "10.32.0.1/24", "--name", name); err != nil {
		t.Fatal(err)
	}
	if err := s.Container("c1").Attach(s.ctx, "10.32.0.2/24"); err != nil {
		t.Fatal(err)
	}
	s.known(2)
	to := netip.MustParseAddr("10.32.0.2")
	s.answered("a1", to, s.ping("a1", to, lab.PingConfig{Count: 10, Size: 256, Payload: marker}))
	inMemory, err := processContains(s.Host("b").Daemon().PID(), marker)
	if err != nil {
		t.Fatal(err)
	}
	if inMemory {
		t.Error("a frame's plaintext is in the relay's memory")
	}
	// The check can find what is there: the end has the marker in its buffers.
	if there, err := processContains(s.Host("c").Daemon().PID(), marker); err != nil || !there {
		t.Errorf("the marker was not found where it must be: %v", err)
	}
	address := to.As4()
	for i, w := range wires {
		if err := w.Stop(); err != nil {
			t.Fatal(err)
		}
		if len(w.Frames()) < 20 {
			t.Fatalf("wire %d carried %d frames only", i, len(w.Frames()))
		}
		for _, secret := range [][]byte{marker, []byte(name), append([]byte{10, 32, 0, 1}, address[:]...)} {
			if n := w.Contains(secret); n != 0 {
				t.Errorf("wire %d: %d frames contain %q", i, n, secret)
			}
		}
	}
}

// TestPartitionAndHeal: both halves go on by themselves and find each other again.
func TestPartitionAndHeal(t *testing.T) {
	s := tell(t, line("a", "b", "c", "d"))
	s.upAll()
	s.reach(s.names()...)
	addrs := s.attach("a1", "b1", "c1", "d1")
	s.known(4)
	if err := s.Link("b", "c").Cut(); err != nil {
		t.Fatal(err)
	}
	s.eventually("a has lost d", func() error {
		for _, p := range s.status("a").Peers {
			if p.Nickname == "d" && p.Reachable {
				return fmt.Errorf("still %+v", p)
			}
		}
		return nil
	})
	s.answered("a1", addrs[1], s.ping("a1", addrs[1], lab.PingConfig{Count: 5}))
	s.answered("d1", addrs[2], s.ping("d1", addrs[2], lab.PingConfig{Count: 5}))
	if err := s.Link("b", "c").Heal(); err != nil {
		t.Fatal(err)
	}
	s.reach(s.names()...)
	s.eventually("a1 reaches d1 again", func() error {
		if r, err := s.Container("a1").Ping(s.ctx, addrs[3], lab.PingConfig{}); err != nil || !r[0].Answered {
			return fmt.Errorf("no answer, %v", err)
		}
		return nil
	})
}

// TestConnectAndForget edits the dial list of a running host.
func TestConnectAndForget(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a", "b"}, Links: []lab.LinkConfig{{Hosts: []string{"a", "b"}}}})
	s.up("a", lab.StartConfig{})
	s.up("b", lab.StartConfig{})
	peer := s.Link("a", "b").End("b").IPv4().String()
	s.run("a", "connect", peer)
	s.reach("a", "b")
	s.run("a", "forget", peer)
	if targets := s.status("a").Targets; len(targets) != 0 {
		t.Errorf("targets after forget: %+v", targets)
	}
	if r, err := s.Host("a").Ripstop(s.ctx, "forget", peer); err != nil || r.Code != 1 || !strings.Contains(r.Err, "not a target") {
		t.Errorf("forgetting twice: %+v, %v", r, err)
	}
	s.run("a", "connect", "--replace", "nowhere.invalid", peer)
	if targets := s.status("a").Targets; len(targets) != 2 {
		t.Errorf("targets after replace: %+v", targets)
	}
}

// TestRestart: a host keeps its name and changes its UID; its containers never
// stop talking to each other, and talk to others again soon.
func TestRestart(t *testing.T) {
	cfg := line("a", "b")
	cfg.Containers = 2
	s := tell(t, cfg)
	s.upAll()
	s.reach("a", "b")
	addrs := s.attach("a1", "a2", "b1")
	s.known(3)
	s.answered("a1", addrs[2], s.ping("a1", addrs[2], lab.PingConfig{Count: 3}))
	before := s.status("a")
	local, err := lab.StartFlow(lab.FlowConfig{From: s.Container("a1").Place, To: s.Container("a2").Place, Addr: addrs[1]})
	if err != nil {
		t.Fatal(err)
	}
	for _, kill := range []bool{false, true} {
		d := s.Host("a").Daemon()
		if kill {
			err = d.Kill()
		} else {
			err = d.Stop()
		}
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * time.Millisecond)
		if _, err := s.Host("a").Start(lab.StartConfig{}); err != nil { // secret and peers are in its state
			t.Fatal(err)
		}
		s.reach("a", "b")
		s.eventually("a1 reaches b1 again", func() error {
			r, err := s.Container("a1").Ping(s.ctx, addrs[2], lab.PingConfig{})
			if err != nil || !r[0].Answered {
				return fmt.Errorf("no answer, %v", err)
			}
			return nil
		})
	}
	report := local.Stop(200 * time.Millisecond)
	t.Logf("between two containers of the restarted host: %s", report)
	if report.Lost() != 0 || report.Duplicates != 0 {
		t.Errorf("local traffic suffered: %s", report)
	}
	after := s.status("a")
	if after.Name != before.Name || after.ID != before.ID || after.UID == before.UID {
		t.Errorf("before %s %s, after %s %s", before.ID, before.UID, after.ID, after.UID)
	}
	if len(after.Endpoints) != 3 {
		t.Errorf("endpoints after the restarts: %+v", after.Endpoints)
	}
}

// TestFullMeshOfTwelve joins twelve hosts on one segment through one of them.
func TestFullMeshOfTwelve(t *testing.T) {
	var names []string
	for i := range 12 {
		names = append(names, string(rune('a'+i)))
	}
	s := tell(t, lab.Config{Hosts: names, Links: []lab.LinkConfig{{Hosts: names}}, Containers: 1})
	s.up(names[0], lab.StartConfig{})
	var wg sync.WaitGroup
	errs := make([]error, len(names))
	for i, h := range names[1:] {
		wg.Go(func() { _, errs[i] = s.Host(h).Start(lab.StartConfig{Secret: s.token, Peers: names[:1]}) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	s.eventually("every host has a link with every other", func() error {
		for _, h := range names {
			up := 0
			for _, l := range s.status(h).Links {
				if l.State == "up" {
					up++
				}
			}
			if up != len(names)-1 {
				return fmt.Errorf("%s has %d links up", h, up)
			}
		}
		return nil
	})
	s.reach(names...)
	addrs := s.attach("a1", "l1")
	s.known(2)
	s.answered("a1", addrs[1], s.ping("a1", addrs[1], lab.PingConfig{Count: 5}))
}
