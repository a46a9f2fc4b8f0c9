package plane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// poller waits for several descriptors at once (epoll(7)), for one goroutine.
type poller struct {
	epoll  int
	wake   int // eventfd(2)
	kept   int // sleeps in which it keeps its processor
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
	p := &poller{epoll: epoll, wake: wake}
	if runtime.GOMAXPROCS(0) > 1 {
		p.kept = keptSleeps // on a single one nothing else of this process could run
	}
	if err := p.watch(wake, wakeSource); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
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

// A poller that has just been served keeps its processor for a while: so many sleeps of
// so many milliseconds, each ended early by what comes.
const (
	keptSleeps = 5
	keptSleep  = 10
)

// wait returns the sources that are ready, at least one; none when it was stopped.
//
// It sleeps in two ways. At first Go's scheduler is not told and keeps for this thread
// what it needs to go on, so that the thread which slept handles the event at once. Only
// a longer rest is told: other goroutines may want the processor. A sleep that is told
// costs the scheduler's watch over it and the way back. A sleeper that is not told is
// called by a signal when the scheduler or the garbage collector needs it.
func (p *poller) wait() ([]readiness, error) {
	n := 0
	for range p.kept {
		r, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.epoll), uintptr(unsafe.Pointer(&p.events[0])), uintptr(len(p.events)), keptSleep, 0, 0)
		if errno == 0 && r > 0 {
			n = int(r)
			break
		}
		runtime.Gosched() // what has called gets its turn now, not in the midst of the next batch
	}
	if n == 0 {
		var err error
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

// sleep waits until there is an event. Signals interrupt it: the runtime's own among them.
func (p *poller) sleep() (n int, err error) {
	for {
		if n, err = unix.EpollWait(p.epoll, p.events[:], -1); err != unix.EINTR {
			return n, err
		}
	}
}

// stop ends the wait, now or when it comes to one. Any goroutine may call it.
func (p *poller) stop() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	unix.Write(p.wake, one[:])
}

func (p *poller) close() {
	unix.Close(p.wake)
	unix.Close(p.epoll)
}
