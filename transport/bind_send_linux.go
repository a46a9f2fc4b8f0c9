package transport

import (
	"net"
	"net/netip"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sendPatience is how long a Send waits for room in a full send buffer. What has no
// room by then fails with EAGAIN, so that an interface that stopped sending does not
// hold up what goes to others.
const sendPatience = 50 * time.Millisecond

// maxIdleBatches bounds the batches kept for the next Send: as many goroutines can send
// at once without an allocation.
const maxIdleBatches = 32

// sendControlLen is the room for one message's control data: the source address
// (IPV6_PKTINFO is the longer one, 40 bytes with its header) and a train's segment
// size (24).
const sendControlLen = 64

// sendControl is aligned as struct cmsghdr must be.
type sendControl struct {
	_ [0]uintptr
	b [sendControlLen]byte
}

// part is what one header sends: one datagram of a message, or as many as leave by one
// call.
type part struct {
	message int // which of the Send
	from    int // its first byte
	to      int // behind its last
	segment int // bytes of a datagram; 0 if there is one
}

// count is how many datagrams p has.
func (p part) count() int {
	if p.segment == 0 {
		return 1
	}
	return (p.to - p.from + p.segment - 1) / p.segment
}

// sendBatch is what one sendmmsg call needs, kept from call to call. It belongs to one
// Send at a time.
type sendBatch struct {
	hdrs    []unix.Mmsghdr
	iovecs  []unix.Iovec
	names   []unix.RawSockaddrInet6 // an IPv4 address takes the first 16 bytes
	control []sendControl
	parts   []part

	next, count int // the headers still to be sent are hdrs[next:count]

	// The system call and its result. The function is made once: a function value made
	// for each call would be an allocation for each call.
	sent  int
	errno syscall.Errno
	now   func(fd uintptr)
}

func newSendBatch(size int) *sendBatch {
	s := &sendBatch{
		hdrs:    make([]unix.Mmsghdr, size),
		iovecs:  make([]unix.Iovec, size),
		names:   make([]unix.RawSockaddrInet6, size),
		control: make([]sendControl, size),
		parts:   make([]part, size),
	}
	for i := range s.hdrs {
		h := &s.hdrs[i].Hdr
		h.Name = (*byte)(unsafe.Pointer(&s.names[i]))
		h.Iov = &s.iovecs[i]
		h.SetIovlen(1)
	}
	s.now = s.call
	return s
}

// call hands hdrs[next:count] to the kernel, without a word to Go's scheduler: it never waits.
func (s *sendBatch) call(fd uintptr) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&s.hdrs[s.next])),
		uintptr(s.count-s.next), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	s.sent, s.errno = int(n), errno
}

// Send sends msgs. The messages of one socket leave in order; with sockets of both
// families the order between these is open.
func (b *LinuxBind) Send(msgs []Message) (sent int) {
	batch := b.takeBatch()
	for i := range msgs {
		m := &msgs[i]
		m.Err = nil
		switch {
		case m.N <= 0 || m.N > len(m.Buf) || m.Segment < 0:
			b.counts.refuse(m, unix.EINVAL, 1)
		case b.pick(m) < 0:
			b.counts.refuse(m, unix.EAFNOSUPPORT, m.count())
		}
	}
	for k, socket := range b.senders {
		for i := range msgs {
			if m := &msgs[i]; m.Err == nil && b.pick(m) == k {
				b.queue(batch, socket, msgs, part{message: i, to: m.N, segment: m.Segment}, b.segments)
			}
		}
		b.flush(batch, socket, msgs)
	}
	b.putBatch(batch)
	for i := range msgs {
		if msgs[i].Err == nil {
			sent++
		}
	}
	return sent
}

