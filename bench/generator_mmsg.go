package main

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sendBatch is how many datagrams one system call sends or receives at most.
const sendBatch = 64

// mmsghdr is the kernel's struct mmsghdr (sendmmsg(2)).
type mmsghdr struct {
	header unix.Msghdr
	length uint32
}

// batch is buffers for one sendmmsg or recvmmsg on a connected or bound socket.
type batch struct {
	buffers [][]byte // sendBatch, of equal length
	vectors []unix.Iovec
	headers []mmsghdr
}

func newBatch(size int) *batch {
	b := &batch{vectors: make([]unix.Iovec, sendBatch), headers: make([]mmsghdr, sendBatch)}
	all := make([]byte, sendBatch*size)
	for i := range sendBatch {
		b.buffers = append(b.buffers, all[i*size:(i+1)*size:(i+1)*size])
		b.vectors[i].Base = &b.buffers[i][0]
		b.vectors[i].SetLen(size)
		b.headers[i].header.Iov = &b.vectors[i]
		b.headers[i].header.SetIovlen(1)
	}
	return b
}

// send sends the first n buffers; how many went may be fewer.
func (b *batch) send(fd, n int) (int, error) {
	return b.call(unix.SYS_SENDMMSG, fd, n, 0)
}

// receive waits for a datagram and takes what else is there. A longer datagram is
// cut to the buffers' length.
func (b *batch) receive(fd int) (int, error) {
	return b.call(unix.SYS_RECVMMSG, fd, len(b.headers), unix.MSG_WAITFORONE)
}

func (b *batch) call(trap uintptr, fd, n, flags int) (int, error) {
	done, err := rawCall(trap, fd, uintptr(unsafe.Pointer(&b.headers[0])), uintptr(n), uintptr(flags), 0, 0)
	runtime.KeepAlive(b)
	return done, err
}

// length is how many bytes of datagram i were received.
func (b *batch) length(i int) int { return int(b.headers[i].length) }
