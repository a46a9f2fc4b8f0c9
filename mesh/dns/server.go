package dns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	maxForwards       = 512 // questions waiting for an upstream, altogether
	maxClientForwards = 64  // of one client
	maxConns          = 256 // TCP connections, altogether
	maxClientConns    = 16  // of one client
	// connIdle is how long a TCP connection may be silent (RFC 7766 6.2.3).
	connIdle = 10 * time.Second
	// socketBuffer is asked of the kernel for a UDP socket, both ways.
	socketBuffer = 1 << 20
)

// ServerConfig says where a Server answers and whom it asks.
type ServerConfig struct {
	Resolver string                // the host's resolver file; empty = /etc/resolv.conf
	Own      func(netip.Addr) bool // addresses of this server, which are never asked; nil = none
	Log      *slog.Logger          // required
}

// Place is where a server answers: at one address, reached over one device or (without
// one) over any. It is never every address: other servers of the host have theirs.
type Place struct {
	Device  string
	Address netip.Addr // required
	Port    uint16     // 0 = Port
}

// door is an open place.
type door struct {
	packets *net.UDPConn
	streams *net.TCPListener
}

func (d *door) close() error { return errors.Join(d.packets.Close(), d.streams.Close()) }

// Server answers questions over UDP and TCP.
//
//	each place:
//	udp socket ─▶ one goroutine: read, answer from the zone, write
//	                 └─ not ours ─▶ a goroutine each, bounded ─▶ forwarder
//	tcp listener ─▶ a goroutine a connection, bounded
//
// Which of several addresses stands first is drawn for each question: a count would go
// in step with who asks for A and AAAA by turns, as stub resolvers do.
type Server struct {
	cfg      ServerConfig
	zone     atomic.Pointer[Zone]
	forward  forwarder
	forwards *limit
	conns    *limit

	mu    sync.Mutex // guards the next two, and that nothing is started after the end
	doors map[Place]*door
	run   context.Context // of Run; nil = it has not begun
	work  sync.WaitGroup  // what Run has started

	queries, answers, forwarded, busy, dropped atomic.Uint64
}

// NewServer makes a server that answers nowhere yet.
func NewServer(cfg ServerConfig, zone *Zone) *Server {
	if cfg.Resolver == "" {
		cfg.Resolver = "/etc/resolv.conf"
	}
	if cfg.Own == nil {
		cfg.Own = func(netip.Addr) bool { return false }
	}
	s := &Server{cfg: cfg, forwards: newLimit(maxForwards, maxClientForwards), conns: newLimit(maxConns, maxClientConns), doors: make(map[Place]*door)}
	s.forward = forwarder{file: cfg.Resolver, own: cfg.Own, port: Port, flights: make(map[string][]*flight)}
	s.zone.Store(zone)
	return s
}

// Listen makes places where the server answers: those and no others. A place that
// cannot be opened is left out, and part of the error.
func (s *Server) Listen(places ...Place) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run != nil && s.run.Err() != nil {
		return nil
	}
	var errs []error
	for p, d := range s.doors {
		if !slices.Contains(places, p) {
			errs = append(errs, d.close())
			delete(s.doors, p)
		}
	}
	for _, p := range places {
		if s.doors[p] != nil {
			continue
		}
		d, err := open(p)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if s.doors[p] = d; s.run != nil {
			s.attend(d)
		}
	}
	return errors.Join(errs...)
}

// open opens a place's two sockets.
func open(p Place) (*door, error) {
	port, kind := p.Port, "4"
	if port == 0 {
		port = Port
	}
	if p.Address.Is6() {
		kind = "6"
	}
	at := netip.AddrPortFrom(p.Address, port).String()
	lc := net.ListenConfig{Control: bindControl(p.Device)}
	packet, err := lc.ListenPacket(context.Background(), "udp"+kind, at)
	if err != nil {
		return nil, fmt.Errorf("dns: answer at %s on %s: %w", at, p.Device, err)
	}
	stream, err := lc.Listen(context.Background(), "tcp"+kind, at)
	if err != nil {
		packet.Close()
		return nil, fmt.Errorf("dns: answer at %s on %s: %w", at, p.Device, err)
	}
	d := &door{packets: packet.(*net.UDPConn), streams: stream.(*net.TCPListener)}
	d.packets.SetReadBuffer(socketBuffer) // what the kernel refuses is not needed
	d.packets.SetWriteBuffer(socketBuffer)
	return d, nil
}

// attend starts what answers at a door. s.mu must be held.
func (s *Server) attend(d *door) {
	s.work.Go(func() { s.serve(s.run, d.packets) })
	s.work.Go(func() { s.accept(s.run, d.streams) })
}

// SetZone changes the zone that is answered from.
func (s *Server) SetZone(z *Zone) { s.zone.Store(z) }

