package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// bindTries is how often a free port is tried for that turns out to be taken in the
// other family or on another address.
const bindTries = 64

// LinuxBind is the Socket over recvmmsg and sendmmsg, one system call for a batch to
// and from any number of peers. NewWireGuardBind makes it a conn.Bind.
type LinuxBind struct {
	cfg       BindConfig
	port      uint16
	sockets   []*kernelSocket // all of them
	senders   []*kernelSocket // the first of each address: Send uses only these
	receivers []ReceiveFunc
	polled    []PolledReceiver // the same ones
	segments  int              // MaxSegments
	zones     zoneTable
	batches   [maxIdleBatches]atomic.Pointer[sendBatch] // idle ones
	counts    socketCounts
}

// kernelSocket is one UDP socket of the kernel. Every call says MSG_DONTWAIT; Go's poller
// does not know it, for that would wake a thread for every datagram, whoever waits.
type kernelSocket struct {
	file      *os.File
	raw       syscall.RawConn
	addr      netip.Addr // what it is bound to
	port      uint16
	drops     atomic.Uint64 // the kernel's running total (SO_RXQ_OVFL)
	gathering bool          // the kernel was asked for trains (UDP_GRO)
	refusals  refusals      // where trains do not go
}

// socketCounts are the counters behind SocketStats.
type socketCounts struct {
	received, sent, truncated, receiveErrors, refusedTrains atomic.Uint64
	sendErrors                                              sendErrorCounts
}

// Bind opens the sockets that cfg names, in the calling thread's network namespace.
// With Port 0 it finds one port that is free on all of them.
func Bind(cfg BindConfig) (*LinuxBind, error) {
	if cfg.Batch == 0 {
		cfg.Batch = DefaultBatch
	}
	if cfg.Sockets == 0 {
		cfg.Sockets = 1
	}
	if cfg.ReceiveBuffer == 0 {
		cfg.ReceiveBuffer = DefaultReceiveBuffer
	}
	if cfg.SendBuffer == 0 {
		cfg.SendBuffer = DefaultSendBuffer
	}
	if cfg.Batch < 0 || cfg.Batch > maxKernelBatch {
		return nil, fmt.Errorf("transport: bind: batch of %d, not 1 to %d", cfg.Batch, maxKernelBatch)
	}
	if cfg.Sockets < 0 || cfg.ReceiveBuffer < 0 || cfg.SendBuffer < 0 {
		return nil, errors.New("transport: bind: negative number of sockets or bytes")
	}
	segments := 1
	if !cfg.NoSegmentation {
		segments = probeSegments()
	}
	for try := 1; ; try++ {
		b := &LinuxBind{cfg: cfg, port: cfg.Port, segments: segments}
		err := b.open()
		if err == nil {
			return b, nil
		}
		b.Close()
		if cfg.Port != 0 || try == bindTries || !errors.Is(err, unix.EADDRINUSE) {
			return nil, err
		}
	}
}

// open makes all sockets, the first one choosing the port if there is a choice.
func (b *LinuxBind) open() error {
	addrs := b.cfg.Addresses
	wildcard := len(addrs) == 0
	if wildcard {
		addrs = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	}
	var missing error
	for _, addr := range addrs {
		addr = addr.Unmap()
		err := b.openAddr(addr)
		if wildcard && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)) {
			missing = err // the host lacks this family
			continue
		}
		if err != nil {
			return err
		}
	}
	if len(b.sockets) == 0 {
		return missing
	}
	for _, s := range b.sockets {
		r := newReceiveBatch(b, s, b.cfg.Batch)
		b.receivers = append(b.receivers, r.receive)
		b.polled = append(b.polled, PolledReceiver{Descriptor: s.raw, Try: r.try})
	}
	return nil
}

