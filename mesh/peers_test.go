package mesh

import (
	crand "crypto/rand"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"ripstop/crypto"
	"ripstop/mesh/plane"
	"ripstop/transport"
)

// TestIdlePeersAreVisitedTogether: a host with 20 idle peers, which all answer, is awake for
// its probes less often than there are probes, and visits only whom they are for. Each peer
// is looked at every restEvery, all of them in one turn.
func TestIdlePeersAreVisitedTogether(t *testing.T) {
	const peers, minutes = 20, 10
	random := rand.New(rand.NewPCG(1, 2))
	self, err := crypto.NewIdentity(new(crypto.Seed))
	if err != nil {
		t.Fatal(err)
	}
	budget := new(transport.ProbeBudget)
	now := time.Unix(1e9, 0)
	var all []*peer
	for i := range peers {
		p := &peer{
			Peer:     plane.NewPeer(1, crypto.Name{byte(i)}),
			exchange: transport.NewExchange(transport.ExchangeConfig{Identity: self, Jitter: random}),
			paths:    transport.NewPaths(transport.PathsConfig{Random: random, Budget: budget, Fragmenting: true}),
		}
		p.paths.SetCandidates(now, []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 6783)})
		all = append(all, p)
	}
	wakes, visits, probes := 0, 0, 0
	run := func(d time.Duration) {
		for end := now.Add(d); now.Before(end); wakes++ {
			next := now.Add(restEvery)
			for _, p := range all {
				if due := p.next(); !due.IsZero() && due.Before(next) {
					next = due
				}
			}
			now = next
			for _, p := range all {
				if !p.due(now) {
					continue
				}
				visits++
				p.visited, p.touched = now, false
				p.paths.Tick(now)
				for _, probe := range p.paths.Probes() {
					probes++
					p.paths.Answered(now, probe.Path, probe.ID, true)
				}
			}
		}
	}
	run(time.Minute)
	wakes, visits, probes = 0, 0, 0
	run(minutes * time.Minute)
	t.Logf("a minute: %d wakes, %d visits, %d probes", wakes/minutes, visits/minutes, probes/minutes)
	if n := probes / minutes; n < 60/6*peers || n > 60/4*peers {
		t.Errorf("%d probes a minute, not one in 4 to 6 s for each peer", n)
	}
	const looks = int(time.Minute / restEvery)
	if n := wakes / minutes; n > looks+60 {
		t.Errorf("%d wakes a minute, %d of which look at all peers", n, looks)
	}
	if visits > 3*looks*peers*minutes {
		t.Errorf("%d visits in %d s", visits, 60*minutes)
	}
}

// TestWordIsDue: as long as the other end is not known to have a session, the loop comes to
// its peer every wordEvery to make itself heard.
func TestWordIsDue(t *testing.T) {
	network, _, err := crypto.NewNetwork(crand.Reader, crypto.CipherAuto)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1e9, 0)
	var ids [2]*crypto.Identity
	for i := range ids {
		seed, err := crypto.NewSeed(crand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if ids[i], err = crypto.NewIdentity(seed); err != nil {
			t.Fatal(err)
		}
	}
	slices.SortFunc(ids[:], func(a, b *crypto.Identity) int { return a.Name().Compare(b.Name()) })
	var ends [2]*transport.Exchange
	for i := range ends {
		ends[i] = transport.NewExchange(transport.ExchangeConfig{
			Identity: ids[i], Network: network, UID: crypto.UID(1 + i), Peer: ids[1-i].Public(), Random: crand.Reader,
			Jitter: rand.New(rand.NewPCG(1, 2)), Index: func() uint32 { return uint32(1 + i) },
		})
		ends[i].SetPeer(crypto.UID(2 - i))
		ends[i].Want(now, true)
	}
	ends[0].Tick(now)
	for i, x := range ends {
		for _, message := range x.Outgoing() {
			if err := ends[1-i].Receive(now, message); err != nil {
				t.Fatal(err)
			}
		}
	}
	p := &peer{Peer: plane.NewPeer(1, ids[1].Name()), exchange: ends[0], visited: now, lastWord: now}
	if !p.exchange.Unconfirmed() {
		t.Fatal("the session is confirmed")
	}
	if got, want := p.next(), now.Add(wordEvery); got != want {
		t.Errorf("the next visit is in %v, not in %v", got.Sub(now), wordEvery)
	}
	p.exchange.Heard(now, 1)
	if got := p.next(); !got.After(now.Add(time.Minute)) {
		t.Errorf("the other end has the session, and the next visit is in %v", got.Sub(now))
	}
}

// TestPathChangeIsPublished: the plane learns of every path that is taken into use, also of
// one that an answer decides for and that is, but for its address, like the one before.
func TestPathChangeIsPublished(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	self, err := crypto.NewIdentity(new(crypto.Seed))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1e9, 0)
	n := &node{network: new(crypto.Network), log: slog.New(slog.DiscardHandler)}
	p := &peer{
		Peer:     plane.NewPeer(1, crypto.Name{1}),
		exchange: transport.NewExchange(transport.ExchangeConfig{Identity: self, Jitter: random}),
		paths:    transport.NewPaths(transport.PathsConfig{Random: random, Fragmenting: true}),
		connLost: now,
	}
	rtt := map[transport.Path]time.Duration{transport.DirectPath(at(1)): 10 * time.Millisecond, transport.DirectPath(at(2)): 30 * time.Millisecond}
	p.paths.SetCandidates(now, []netip.AddrPort{at(1), at(2)})
	type answer struct {
		at time.Time
		transport.ProbeOut
	}
	var answers []answer
	var published transport.Path
	var direct bool
	began := now
	for ; now.Sub(began) < 3*time.Minute; now = now.Add(time.Millisecond) {
		if now.Sub(began) == time.Minute {
			rtt[transport.DirectPath(at(1))] = 100 * time.Millisecond
		}
		for i := len(answers) - 1; i >= 0; i-- {
			if a := answers[i]; !a.at.After(now) {
				p.paths.Answered(now, a.Path, a.ID, now.Sub(began) > time.Second) // at first the peer does not hear us
				answers = slices.Delete(answers, i, i+1)
			}
		}
		n.turnPeer(p, now)
		for _, probe := range p.paths.Probes() {
			answers = append(answers, answer{now.Add(rtt[probe.Path]), probe})
		}
		best, _ := p.paths.Best()
		if n.outdated || n.dirty {
			published, direct, n.outdated, n.dirty = best, p.direct(now), false, false
		}
		if best != published {
			t.Fatalf("%v is in use, the plane knows %v", best, published)
		}
		if direct != p.direct(now) {
			t.Fatalf("after %v frames may go there is %v, and the plane knows %v", now.Sub(began), !direct, direct)
		}
	}
	if published != transport.DirectPath(at(2)) {
		t.Errorf("%v is in use", published)
	}
}