// Run answers until ctx ends; then everything it started has ended, and the sockets
// are closed.
func (s *Server) Run(ctx context.Context) error {
	s.mu.Lock()
	s.run = ctx
	for _, d := range s.doors {
		s.attend(d)
	}
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	var errs []error
	for _, d := range s.doors {
		errs = append(errs, d.close())
	}
	clear(s.doors)
	s.mu.Unlock()
	s.work.Wait()
	return errors.Join(errs...)
}

// serve answers what arrives at a UDP socket.
func (s *Server) serve(ctx context.Context, c *net.UDPConn) {
	in, out := make([]byte, maxQuery), make([]byte, 0, maxSize)
	for {
		n, from, err := c.ReadFromUDPAddrPort(in)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			s.dropped.Add(1) // such as a client's ICMP error
			continue
		}
		s.queries.Add(1)
		if from.Port() == 0 {
			s.dropped.Add(1)
			continue
		}
		answer, verdict := s.zone.Load().Answer(out[:0], in[:n], false, rand.Uint32())
		switch verdict {
		case Drop:
			s.dropped.Add(1)
		case Answered:
			s.answers.Add(1)
			s.reply(c, answer, from)
		case Forward:
			s.forwardPacket(ctx, c, append([]byte(nil), in[:n]...), from)
		}
	}
}

// reply sends an answer.
func (s *Server) reply(c *net.UDPConn, answer []byte, to netip.AddrPort) {
	if _, err := c.WriteToUDPAddrPort(answer, to); err != nil {
		s.dropped.Add(1)
	}
}

// forwardPacket asks upstream and replies, meanwhile.
func (s *Server) forwardPacket(ctx context.Context, c *net.UDPConn, query []byte, from netip.AddrPort) {
	client := from.Addr().Unmap()
	if !s.forwards.take(client) {
		s.busy.Add(1)
		s.reply(c, refuse(nil, query, dns.RcodeServerFailure), from)
		return
	}
	s.work.Go(func() {
		defer s.forwards.done(client)
		s.reply(c, s.upstream(ctx, query, false, client), from)
	})
}

// upstream asks upstream, and makes an answer of it in any case.
func (s *Server) upstream(ctx context.Context, query []byte, tcp bool, client netip.Addr) []byte {
	s.forwarded.Add(1)
	answer, err := s.forward.ask(ctx, query, tcp, client)
	if err != nil {
		s.cfg.Log.Debug("question not answered by any upstream", "error", err)
		return refuse(nil, query, dns.RcodeServerFailure)
	}
	if !tcp && len(answer) > maxQuery {
		answer = refuse(nil, query, 0)
		answer[2] |= flagCut >> 8
	}
	return answer
}

// accept takes connections.
func (s *Server) accept(ctx context.Context, l *net.TCPListener) {
	for {
		conn, err := l.AcceptTCP()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			select { // such as no descriptor being free
			case <-ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		client := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		if !s.conns.take(client) {
			s.busy.Add(1)
			conn.Close()
			continue
		}
		s.work.Go(func() {
			defer s.conns.done(client)
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			defer stop()
			s.converse(ctx, conn, client)
		})
	}
}

// converse answers the questions of one connection, one after the other.
func (s *Server) converse(ctx context.Context, conn io.ReadWriter, client netip.Addr) {
	buf := make([]byte, maxTCP)
	deadline, _ := conn.(interface{ SetDeadline(time.Time) error })
	for {
		if deadline != nil {
			deadline.SetDeadline(time.Now().Add(connIdle))
		}
		n, err := readMessage(conn, buf)
		if err != nil {
			return
		}
		s.queries.Add(1)
		answer, verdict := s.zone.Load().Answer(nil, buf[:n], true, rand.Uint32())
		switch verdict {
		case Drop:
			s.dropped.Add(1)
			return
		case Answered:
			s.answers.Add(1)
		case Forward:
			if !s.forwards.take(client) {
				s.busy.Add(1)
				answer = refuse(nil, buf[:n], dns.RcodeServerFailure)
				break
			}
			answer = s.upstream(ctx, buf[:n], true, client)
			s.forwards.done(client)
		}
		if err := writeMessage(conn, answer); err != nil {
			return
		}
	}
}

// Search is the host's own search list.
func (s *Server) Search() []string {
	_, search := s.forward.status(time.Now())
	return search
}

// Upstreams are the servers asked for names of others, in the host's order.
func (s *Server) Upstreams() []Upstream {
	servers, _ := s.forward.status(time.Now())
	return servers
}

// Counters count since NewServer.
func (s *Server) Counters() map[string]uint64 {
	return map[string]uint64{
		"dns_queries": s.queries.Load(), "dns_answers": s.answers.Load(), "dns_forwarded": s.forwarded.Load(),
		"dns_busy": s.busy.Load(), "dns_dropped": s.dropped.Load(),
		"dns_loops": s.forward.refused.Load(), "dns_upstream_failures": s.forward.failed.Load(),
	}
}
