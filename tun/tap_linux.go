package tun

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TAP is the kernel's device of bridge mode.
type TAP struct {
	name         string
	queues       []*tapQueue
	capabilities Capabilities
	refused      uint64 // by the kernel before the TAP was opened, which only a persistent one can have
	closed       atomic.Bool
}

// OpenTAP makes a TAP in the network namespace of the calling thread, with its
// queues, MAC and MTU, and sets it up: silent (no IPv6 of its own), not yet on a
// bridge. It vanishes when its last descriptor is closed. A persistent multi-queue
// TAP that nobody has open is taken over, so that an administrator may make one
// for an ordinary user; any other device of that name is an error.
func OpenTAP(cfg Config) (Device, error) {
	tap, err := openTAP(cfg)
	if err != nil {
		return nil, err // a nil *TAP in a Device would not be nil
	}
	return tap, nil
}

func openTAP(cfg Config) (*TAP, error) {
	if cfg.MTU == 0 {
		cfg.MTU = MaxMTU
	}
	if cfg.Queues == 0 {
		cfg.Queues = min(runtime.GOMAXPROCS(0), MaxQueues)
	}
	if err := checkName(cfg.Name); err != nil {
		return nil, fmt.Errorf("tun: open TAP: %w", err)
	}
	if err := checkMTU(cfg.MTU); err != nil {
		return nil, fmt.Errorf("tun: open TAP %s: %w", cfg.Name, err)
	}
	if cfg.Queues < 0 || cfg.Queues > MaxQueues {
		return nil, fmt.Errorf("tun: open TAP %s: %d queues asked for, the kernel gives 1 to %d", cfg.Name, cfg.Queues, MaxQueues)
	}
	t := &TAP{name: cfg.Name}
	if err := t.open(cfg); err != nil {
		t.Close()
		return nil, fmt.Errorf("tun: open TAP %s: %w", cfg.Name, err)
	}
	return t, nil
}

func (t *TAP) open(cfg Config) error {
	const flags = unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE
	first := uint16(flags | unix.IFF_TUN_EXCL)
	if idle, err := idleTAP(cfg.Name); err != nil {
		return err
	} else if idle {
		first = flags
	}
	for i := range cfg.Queues {
		use := uint16(flags)
		if i == 0 {
			use = first
		}
		file, name, err := openClone(t.name, use, 0)
		if err != nil {
			return err
		}
		t.name = name
		q, err := newTAPQueue(t, file)
		if err != nil {
			file.Close()
			return err
		}
		t.queues = append(t.queues, q)
	}
	// Both belong to the device, not to a descriptor, and outlive the descriptors
	// of a persistent device: they are set at every open.
	word, err := setOffloads(t.queues[0].raw, cfg.Offloads)
	if err != nil {
		return err
	}
	t.capabilities = word.capabilities()
	for _, q := range t.queues {
		q.header = t.capabilities.VirtioHeader
	}
	t.refused = t.kernelDrops()
	return settle(t.name, linkSettings{mac: cfg.MAC, mtu: cfg.MTU, alias: Alias, noIPv6: true})
}

// setOffloads asks for less and less until the kernel agrees.
func setOffloads(raw syscall.RawConn, want OffloadMask) (OffloadMask, error) {
	var err error
	for _, word := range want.steps() {
		controlErr := raw.Control(func(fd uintptr) {
			if err = unix.IoctlSetPointerInt(int(fd), unix.TUNSETVNETHDRSZ, word.header()); err == nil {
				err = unix.IoctlSetInt(int(fd), unix.TUNSETOFFLOAD, int(word))
			}
		})
		if controlErr != nil {
			return 0, controlErr
		}
		if err == nil {
			return word, nil
		}
	}
	return 0, fmt.Errorf("set offloads: %w", err)
}

// Name is the interface's name.
func (t *TAP) Name() string { return t.name }

// Queues are the queues, as many as were asked for.
func (t *TAP) Queues() []Queue {
	queues := make([]Queue, len(t.queues))
	for i, q := range t.queues {
		queues[i] = q
	}
	return queues
}

// Capabilities are what the kernel agreed to.
func (t *TAP) Capabilities() Capabilities { return t.capabilities }

// Dropped counts frames that found the queues full, since they were not read fast enough,
// and those whose virtio header said something unknown.
func (t *TAP) Dropped() map[string]uint64 {
	var unknown uint64
	for _, q := range t.queues {
		unknown += q.unknown.Load()
	}
	full := uint64(0)
	if now := t.kernelDrops(); now > t.refused {
		full = now - t.refused
	}
	return map[string]uint64{"tap_queue_full": full, "tap_unknown_offload": unknown}
}