// queue puts p of a message into the batch, cut into parts of up to segments datagrams
// and MaxTrain bytes, and flushes the batch whenever it is full.
func (b *LinuxBind) queue(batch *sendBatch, socket *kernelSocket, msgs []Message, p part, segments int) {
	m := &msgs[p.message]
	size := p.to - p.from
	if p.segment > 0 && p.segment < size {
		segments = min(segments, MaxTrain/p.segment)
		if segments > 1 && socket.refusals.has(m.Remote.Addr()) {
			segments = 1
		}
		size = max(segments, 1) * p.segment
	}
	for from := p.from; from < p.to; from += size {
		cut := part{message: p.message, from: from, to: min(from+size, p.to)}
		if p.segment > 0 && p.segment < cut.to-cut.from {
			cut.segment = p.segment
		}
		if err := b.put(batch, socket, m, cut); err != nil {
			cut.to, cut.segment = p.to, p.segment // nor will the rest be
			b.counts.refuse(m, err, cut.count())
			return
		}
		if batch.count == len(batch.hdrs) {
			b.flush(batch, socket, msgs)
		}
	}
}

// takeBatch takes an idle batch, or makes one when more goroutines send than ever before.
// No sync.Pool: it forgets, and a batch is 20 KiB.
func (b *LinuxBind) takeBatch() *sendBatch {
	for i := range b.batches {
		if batch := b.batches[i].Swap(nil); batch != nil {
			return batch
		}
	}
	return newSendBatch(b.cfg.Batch)
}

// putBatch keeps a batch for the next Send.
func (b *LinuxBind) putBatch(batch *sendBatch) {
	for i := range b.batches {
		if b.batches[i].CompareAndSwap(nil, batch) {
			return
		}
	}
}

// pick says which of senders m leaves through: the one bound to the wanted source
// address, or else to the address most like it, or most like the destination if none is
// wanted; -1 if the family has no socket.
func (b *LinuxBind) pick(m *Message) int {
	best, bestBits := -1, -1
	remote := m.Remote.Addr()
	is4 := remote.Is4() || remote.Is4In6()
	if !remote.IsValid() {
		return -1
	}
	for k, s := range b.senders {
		if s.addr.Is4() != is4 {
			continue
		}
		bits := 0
		switch {
		case s.addr.IsUnspecified():
		case m.Local.IsValid():
			bits = 1 + commonBits(s.addr, m.Local)
		default:
			bits = 1 + commonBits(s.addr, remote)
		}
		if bits > bestBits {
			best, bestBits = k, bits
		}
	}
	return best
}

// commonBits counts the leading bits in which two addresses of one family agree.
func commonBits(a, b netip.Addr) int {
	x, y := a.As16(), b.As16()
	for i := range x {
		if d := x[i] ^ y[i]; d != 0 {
			n := i * 8
			for d&0x80 == 0 {
				n, d = n+1, d<<1
			}
			return n
		}
	}
	return 128
}

// put writes p, a part of m, into the batch's next header.
func (b *LinuxBind) put(batch *sendBatch, socket *kernelSocket, m *Message, p part) error {
	i := batch.count
	remote := m.Remote.Addr()
	hdr, name := &batch.hdrs[i].Hdr, &batch.names[i]
	port := (*[2]byte)(unsafe.Pointer(&name.Port)) // the same place in both forms
	port[0], port[1] = byte(m.Remote.Port()>>8), byte(m.Remote.Port())
	if socket.addr.Is4() {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		v4.Family = unix.AF_INET
		v4.Addr = remote.Unmap().As4()
		hdr.Namelen = unix.SizeofSockaddrInet4
	} else {
		name.Family = unix.AF_INET6
		name.Flowinfo = 0
		name.Addr = remote.As16()
		name.Scope_id = 0
		if zone := remote.Zone(); zone != "" {
			scope, err := b.zones.index(zone)
			if err != nil {
				return err
			}
			name.Scope_id = scope
		}
		hdr.Namelen = unix.SizeofSockaddrInet6
	}
	batch.iovecs[i].Base = &m.Buf[p.from]
	batch.iovecs[i].SetLen(p.to - p.from)
	hdr.Control = nil
	hdr.SetControllen(0)
	control, length := &batch.control[i].b, 0
	// A socket bound to the wanted source needs no telling.
	if local := m.Local.Unmap(); local.IsValid() && local.WithZone("") != socket.addr.WithZone("") {
		if local.Is4() != socket.addr.Is4() {
			return unix.EINVAL
		}
		length = putSource(control[:], local)
	}
	if p.segment > 0 {
		length += putSegment(control[length:], uint16(p.segment))
	}
	if length > 0 {
		hdr.Control = &control[0]
		hdr.SetControllen(length)
	}
	batch.parts[i] = p
	batch.count++
	return nil
}

