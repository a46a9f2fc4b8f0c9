package transporttest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"ripstop/transport"
)

// Socket is one UDP socket of a Network: a transport.Socket with one receiver.
type Socket struct {
	network *Network
	port    uint16
	arrived chan struct{} // holds one; the sender of a datagram fills it, the receiver empties it
	gone    chan struct{} // closed by Close

	// Guarded by network.mu.
	addrs  []netip.Addr
	df     bool
	closed bool
	inbox  []datagram
	stats  transport.SocketStats
}

var _ transport.Socket = (*Socket)(nil)

// Datagrams of a train: those that Linux 6.18 takes in one send, and those that it
// gathers.
const (
	maxSegments = 128
	maxGathered = 64
)

// Socket opens a socket at addr and, with the same port, at further addresses of the
// same host. Port 0 is any free one.
func (n *Network) Socket(addr netip.AddrPort, more ...netip.Addr) (*Socket, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := &Socket{
		network: n,
		port:    addr.Port(),
		arrived: make(chan struct{}, 1),
		gone:    make(chan struct{}),
		addrs:   append([]netip.Addr{addr.Addr().Unmap()}, more...),
		stats:   transport.SocketStats{Segmentation: true, Gathering: n.cfg.Gather},
	}
	if n.closed {
		return nil, fmt.Errorf("transporttest: open socket %v: %w", addr, net.ErrClosed)
	}
	if s.port == 0 {
		n.port++
		s.port = n.port
	}
	for _, a := range s.addrs {
		if !a.IsValid() || a.IsUnspecified() {
			return nil, fmt.Errorf("transporttest: open socket %v: not an address of one host", a)
		}
		if n.sockets[netip.AddrPortFrom(a, s.port)] != nil {
			return nil, fmt.Errorf("transporttest: open socket %v: %w", netip.AddrPortFrom(a, s.port), syscall.EADDRINUSE)
		}
	}
	for _, a := range s.addrs {
		n.sockets[netip.AddrPortFrom(a, s.port)] = s
	}
	return s, nil
}

// AddrPort is the socket's first address and its port.
func (s *Socket) AddrPort() netip.AddrPort {
	s.network.mu.Lock()
	defer s.network.mu.Unlock()
	return netip.AddrPortFrom(s.addrs[0], s.port)
}

// Move gives the socket another address in place of one it has, as a host that roams:
// what is on its way to the old one is lost.
func (s *Socket) Move(from, to netip.Addr) error {
	n := s.network
	n.mu.Lock()
	defer n.mu.Unlock()
	i := slices.Index(s.addrs, from)
	if i < 0 || s.closed {
		return fmt.Errorf("transporttest: move socket: %v is not its address", from)
	}
	if n.sockets[netip.AddrPortFrom(to, s.port)] != nil {
		return fmt.Errorf("transporttest: move socket to %v: %w", to, syscall.EADDRINUSE)
	}
	delete(n.sockets, netip.AddrPortFrom(from, s.port))
	n.sockets[netip.AddrPortFrom(to, s.port)] = s
	s.addrs[i] = to
	return nil
}

// Receivers is the one receive function.
func (s *Socket) Receivers() []transport.ReceiveFunc {
	return []transport.ReceiveFunc{s.receive}
}

// receive is the socket's ReceiveFunc.
func (s *Socket) receive(msgs []transport.Message) (int, error) {
	if len(msgs) == 0 {
		return 0, errors.New("transporttest: receive: no messages to fill")
	}
	for {
		if n, closed := s.take(msgs); n > 0 {
			return n, nil
		} else if closed {
			return 0, net.ErrClosed
		}
		select {
		case <-s.arrived:
		case <-s.gone:
		}
	}
}

