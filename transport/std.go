package transport

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"

	wgconn "golang.zx2c4.com/wireguard/conn"
)

// stdBuffer is the room that wireguard's StdNetBind needs for each receive buffer: with
// UDP_GRO a whole train is put into one.
const stdBuffer = 65535

// StdBind is wireguard's StdNetBind as a Socket: the portable fallback, correct and not
// fast. What differs from LinuxBind:
//   - It listens on every address; there is no choice.
//   - It sends one datagram a call. StdNetBind tells one error for a whole batch, so
//     that in a batch nobody knows which message failed and which never left.
//   - It knows no local addresses: with UDP_GRO, StdNetBind loses the source address
//     that it could answer from. Local is zero on receive; a message that wants one is
//     refused with EADDRNOTAVAIL. IPv6 link-local peers are out of reach: it drops zones.
//   - Don't-fragment stays as the system has it: large datagrams are fragmented;
//     SetDF(true) is refused with errors.ErrUnsupported.
//   - Every datagram costs allocations, and a copy on receive; kernel drops and buffer
//     sizes are not known.
//   - Its receive buffers take 8 MiB a family as they come into use.
type StdBind struct {
	bind      wgconn.Bind
	port      uint16
	receivers []ReceiveFunc
	closed    atomic.Bool

	received, sent, truncated, receiveErrors atomic.Uint64
	sendErrors                               sendErrorCounts
}

// StdSocket opens a StdBind on all addresses; port 0 takes any that is free in both
// families.
func StdSocket(port uint16) (*StdBind, error) {
	b := &StdBind{bind: wgconn.NewStdNetBind()}
	fns, port, err := b.bind.Open(port)
	if err != nil {
		return nil, fmt.Errorf("transport: open std socket: %w", err)
	}
	b.port = port
	for _, fn := range fns {
		b.receivers = append(b.receivers, newStdReceiver(b, fn).receive)
	}
	return b, nil
}

// Receivers are the receive functions, one for each family.
func (b *StdBind) Receivers() []ReceiveFunc { return b.receivers }

// MaxSegments is 1.
func (b *StdBind) MaxSegments() int { return 1 }

// Port is the port of both families.
func (b *StdBind) Port() uint16 { return b.port }

// Send sends msgs one by one.
func (b *StdBind) Send(msgs []Message) (sent int) {
	var bufs [1][]byte
	for i := range msgs {
		m := &msgs[i]
		m.Err = nil
		if m.N <= 0 || m.N > len(m.Buf) || m.Segment < 0 {
			m.Err = syscall.EINVAL
			b.sendErrors.count(m.Err, 1)
			continue
		}
		left := 0
		for datagram := range m.Datagrams {
			if err := b.send(datagram, m, bufs[:]); err != nil {
				m.Err = err
				b.sendErrors.count(err, 1)
				continue
			}
			left++
		}
		b.sent.Add(uint64(left))
		if m.Err == nil {
			sent++
		}
	}
	return sent
}

// send sends one datagram of m; bufs is room for one buffer. Its capacity is its length:
// StdNetBind appends to a buffer that has room behind it.
func (b *StdBind) send(datagram []byte, m *Message, bufs [][]byte) error {
	switch {
	case b.closed.Load():
		return net.ErrClosed
	case !m.Remote.IsValid():
		return syscall.EAFNOSUPPORT
	case m.Local.IsValid():
		return syscall.EADDRNOTAVAIL
	}
	bufs[0] = datagram
	err := b.bind.Send(bufs, &wgconn.StdNetEndpoint{
		AddrPort: netip.AddrPortFrom(m.Remote.Addr().Unmap(), m.Remote.Port()),
	})
	switch {
	case err == nil:
		return nil
	case b.closed.Load() || errors.Is(err, net.ErrClosed):
		return net.ErrClosed
	}
	var disabled wgconn.ErrUDPGSODisabled
	if errors.As(err, &disabled) && disabled.RetryErr == nil {
		return nil // sent all the same
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	return err
}

// SetDF refuses on: StdNetBind has no way to ask for it.
func (b *StdBind) SetDF(on bool) error {
	if on {
		return fmt.Errorf("transport: set don't-fragment on std socket: %w", errors.ErrUnsupported)
	}
	return nil
}

// Stats are the counters; KernelDrops and the buffer sizes are not known and stay 0.
func (b *StdBind) Stats() SocketStats {
	st := SocketStats{
		Received: b.received.Load(), Sent: b.sent.Load(),
		Truncated: b.truncated.Load(), ReceiveErrors: b.receiveErrors.Load(),
	}
	b.sendErrors.fill(&st)
	return st
}

// Close closes both families' sockets.
func (b *StdBind) Close() error {
	if b.closed.Swap(true) {
		return nil
	}
	if err := b.bind.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("transport: close std socket: %w", err)
	}
	return nil
}