// kernelDrops is how many frames the kernel had for the device and no room in its queues
// (drivers/net/tun.c, tun_net_xmit); 0 when it can't be asked.
func (t *TAP) kernelDrops() uint64 {
	link, err := linkByName(t.name)
	if err != nil || link.Attrs().Statistics == nil {
		return 0
	}
	return link.Attrs().Statistics.TxDropped
}

// Close closes all queues and thereby removes the device.
func (t *TAP) Close() error {
	if t.closed.Swap(true) {
		return nil
	}
	var errs error
	for _, q := range t.queues {
		errs = errors.Join(errs, q.file.Close())
	}
	return errs
}

// tapQueue is one descriptor of a TAP. Its os.File keeps the descriptor from being
// closed under a running call; RawSyscall is right because the descriptor never
// blocks, and saves the scheduler's hand-off of 80 ns a frame.
type tapQueue struct {
	tap     *TAP
	file    *os.File
	raw     syscall.RawConn
	header  int // bytes of the virtio header
	unknown atomic.Uint64
	writers free[tapWriter]

	readMu sync.Mutex // guards the fields below for the length of one read
	read   func(fd uintptr)
	frames []Frame
	n      int
	err    error
}

// newTAPQueue takes a blocking descriptor, which os.File keeps out of Go's poller: that
// would wake a thread for every frame, whoever waits for it.
func newTAPQueue(t *TAP, file *os.File) (*tapQueue, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	if ctl := raw.Control(func(fd uintptr) { err = unix.SetNonblock(int(fd), true) }); cmp.Or(ctl, err) != nil {
		return nil, fmt.Errorf("set non-blocking: %w", cmp.Or(ctl, err))
	}
	q := &tapQueue{tap: t, file: file, raw: raw}
	q.read = q.drain
	q.writers.make = func() *tapWriter {
		w := &tapWriter{queue: q}
		w.run = w.write
		return w
	}
	return q, nil
}

// Descriptor implements Polled.
func (q *tapQueue) Descriptor() syscall.RawConn { return q.raw }

// closeNotice is how long a waiting ReadBatch may take to see that the device was
// closed, in milliseconds.
const closeNotice = 20

// ReadBatch implements Queue.
func (q *tapQueue) ReadBatch(frames []Frame) (int, error) {
	for {
		n, err := q.TryReadBatch(frames)
		if n > 0 || err != nil || len(frames) == 0 {
			return n, err
		}
		var broken bool
		q.raw.Control(func(fd uintptr) {
			ready := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			unix.Poll(ready[:], closeNotice)
			broken = ready[0].Revents&unix.POLLERR != 0
		})
		if broken {
			if n, err := q.TryReadBatch(frames); n > 0 || err != nil {
				return n, err
			}
			return 0, fmt.Errorf("tun: read %s: %w", q.tap.name, ErrDeleted)
		}
	}
}

// TryReadBatch implements Polled.
func (q *tapQueue) TryReadBatch(frames []Frame) (int, error) {
	q.readMu.Lock()
	defer q.readMu.Unlock()
	q.frames, q.n, q.err = frames, 0, nil
	closed := q.raw.Control(q.read) != nil
	n, err := q.n, q.err
	q.frames = nil
	switch {
	case n > 0:
		return n, nil
	case closed || q.tap.closed.Load():
		err = os.ErrClosed
	case err == nil:
		return 0, nil
	case errors.Is(err, unix.EBADFD):
		err = ErrDeleted
	}
	return 0, fmt.Errorf("tun: read %s: %w", q.tap.name, err)
}

// readBytes is how much one read takes before what it has goes on its way: a queue full
// of super-frames would hold up everything else that the reader does.
const readBytes = 256 << 10

// drain reads until the queue is empty, the batch full or large.
func (q *tapQueue) drain(fd uintptr) {
	for bytes := 0; q.n < len(q.frames) && bytes < readBytes; {
		f := &q.frames[q.n]
		if len(f.Buf) < BufferSize {
			q.err = fmt.Errorf("frame buffer of %d bytes, %d needed", len(f.Buf), BufferSize)
			return
		}
		at := Headroom - q.header
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(&f.Buf[at])), uintptr(q.header+MaxFrame))
		switch {
		case errno == syscall.EINTR:
			continue
		case errno == syscall.EAGAIN:
			return
		case errno != 0:
			q.err = errno
			return
		}
		offload, known := getVirtio(f.Buf[at:Headroom])
		if !known || int(n) <= q.header {
			q.unknown.Add(1)
			continue
		}
		f.Off, f.Len, f.Offload, f.More = Headroom, int(n)-q.header, offload, nil
		q.n++
		bytes += f.Len
	}
}

