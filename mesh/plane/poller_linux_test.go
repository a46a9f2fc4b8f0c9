package plane

import (
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pipe returns a pipe whose reading end is not known to Go's poller.
func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	r, w = os.NewFile(uintptr(fds[0]), "r"), os.NewFile(uintptr(fds[1]), "w")
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// newTestPoller keeps the test on one thread, which ends with it: a poller may leave it
// with another scheduling policy.
func newTestPoller(t *testing.T, sources ...*os.File) *poller {
	t.Helper()
	runtime.LockOSThread()
	p, err := newPoller(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	for i, f := range sources {
		raw, err := f.SyscallConn()
		if err == nil {
			err = p.add(raw, i)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func TestPollerTellsWhatIsReady(t *testing.T) {
	r0, w0 := pipe(t)
	r1, w1 := pipe(t)
	p := newTestPoller(t, r0, r1)
	want := func(sources ...int) {
		t.Helper()
		ready, err := p.wait()
		if err != nil {
			t.Fatal(err)
		}
		got := map[int]bool{}
		for _, r := range ready {
			got[r.source] = true
		}
		if len(got) != len(sources) {
			t.Fatalf("ready are %v, not %v", ready, sources)
		}
		for _, s := range sources {
			if !got[s] {
				t.Fatalf("ready are %v, not %v", ready, sources)
			}
		}
	}
	w1.Write([]byte{1})
	want(1)
	w0.Write([]byte{1})
	want(0, 1) // what was not read is told again
	r1.Read(make([]byte, 1))
	want(0)
	p.stop()
	want()
}

// TestPollerSleepsOverSignals: an interrupted wait goes on.
func TestPollerSleepsOverSignals(t *testing.T) {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, syscall.SIGUSR1)
	defer signal.Stop(signals)
	r, w := pipe(t)
	p := newTestPoller(t, r)
	waiting, done := make(chan int, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // ends with the goroutine
		waiting <- unix.Gettid()
		ready, err := p.wait()
		if err == nil && (len(ready) != 1 || ready[0].source != 0) {
			t.Errorf("ready are %v", ready)
		}
		done <- err
	}()
	tid := <-waiting
	deadline := time.After(10 * time.Second)
	for range 50 {
		if err := unix.Tgkill(os.Getpid(), tid, unix.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		select {
		case <-signals:
		case <-deadline:
			t.Fatal("no signal came")
		}
	}
	w.Write([]byte{1})
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestKeptProcessorIsGivenBack: while a poller sleeps without telling Go's scheduler, the
// garbage collector, which stops all goroutines, does not wait for it to be woken.
func TestKeptProcessorIsGivenBack(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	r, _ := pipe(t)
	p := newTestPoller(t, r)
	if !p.keeps {
		t.Fatal("with two processors it keeps none")
	}
	p.limit, p.row = 1<<30, lively // it would never be told
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		for {
			if ready, err := p.wait(); err != nil || len(ready) == 0 {
				done <- err
				return
			}
			p.dense = lively // it naps for as long as it ever does
		}
	}()
	collected := make(chan struct{})
	go func() {
		for range 20 {
			runtime.GC()
		}
		close(collected)
	}()
	select {
	case <-collected:
	case <-time.After(patience):
		t.Error("the collector waits")
	}
	p.stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestIsolatedEventsAreNotFollowedByNaps: a poller naps between events that follow each
// other closely, once there were some, and rests after any other.
func TestIsolatedEventsAreNotFollowedByNaps(t *testing.T) {
	r, w := pipe(t)
	p := newTestPoller(t, r)
	// event waits for one, and returns how often there was nothing to look at.
	event := func(after time.Duration) (vain int) {
		t.Helper()
		came := make(chan bool)
		time.AfterFunc(after, func() { w.Write([]byte{1}); close(came) })
		for ; ; vain++ {
			if ready, err := p.wait(); err != nil || len(ready) != 1 || ready[0].source != 0 {
				t.Fatal(ready, err)
			}
			if p.napped == 0 {
				<-came
				r.Read(make([]byte, 1))
				return vain
			}
		}
	}
	for range 2 * lively {
		if vain := event(2 * livelyGap * time.Millisecond); vain != 0 || p.row != 0 {
			t.Fatalf("an isolated event counts as traffic: %d looks in vain", vain)
		}
	}
	if vain := event(0); vain != 0 {
		t.Fatalf("%d looks in vain", vain)
	}
	looked := false
	for range 20 { // on a busy machine a nap may last until the event
		p.row = lively
		if looked = event(livelyGap*time.Millisecond/2) > 0 || p.row != lively; looked {
			break
		}
	}
	if !looked {
		t.Fatal("in sparse traffic it does not look while it waits")
	}
	if got := scheduler(); got != unix.SCHED_BATCH && p.scheduling.bar == 0 {
		t.Errorf("between naps the scheduling policy is %d, want SCHED_BATCH", got)
	}
	p.row = lively
	if vain := event(25 * napLimit * time.Millisecond); vain != napLimit/shortNap || p.row != 0 {
		t.Fatalf("it naps on after the traffic: %d looks in vain", vain)
	}
	if got := scheduler(); got != unix.SCHED_NORMAL || p.scheduling.batch {
		t.Errorf("after a rest the scheduling policy is %d, want SCHED_OTHER", got)
	}
	p.row = 0
	for range lively {
		w.Write([]byte{1})
		if _, err := p.wait(); err != nil {
			t.Fatal(err)
		}
	}
	if p.row != lively {
		t.Fatalf("%d of %d events in a row count", p.row, lively)
	}
}

// TestDenseTrafficHasLongNaps: while each event ends the first nap, no timer that rings
// soon is set.
func TestDenseTrafficHasLongNaps(t *testing.T) {
	r, w := pipe(t)
	p := newTestPoller(t, r)
	p.row = lively
	w.Write([]byte{1})
	for range lively {
		if _, err := p.wait(); err != nil || p.napped != 0 {
			t.Fatal(p.napped, err)
		}
	}
	r.Read(make([]byte, 1))
	for _, want := range []int{longNap, longNap + shortNap, longNap + 2*shortNap} {
		if ready, err := p.wait(); err != nil || len(ready) != 1 || p.napped != want {
			t.Fatalf("ready are %v, %v; it napped for %d ms, want %d", ready, err, p.napped, want)
		}
	}
}

// TestSingleProcessorIsNotKept: it would be the only one.
func TestSingleProcessorIsNotKept(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	if p := newTestPoller(t); p.keeps {
		t.Error("it is kept")
	}
}