// putSegment writes the control message that makes a message a train (udp(7)
// UDP_SEGMENT) and returns its length.
func putSegment(control []byte, size uint16) int {
	hdr := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	hdr.Level, hdr.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	hdr.SetLen(unix.CmsgLen(2))
	*(*uint16)(unsafe.Pointer(&control[unix.CmsgLen(0)])) = size
	return unix.CmsgSpace(2)
}

// putSource writes the control message that pins the source address (ip(7) IP_PKTINFO,
// RFC 3542 section 6.1) and returns its length.
func putSource(control []byte, local netip.Addr) int {
	hdr := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	data := unsafe.Pointer(&control[unix.CmsgLen(0)])
	if local.Is4() {
		hdr.Level, hdr.Type = unix.IPPROTO_IP, unix.IP_PKTINFO
		hdr.SetLen(unix.CmsgLen(unix.SizeofInet4Pktinfo))
		*(*unix.Inet4Pktinfo)(data) = unix.Inet4Pktinfo{Spec_dst: local.As4()}
		return unix.CmsgSpace(unix.SizeofInet4Pktinfo)
	}
	hdr.Level, hdr.Type = unix.IPPROTO_IPV6, unix.IPV6_PKTINFO
	hdr.SetLen(unix.CmsgLen(unix.SizeofInet6Pktinfo))
	*(*unix.Inet6Pktinfo)(data) = unix.Inet6Pktinfo{Addr: local.As16()}
	return unix.CmsgSpace(unix.SizeofInet6Pktinfo)
}

// flush sends what the batch holds and empties it. sendmmsg stops at the first message
// that the kernel refuses and tells the reason only when asked to start with that one
// (net/socket.c, __sys_sendmmsg): that message gets its error and is stepped over.
func (b *LinuxBind) flush(batch *sendBatch, socket *kernelSocket, msgs []Message) {
	sent := 0
	for batch.next < batch.count {
		var err error
		if socket.raw.Control(batch.now) != nil {
			err = net.ErrClosed
		} else if batch.errno == unix.EAGAIN {
			err = socket.sendPatiently(batch)
		}
		switch {
		case err != nil:
			for ; batch.next < batch.count; batch.next++ {
				p := batch.parts[batch.next]
				b.counts.refuse(&msgs[p.message], err, p.count())
			}
		case batch.errno == 0:
			for range batch.sent {
				sent += batch.parts[batch.next].count()
				batch.next++
			}
		case batch.errno != unix.EINTR:
			b.refused(socket, msgs, batch.parts[batch.next], batch.errno)
			batch.next++
		}
	}
	for i := range batch.count {
		batch.iovecs[i].Base = nil // the buffers are the caller's again
	}
	batch.next, batch.count = 0, 0
	b.counts.sent.Add(uint64(sent))
}

// refused does what there is to do when the kernel has refused p: a train's datagrams
// are sent one by one, before what comes behind it.
func (b *LinuxBind) refused(socket *kernelSocket, msgs []Message, p part, errno syscall.Errno) {
	m := &msgs[p.message]
	if p.segment > 0 && refusedTrain(errno) {
		if refusedTrains(errno) {
			socket.refusals.add(m.Remote.Addr(), time.Now())
		}
		b.counts.refusedTrains.Add(1)
		batch := b.takeBatch()
		b.queue(batch, socket, msgs, p, 1)
		b.flush(batch, socket, msgs)
		b.putBatch(batch)
		return
	}
	if m.Remote.Addr().Zone() != "" {
		b.zones.forget()
	}
	b.counts.refuse(m, errno, p.count())
}

// sendPatiently makes the call again when the socket has room, within sendPatience. It
// returns EAGAIN when there was none, net.ErrClosed when the socket was closed.
func (s *kernelSocket) sendPatiently(batch *sendBatch) error {
	for until := time.Now().Add(sendPatience); batch.errno == unix.EAGAIN; {
		left := time.Until(until)
		if left <= 0 {
			return unix.EAGAIN
		}
		if s.raw.Control(func(fd uintptr) {
			room := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
			unix.Poll(room[:], max(1, int(left/time.Millisecond)))
			batch.call(fd)
		}) != nil {
			return net.ErrClosed
		}
	}
	return nil
}
