package transport

import (
	"errors"
	"net/netip"
	"syscall"
)

// Message is one datagram, or a train of them, on its way through a Socket. The buffer
// belongs to the socket from the start of a call to its end, and to the caller otherwise.
//
//	|<------------------------- N ------------------------->|
//	+--------------+--------------+--------------+----------+- - - - -+
//	| datagram 1   | datagram 2   | datagram 3   | last     |         |  Buf
//	+--------------+--------------+--------------+----------+- - - - -+
//	|<- Segment -->|<- Segment -->|<- Segment -->|<- 1 to Segment bytes
//
// The zero value of each field is the plain case.
type Message struct {
	Buf    []byte         // Send sends Buf[:N]; a ReceiveFunc fills Buf[:N]
	N      int            // bytes of datagram
	Remote netip.AddrPort // where to, or where from; never an IPv4 address mapped into IPv6 on receive
	// Segment, if not 0, says that Buf[:N] is a train: datagrams of Segment bytes one
	// behind the other, the last of which may be shorter. N of up to Segment is one
	// datagram. Send takes a train of any length; it leaves by as few calls of the
	// kernel as that allows (UDP_SEGMENT), else one by one. On receive it is 0, or less
	// than N: a train that the kernel gathered (UDP_GRO).
	Segment int
	// Local is the address of this host that the datagram is to leave from; the zero
	// value leaves the choice to the kernel. On receive: the address it came to, without
	// zone, or the zero value when that is not known or not a unicast address.
	Local netip.Addr
	// Err is why this message was not sent; nil when it was, and after a receive. Of a
	// train it is why a datagram was not sent, the last of them if there are several:
	// the others left. Kernel errors are syscall.Errno values, compared by errors.Is.
	Err error
}

// MaxTrain is how many bytes leave the host as one train. Send cuts longer ones up; the
// kernel itself would do so, datagram by datagram, above 65493 bytes to IPv4 and 65473
// to IPv6 (measured on Linux 6.18), and takes none above 65507.
const MaxTrain = 65000

// Bytes are the message's bytes, Buf[:N].
func (m *Message) Bytes() []byte { return m.Buf[:m.N] }

// Datagrams calls yield with each datagram of the message, the only one or those of a
// train, until it returns false. Nothing is copied: each has those behind it in its
// capacity, so that a train can be sent on as the one it is. An empty message has none.
func (m *Message) Datagrams(yield func(b []byte) bool) {
	size := m.N
	if m.Segment > 0 {
		size = m.Segment
	}
	for rest := m.Buf[:m.N:m.N]; len(rest) > 0; {
		n := min(size, len(rest))
		if !yield(rest[:n]) {
			return
		}
		rest = rest[n:]
	}
}

// count is how many datagrams the message has, an empty one among them.
func (m *Message) count() int {
	if m.Segment <= 0 || m.Segment >= m.N {
		return 1
	}
	return (m.N + m.Segment - 1) / m.Segment
}

// ReceiveFunc waits for at least one datagram, takes what else is there without
// waiting, and returns how many of msgs it filled, from the first on. It sets N,
// Remote, Local, Segment and Err. A datagram longer than Buf is counted
// (SocketStats.Truncated) and comes with N = 0, as an empty one does: both are to be
// skipped. Of a train longer than Buf those datagrams come that are whole. Where the
// socket gathers, no Buf of less than 64 KiB is sure to hold what comes.
//
// One goroutine calls a ReceiveFunc at a time. After Close it returns net.ErrClosed.
// Any other error is one that will not pass: the socket is of no more use for receiving.
type ReceiveFunc func(msgs []Message) (n int, err error)