// take moves what the inbox has to msgs, gathered into trains if that was asked for.
func (s *Socket) take(msgs []transport.Message) (count int, closed bool) {
	n := s.network
	n.mu.Lock()
	defer n.mu.Unlock()
	took := 0
	for count < len(msgs) && took < len(s.inbox) {
		m, d := &msgs[count], &s.inbox[took]
		m.N = copy(m.Buf, d.data)
		m.Remote, m.Local, m.Segment, m.Err = d.remote, d.local, 0, nil
		if m.N == len(d.data) {
			s.stats.Received++
		} else {
			m.N = 0
			s.stats.Truncated++
		}
		n.releaseLocked(d.data)
		took, count = took+1, count+1
		if n.cfg.Gather && m.N > 0 {
			took += s.gatherLocked(m, s.inbox[took:])
		}
	}
	s.inbox = slices.Delete(s.inbox, 0, took)
	return count, s.closed
}

// gatherLocked puts behind m's one datagram those of rest that make a train with it and
// have room, as the kernel does with what came in one go (net/ipv4/udp_offload.c,
// udp_gro_receive_segment), and returns how many.
func (s *Socket) gatherLocked(m *transport.Message, rest []datagram) (more int) {
	size := m.N
	for more < len(rest) && more < maxGathered-1 {
		d := &rest[more]
		if d.remote != m.Remote || d.local != m.Local || len(d.data) > size || m.N+len(d.data) > min(len(m.Buf), transport.MaxTrain) {
			break
		}
		m.N += copy(m.Buf[m.N:], d.data)
		m.Segment = size
		s.stats.Received++
		s.network.releaseLocked(d.data)
		more++
		if len(d.data) < size {
			break
		}
	}
	return more
}

// Send hands msgs to the network, which carries each datagram by itself.
func (s *Socket) Send(msgs []transport.Message) (sent int) {
	n := s.network
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range msgs {
		m := &msgs[i]
		m.Err = nil
		if m.N <= 0 || m.N > len(m.Buf) || m.Segment < 0 {
			s.refuseLocked(m, syscall.EINVAL)
			continue
		}
		// A train of equal lengths is what Link.Corrupt meets.
		equal := m.Segment > 0 && m.Segment < m.N && m.N%m.Segment == 0
		position := 0
		for b := range m.Datagrams {
			if equal {
				position++
			}
			if err := n.sendLocked(s, m, b, position); err != nil {
				s.refuseLocked(m, err)
			} else {
				s.stats.Sent++
			}
		}
		if m.Err == nil {
			sent++
		}
	}
	return sent
}

// refuseLocked notes why a datagram of m was not sent and counts it.
func (s *Socket) refuseLocked(m *transport.Message, err error) {
	m.Err = err
	switch err {
	case error(syscall.EMSGSIZE):
		s.stats.TooBig++
	case error(syscall.EAFNOSUPPORT):
		s.stats.Unreachable++
	default:
		s.stats.SendErrors++
	}
}

// sourceLocked is the address that a datagram to remote leaves from.
func (s *Socket) sourceLocked(remote, want netip.Addr) (netip.Addr, error) {
	if want.IsValid() {
		if want.Is4() != remote.Is4() || !slices.Contains(s.addrs, want) {
			return netip.Addr{}, syscall.EINVAL
		}
		return want, nil
	}
	for _, a := range s.addrs {
		if remote.IsValid() && a.Is4() == remote.Is4() {
			return a, nil
		}
	}
	return netip.Addr{}, syscall.EAFNOSUPPORT
}

// MaxSegments is what the kernel takes of today.
func (s *Socket) MaxSegments() int { return maxSegments }

// Port is the socket's port.
func (s *Socket) Port() uint16 { return s.port }

// SetDF sets don't-fragment on all that is sent from now on.
func (s *Socket) SetDF(on bool) error {
	s.network.mu.Lock()
	defer s.network.mu.Unlock()
	s.df = on
	return nil
}

// Stats are the socket's counters; KernelDrops counts what its full inbox refused.
func (s *Socket) Stats() transport.SocketStats {
	s.network.mu.Lock()
	defer s.network.mu.Unlock()
	return s.stats
}

// Close takes the socket out of the network; what its inbox holds is lost.
func (s *Socket) Close() error {
	n := s.network
	n.mu.Lock()
	defer n.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.inbox = nil
	for _, a := range s.addrs {
		delete(n.sockets, netip.AddrPortFrom(a, s.port))
	}
	close(s.gone)
	return nil
}
