package transport

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"ripstop/crypto"
)

// ErrQueueFull: the peer takes messages slower than they come.
var ErrQueueFull = errors.New("transport: send message: queue full")

// Conn is the control connection of one run of one peer, from ConnUp to ConnDown. The
// TCP connection under it may be exchanged for a crossing one; queues go over.
// Its methods are safe for concurrent use and never wait for the network.
type Conn struct {
	control *Control
	name    crypto.Name
	keys    crypto.PublicKeys
	uid     crypto.UID
	done    chan struct{} // closed after ConnDown, when the next Conn of the peer may come

	// events holds an entry during each call of the Handler for this peer; a channel,
	// since a handler may keep it for a while.
	events chan struct{}
	down   bool // ConnDown was called; guarded by events

	mu     sync.Mutex
	stream *stream   // in use; guarded by mu
	closed bool      // nothing is queued any more; guarded by mu
	queue  sendQueue // guarded by mu
}

func newConn(s *stream) *Conn {
	return &Conn{control: s.control, name: s.name, keys: s.keys, uid: s.hello.UID, done: make(chan struct{}), events: make(chan struct{}, 1), stream: s}
}

// Name is the peer's name, proved by its keys.
func (c *Conn) Name() crypto.Name { return c.name }

// PublicKeys are the peer's keys.
func (c *Conn) PublicKeys() crypto.PublicKeys { return c.keys }

// UID is the peer's run.
func (c *Conn) UID() crypto.UID { return c.uid }

// Hello is what the peer told of itself when the TCP connection in use was made.
func (c *Conn) Hello() Hello { return c.current().hello }

// Features are the peer's capability bits.
func (c *Conn) Features() uint32 { return c.current().features }

// Dialled reports whether this host dialled the TCP connection in use.
func (c *Conn) Dialled() bool { return c.current().dialled }

// RemoteAddr is the TCP connection's far end: a listening address when Dialled.
func (c *Conn) RemoteAddr() netip.AddrPort { return c.current().remote }

// LocalAddr is the TCP connection's near end.
func (c *Conn) LocalAddr() netip.AddrPort { return c.current().local }

// Down is closed when the Conn is gone and ConnDown has returned.
func (c *Conn) Down() <-chan struct{} { return c.done }

func (c *Conn) current() *stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stream
}

// Send queues a copy of body, 0 to MaxMessage bytes. ErrQueueFull: the peer is slow,
// nothing was queued. net.ErrClosed: the Conn is gone. Messages arrive in order.
func (c *Conn) Send(kind MessageKind, body []byte) error {
	switch {
	case kind != MessageGossip && kind != MessageSession:
		return fmt.Errorf("transport: send message: kind %d is not sent so", kind)
	case len(body) > MaxMessage:
		return fmt.Errorf("transport: send message: %d bytes, at most %d are allowed", len(body), MaxMessage)
	}
	c.mu.Lock()
	s, closed := c.stream, c.closed
	queued := !closed && c.queue.push(kind, body)
	c.mu.Unlock()
	if closed {
		return fmt.Errorf("transport: send message to %v: %w", c.name, net.ErrClosed)
	}
	if !queued {
		c.control.counts.add(countQueueFull)
		return ErrQueueFull
	}
	s.kick()
	return nil
}

// Queued is how many bytes of messages wait to be sent, datagrams not counted: 0
// means that the next gossip message leaves at once.
func (c *Conn) Queued() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.queue.messageBytes
}

// SendDatagram queues a copy of a sealed datagram. The oldest queued ones make room
// and are counted. False when the Conn is gone or b is longer than MaxMessage.
func (c *Conn) SendDatagram(b []byte) bool {
	if len(b) > MaxMessage {
		return false
	}
	c.mu.Lock()
	s, closed := c.stream, c.closed
	dropped := 0
	if !closed {
		dropped = c.queue.pushDatagram(b)
	}
	c.mu.Unlock()
	if closed {
		return false
	}
	for range dropped {
		c.control.counts.add(countDatagramOverflow)
	}
	s.kick()
	return true
}

// Close ends the connection: what is queued still leaves, then the peer is told.
// ConnDown follows with cause. It returns at once.
func (c *Conn) Close(cause error) {
	if cause == nil {
		cause = net.ErrClosed
	}
	c.mu.Lock()
	c.closed = true
	s := c.stream
	c.mu.Unlock()
	s.finish(closeOther, cause)
}

// pull takes what s may send now: nothing when s is no longer in use.
func (c *Conn) pull(s *stream, batch [][]byte, room int) [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stream != s {
		return batch
	}
	return c.queue.pull(batch, room)
}

// recycle takes the buffers of sent datagrams back.
func (c *Conn) recycle(batch [][]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range batch {
		if MessageKind(m[0]) == MessageDatagram {
			c.queue.recycle(m)
		}
	}
}

// swap takes s into use and returns what was in use; false when the Conn is ending.
func (c *Conn) swap(s *stream) (previous *stream, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, false
	}
	previous, c.stream = c.stream, s
	return previous, true
}

// deliver calls ConnMessage, unless the Conn is down.
func (c *Conn) deliver(kind MessageKind, body []byte) {
	c.events <- struct{}{}
	defer func() { <-c.events }()
	if !c.down {
		c.control.cfg.Handler.ConnMessage(c, kind, body)
	}
}

// end calls ConnDown once and makes way for the peer's next Conn. With only set it
// does nothing unless that stream is the one in use.
func (c *Conn) end(only *stream, cause error) {
	c.mu.Lock()
	s := c.stream
	if only != nil && s != only {
		c.mu.Unlock()
		return
	}
	c.closed = true
	c.queue = sendQueue{}
	c.mu.Unlock()

	c.events <- struct{}{}
	defer func() { <-c.events }()
	if c.down {
		return
	}
	c.down = true
	c.control.cfg.Log.Debug("peer disconnected", "peer", c.name, "nickname", s.hello.Nickname, "remote", s.remote, "error", cause)
	c.control.cfg.Handler.ConnDown(c, cause)
	c.control.gone(c)
	close(c.done)
}
