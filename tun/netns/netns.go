// Package netns runs functions inside network namespaces and makes named ones.
//
// A network namespace belongs to a thread, while Go moves goroutines between
// threads. So a function that is to run in a namespace gets a goroutine and a
// thread of its own for as long as it runs:
//
//	caller            goroutine of Do, locked to its thread
//	Do(fn) ─────────▶ setns(there) ─▶ fn() ─▶ setns(home) ─▶ thread goes back to the pool
//	  waits ◀──────── fn's error                   └ fails: the thread dies with the goroutine
//
// Home is the namespace of the process: no thread is ever given back in another.
// The process's first thread is never moved, because /proc/PID/ns/net shows that
// thread's namespace to everyone who asks for the process's.
//
// What the package leaves to the caller: a goroutine that fn starts runs on
// another thread, at home, not in the namespace. Sockets (netlink too) belong for
// good to the namespace in which they were opened and may be used anywhere. What
// /sys shows is the namespace in which it was mounted: ask by netlink.
//
// Read netns.go first, then parse.go (what people write) and named.go (making
// namespaces).
package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// NS is an open network namespace. It keeps the namespace alive until Close.
type NS struct {
	file *os.File
	dev  uint64
	ino  uint64
}

// threadPath is the calling thread's own namespace.
const threadPath = "/proc/thread-self/ns/net"

// Open opens the namespace that path names: a file of /proc/PID/ns or a bind mount
// of one. Anything else is refused, a namespace of another kind too.
func Open(path string) (*NS, error) {
	// A path from a user may be a FIFO or a device: looked at before it is opened,
	// because opening those can wait or do things.
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return nil, fmt.Errorf("netns: open %s: %w", path, err)
	}
	if fs.Type != unix.NSFS_MAGIC {
		return nil, fmt.Errorf("netns: open %s: %w", path, ErrNotNamespace)
	}
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("netns: open %s: %w", path, errors.Unwrap(err))
	}
	ns, err := fromFile(file)
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("netns: open %s: %w", path, err)
	}
	return ns, nil
}

// fromFile checks that file is a network namespace and takes it over.
func fromFile(file *os.File) (*NS, error) {
	fd := int(file.Fd())
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return nil, err
	}
	if fs.Type != unix.NSFS_MAGIC {
		return nil, ErrNotNamespace
	}
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err != nil {
		return nil, fmt.Errorf("ask its type: %w", err)
	}
	if kind != unix.CLONE_NEWNET {
		return nil, ErrNotNamespace
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	return &NS{file: file, dev: uint64(st.Dev), ino: st.Ino}, nil
}

// ErrNotNamespace is what Open and Parse say of a file that is no network namespace.
var ErrNotNamespace = errors.New("not a network namespace")

// Current opens the caller's namespace: inside Do the one that Do entered, else
// the process's own.
func Current() (*NS, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return Open(threadPath)
}

// OpenPID opens the namespace of a process.
func OpenPID(pid int) (*NS, error) {
	if pid <= 0 {
		return nil, fmt.Errorf("netns: open pid:%d: a process number is greater than 0", pid)
	}
	return Open(fmt.Sprintf("/proc/%d/ns/net", pid))
}

// ID returns the numbers that tell this namespace from every other one alive on
// this machine. They may be used again once it is gone.
func (ns *NS) ID() (dev, inode uint64) { return ns.dev, ns.ino }

// String returns the identity as the kernel writes it, "net:[4026531840]".
func (ns *NS) String() string { return fmt.Sprintf("net:[%d]", ns.ino) }

// Same reports whether a and b are one namespace.
func Same(a, b *NS) bool { return a.dev == b.dev && a.ino == b.ino }

// FD is the open descriptor, for netlink requests that name a namespace by one. It
// stays the NS's own.
func (ns *NS) FD() int { return int(ns.file.Fd()) }

// Close lets go of the namespace. After it Do fails.
func (ns *NS) Close() error {
	if err := ns.file.Close(); err != nil {
		return fmt.Errorf("netns: close %s: %w", ns, err)
	}
	return nil
}

// Do runs fn in the namespace and returns its error. fn runs on a thread of its
// own (see the package comment); the caller's thread does not move. Do may be
// nested and called at once from many goroutines. A fn that ends its goroutine
// (runtime.Goexit, as testing's FailNow does) makes Do return an error.
func (ns *NS) Do(fn func() error) error {
	return onOwnThread(func() error {
		return inside(ns, fn)
	})
}

// inside enters ns on the calling thread, runs fn and returns home. The goroutine
// is locked to the thread and stays so: onOwnThread unlocks it when it is home.
func inside(ns *NS, fn func() error) error {
	if err := unix.Setns(ns.FD(), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("netns: enter %s: %w", ns, explain(err))
	}
	return fn()
}

// errGone is what a caller sees of a function that never returned.
var errGone = errors.New("netns: the function ended its goroutine instead of returning")

// onOwnThread runs fn on a locked thread that it may move to another namespace,
// brings the thread home afterwards, and lets it die when that fails.
func onOwnThread(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The first thread: hold it here, so that the work lands on another one.
			result <- onOwnThread(fn)
			runtime.UnlockOSThread()
			return
		}
		err := errGone
		home, homeErr := Open(threadPath)
		// Deferred, because fn may end the goroutine.
		defer func() {
			if homeErr == nil {
				if unix.Setns(home.FD(), unix.CLONE_NEWNET) == nil {
					runtime.UnlockOSThread()
				}
				home.Close()
			}
			result <- err
		}()
		if homeErr != nil {
			err = homeErr
			return
		}
		err = fn()
	}()
	return <-result
}

// explain adds the remedy to the errors that people meet.
func explain(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w (root, or CAP_SYS_ADMIN over that namespace, is needed)", err)
	}
	return err
}