// openAddr makes the sockets of one address. The first binds alone, so that a port that
// is taken is refused even by one who shares it; then it is opened to the others.
func (b *LinuxBind) openAddr(addr netip.Addr) error {
	for i := range b.cfg.Sockets {
		s, err := b.openSocket(addr, i > 0)
		if err != nil {
			return fmt.Errorf("transport: bind udp %v: %w", netip.AddrPortFrom(addr, b.port), errors.Unwrap(err))
		}
		b.sockets = append(b.sockets, s)
		if i > 0 {
			continue
		}
		b.senders = append(b.senders, s)
		b.port = s.port
		if b.cfg.Sockets > 1 {
			if err := s.setOption(unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
				return fmt.Errorf("transport: share udp %v: %w", netip.AddrPortFrom(addr, b.port), err)
			}
		}
	}
	return nil
}

// openSocket makes one socket. Its errors are *net.OpError.
func (b *LinuxBind) openSocket(addr netip.Addr, share bool) (*kernelSocket, error) {
	network := "udp4"
	if addr.Is6() {
		network = "udp6"
	}
	s := &kernelSocket{addr: addr}
	listen := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		s.raw = raw
		if share {
			if err := s.setOption(unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
				return err
			}
		}
		return s.configure(b.cfg)
	}}
	conn, err := listen.ListenPacket(context.Background(), network, netip.AddrPortFrom(addr, b.port).String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	s.port = uint16(conn.LocalAddr().(*net.UDPAddr).Port)
	if err := s.keep(); err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Err: err}
	}
	return s, nil
}

// keep gives the socket a descriptor of its own. A blocking one stays out of Go's poller.
func (s *kernelSocket) keep() error {
	fd, err := -1, error(nil)
	if ctl := s.raw.Control(func(old uintptr) {
		if fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			err = unix.SetNonblock(fd, false)
		}
	}); ctl != nil {
		return ctl
	}
	if fd >= 0 {
		s.file = os.NewFile(uintptr(fd), "udp")
	}
	if err == nil {
		s.raw, err = s.file.SyscallConn()
	}
	if err != nil && fd >= 0 {
		s.file.Close()
	}
	return err
}

// configure sets the options of a socket that is not bound yet.
func (s *kernelSocket) configure(cfg BindConfig) error {
	// Sizes are best effort: Stats tells what came of it.
	if s.setOption(unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, cfg.ReceiveBuffer) != nil {
		s.setOption(unix.SOL_SOCKET, unix.SO_RCVBUF, cfg.ReceiveBuffer)
	}
	if s.setOption(unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, cfg.SendBuffer) != nil {
		s.setOption(unix.SOL_SOCKET, unix.SO_SNDBUF, cfg.SendBuffer)
	}
	if err := s.setOption(unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1); err != nil {
		return err
	}
	// Kernels before 5.0 have no UDP_GRO.
	s.gathering = !cfg.NoGathering && s.setOption(unix.SOL_UDP, unix.UDP_GRO, 1) == nil
	if !cfg.NoLocal {
		if err := s.askLocal(); err != nil {
			return err
		}
	}
	return s.setDF(false)
}

// askLocal has the kernel tell to which address a datagram came.
func (s *kernelSocket) askLocal() error {
	if s.addr.Is4() {
		return s.setOption(unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
	}
	return s.setOption(unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
}

// setDF is SetDF for one socket. PROBE rather than DO: the kernel's idea of the path's
// MTU, which anybody's ICMP can move, then has no say (ip_sk_accept_pmtu, ip(7)).
func (s *kernelSocket) setDF(on bool) error {
	if s.addr.Is4() {
		value := unix.IP_PMTUDISC_DONT
		if on {
			value = unix.IP_PMTUDISC_PROBE
		}
		return s.setOption(unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, value)
	}
	value := unix.IPV6_PMTUDISC_DONT
	if on {
		value = unix.IPV6_PMTUDISC_PROBE
	}
	return s.setOption(unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, value)
}

// setOption sets a socket option of type int.
func (s *kernelSocket) setOption(level, name, value int) error {
	var err error
	if ctl := s.raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), level, name, value)
	}); ctl != nil {
		return net.ErrClosed
	}
	if err != nil {
		return fmt.Errorf("setsockopt %d/%d: %w", level, name, err)
	}
	return nil
}

