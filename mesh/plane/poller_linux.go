package plane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// poller waits for several descriptors at once (epoll(7)), for one goroutine.
//
//	what is watched ──▶ epoll ──▶ naps: the worker sleeps in the kernel
//	                      └─────▶ rest ──▶ Go's poller: the goroutine is parked
type poller struct {
	epoll  int
	wake   int      // eventfd(2)
	rest   *os.File // an epoll too: it watches epoll while the goroutine is parked, and nothing otherwise
	parked syscall.RawConn
	keeps  bool // a nap keeps the processor

	scheduling scheduling
	train      bool // a long one went by since the last wait; whoever waits says it

	row    int // rests in a row that an event ended within livelyGap
	dense  int // naps in a row that an event ended, each the first after another event
	napped int // ms of naps since the last event
	limit  int // of napped

	events [16]unix.EpollEvent
	ready  [16]readiness
	all    []readiness // every source, as if it were ready
}

// readiness says that a source has something to read.
type readiness struct {
	source int
	broken bool // or is in error
}

// wakeSource is the source of the poller's own wake-up.
const wakeSource = -1

func newPoller(nice int) (*poller, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("plane: make epoll: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(epoll)
		return nil, fmt.Errorf("plane: make eventfd: %w", err)
	}
	p := &poller{epoll: epoll, wake: wake, limit: napLimit, scheduling: scheduling{nice: nice}}
	p.keeps = runtime.GOMAXPROCS(0) > 1 // on a single one nothing else of this process could run
	if err := errors.Join(p.watch(wake, wakeSource), p.openRest()); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// openRest makes what Go's poller is asked to watch in a rest.
func (p *poller) openRest() error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("plane: make epoll: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return fmt.Errorf("plane: watch epoll: %w", err)
	}
	p.rest = os.NewFile(uintptr(fd), "epoll")
	if err := p.rest.SetReadDeadline(time.Time{}); err != nil { // which only what Go's poller watches can have
		return fmt.Errorf("plane: watch epoll: %w", err)
	}
	p.parked, err = p.rest.SyscallConn()
	return err
}

// add makes wait tell of what can be read from raw, as source.
func (p *poller) add(raw syscall.RawConn, source int) (err error) {
	p.all = append(p.all, readiness{source: source})
	return errors.Join(raw.Control(func(fd uintptr) { err = p.watch(int(fd), source) }), err)
}

func (p *poller) watch(fd, source int) error {
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(source)}
	if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		return fmt.Errorf("plane: watch descriptor: %w", err)
	}
	return nil
}

// A poller naps in traffic: after so many rests in a row that an event ended within
// livelyGap, until none came for napLimit. In dense traffic, where so many events in a row
// end the first nap, it naps for long, since a timer that is to ring soon is a dear one; in
// sparse traffic for short, to look at what it watches. All times are in milliseconds.
const (
	lively    = 4
	livelyGap = 10
	napLimit  = 20
	longNap   = 10
	shortNap  = 1
)

// wait returns the sources to look at, at least one; none when it was stopped. They have
// something to read, or a nap has passed without an event: then they are all.
//
// It sleeps in two ways. In traffic it naps: the thread sleeps, Go's scheduler is not told
// and keeps for it what it needs to go on, so that the thread which slept handles the event
// at once. Otherwise it rests in Go's poller: other goroutines may want the processor, and
// an idle process is to sleep as a whole. The scheduler's watcher runs as long as a
// processor is kept, or is in a call to the kernel that the scheduler knows of: it wakes up
// 50 times in the first milliseconds, at first every 20 µs, and takes the processor back
// after 10 ms. So an isolated event that is followed by naps costs some sixty wake-ups of
// that thread alone. A napper is called by a signal when the scheduler or the garbage
// collector needs it.
//
// What has slept for some milliseconds finds nothing of its code and data near the
// processor. Looking in vain every millisecond keeps some of it there: a ping every 10 ms
// takes a seventh less, and costs two fifths more processor time. Going through the last
// frame's sending then (rehearsal) saves another twelfth, for a fiftieth more.
func (p *poller) wait() ([]readiness, error) {
	var n int
	var err error
	switch {
	case p.row < lively:
		n, err = p.sleep()
	case p.napped >= p.limit:
		p.row, p.dense = 0, 0
		n, err = p.sleep()
	default:
		p.scheduling.nap(p.train)
		nap := shortNap
		if p.dense >= lively {
			nap = longNap
		}
		if n = p.nap(nap); n == 0 {
			p.napped, p.dense = p.napped+nap, 0
			return p.all, nil
		}
		if p.napped == 0 {
			p.dense++
		}
	}
	if err != nil {
		return nil, fmt.Errorf("plane: wait: %w", err)
	}
	p.napped = 0
	for i, e := range p.events[:n] {
		if e.Fd == wakeSource {
			return nil, nil
		}
		p.ready[i] = readiness{source: int(e.Fd), broken: e.Events&unix.EPOLLERR != 0}
	}
	return p.ready[:n], nil
}

// nap sleeps for so many milliseconds at the most, and returns how many events there are.
func (p *poller) nap(ms int) int {
	if !p.keeps {
		n, _ := unix.EpollWait(p.epoll, p.events[:], ms)
		return max(n, 0)
	}
	n, errno := p.look(ms)
	if errno != 0 {
		runtime.Gosched() // what has called gets its turn now, not in the midst of the next batch
	}
	return n
}

// look asks epoll, for so many milliseconds, without a word to Go's scheduler.
func (p *poller) look(ms int) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.epoll), uintptr(unsafe.Pointer(&p.events[0])), uintptr(len(p.events)), uintptr(ms), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// sleep rests until there is an event. The goroutine leaves its thread for that time: who
// finds the event for Go's poller goes on with it, and has no other thread to wake.
func (p *poller) sleep() (n int, err error) {
	began := time.Now()
	p.scheduling.rest()
	runtime.UnlockOSThread()
	defer runtime.LockOSThread()
	if err := p.watchInRest(unix.EPOLL_CTL_ADD); err != nil {
		return 0, err
	}
	failed := p.parked.Read(func(uintptr) bool {
		var errno syscall.Errno
		for n, errno = p.look(0); errno == unix.EINTR; n, errno = p.look(0) {
		}
		if errno != 0 {
			err = errno
		}
		return n > 0 || err != nil
	})
	if p.row++; time.Since(began) >= livelyGap*time.Millisecond {
		p.row = 0
	}
	return n, errors.Join(failed, err, p.watchInRest(unix.EPOLL_CTL_DEL))
}

// watchInRest says whether epoll wakes Go's poller: in traffic it may not, and is not to be
// watched in vain at every event.
func (p *poller) watchInRest(op int) (err error) {
	return errors.Join(p.parked.Control(func(fd uintptr) {
		err = unix.EpollCtl(int(fd), op, p.epoll, &unix.EpollEvent{Events: unix.EPOLLIN})
	}), err)
}

// stop ends the wait, now or when it comes to one. Any goroutine may call it.
func (p *poller) stop() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	unix.Write(p.wake, one[:])
}

func (p *poller) close() {
	p.scheduling.close()
	if p.rest != nil {
		p.rest.Close()
	}
	unix.Close(p.wake)
	unix.Close(p.epoll)
}
