package route

import (
	"sync"
	"testing"
	"time"
)

// offer has each source send frames a second, evenly, each to be copied to hosts
// hosts, for some seconds, and returns how many frames a second of each passed in
// the second half.
func offer(l *limiter, seconds int, hosts int, managed bool, rates ...int) []int {
	passed := make([]int, len(rates))
	total := int64(seconds) * sec
	const step = int64(50 * time.Microsecond)
	sent := make([]int64, len(rates))
	for now := int64(0); now < total; now += step {
		for n, rate := range rates {
			for sent[n]*sec <= now*int64(rate) {
				sent[n]++
				if l.allow(now, macKey(0, mac(n)), managed, hosts) == DropNone && now >= total/2 {
					passed[n]++
				}
			}
		}
	}
	for n := range passed {
		passed[n] = passed[n] * 2 / seconds
	}
	return passed
}

func newLimiter() *limiter {
	l := new(limiter)
	l.init(5, 1000, 50_000)
	return l
}

func TestCopyCaps(t *testing.T) {
	between := func(what string, got, low, high int) {
		t.Helper()
		if got < low || got > high {
			t.Errorf("%s: %d frames a second, want %d to %d", what, got, low, high)
		}
	}
	p := offer(newLimiter(), 4, 3, true, 20_000)
	between("one source, few hosts", p[0], 990, 1010)
	p = offer(newLimiter(), 4, 200, true, 20_000)
	between("one source, 200 hosts", p[0], 245, 255)
	p = offer(newLimiter(), 4, 3, true, 900, 900)
	between("under the cap", p[0], 890, 910)
	between("under the cap", p[1], 890, 910)

	p = offer(newLimiter(), 8, 200, true, 900, 20, 20, 20)
	for _, n := range p[1:] {
		between("a quiet source beside a loud one", n, 19, 21)
	}
	between("the loud one gets the rest", p[0], 250-60-10, 250-60+5)

	p = offer(newLimiter(), 8, 200, true, 900, 900, 900, 5)
	between("the quiet one of four", p[3], 4, 6)
	for _, n := range p[:3] {
		between("three loud ones get at least their share", n, 250/4-3, 250-2*(250/4)+3)
	}
	sum := p[0] + p[1] + p[2] + p[3]
	between("all together", sum, 240, 255)

	p = offer(newLimiter(), 20, 4000, true, 50, 1, 1)
	between("4000 hosts: a quiet source", p[1], 0, 2)
	if p[1]+p[2] < 1 {
		t.Errorf("4000 hosts: quiet sources get nothing: %v", p)
	}
}

// Made-up source MACs count as one source together.
func TestCopyCapsAgainstMadeUpSources(t *testing.T) {
	l := newLimiter()
	good, forged, offered := 0, 0, 0
	for n := range 400_000 { // 100 000 a second, for 4 s
		now := int64(n) * sec / 100_000
		if l.allow(now, macKey(0, mac(1000+n)), false, 100) == DropNone && now > 2*sec {
			forged++
		}
		if n%2000 == 0 { // 50 a second
			ok := l.allow(now, macKey(0, mac(n/2000%10)), true, 100) == DropNone
			if now > 2*sec {
				offered++
				if ok {
					good++
				}
			}
		}
	}
	if good < offered || forged > 950 {
		t.Errorf("%d of %d frames of endpoints and %d made-up ones passed in 2 s", good, offered, forged)
	}
}

func TestCopyCapsTellWhich(t *testing.T) {
	l := newLimiter()
	var last Drop
	for range 500 {
		last = l.allow(0, 1, true, 1)
	}
	if last != DropSourceCap {
		t.Errorf("a source beyond its rate: %v", last)
	}
	for n := range 500 {
		last = l.allow(0, uint64(10+n), true, 1000)
	}
	if last != DropHostCap {
		t.Errorf("a host beyond its rate: %v", last)
	}
	if got := l.allow(60*sec, 1, true, 1); got != DropNone {
		t.Errorf("a minute later: %v", got)
	}
}

func TestCopyCapsConcurrent(t *testing.T) {
	l := newLimiter()
	var all sync.WaitGroup
	passed := make([]int, 4)
	for g := range passed {
		all.Go(func() {
			for n := range 40_000 {
				if l.allow(int64(n)*sec/10_000, macKey(0, mac(n%8)), n%3 > 0, 100) == DropNone {
					passed[g]++
				}
			}
		})
	}
	all.Wait()
	sum := passed[0] + passed[1] + passed[2] + passed[3]
	if sum > 4*500+150 { // 4 s of 50 000 copies, a burst, and what races let through
		t.Errorf("%d frames passed", sum)
	}
}

func TestSharersAfterAPause(t *testing.T) {
	l := newLimiter()
	for n := range 20 {
		l.allow(0, macKey(0, mac(n)), true, 1)
	}
	s := l.source(sec, macKey(0, mac(1)))
	if got := l.sharers(sec, &s.share); got != 20 {
		t.Errorf("%d sharers a second later", got)
	}
	if got := l.sharers(9*sec, &s.share); got != 1 {
		t.Errorf("%d sharers after a pause", got)
	}
}