// option reads a socket option of type int; 0 when it cannot be read.
func (s *kernelSocket) option(level, name int) (value int) {
	s.raw.Control(func(fd uintptr) {
		if v, err := unix.GetsockoptInt(int(fd), level, name); err == nil {
			value = v
		}
	})
	return value
}

// Receivers are the receive functions, one for each kernel socket.
func (b *LinuxBind) Receivers() []ReceiveFunc { return b.receivers }

// Polled implements Polled.
func (b *LinuxBind) Polled() []PolledReceiver { return b.polled }

// MaxSegments is what the kernel takes, or 1.
func (b *LinuxBind) MaxSegments() int { return b.segments }

// Port is the port of all sockets.
func (b *LinuxBind) Port() uint16 { return b.port }

// Addresses are what the kernel sockets are bound to, in the order of Receivers.
func (b *LinuxBind) Addresses() []netip.Addr {
	addrs := make([]netip.Addr, len(b.sockets))
	for i, s := range b.sockets {
		addrs[i] = s.addr
	}
	return addrs
}

// SetDF sets IP_MTU_DISCOVER on every socket: PROBE for on, DONT for off.
func (b *LinuxBind) SetDF(on bool) error {
	for _, s := range b.sockets {
		if err := s.setDF(on); err != nil {
			return fmt.Errorf("transport: set don't-fragment on udp %v: %w", netip.AddrPortFrom(s.addr, b.port), err)
		}
	}
	return nil
}

// SetMark sets SO_MARK, the firewall mark of all that is sent, on every socket.
func (b *LinuxBind) SetMark(mark uint32) error {
	for _, s := range b.sockets {
		if err := s.setOption(unix.SOL_SOCKET, unix.SO_MARK, int(mark)); err != nil {
			return fmt.Errorf("transport: set mark on udp %v: %w", netip.AddrPortFrom(s.addr, b.port), err)
		}
	}
	return nil
}

// Stats are the counters of all sockets. KernelDrops is as of the last datagram that
// was received: the kernel tells it only beside one.
func (b *LinuxBind) Stats() SocketStats {
	st := SocketStats{
		Received: b.counts.received.Load(), Sent: b.counts.sent.Load(),
		Truncated: b.counts.truncated.Load(), ReceiveErrors: b.counts.receiveErrors.Load(),
	}
	b.counts.sendErrors.fill(&st)
	st.RefusedTrains = b.counts.refusedTrains.Load()
	st.Segmentation, st.Gathering = b.segments > 1, len(b.sockets) > 0
	now := time.Now()
	for i, s := range b.sockets {
		st.Gathering = st.Gathering && s.gathering
		st.Unsegmented += s.refusals.count(now)
		st.KernelDrops += s.drops.Load()
		receive := s.option(unix.SOL_SOCKET, unix.SO_RCVBUF)
		send := s.option(unix.SOL_SOCKET, unix.SO_SNDBUF)
		if i == 0 || receive < st.ReceiveBuffer {
			st.ReceiveBuffer = receive
		}
		if i == 0 || send < st.SendBuffer {
			st.SendBuffer = send
		}
	}
	return st
}

// Close closes all sockets.
func (b *LinuxBind) Close() error {
	var first error
	for _, s := range b.sockets {
		if err := s.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) && first == nil {
			first = fmt.Errorf("transport: close udp %v: %w", netip.AddrPortFrom(s.addr, b.port), err)
		}
	}
	return first
}

// refuse notes why n datagrams of m were not sent and counts them.
func (c *socketCounts) refuse(m *Message, err error, n int) {
	m.Err = err
	c.sendErrors.count(err, n)
}
