package transport

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"ripstop/crypto"
)

// Pauses of the accept loop when the kernel gives no connection.
const (
	acceptPauseMin = 20 * time.Millisecond
	acceptPauseMax = time.Second
)

// pending is an accepted connection that has proved nothing yet.
type pending struct {
	nc    net.Conn
	from  netip.Addr
	since time.Time
	gone  bool // its place was given back; guarded by Control.mu
}

// accept takes connections from l until ctx is done. Where the kernel has none to
// give (EMFILE, ENFILE, ENOMEM, ENOBUFS) it pauses, longer each time up to a second,
// and logs the first and then one in a minute.
func (c *Control) accept(ctx context.Context, l net.Listener) {
	pause := acceptPauseMin
	var logged time.Time
	for {
		nc, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			c.counts.add(countAcceptErrors)
			if now := time.Now(); logged.IsZero() || now.Sub(logged) > time.Minute {
				logged = now
				c.cfg.Log.Warn("cannot accept connections, going on trying", "listen", l.Addr().String(), "error", err)
			}
			if !sleep(ctx, pause, nil) {
				return
			}
			pause = min(2*pause, acceptPauseMax)
			continue
		}
		pause = acceptPauseMin
		c.counts.add(countAccepted)
		if p := c.admit(nc); p != nil {
			c.wg.Go(func() { c.answer(ctx, p) })
		} else {
			nc.Close()
		}
	}
}

// admit gives nc a place among the unauthenticated connections, or nil.
func (c *Control) admit(nc net.Conn) *pending {
	from := addrPortOf(nc.RemoteAddr()).Addr()
	if c.cfg.Refuse(from) {
		c.counts.add(countRefusedOverlay)
		return nil
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return nil
	}
	why := c.admission.admit(now, from)
	if why == refusedTotal && now.Sub(c.pending[0].since) >= evictAge {
		oldest := c.pending[0]
		oldest.nc.Close()
		c.leaveLocked(oldest)
		c.counts.add(countEvicted)
		why = c.admission.admit(now, from)
	}
	switch why {
	case refusedTotal:
		c.counts.add(countRefusedTotal)
	case refusedPrefix:
		c.counts.add(countRefusedPrefix)
	case refusedRate:
		c.counts.add(countRefusedRate)
	default:
		p := &pending{nc: nc, from: from, since: now}
		c.pending = append(c.pending, p)
		return p
	}
	return nil
}

// leaveLocked gives p's place back, once.
func (c *Control) leaveLocked(p *pending) {
	if p.gone {
		return
	}
	p.gone = true
	c.admission.release(p.from)
	for i := range c.pending {
		if c.pending[i] == p {
			c.pending = append(c.pending[:i], c.pending[i+1:]...)
			break
		}
	}
}

// answer is the responder's end of a handshake, and of settling.
func (c *Control) answer(ctx context.Context, p *pending) {
	setSocketOptions(p.nc)
	p.nc.SetDeadline(p.since.Add(firstFlightTimeout))
	h := &handshakeConn{Conn: p.nc, start: p.since}
	s, err := c.handshake(p.nc, h, addrPortOf(p.nc.RemoteAddr()), false)
	c.mu.Lock()
	evicted := p.gone
	c.leaveLocked(p)
	c.mu.Unlock()
	if err == nil && evicted {
		err = net.ErrClosed
	}
	if err != nil {
		p.nc.Close()
		switch {
		case errors.Is(err, crypto.ErrNotOurs):
			c.counts.add(countForeign)
		case errors.Is(err, crypto.ErrSelf):
		case h.read > 0:
			c.counts.add(countHandshakeFailed)
		default:
			c.counts.add(countSaidNothing)
		}
		if ctx.Err() == nil {
			c.cfg.Log.Debug("incoming connection refused", "remote", p.nc.RemoteAddr().String(), "error", err)
		}
		return
	}
	if err := c.begin(ctx, s); err != nil {
		c.logUnsettled(s, err)
	}
}

func (c *Control) logUnsettled(s *stream, err error) {
	level := slog.LevelDebug
	if errors.Is(err, ErrCloned) {
		level = slog.LevelWarn
	}
	c.cfg.Log.Log(context.Background(), level, "connection not kept", "peer", s.name.String(), "remote", s.remote, "error", err)
}

// handshakeConn bounds an accepted connection's handshake in time: the first flight,
// then the whole. It also knows how much was read.
type handshakeConn struct {
	net.Conn
	start time.Time
	read  int
}

func (h *handshakeConn) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	if h.read < crypto.FirstFlightLen && h.read+n >= crypto.FirstFlightLen {
		h.Conn.SetDeadline(h.start.Add(handshakeTimeout))
	}
	h.read += n
	return n, err
}

// selfError is crypto.ErrSelf with the run at the other end: this very run, or
// another one with our key.
type selfError struct{ Hello }

func (e *selfError) Error() string {
	return "another run, " + e.UID.String() + ", has this host's key: a copy of this host, or the host it was copied from"
}

func (e *selfError) Unwrap() error { return crypto.ErrSelf }

// handshake runs one end of it on rw, which is nc or wraps it, reads the other's
// Hello and lifts the deadline. An end with our own key is a *selfError.
func (c *Control) handshake(nc net.Conn, rw io.ReadWriter, remote netip.AddrPort, dialled bool) (*stream, error) {
	result, err := crypto.ControlHandshake(rw, crypto.ControlConfig{
		Identity:  c.cfg.Identity,
		Network:   c.cfg.Network,
		Initiator: dialled,
		Random:    c.cfg.Random,
		Features:  c.cfg.Features,
		Hello:     c.hello(remote),
	})
	if err != nil && !errors.Is(err, crypto.ErrSelf) {
		return nil, err
	}
	hello, parseErr := ParseHello(result.Hello)
	if parseErr != nil {
		return nil, parseErr
	}
	if err != nil {
		c.meetSelf(hello)
		return nil, &selfError{hello}
	}
	nc.SetDeadline(time.Time{})
	return newStream(c, nc, result, hello, remote), nil
}

// meetSelf looks at a run that has our key and has just proved that it lives: it
// is this one, or the younger of the two must end.
func (c *Control) meetSelf(other Hello) {
	age := time.Since(c.started)
	if other.UID != c.cfg.UID && (other.Age > age || other.Age == age && other.UID < c.cfg.UID) {
		c.cloneSuspected(other.UID)
	}
}

// cloneSuspected tells the handler, once.
func (c *Control) cloneSuspected(older crypto.UID) {
	c.clone.Do(func() { c.cfg.Handler.CloneSuspected(c.name, older) })
}
