package plane

import (
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// onThread runs f on a thread of its own, which ends with it, while other goroutines run.
func onThread(t *testing.T, f func()) {
	t.Helper()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(max(2, runtime.GOMAXPROCS(0))))
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		f()
	}()
	<-done
}

func TestNapsAreBatch(t *testing.T) {
	onThread(t, func() {
		var s scheduling
		for range 3 {
			s.nap(false)
			s.nap(false)
			if got := scheduler(); got != unix.SCHED_BATCH {
				t.Errorf("before a nap the policy is %d, want SCHED_BATCH", got)
			}
			s.rest()
			s.rest()
			if got := scheduler(); got != unix.SCHED_NORMAL {
				t.Errorf("before a rest the policy is %d, want SCHED_OTHER", got)
			}
		}
		if s.bar != 0 {
			t.Errorf("nothing was wrong, and it is barred for %v", s.bar)
		}
	})
}

// TestPolicyOfOthersStays: who starts ripstop with a policy of his own keeps it.
func TestPolicyOfOthersStays(t *testing.T) {
	onThread(t, func() {
		if !setScheduler(unix.SCHED_BATCH) {
			t.Error("the test cannot become SCHED_BATCH")
		}
		var s scheduling
		s.nap(false)
		s.rest()
		if got := scheduler(); got != unix.SCHED_BATCH {
			t.Errorf("the policy is %d, want SCHED_BATCH, as it was", got)
		}
		if s.stat != 0 || s.bar != leastBar {
			t.Errorf("it holds descriptor %d and is barred for %v", s.stat, s.bar)
		}
	})
}

// onPlainThread is onThread with niceness 0, whatever the test was started with. Where it
// may not go first the test is skipped; where RIPSTOP_CI is set that is a failure.
func onPlainThread(t *testing.T, f func()) {
	t.Helper()
	var err error
	onThread(t, func() {
		if err = unix.Setpriority(unix.PRIO_PROCESS, 0, -1); err != nil {
			return
		}
		if err = unix.Setpriority(unix.PRIO_PROCESS, 0, 0); err == nil {
			f()
		}
	})
	if err != nil {
		if os.Getenv("RIPSTOP_CI") != "" {
			t.Fatalf("a niceness below 0 is not allowed here: %v", err)
		}
		t.Skipf("a niceness below 0 is not allowed here: %v", err)
	}
}

func TestTrainsGoFirst(t *testing.T) {
	for name, barred := range map[string]time.Time{"batch": {}, "barred": time.Now().Add(time.Hour)} {
		t.Run(name, func(t *testing.T) {
			onPlainThread(t, func() {
				s := scheduling{nice: -7, barred: barred}
				for range 3 {
					s.nap(true)
					s.nap(true)
					if got := niceness(); got != -7 {
						t.Errorf("before a nap the niceness is %d, want -7", got)
					}
					if got := scheduler() == unix.SCHED_BATCH; got != barred.IsZero() {
						t.Errorf("SCHED_BATCH is %v", got)
					}
					s.rest()
					s.rest()
					if got := niceness(); got != 0 {
						t.Errorf("before a rest the niceness is %d, want 0", got)
					}
				}
			})
		})
	}
}

// TestSingleFramesGoLast: answers between trains end nothing, traffic without any does.
func TestSingleFramesGoLast(t *testing.T) {
	onPlainThread(t, func() {
		s := scheduling{nice: -7}
		if s.nap(false); niceness() != 0 {
			t.Errorf("without a train the niceness is %d", niceness())
		}
		s.nap(true)
		for range lightNaps - 1 {
			if s.nap(false); niceness() != -7 {
				t.Fatalf("a little after a train the niceness is %d", niceness())
			}
		}
		if s.nap(false); niceness() != 0 {
			t.Errorf("long after the last train the niceness is %d", niceness())
		}
		if s.nap(true); niceness() != -7 {
			t.Errorf("with a train again it is %d", niceness())
		}
		s.rest()
	})
}

// TestNicenessOfOthersStays: who gives ripstop a niceness, before or meanwhile, is obeyed.
func TestNicenessOfOthersStays(t *testing.T) {
	set := func(n int) {
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, n); err != nil {
			t.Error(err)
		}
	}
	onPlainThread(t, func() {
		set(5)
		s := scheduling{nice: -7}
		s.nap(true)
		if got := niceness(); got != 5 {
			t.Errorf("before a nap the niceness is %d, want 5, as it was", got)
		}
		s.rest()
		if got := niceness(); got != 5 {
			t.Errorf("before a rest the niceness is %d, want 5, as it was", got)
		}
	})
	onPlainThread(t, func() {
		s := scheduling{nice: -7}
		s.nap(true)
		set(3)
		s.rest()
		if got := niceness(); got != 3 {
			t.Errorf("the niceness is %d, want 3, given meanwhile", got)
		}
	})
	onPlainThread(t, func() {
		var s scheduling
		if s.nap(true); niceness() != 0 {
			t.Errorf("the niceness is %d, and none was wanted", niceness())
		}
	})
}

