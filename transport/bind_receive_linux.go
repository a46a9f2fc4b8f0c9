package transport

import (
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// receiveControlLen is the room for one message's control data: the address it came to
// (40 bytes with its header), the drop counter (24), a train's segment size (24), and
// some more. What has no room would be lost, and a train without its size is lost as a
// whole.
const receiveControlLen = 128

// receiveControl is aligned as struct cmsghdr must be.
type receiveControl struct {
	_ [0]uintptr
	b [receiveControlLen]byte
}

// receiveBatch is what one socket's recvmmsg calls need, kept from call to call. It
// belongs to the one goroutine that receives.
type receiveBatch struct {
	bind    *LinuxBind
	socket  *kernelSocket
	hdrs    []unix.Mmsghdr
	iovecs  []unix.Iovec
	names   []unix.RawSockaddrInet6 // an IPv4 address takes the first 16 bytes
	control []receiveControl

	// The system call and its result; the functions are made once, as in sendBatch.
	count int
	got   int
	errno syscall.Errno
	now   func(fd uintptr)
	wait  func(fd uintptr)
}

func newReceiveBatch(bind *LinuxBind, socket *kernelSocket, size int) *receiveBatch {
	r := &receiveBatch{
		bind:    bind,
		socket:  socket,
		hdrs:    make([]unix.Mmsghdr, size),
		iovecs:  make([]unix.Iovec, size),
		names:   make([]unix.RawSockaddrInet6, size),
		control: make([]receiveControl, size),
	}
	for i := range r.hdrs {
		h := &r.hdrs[i].Hdr
		h.Name = (*byte)(unsafe.Pointer(&r.names[i]))
		h.Iov = &r.iovecs[i]
		h.SetIovlen(1)
		h.Control = &r.control[i].b[0]
	}
	r.now, r.wait = r.call, waitReadable
	return r
}

// call asks the kernel for up to count messages. With MSG_TRUNC it tells how long a
// message was, whatever of it had room. It never waits: Go's scheduler need not be told,
// whose watcher would be woken by it.
func (r *receiveBatch) call(fd uintptr) {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&r.hdrs[0])),
			uintptr(r.count), unix.MSG_DONTWAIT|unix.MSG_TRUNC, 0, 0)
		if errno != unix.EINTR {
			r.got, r.errno = int(n), errno
			return
		}
	}
}

// closeNotice is how long a waiting ReceiveFunc may take to see that the socket was
// closed, in milliseconds.
const closeNotice = 20

func waitReadable(fd uintptr) {
	unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, closeNotice)
}

// receive is the socket's ReceiveFunc.
func (r *receiveBatch) receive(msgs []Message) (int, error) {
	for {
		if n, err := r.try(msgs); n > 0 || err != nil {
			return n, err
		}
		if r.socket.raw.Control(r.wait) != nil {
			return 0, net.ErrClosed
		}
	}
}

// try is receive without waiting: 0 when there is nothing.
func (r *receiveBatch) try(msgs []Message) (int, error) {
	r.count = min(len(msgs), len(r.hdrs))
	if r.count == 0 {
		return 0, errNoMessages
	}
	for {
		for i := range r.count {
			r.iovecs[i].Base = unsafe.SliceData(msgs[i].Buf)
			r.iovecs[i].SetLen(len(msgs[i].Buf))
			h := &r.hdrs[i].Hdr
			h.Namelen = unix.SizeofSockaddrInet6
			h.SetControllen(receiveControlLen)
			h.Flags = 0
		}
		if r.socket.raw.Control(r.now) != nil {
			return 0, net.ErrClosed
		}
		switch r.errno {
		case unix.EAGAIN:
			return 0, nil
		case 0:
			received, truncated := 0, 0
			for i := range r.got {
				whole, lost := r.fill(&msgs[i], i)
				received, truncated = received+whole, truncated+lost
			}
			r.bind.counts.received.Add(uint64(received))
			if truncated > 0 {
				r.bind.counts.truncated.Add(uint64(truncated))
			}
			return r.got, nil
		case unix.EBADF, unix.ENOTSOCK, unix.EINVAL, unix.EFAULT, unix.ENOSYS:
			return 0, fmt.Errorf("transport: receive udp %v: %w", netip.AddrPortFrom(r.socket.addr, r.bind.port), r.errno)
		}
		// What is left was pending on the socket and is taken off it by the telling
		// (sock_error in include/net/sock.h), or passes when memory is there again.
		r.bind.counts.receiveErrors.Add(1)
	}
}

// fill sets m from what the kernel wrote into header i, and returns how many datagrams
// are whole and how many had no room.
func (r *receiveBatch) fill(m *Message, i int) (whole, lost int) {
	r.fillAddress(m, &r.names[i])
	m.Err = nil
	m.Local = netip.Addr{}
	m.N = int(r.hdrs[i].Len)
	m.Segment = r.readControl(m, r.control[i].b[:min(uint64(r.hdrs[i].Hdr.Controllen), receiveControlLen)])
	if m.Segment <= 0 || m.Segment >= m.N {
		m.Segment = 0
	}
	all := m.count()
	if m.N <= len(m.Buf) {
		return all, 0
	}
	if m.Segment > 0 {
		whole = len(m.Buf) / m.Segment
	}
	m.N = whole * m.Segment
	if whole <= 1 {
		m.Segment = 0
	}
	return whole, all - whole
}

// fillAddress sets m.Remote.
func (r *receiveBatch) fillAddress(m *Message, name *unix.RawSockaddrInet6) {
	portBytes := (*[2]byte)(unsafe.Pointer(&name.Port))
	port := uint16(portBytes[0])<<8 | uint16(portBytes[1])
	if name.Family == unix.AF_INET {
		m.Remote = netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(name)).Addr), port)
	} else {
		addr := netip.AddrFrom16(name.Addr)
		if name.Scope_id != 0 {
			addr = addr.WithZone(r.bind.zones.name(name.Scope_id))
		}
		m.Remote = netip.AddrPortFrom(addr, port)
	}
}

// readControl takes the control data: it sets m.Local, counts drops, and returns the
// size of a train's datagrams, 0 if there was none.
func (r *receiveBatch) readControl(m *Message, rest []byte) (segment int) {
	for len(rest) >= unix.SizeofCmsghdr {
		c, data, next, err := unix.ParseOneSocketControlMessage(rest)
		if err != nil {
			return segment
		}
		rest = next
		switch {
		case c.Level == unix.IPPROTO_IP && c.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			m.Local = unicast(netip.AddrFrom4((*unix.Inet4Pktinfo)(unsafe.Pointer(&data[0])).Spec_dst))
		case c.Level == unix.IPPROTO_IPV6 && c.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			m.Local = unicast(netip.AddrFrom16((*unix.Inet6Pktinfo)(unsafe.Pointer(&data[0])).Addr))
		case c.Level == unix.SOL_UDP && c.Type == unix.UDP_GRO && len(data) >= 4:
			segment = int(*(*int32)(unsafe.Pointer(&data[0])))
		case c.Level == unix.SOL_SOCKET && c.Type == unix.SO_RXQ_OVFL && len(data) >= 4:
			r.socket.countDrops(*(*uint32)(unsafe.Pointer(&data[0])))
		}
	}
	return segment
}

// countDrops takes the kernel's running total, 32 bits that wrap, into the 64 bits kept
// here. Only the receiving goroutine calls it.
func (s *kernelSocket) countDrops(total uint32) {
	if old := s.drops.Load(); uint32(old) != total {
		s.drops.Store(old + uint64(total-uint32(old)))
	}
}
