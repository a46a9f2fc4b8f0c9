package transport

import (
	"testing"
	"time"
)

// trainWorld is two ends on a whole network, up, with traffic both ways.
func trainWorld(t testing.TB, seed uint64, damaged func(TrainOut, int) bool) *pathsWorld {
	w := newPathsWorld(t, seed)
	w.wire(&sizedWire{rtt: 4 * time.Millisecond, device: [2]int{1472, 1472}, way: [2]int{1472, 1472}})
	w.damaged = damaged
	w.introduce()
	w.traffic(0, 50*time.Millisecond)
	w.traffic(1, 50*time.Millisecond)
	return w
}

func TestTrainsGrow(t *testing.T) {
	w := trainWorld(t, 40, nil)
	if w.end[0].Train() != 1 {
		t.Fatalf("trains of %d before anything is known", w.end[0].Train())
	}
	w.run(5 * time.Second)
	for i, e := range w.end {
		if e.Train() != 64 || e.Status()[0].Train != 64 {
			t.Errorf("end %d: trains of %d", i, e.Train())
		}
		was, lasts := 0, 0
		for _, out := range e.trained {
			if out.Count < was || out.Count > 4*max(was, 2) {
				t.Errorf("end %d: %d after %d", i, out.Count, was)
			}
			was = out.Count
			if out.Size*out.Count > MaxTrain || out.Size > 1472 || out.Last > out.Size {
				t.Errorf("end %d: %+v", i, out)
			}
			if out.Last < out.Size {
				lasts++
			}
		}
		if len(e.trained) != 6 || lasts != 3 {
			t.Errorf("end %d: %d trains, %d with a shorter last", i, len(e.trained), lasts)
		}
	}
	// Looked at again while there is traffic, and by two trains of the figure only.
	n := len(w.end[0].trained)
	w.run(10 * time.Minute)
	if got := len(w.end[0].trained) - n; got < 4 || got > 10 {
		t.Errorf("%d trains in 10 min", got)
	}
}

func TestTrainsOnlyWhenInUse(t *testing.T) {
	w := newPathsWorld(t, 41)
	w.introduce()
	w.run(time.Minute)
	n := len(w.end[0].trained)
	if n == 0 {
		t.Error("not tried when the path came up")
	}
	w.run(time.Hour)
	if got := len(w.end[0].trained); got != n {
		t.Errorf("%d trains in an idle hour", got-n)
	}
}

// A wire that damages what leaves by one call ends with single datagrams, and the link
// stays as it is.
func TestTrainsOfCorruptingWire(t *testing.T) {
	for _, c := range []struct {
		name    string
		damaged func(out TrainOut, place int) bool
		want    int
	}{
		{"all but the first", func(_ TrainOut, place int) bool { return place > 0 }, 1},
		{"everything", func(TrainOut, int) bool { return true }, 1},
		{"the last", func(out TrainOut, place int) bool { return place == out.Count-1 }, 1},
		{"equal lengths", func(out TrainOut, place int) bool { return out.Last == out.Size && place == 3 }, 1},
		{"a shorter last", func(out TrainOut, place int) bool { return out.Last < out.Size && place == out.Count-1 }, 1},
		{"more than 10", func(out TrainOut, place int) bool { return place >= 10 }, 8},
		{"more than 32", func(out TrainOut, place int) bool { return place >= 32 }, 32},
	} {
		for _, idle := range []bool{false, true} {
			w := newPathsWorld(t, 42)
			w.wire(&sizedWire{rtt: 4 * time.Millisecond, device: [2]int{1472, 1472}, way: [2]int{1472, 1472}})
			w.damaged = c.damaged
			w.introduce()
			if !idle {
				w.traffic(0, 50*time.Millisecond)
				w.traffic(1, 50*time.Millisecond)
			}
			w.run(10 * time.Second)
			for i, e := range w.end {
				if e.Train() != c.want || !e.Up() || e.Limit() != 1472 {
					t.Errorf("%s, idle %v: end %d: trains of %d, want %d; up %v, limit %d", c.name, idle, i, e.Train(), c.want, e.Up(), e.Limit())
				}
				if _, loss := e.Cost(); loss > 0 {
					t.Errorf("%s: loss of %v", c.name, loss)
				}
			}
			n := len(w.end[0].trained)
			w.run(10 * time.Minute)
			if got := len(w.end[0].trained) - n; got > 35 {
				t.Errorf("%s, idle %v: %d trains in 10 min", c.name, idle, got)
			}
		}
	}
}