// TestNicenessNotAllowed: without CAP_SYS_NICE the rest is done all the same.
func TestNicenessNotAllowed(t *testing.T) {
	onPlainThread(t, func() {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var caps [2]unix.CapUserData
		if err := unix.Capset(&header, &caps[0]); err != nil {
			t.Error(err)
		}
		if unix.Setpriority(unix.PRIO_PROCESS, 0, -1) == nil {
			t.Log("RLIMIT_NICE allows it to everybody here: nothing shown")
			return
		}
		s := scheduling{nice: -7}
		s.nap(true)
		if niceness() != 0 || s.raised || scheduler() != unix.SCHED_BATCH {
			t.Errorf("niceness %d, policy %d; %+v", niceness(), scheduler(), s)
		}
		s.rest()
		if niceness() != 0 || scheduler() != unix.SCHED_NORMAL {
			t.Errorf("at rest: niceness %d, policy %d", niceness(), scheduler())
		}
	})
}

// TestBusyProcessorEndsBatch: beside a thread that never sleeps, the worker does not go on
// waiting for the end of a slice at every wake-up.
func TestBusyProcessorEndsBatch(t *testing.T) {
	var own unix.CPUSet
	if err := unix.SchedGetaffinity(0, &own); err != nil {
		t.Fatal(err)
	}
	var one unix.CPUSet
	for cpu := range 1024 {
		if own.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	var end atomic.Bool
	ended := make(chan error, 1)
	began := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		err := unix.SchedSetaffinity(0, &one)
		close(began)
		for !end.Load() && err == nil {
		}
		ended <- err
	}()
	<-began
	onThread(t, func() {
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			t.Error(err)
		}
		var s scheduling
		s.nap(false)
		first := s.last
		if !s.batch {
			t.Error("it is not batch at first")
			return
		}
		for deadline := time.Now().Add(patience / 2); s.batch && time.Now().Before(deadline); s.nap(false) {
			unix.Poll(nil, 1)
		}
		if s.batch {
			// A kernel of short slices keeps nobody waiting for so long.
			if now, ok := s.read(); !ok || now.ns-first.ns >= (now.turns-first.turns)*longWait {
				t.Errorf("it waited %d ns in %d turns, and is batch still", now.ns-first.ns, now.turns-first.turns)
			}
			s.rest()
			return
		}
		if got := scheduler(); got != unix.SCHED_NORMAL {
			t.Errorf("the policy is %d, want SCHED_OTHER", got)
		}
		if s.bar != leastBar || time.Until(s.barred) <= 0 {
			t.Errorf("it is barred for %v until %v", s.bar, s.barred)
		}
		if s.nap(false); s.batch {
			t.Error("it is batch again at once")
		}
	})
	end.Store(true)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestBarsGrow: as long as each follows the one before soon.
func TestBarsGrow(t *testing.T) {
	var s scheduling
	for _, want := range []time.Duration{1, 2, 4, 8, 16, 16} {
		if s.barAgain(); s.bar != want*time.Second {
			t.Errorf("barred for %v, want %d s", s.bar, want)
		}
	}
	s.barred = time.Now().Add(-leastBar)
	if s.barAgain(); s.bar != leastBar {
		t.Errorf("long after the last bar it is barred for %v", s.bar)
	}
}

// TestWaitsAreJudged: by the average of enough turns, each time from where the last judgement
// stood.
func TestWaitsAreJudged(t *testing.T) {
	start := time.Now()
	s := scheduling{last: waits{ns: 5e9, turns: 100}, began: start}
	at := func(after time.Duration, ns, turns uint64, want bool) {
		t.Helper()
		if got := s.bearable(waits{ns: 5e9 + ns, turns: 100 + turns}, start.Add(after)); got != want {
			t.Errorf("%d ns in %d turns: bearable is %v", ns, turns, got)
		}
	}
	at(waitWindow, 7*longWait, 7, true) // too few to tell
	if s.began != start {
		t.Error("what was not judged yet is forgotten")
	}
	at(waitWindow, 8*longWait, 8, false)
	at(waitWindow, 8*longWait-1, 8, true)
	at(2*waitWindow, 16*longWait-1, 16, false) // since the last time
	at(2*waitWindow, 16*longWait-2, 16, true)
}

// TestRestIsJudged: a burst may be shorter than what is looked at in naps.
func TestRestIsJudged(t *testing.T) {
	onThread(t, func() {
		var s scheduling
		s.nap(false)
		s.last.turns -= waitTurns
		s.last.ns -= 2 * waitTurns * longWait
		s.rest()
		if s.bar != leastBar {
			t.Errorf("it waited for long, and is barred for %v", s.bar)
		}
		if got := scheduler(); got != unix.SCHED_NORMAL || s.batch || s.stat != 0 {
			t.Errorf("the policy is %d; %+v", got, s)
		}
	})
}

func TestParseWaits(t *testing.T) {
	w, ok := parseWaits([]byte("18446744073709551615 7000 12\n"))
	if !ok || w != (waits{ns: 7000, turns: 12}) {
		t.Errorf("%v, %v", w, ok)
	}
	for _, bad := range []string{"", "\n", "1 2", "1 2 x\n", "-1 2 3\n", "1 18446744073709551616 3\n", "0 0 0\n"} {
		if w, ok := parseWaits([]byte(bad)); ok {
			t.Errorf("%q is %v", bad, w)
		}
	}
}