// WriteBatch implements Queue.
func (q *tapQueue) WriteBatch(frames []Frame) (int, error) {
	w := q.writers.get()
	w.frames, w.n, w.err = frames, 0, nil
	err := q.raw.Control(w.run)
	n := w.n
	if err == nil {
		err = w.err
	}
	w.frames, w.err = nil, nil
	q.writers.put(w)
	if err == nil {
		return n, nil
	}
	switch {
	case q.tap.closed.Load():
		err = os.ErrClosed
	case errors.Is(err, unix.EBADFD):
		err = ErrDeleted
	case errors.Is(err, unix.EIO):
		err = ErrDown
	}
	return n, fmt.Errorf("tun: write %s: %w", q.tap.name, err)
}

// maxPieces bounds the pieces of one write (UIO_MAXIOV in include/uapi/linux/uio.h).
const maxPieces = 1024

// joinedBytes is up to where the pieces of a frame are copied to one place: cheaper than
// what the kernel does for each of them, as long as they are small ones.
const joinedBytes = 2 << 10

// tapWriter is one WriteBatch under way, kept for the next.
type tapWriter struct {
	queue  *tapQueue
	run    func(fd uintptr)
	frames []Frame
	n      int
	err    error
	pieces []unix.Iovec
	place  [joinedBytes]byte
}

func (w *tapWriter) write(fd uintptr) {
	for i := range w.frames {
		if err := w.writeFrame(fd, &w.frames[i]); err == nil {
			w.n++
		} else if w.err == nil {
			w.err = err
		}
	}
}

func (w *tapWriter) writeFrame(fd uintptr, f *Frame) error {
	at := f.Off - w.queue.header
	if at < 0 || f.Len <= 0 || f.Off+f.Len > len(f.Buf) {
		return errBounds
	}
	// Another frame may stand right before this one: it gets its bytes back.
	var before [virtioTunnelHeader]byte
	header := f.Buf[at:f.Off]
	copy(before[:], header)
	putVirtio(header, &f.Offload, f.Buf[f.Off:f.Off+f.Len])
	err := w.writePlaced(fd, f, at)
	copy(header, before[:])
	return err
}

// writePlaced writes a frame whose virtio header stands in front of it, at at.
func (w *tapWriter) writePlaced(fd uintptr, f *Frame, at int) error {
	if len(f.More) > 0 {
		return w.writePieces(fd, f, at)
	}
	if f.Len > MaxFrame {
		return errTooLong
	}
	return writeBytes(fd, f.Buf[at:f.Off+f.Len])
}

// writeBytes writes a frame that lies in one place, behind its virtio header.
func writeBytes(fd uintptr, b []byte) error {
	for {
		_, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		if errno == 0 {
			return nil
		}
		if errno != syscall.EINTR {
			return errno
		}
	}
}

// writePieces gathers what there is to gather: few bytes here, more by the kernel.
func (w *tapWriter) writePieces(fd uintptr, f *Frame, at int) error {
	if len(f.More) >= maxPieces {
		return errTooLong
	}
	length := f.Len
	for _, piece := range f.More {
		length += len(piece)
	}
	if length > MaxFrame {
		return errTooLong // the kernel takes more, and cannot be trusted with it
	}
	if w.queue.header+length <= len(w.place) {
		b := append(w.place[:0], f.Buf[at:f.Off+f.Len]...)
		for _, piece := range f.More {
			b = append(b, piece...)
		}
		return writeBytes(fd, b)
	}
	w.pieces = append(w.pieces[:0], unix.Iovec{Base: &f.Buf[at]})
	w.pieces[0].SetLen(w.queue.header + f.Len)
	for _, piece := range f.More {
		if len(piece) == 0 {
			continue
		}
		w.pieces = append(w.pieces, unix.Iovec{Base: &piece[0]})
		w.pieces[len(w.pieces)-1].SetLen(len(piece))
	}
	defer clear(w.pieces) // the buffers are the caller's again
	for {
		_, _, errno := syscall.RawSyscall(syscall.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&w.pieces[0])), uintptr(len(w.pieces)))
		if errno == 0 {
			return nil
		}
		if errno != syscall.EINTR {
			return errno
		}
	}
}
