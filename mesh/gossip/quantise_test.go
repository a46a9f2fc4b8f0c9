package gossip

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

type netipAddrPort = netip.AddrPort

func TestQuantise(t *testing.T) {
	for _, c := range []struct {
		rtt, want time.Duration
		loss      uint8
		wantLoss  uint8
	}{
		{0, 100 * time.Microsecond, 0, 0},
		{99 * time.Microsecond, 100 * time.Microsecond, 1, 1},
		{110 * time.Microsecond, 119 * time.Microsecond, 3, 2},
		{200 * time.Microsecond, 200 * time.Microsecond, 7, 5},
		{210 * time.Microsecond, 200 * time.Microsecond, 8, 10},
		{800 * time.Microsecond, 800 * time.Microsecond, 35, 50},
		{2 * time.Hour, 100 * time.Microsecond << 25, 100, 100},
	} {
		got := Quantise(LinkInfo{RTT: c.rtt, Loss: c.loss})
		if got.RTT != c.want || got.Loss != c.wantLoss {
			t.Errorf("%v, %d %%: %v, %d %%", c.rtt, c.loss, got.RTT, got.Loss)
		}
		if again := Quantise(got); again != got {
			t.Errorf("%v: quantised twice %v", got, again)
		}
	}
}

// TestDamping goes through the life of two links by the clock.
func TestDamping(t *testing.T) {
	d := NewDamping(DampingConfig{})
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	one := LinkInfo{Peer: namedName(1), RTT: 10 * time.Millisecond, MTU: 1400}
	two := LinkInfo{Peer: namedName(2), RTT: 10 * time.Millisecond, MTU: 1400}
	slow := func(k LinkInfo, f int) LinkInfo { k.RTT *= time.Duration(f); return k }
	jitter := func(k LinkInfo) LinkInfo { k.RTT += k.RTT / 8; return k }
	for _, c := range []struct {
		at    time.Duration
		links []LinkInfo
		news  bool
		count int
		next  time.Duration // 0: nothing waits
	}{
		{0, []LinkInfo{one}, true, 1, 0},                                                                     // the first at once
		{10 * time.Millisecond, []LinkInfo{one, two}, false, 1, 510 * time.Millisecond},                      // another waits
		{510 * time.Millisecond, []LinkInfo{one, two}, true, 2, 0},                                           // and is told
		{5 * time.Second, []LinkInfo{jitter(one), two}, false, 2, 0},                                         // jitter is no news
		{6 * time.Second, []LinkInfo{slow(one, 4), two}, false, 2, 16 * time.Second},                         // a real change is held
		{7 * time.Second, []LinkInfo{one, two}, false, 2, 0},                                                 // and forgotten when it passes
		{8 * time.Second, []LinkInfo{slow(one, 4), two}, false, 2, 18 * time.Second},                         //
		{18 * time.Second, []LinkInfo{slow(one, 4), two}, true, 2, 0},                                        // or told when it stays
		{19 * time.Second, []LinkInfo{slow(one, 4)}, true, 1, 0},                                             // a lost link at once
		{19*time.Second + 10*time.Millisecond, []LinkInfo{}, false, 1, 19*time.Second + 50*time.Millisecond}, // the next a little later
		{19*time.Second + 50*time.Millisecond, []LinkInfo{}, true, 0, 0},
	} {
		links, news := d.Update(start.Add(c.at), c.links)
		next := time.Duration(0)
		if !d.Next().IsZero() {
			next = d.Next().Sub(start)
		}
		if news != c.news || len(links) != c.count || next != c.next {
			t.Errorf("at %v: %d links, news %v, next %v", c.at, len(links), news, next)
		}
	}
}

// TestDampingOfYoung: the first round trip of a link is long where hosts start; what it
// takes then is told soon, once, and a longer one as late as ever.
func TestDampingOfYoung(t *testing.T) {
	for _, c := range []struct {
		later time.Duration // after the link came
		rtt   time.Duration
		told  time.Duration
	}{
		{3 * time.Second, 300 * time.Microsecond, 4 * time.Second},
		{3 * time.Second, 80 * time.Millisecond, 13 * time.Second},
		{12 * time.Second, 300 * time.Microsecond, 22 * time.Second},
	} {
		d := NewDamping(DampingConfig{})
		start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
		link := LinkInfo{Peer: namedName(1), RTT: 20 * time.Millisecond, MTU: 1400}
		d.Update(start, []LinkInfo{link})
		for at := time.Duration(0); ; at += 100 * time.Millisecond {
			if at >= c.later {
				link.RTT = c.rtt
			}
			if _, told := d.Update(start.Add(at), []LinkInfo{link}); told || at > time.Minute {
				if at != c.told {
					t.Errorf("%v %v after it came: told after %v, not %v", c.rtt, c.later, at, c.told)
				}
				break
			}
			if next := d.Next(); !next.IsZero() && next.Before(start.Add(at)) {
				t.Fatalf("%v after it came something was due", next.Sub(start))
			}
		}
	}
}

// TestDampingOfMany: where the round trips of many links move, each at its own time, they
// are told together, at most once in Hold; those of a calm network, never.
func TestDampingOfMany(t *testing.T) {
	const links = 20
	for _, c := range []struct {
		name        string
		least, most time.Duration
		news        int
	}{
		{"busy", 2 * time.Millisecond, 50 * time.Millisecond, 12 + 4}, // four while they are young
		{"calm", 150 * time.Microsecond, 1100 * time.Microsecond, 0},
	} {
		d := NewDamping(DampingConfig{})
		r := rand.New(rand.NewPCG(1, 2))
		now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
		all := make([]LinkInfo, links)
		news := -1               // the first
		for tick := range 1200 { // 100 ms each
			for i := range all {
				all[i].Peer = namedName(byte(i + 1))
				if tick%150 == i*7 || tick == 0 {
					all[i].RTT = c.least + time.Duration(r.Float64()*float64(c.most-c.least))
				}
			}
			if _, told := d.Update(now, all); told {
				news++
			}
			now = now.Add(100 * time.Millisecond)
		}
		if news > c.news || c.news > 0 && news < 3 {
			t.Errorf("%s: told %d times in 2 min", c.name, news)
		}
	}
}