// Socket sends and receives datagrams: LinuxBind, StdBind and transporttest's
// in-memory socket implement it, and transporttest.Conformance holds what all three
// promise. All methods may be called at once from several goroutines.
type Socket interface {
	// Receivers are the socket's receive functions, one for each kernel socket, the same
	// for the socket's whole life.
	Receivers() []ReceiveFunc
	// Send sends msgs, to as many peers as they name, and returns how many left. What
	// goes to one address leaves in order. A message that cannot leave gets its Err and
	// the others still go: EMSGSIZE (longer than IP carries, or than the path when SetDF
	// is on), ENOBUFS or EAGAIN (queues full), EPERM (a packet filter of this host),
	// ENETUNREACH, EHOSTUNREACH, ECONNREFUSED, EINVAL (an empty message, a negative
	// Segment, or a Local address that is not this host's: some kernels call that
	// ENETUNREACH), EADDRNOTAVAIL (no
	// interface of that zone; a Local address where the socket knows none), EAFNOSUPPORT
	// (no socket of that address family), net.ErrClosed after Close.
	Send(msgs []Message) (sent int)
	// MaxSegments is how many datagrams of a train leave by one call at the most, as the
	// kernel was found to take when the socket was opened; 1 = trains leave one by one.
	// Longer trains are cut up by Send: this is what makes it cheap, no limit.
	MaxSegments() int
	// Port is the UDP port, the same for all addresses and both families.
	Port() uint16
	// SetDF says what becomes of datagrams longer than the path carries. Off, as a
	// socket starts: they are fragmented by IP on the way. On: the don't-fragment bit is
	// set, those longer than the interface's MTU get EMSGSIZE, and those longer than a
	// later link's MTU are lost there.
	SetDF(on bool) error
	// Stats are the socket's counters since it was opened, and its buffer sizes.
	Stats() SocketStats
	// Close ends all receives and sends with net.ErrClosed. It may be called more than
	// once.
	Close() error
}

// Polled is a Socket whose reader may wait for other things besides. LinuxBind is one.
type Polled interface {
	Socket
	// Polled are the Receivers without their waiting, in the same order. Either these are
	// used or those.
	Polled() []PolledReceiver
}

// PolledReceiver is a receive function and what to wait for before it is called.
type PolledReceiver struct {
	Descriptor syscall.RawConn // readable for poll(2) and epoll(7) when there is something to receive
	Try        ReceiveFunc     // does not wait: 0 and no error when there is nothing
}

// SocketStats count what a Socket did, over all its kernel sockets. A train counts as
// its datagrams.
type SocketStats struct {
	Received uint64 // whole datagrams handed to the caller
	Sent     uint64 // datagrams the kernel took

	KernelDrops   uint64 // dropped by the kernel before they were read: receive buffer full (SO_RXQ_OVFL); a gathered train counts as one
	Truncated     uint64 // lost, for they were longer than what was left of the buffer
	ReceiveErrors uint64 // errors of a receive that passed

	// Datagrams that were not sent, by reason.
	TooBig      uint64 // EMSGSIZE
	NoBuffers   uint64 // ENOBUFS, EAGAIN, ENOMEM
	Refused     uint64 // EPERM, EACCES: a packet filter of this host
	Unreachable uint64 // ENETUNREACH, EHOSTUNREACH, ECONNREFUSED, EADDRNOTAVAIL, EAFNOSUPPORT, ENETDOWN
	SendErrors  uint64 // anything else

	// Segmentation and Gathering say whether trains leave by one call (UDP_SEGMENT) and
	// come as one message (UDP_GRO).
	Segmentation bool
	Gathering    bool
	// RefusedTrains count trains that the kernel refused and that then left one by one:
	// their datagrams are longer than the interface's MTU (EMSGSIZE), or the way there
	// has no segmentation (EIO, EOPNOTSUPP). Addresses of the second kind are remembered
	// for a minute, in which trains to them are not tried: Unsegmented is how many are.
	RefusedTrains uint64
	Unsegmented   int

	// What the kernel grants, in bytes as it accounts them (about twice the payload it
	// holds); the smallest of the kernel sockets. 0 = not known.
	ReceiveBuffer int
	SendBuffer    int
}

// errNoMessages is what a ReceiveFunc says to a caller that gives it nothing to fill.
var errNoMessages = errors.New("transport: receive: no messages to fill")

// unicast is addr, or no address when nothing can be sent from it.
func unicast(addr netip.Addr) netip.Addr {
	if addr.IsMulticast() || addr.IsUnspecified() {
		return netip.Addr{}
	}
	return addr
}