// A path that begins to damage trains is found at the next look, and when it is whole
// again as well.
func TestTrainsFallAndRise(t *testing.T) {
	bad := 64
	w := trainWorld(t, 43, func(_ TrainOut, place int) bool { return place >= bad })
	w.run(10 * time.Second)
	if n := w.end[0].Train(); n != 64 {
		t.Fatalf("trains of %d", n)
	}
	for _, c := range []struct{ bad, want int }{{40, 32}, {3, 1}, {64, 64}, {9, 8}} {
		bad = c.bad
		w.run(5 * time.Minute)
		if n := w.end[0].Train(); n != c.want {
			t.Errorf("%d datagrams of a train pass: trains of %d, want %d", c.bad, n, c.want)
		}
	}
}

// A little loss does not end trains; a new path begins anew.
func TestTrainsUnderLoss(t *testing.T) {
	w := trainWorld(t, 44, nil)
	lost := 0.002
	w.delay = func(int, Path) (time.Duration, bool) { return 2 * time.Millisecond, w.random.Float64() >= lost }
	w.run(10 * time.Minute)
	if n := w.end[0].Train(); n < 32 {
		t.Errorf("trains of %d with a loss of 0.2 %%", n)
	}
	lost = 1
	w.run(2 * time.Second)
	if w.end[0].Up() || w.end[0].Train() != 1 {
		t.Errorf("trains of %d on a path that is down", w.end[0].Train())
	}
}

// Where trains take their time, long ones are not tried.
func TestTrainsOfSlowPath(t *testing.T) {
	w := trainWorld(t, 45, nil)
	free := w.now // when the line is
	w.delay = func(from int, _ Path) (time.Duration, bool) {
		if from == 1 {
			return 2 * time.Millisecond, true
		}
		free = later(free, w.now).Add(1472 * 8 * time.Microsecond) // 1 Mbit/s
		return free.Sub(w.now) + 2*time.Millisecond, true
	}
	w.run(20 * time.Second)
	if a, b := w.end[0].Train(), w.end[1].Train(); a != 8 || b != 64 {
		t.Errorf("trains of %d into 1 Mbit/s, %d the other way", a, b)
	}
}

func TestTrainReports(t *testing.T) {
	w := newPathsWorld(t, 46)
	w.damaged = func(TrainOut, int) bool { return true }
	w.introduce()
	w.run(time.Second)
	e := w.end[0]
	on := DirectPath(w.end[1].addr)
	piece := func(id uint64, count uint8, places ...uint8) {
		for _, place := range places {
			e.TrainPiece(w.now, on, TrainPiece{ID: id, Place: place, Count: count})
		}
	}
	piece(1, 4, 0, 1, 2, 3)
	if r := e.Reports(); len(r) != 1 || r[0] != (ReportOut{TrainReport{ID: 1, Count: 4, Arrived: 15}, on}) || !r[0].Whole() {
		t.Errorf("a whole train: %+v", r)
	}
	piece(2, 4, 0, 2, 1, 1)
	if r := e.Reports(); len(r) != 0 {
		t.Errorf("reported before the last can have come: %+v", r)
	}
	if due := e.Next(); due.After(w.now.Add(trainWait)) {
		t.Errorf("due in %v", due.Sub(w.now))
	}
	w.now = w.now.Add(trainWait)
	e.Tick(w.now)
	if r := e.Reports(); len(r) != 1 || r[0].TrainReport != (TrainReport{ID: 2, Count: 4, Late: 1, Arrived: 7}) || r[0].Whole() {
		t.Errorf("a train with a gap: %+v", r)
	}
	piece(3, 4, 3, 2, 1, 0)
	if r := e.Reports(); len(r) != 1 || r[0].Late != 3 || r[0].Whole() {
		t.Errorf("a train in reverse: %+v", r)
	}
	// Nonsense, and more trains than are kept.
	piece(4, 0, 0)
	piece(5, 65, 64)
	piece(6, 4, 4)
	e.TrainPiece(w.now, DirectPath(worldAddr("192.0.2.1:9")), TrainPiece{ID: 7, Count: 1})
	if len(e.incoming) != 0 || len(e.Reports()) != 0 {
		t.Errorf("kept: %+v", e.incoming)
	}
	for id := range uint64(100) {
		piece(100+id, 2, 0)
	}
	if len(e.incoming) != maxTrains {
		t.Errorf("%d incoming trains are kept", len(e.incoming))
	}
	for id := range uint64(100) {
		piece(300+id, 1, 0)
	}
	if n := len(e.Reports()); n != maxReports {
		t.Errorf("%d reports are kept", n)
	}
	// Reports of trains that nobody sent.
	e.TrainReport(w.now, on, TrainReport{ID: 9, Count: 8, Arrived: 255})
	e.TrainReport(w.now, DirectPath(worldAddr("192.0.2.1:9")), TrainReport{ID: 9, Count: 8, Arrived: 255})
	if e.Train() != 1 {
		t.Errorf("trains of %d by the word of a stranger's report", e.Train())
	}
}
