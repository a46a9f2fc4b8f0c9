package transport

import (
	"errors"
	"net"
	"net/netip"
	"os"
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

// sendControl is the room for one message's control data: the source address
// (IPV6_PKTINFO is the longer one, 40 bytes with its header) and a train's segment
// size (24).
const sendControl = 64

// sendBatch is what one sendmmsg call needs, kept from call to call. It belongs to one
// Send at a time.
type sendBatch struct {
	hdrs    []unix.Mmsghdr
	iovecs  []unix.Iovec
	names   []unix.RawSockaddrInet6 // an IPv4 address takes the first 16 bytes
	control [][sendControl]byte
	index   []int // which message of the Send each header is

	next, count int // the headers still to be sent are hdrs[next:count]

	// The system call and its result. The two functions are made once: a function value
	// made for each call would be an allocation for each call.
	sent  int
	errno syscall.Errno
	now   func(fd uintptr)      // for RawConn.Control: no lock against other senders
	wait  func(fd uintptr) bool // for RawConn.Write: waits until the socket is writable
}

func newSendBatch(size int) *sendBatch {
	s := &sendBatch{
		hdrs:    make([]unix.Mmsghdr, size),
		iovecs:  make([]unix.Iovec, size),
		names:   make([]unix.RawSockaddrInet6, size),
		control: make([][sendControl]byte, size),
		index:   make([]int, size),
	}
	for i := range s.hdrs {
		h := &s.hdrs[i].Hdr
		h.Name = (*byte)(unsafe.Pointer(&s.names[i]))
		h.Iov = &s.iovecs[i]
		h.SetIovlen(1)
	}
	s.now = s.call
	s.wait = func(fd uintptr) bool {
		s.call(fd)
		return s.errno != unix.EAGAIN
	}
	return s
}

// call hands hdrs[next:count] to the kernel.
func (s *sendBatch) call(fd uintptr) {
	n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&s.hdrs[s.next])),
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
		case m.N <= 0 || m.N > len(m.Buf):
			b.counts.refuse(m, unix.EINVAL)
		case b.pick(m) < 0:
			b.counts.refuse(m, unix.EAFNOSUPPORT)
		}
	}
	for k, socket := range b.senders {
		for i := range msgs {
			m := &msgs[i]
			if m.Err != nil || b.pick(m) != k {
				continue
			}
			if m.Segment > 0 && m.Segment < m.N && socket.noGSO.Load() {
				sent += b.flush(batch, socket, msgs)
				if b.sendSingly(socket, m) {
					sent++
				}
				continue
			}
			if err := b.put(batch, socket, m); err != nil {
				b.counts.refuse(m, err)
				continue
			}
			batch.index[batch.count] = i
			if batch.count++; batch.count == len(batch.hdrs) {
				sent += b.flush(batch, socket, msgs)
			}
		}
		sent += b.flush(batch, socket, msgs)
	}
	b.putBatch(batch)
	b.counts.sent.Add(uint64(sent))
	return sent
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

// takeSingles takes the messages that a train is taken apart into.
func (b *LinuxBind) takeSingles() *[maxSingles]Message {
	if s := b.singles.Swap(nil); s != nil {
		return s
	}
	return new([maxSingles]Message)
}

// maxSingles is how many datagrams of a train are sent by one call when the kernel
// does not cut it.
const maxSingles = 64

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

// put writes m into the batch's next header.
func (b *LinuxBind) put(batch *sendBatch, socket *kernelSocket, m *Message) error {
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
	batch.iovecs[i].Base = unsafe.SliceData(m.Buf)
	batch.iovecs[i].SetLen(m.N)
	hdr.Control = nil
	hdr.SetControllen(0)
	control, length := &batch.control[i], 0
	// A socket bound to the wanted source needs no telling.
	if local := m.Local.Unmap(); local.IsValid() && local.WithZone("") != socket.addr.WithZone("") {
		if local.Is4() != socket.addr.Is4() {
			return unix.EINVAL
		}
		length = putSource(control, local)
	}
	if m.Segment > 0 && m.Segment < m.N {
		length += putSegment(control[length:], uint16(m.Segment))
	}
	if length > 0 {
		hdr.Control = &control[0]
		hdr.SetControllen(length)
	}
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

// sendSingly sends the datagrams of a train one by one, and reports whether all of
// them left; what was refused last is the message's error.
func (b *LinuxBind) sendSingly(socket *kernelSocket, m *Message) bool {
	batch := b.takeBatch()
	defer b.putBatch(batch)
	m.Err = nil
	singles := b.takeSingles()
	defer b.singles.Store(singles)
	for rest := m.Bytes(); len(rest) > 0; {
		n := 0
		for ; n < len(batch.hdrs) && n < len(singles) && len(rest) > 0; n++ {
			size := min(m.Segment, len(rest))
			singles[n] = Message{Buf: rest[:size], N: size, Remote: m.Remote, Local: m.Local}
			rest = rest[size:]
			if err := b.put(batch, socket, &singles[n]); err != nil {
				b.counts.refuse(m, err)
				return false
			}
			batch.index[batch.count] = n
			batch.count++
		}
		b.flush(batch, socket, singles[:n])
		for i := range singles[:n] {
			if singles[i].Err != nil {
				m.Err = singles[i].Err
			}
			singles[i] = Message{}
		}
	}
	return m.Err == nil
}

// refusedTrain reports whether errno is what a kernel or a device says that cannot
// send a train, while it may well send the datagrams singly: EIO of a device without
// checksum offload (net/ipv4/udp.c udp_send_skb), EINVAL of too many segments or of
// options, EMSGSIZE of a segment larger than the device's MTU, EOPNOTSUPP.
func refusedTrain(errno syscall.Errno) bool {
	return errno == unix.EIO || errno == unix.EINVAL || errno == unix.EMSGSIZE || errno == unix.EOPNOTSUPP
}

// putSource writes the control message that pins the source address (ip(7) IP_PKTINFO,
// RFC 3542 section 6.1) and returns its length.
func putSource(control *[sendControl]byte, local netip.Addr) int {
	hdr := (*unix.Cmsghdr)(unsafe.Pointer(control))
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
func (b *LinuxBind) flush(batch *sendBatch, socket *kernelSocket, msgs []Message) (sent int) {
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
				b.counts.refuse(&msgs[batch.index[batch.next]], err)
			}
		case batch.errno == 0:
			sent += batch.sent
			batch.next += batch.sent
		case batch.errno != unix.EINTR:
			m := &msgs[batch.index[batch.next]]
			if m.Segment > 0 && m.Segment < m.N && refusedTrain(batch.errno) {
				if batch.errno == unix.EIO || batch.errno == unix.EOPNOTSUPP {
					socket.noGSO.Store(true) // noted in SocketStats
				}
				if b.sendSingly(socket, m) {
					sent++
				}
				batch.next++
				continue
			}
			if m.Remote.Addr().Zone() != "" {
				b.zones.forget()
			}
			b.counts.refuse(m, batch.errno)
			batch.next++
		}
	}
	for i := range batch.count {
		batch.iovecs[i].Base = nil // the buffers are the caller's again
	}
	batch.next, batch.count = 0, 0
	return sent
}

// sendPatiently makes the call again when the socket has room, within sendPatience. It
// returns EAGAIN when there was none, net.ErrClosed when the socket was closed.
func (s *kernelSocket) sendPatiently(batch *sendBatch) error {
	s.conn.SetWriteDeadline(time.Now().Add(sendPatience))
	switch err := s.raw.Write(batch.wait); {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return unix.EAGAIN
	}
	return net.ErrClosed
}
