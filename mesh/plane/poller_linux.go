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
	rest   *os.File // an epoll too: it has watched epoll while the goroutine is parked, and nothing otherwise
	parked syscall.RawConn
	keeps  bool // a nap keeps the processor
	naps   int  // without an event, before a rest
	lively int  // events in a row that came within napTime
	events [16]unix.EpollEvent
	ready  [16]readiness
}

// readiness says that a source has something to read.
type readiness struct {
	source int
	broken bool // or is in error
}

// wakeSource is the source of the poller's own wake-up.
const wakeSource = -1

func newPoller() (*poller, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("plane: make epoll: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(epoll)
		return nil, fmt.Errorf("plane: make eventfd: %w", err)
	}
	p := &poller{epoll: epoll, wake: wake, naps: napCount}
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
	if err := errors.Join(unix.SetNonblock(fd, true), unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, p.epoll, new(unix.EpollEvent))); err != nil {
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
	return errors.Join(raw.Control(func(fd uintptr) { err = p.watch(int(fd), source) }), err)
}

func (p *poller) watch(fd, source int) error {
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(source)}
	if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		return fmt.Errorf("plane: watch descriptor: %w", err)
	}
	return nil
}

// A poller naps while there is traffic: so many times for so many milliseconds, each
// ended early by what comes. Traffic is so many events in a row with less than that
// between them.
const (
	napCount = 5
	napTime  = 10
	lively   = 4
)

// wait returns the sources that are ready, at least one; none when it was stopped.
//
// It sleeps in two ways. While there is traffic it naps: the thread sleeps, Go's scheduler
// is not told and keeps for it what it needs to go on, so that the thread which slept
// handles the event at once. Otherwise it rests in Go's poller: other goroutines may want
// the processor, and an idle process is to sleep as a whole. The scheduler's watcher runs
// as long as a processor is kept, or is in a call to the kernel: it wakes up 50 times in
// the first milliseconds, at first every 20 µs, and takes the processor back after 10 ms.
// So an isolated event that is followed by naps costs some sixty wake-ups of that thread
// alone. A napper is called by a signal when the scheduler or the garbage collector needs it.
func (p *poller) wait() (ready []readiness, err error) {
	n := 0
	if p.lively >= lively {
		for i := 0; i < p.naps && n == 0; i++ {
			n = p.nap()
		}
	}
	if n == 0 {
		if p.lively >= lively {
			p.lively = 0
		}
		if n, err = p.sleep(); err != nil {
			return nil, fmt.Errorf("plane: wait: %w", err)
		}
	}
	for i, e := range p.events[:n] {
		if e.Fd == wakeSource {
			return nil, nil
		}
		p.ready[i] = readiness{source: int(e.Fd), broken: e.Events&unix.EPOLLERR != 0}
	}
	return p.ready[:n], nil
}

// nap sleeps for napTime, and returns how many events there are.
func (p *poller) nap() int {
	if !p.keeps {
		n, _ := unix.EpollWait(p.epoll, p.events[:], napTime)
		return max(n, 0)
	}
	n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.epoll), uintptr(unsafe.Pointer(&p.events[0])), uintptr(len(p.events)), napTime, 0, 0)
	if errno == 0 && n > 0 {
		return int(n)
	}
	runtime.Gosched() // what has called gets its turn now, not in the midst of the next batch
	return 0
}

// sleep rests until there is an event. The goroutine leaves its thread for that time: who
// finds the event for Go's poller goes on with it, and has no other thread to wake.
func (p *poller) sleep() (n int, err error) {
	began := time.Now()
	runtime.UnlockOSThread()
	defer runtime.LockOSThread()
	if err := p.watchInRest(unix.EPOLLIN); err != nil {
		return 0, err
	}
	failed := p.parked.Read(func(uintptr) bool {
		n, err = unix.EpollWait(p.epoll, p.events[:], 0)
		for err == unix.EINTR {
			n, err = unix.EpollWait(p.epoll, p.events[:], 0)
		}
		return n > 0 || err != nil
	})
	if p.lively++; time.Since(began) >= napTime*time.Millisecond {
		p.lively = 0
	}
	return n, errors.Join(failed, err, p.watchInRest(0))
}

// watchInRest says what of epoll wakes Go's poller: in traffic nothing may.
func (p *poller) watchInRest(events uint32) (err error) {
	return errors.Join(p.parked.Control(func(fd uintptr) {
		err = unix.EpollCtl(int(fd), unix.EPOLL_CTL_MOD, p.epoll, &unix.EpollEvent{Events: events})
	}), err)
}

// stop ends the wait, now or when it comes to one. Any goroutine may call it.
func (p *poller) stop() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	unix.Write(p.wake, one[:])
}

func (p *poller) close() {
	if p.rest != nil {
		p.rest.Close()
	}
	unix.Close(p.wake)
	unix.Close(p.epoll)
}
