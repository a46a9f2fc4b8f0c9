package plane

import (
	"bytes"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// scheduling is how a worker's thread shares its processor with other threads (sched(7)):
//
//	rests ──▶ SCHED_OTHER: a wake-up may push aside whoever runs
//	naps  ──▶ SCHED_BATCH: a wake-up waits until who runs sleeps, or its slice ends
//	            ├─ waits longWait for the processor, on average ──▶ SCHED_OTHER, for a while
//	            └─ long trains go by ──▶ Config.Nice, in both
//
// Who sends several frames at once is not interrupted at the first one then, nor who
// receives: the worker finds all of them in one turn. Measured on two processors, datagrams
// of 100 bytes at 20 000 a second cost a fifth less of both daemons' processor time, of 1200
// bytes a seventh; pings and TCP were as before. Beside threads that never sleep, one for every
// processor, each wake-up would wait for the end of a slice: a ping took 3.9 ms instead of
// 0.23. So the worker looks how long it waited (/proc/PID/task/TID/schedstat), and where it
// can't, or was started with another policy than SCHED_OTHER, leaves the policy as it is. The
// signal by which Go's scheduler calls a napper is a wake-up, too.
//
// The niceness is for super-frames: who waits for one is woken up by each write to the
// device, and would take the processor from the worker at once, one by one; it gets several
// at a time when the worker goes first, as the kernel's own network stack does. On two processors
// a TCP stream is a fourteenth faster with -10, and costs a twelfth less of both daemons' processor
// time. It is left alone where it is not 0, which somebody will have wanted, and where it may not
// be changed (CAP_SYS_NICE, or RLIMIT_NICE).
type scheduling struct {
	nice   int  // wanted while super-frames go by; 0: none
	raised bool // the thread has it
	denied bool // it was not given since the last rest
	light  int  // naps in a row before which no long train went by

	batch  bool
	stat   int // descriptor of the thread's schedstat, while batch
	naps   int // so far: only some look at the clock
	last   waits
	began  time.Time     // of what last is compared with
	barred time.Time     // SCHED_BATCH is not tried until then
	bar    time.Duration // how long that was
}

// waits is what a thread has waited for a processor until now (Documentation/scheduler/sched-stats.rst).
type waits struct {
	ns    uint64
	turns uint64 // how often it got one
}

const (
	longWait    = 500e3 // ns a turn
	waitWindow  = 50 * time.Millisecond
	waitTurns   = 8 // at the least, to tell anything
	napsPerLook = 8 // at the clock

	lightNaps = 256 // without a long train end the niceness: answers go by between trains

	leastBar = time.Second
	mostBar  = 16 * time.Second
)

// nap is said before each nap, on the thread that is to sleep, and whether a long train went by
// since the last one.
func (s *scheduling) nap(train bool) {
	switch s.light++; {
	case train:
		s.light = 0
		s.raise()
	case s.light >= lightNaps:
		s.lower()
	}
	switch {
	case s.batch:
		if s.naps++; s.naps%napsPerLook == 0 && time.Since(s.began) >= waitWindow {
			s.judge()
		}
	case time.Since(s.barred) >= 0:
		if !s.enter() {
			s.barAgain()
		}
	}
}

// rest is said before the thread is left: it is then as it was.
func (s *scheduling) rest() {
	if s.batch {
		s.judge()
		s.leave()
	}
	s.lower()
	s.denied = false
}

// raise gives the thread the niceness that is wanted, if it has none and may.
func (s *scheduling) raise() {
	if s.nice == 0 || s.raised || s.denied {
		return
	}
	s.raised = niceness() == 0 && unix.Setpriority(unix.PRIO_PROCESS, 0, s.nice) == nil
	s.denied = !s.raised
}

// lower takes it back, unless somebody has given the thread another.
func (s *scheduling) lower() {
	if s.raised && niceness() == s.nice {
		unix.Setpriority(unix.PRIO_PROCESS, 0, 0)
	}
	s.raised = false
}

// enter makes the thread a SCHED_BATCH one, and reports whether it is.
func (s *scheduling) enter() bool {
	if scheduler() != unix.SCHED_NORMAL {
		return false
	}
	stat, err := unix.Open("/proc/thread-self/schedstat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	s.stat = stat
	if s.last, s.batch = s.read(); !s.batch || !setScheduler(unix.SCHED_BATCH) {
		s.close()
		return false
	}
	s.began = time.Now()
	return true
}

// judge ends SCHED_BATCH when the thread has waited too long.
func (s *scheduling) judge() {
	if now, ok := s.read(); !ok || !s.bearable(now, time.Now()) {
		s.leave()
		s.barAgain()
	}
}

// bearable reports whether a thread that has waited for w until now may stay what it is.
func (s *scheduling) bearable(w waits, now time.Time) bool {
	turns := w.turns - s.last.turns
	if turns < waitTurns {
		return true
	}
	if w.ns-s.last.ns >= turns*longWait {
		return false
	}
	s.last, s.began = w, now
	return true
}

// leave makes the thread a SCHED_OTHER one again, unless somebody has made it another.
func (s *scheduling) leave() {
	if s.batch && scheduler() == unix.SCHED_BATCH {
		setScheduler(unix.SCHED_NORMAL)
	}
	s.close()
}

// barAgain bars SCHED_BATCH for twice as long as the last time, if that was not long ago.
func (s *scheduling) barAgain() {
	if time.Since(s.barred) >= leastBar {
		s.bar = 0
	}
	s.bar = min(max(2*s.bar, leastBar), mostBar)
	s.barred = time.Now().Add(s.bar)
}

// close is also for when the thread has ended.
func (s *scheduling) close() {
	if s.stat > 0 {
		unix.Close(s.stat)
	}
	s.batch, s.stat = false, 0
}

// read reads the thread's waits; false: the kernel does not count them.
func (s *scheduling) read() (waits, bool) {
	var b [96]byte
	n, err := unix.Pread(s.stat, b[:], 0)
	if err != nil {
		return waits{}, false
	}
	return parseWaits(b[:n])
}

// parseWaits reads "RUN WAIT TURNS\n": nanoseconds that a thread ran and waited for a
// processor, and how often it got one. Who reads its own has got one.
func parseWaits(b []byte) (w waits, ok bool) {
	var numbers [3]uint64
	for i := range numbers {
		field, rest, _ := bytes.Cut(bytes.TrimSpace(b), []byte(" "))
		n, err := strconv.ParseUint(string(field), 10, 64)
		if err != nil {
			return waits{}, false
		}
		numbers[i], b = n, rest
	}
	return waits{ns: numbers[1], turns: numbers[2]}, numbers[2] > 0
}

// scheduler is the policy of the calling thread, -1 when the kernel does not say.
func scheduler() int {
	policy, _, errno := unix.RawSyscall(unix.SYS_SCHED_GETSCHEDULER, 0, 0, 0)
	if errno != 0 {
		return -1
	}
	return int(policy)
}

// niceness is that of the calling thread.
func niceness() int {
	n, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		return 0
	}
	return 20 - n // as the kernel says it (getpriority(2))
}

// setScheduler sets the policy of the calling thread; its niceness stays.
func setScheduler(policy uintptr) bool {
	var priority int32 // struct sched_param; neither policy has one
	_, _, errno := unix.RawSyscall(unix.SYS_SCHED_SETSCHEDULER, 0, policy, uintptr(unsafe.Pointer(&priority)))
	return errno == 0
}
