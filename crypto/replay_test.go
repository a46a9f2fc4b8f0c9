package crypto

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// slowWindow is what replayWindow must do, said plainly.
type slowWindow struct {
	any    bool
	high   uint64
	opened map[uint64]bool
}

func (w *slowWindow) mark(c uint64) bool {
	if c >= maxMessages || w.opened[c] || w.any && c < w.high && w.high-c >= ReplayWindow {
		return false
	}
	w.opened[c] = true
	if !w.any || c > w.high {
		w.any, w.high = true, c
	}
	return true
}

func TestReplayWindowAgainstSlowOne(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(seeded(seed))
		var fast replayWindow
		slow := slowWindow{opened: map[uint64]bool{}}
		base := r.Uint64N(maxMessages)
		for range 20000 {
			c := base + r.Uint64N(300)
			switch r.IntN(20) {
			case 0:
				base += r.Uint64N(3 * ReplayWindow)
			case 1:
				c = base - min(base, ReplayWindow-5+r.Uint64N(10))
			case 2:
				c = base - min(base, r.Uint64N(2*ReplayWindow))
			case 3:
				base += 64*windowWords - 2 + r.Uint64N(4)
			}
			fresh := fast.fresh(c)
			if got, want := fast.mark(c), slow.mark(c); got != want || fresh != want {
				t.Fatalf("seed %d, counter %d, top %d: fresh %v, marked %v, want %v", seed, c, fast.top, fresh, got, want)
			}
		}
	}
}

func TestReplayWindowEdges(t *testing.T) {
	var w replayWindow
	for i, c := range []struct {
		counter uint64
		want    bool
	}{
		{0, true}, {0, false}, {63, true}, {64, true}, {63, false}, {1, true},
		{ReplayWindow, true},              // 0 falls out, 1 is still known
		{1, false}, {2, true}, {0, false}, // 2 is the oldest but one
		{ReplayWindow + 1, true}, {2, false}, // still in the window, and known
		{3, true}, {3 * ReplayWindow, true}, // a jump over the whole ring
		{2*ReplayWindow + 1, true},             // its oldest
		{2 * ReplayWindow, false},              // just outside
		{2*ReplayWindow + 64, true},            // nothing was left set by the jump
		{maxMessages - 1, true},                // the last that exists
		{maxMessages, false}, {1 << 63, false}, // those that don't
		{^uint64(0), false}, {maxMessages, false},
	} {
		if got := w.mark(c.counter); got != c.want {
			t.Fatalf("step %d: counter %d: %v", i, c.counter, got)
		}
	}
}

func FuzzReplayWindow(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 64, 64, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var fast replayWindow
		slow := slowWindow{opened: map[uint64]bool{}}
		at := uint64(0)
		for ; len(b) >= 3; b = b[3:] {
			step := uint64(b[0])<<16 | uint64(binary.BigEndian.Uint16(b[1:]))
			if step&1 == 0 {
				at += step >> 1
			} else {
				at -= min(at, step>>1)
			}
			if got, want := fast.mark(at), slow.mark(at); got != want {
				t.Fatalf("counter %d: %v, want %v", at, got, want)
			}
		}
	})
}
