package main

import (
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system calls of the generators. They are made without a word to Go's scheduler: its
// watch over a thread that sleeps in the kernel takes a processor at the very moment when
// what is measured could run, and a generator has nothing else to do while it waits.

// rawCall makes a system call; what its pointers show must be kept alive by the caller.
func rawCall(trap uintptr, fd int, a, b, c, d, e uintptr) (int, error) {
	n, _, errno := unix.RawSyscall6(trap, uintptr(fd), a, b, c, d, e)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// sendOn sends b on a connected socket.
func sendOn(fd int, b []byte) error {
	_, err := rawCall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0, 0, 0)
	runtime.KeepAlive(b)
	return err
}

// readable waits until fd has something to read, for d at most. It may return early.
func readable(fd int, d time.Duration) (bool, error) {
	poll := unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	ts := unix.NsecToTimespec(int64(d))
	n, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&poll)), 1, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
	runtime.KeepAlive(&poll)
	runtime.KeepAlive(&ts)
	if errno != 0 && errno != unix.EINTR {
		return false, errno
	}
	return errno == 0 && n > 0, nil
}

// receiver is what one recvmsg(2) needs.
type receiver struct {
	header  unix.Msghdr
	vector  unix.Iovec
	from    unix.RawSockaddrInet4
	buffer  [1 << 16]byte
	control [64]byte
}

// receive takes one packet from fd; flags are those of recvmsg.
func (r *receiver) receive(fd, flags int) (packet, control []byte, err error) {
	r.vector = unix.Iovec{Base: &r.buffer[0]}
	r.vector.SetLen(len(r.buffer))
	r.header = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&r.from)), Namelen: unix.SizeofSockaddrInet4, Iov: &r.vector, Control: &r.control[0]}
	r.header.SetIovlen(1)
	r.header.SetControllen(len(r.control))
	n, err := rawCall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&r.header)), uintptr(flags), 0, 0, 0)
	runtime.KeepAlive(r)
	if err != nil {
		return nil, nil, err
	}
	return r.buffer[:min(n, len(r.buffer))], r.control[:min(int(r.header.Controllen), len(r.control))], nil
}

// sendBack sends b to where the last packet came from.
func (r *receiver) sendBack(fd int, b []byte) error {
	_, err := rawCall(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0, uintptr(unsafe.Pointer(&r.from)), unix.SizeofSockaddrInet4)
	runtime.KeepAlive(r)
	return err
}
