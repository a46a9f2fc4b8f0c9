package transport

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"ripstop/crypto"
)

// How long a connection lasts without news, and how long it takes to end one.
const (
	keepAlive     = 5 * time.Second        // the kernel asks the other one, who answers without waking anybody
	stuck         = 15 * time.Second       // what is not acknowledged for so long, by keep-alive or of a write, ends it
	pingEvery     = 30 * time.Second       // whether the other process still reads; its host's kernel may answer without it
	silence       = 3 * pingEvery          // nothing heard for so long ends it
	latePause     = time.Second            // a deadline noticed so late was missed by this process, not by the peer
	probePatience = time.Second            // for a pong or a proof when another connection comes
	flushTime     = 2 * time.Second        // to send what is queued and the reason, at the end
	shutdownTime  = 500 * time.Millisecond // the same when the whole host ends
	handoverTime  = time.Second            // between the end of one connection and the use of the next
	proofPause    = 100 * time.Millisecond // between two signatures that one peer can ask for
	maxUrgent     = 16                     // protocol messages waiting; more are not sent
	readBuffer    = 32 << 10
)

// stream is one authenticated TCP connection. It has one reading and one writing
// goroutine, both counted by Control.wg; a stuck peer holds up no other.
//
//	handshake → ready → settled → admitted → retired or closing → gone
type stream struct {
	control  *Control
	nc       net.Conn
	seal     *crypto.RecordSealer // of the writer
	open     *crypto.RecordOpener // of the reader
	name     crypto.Name
	keys     crypto.PublicKeys
	hello    Hello
	features uint32
	dialled  bool
	remote   netip.AddrPort
	local    netip.AddrPort
	begun    time.Time // when the peer's run began, by its Hello

	wake     chan struct{} // capacity 1: something to write
	ready    chan struct{} // closed: the other end has sent something, so it has finished the handshake and wants the connection
	settled  chan struct{} // closed: the lower name has taken the connection into use
	admitted chan struct{} // closed: in use here, ConnUp has returned
	retired  chan struct{} // closed: another stream has taken over here
	ended    chan struct{} // closed: the reader delivers nothing more
	gone     chan struct{} // closed: the socket is closed

	mu      sync.Mutex
	place   settlement // when settled; guarded by mu
	conn    *Conn      // nil before admission; guarded by mu
	before  *stream    // what this one took over from; guarded by mu
	urgent  [][]byte
	closing bool // finish was called; guarded by mu
	code    closeCode
	cause   error // of finish or fail, whichever came first; guarded by mu
	failed  bool
	number  uint64                      // of the last ping; guarded by mu
	pongs   map[uint64]chan struct{}    // waited for; guarded by mu
	proofs  map[crypto.UID]chan<- proof // waited for, by newer run; guarded by mu
}

func newStream(c *Control, nc net.Conn, r *crypto.ControlResult, hello Hello, remote netip.AddrPort) *stream {
	return &stream{
		control: c, nc: nc, seal: r.Send, open: r.Receive,
		name: r.Name, keys: r.Peer, hello: hello, features: r.Features, dialled: r.Initiator,
		remote: remote, local: addrPortOf(nc.LocalAddr()), begun: time.Now().Add(-hello.Age),
		wake: make(chan struct{}, 1), ready: make(chan struct{}), settled: make(chan struct{}),
		admitted: make(chan struct{}), retired: make(chan struct{}), ended: make(chan struct{}), gone: make(chan struct{}),
		pongs: make(map[uint64]chan struct{}), proofs: make(map[crypto.UID]chan<- proof),
	}
}

// kick wakes the writer.
func (s *stream) kick() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// urge queues a message of the protocol in front of everything else.
func (s *stream) urge(m []byte) {
	s.mu.Lock()
	if len(s.urgent) < maxUrgent && !s.failed {
		s.urgent = append(s.urgent, m)
	}
	s.mu.Unlock()
	s.kick()
}

// finish ends the stream in good order: what is queued leaves, then the reason.
func (s *stream) finish(code closeCode, cause error) {
	limit := flushTime
	if code == closeShutdown {
		limit = shutdownTime
	}
	s.mu.Lock()
	if !s.closing && !s.failed {
		s.closing, s.code, s.cause = true, code, cause
	}
	s.mu.Unlock()
	s.nc.SetWriteDeadline(time.Now().Add(limit))
	s.kick()
}

// fail ends the stream at once. The Conn that uses it goes down.
func (s *stream) fail(cause error) {
	s.mu.Lock()
	if s.failed {
		s.mu.Unlock()
		return
	}
	s.failed = true
	if !s.closing {
		s.cause = cause
	}
	cause = s.cause
	conn := s.conn
	s.mu.Unlock()
	s.nc.Close()
	close(s.gone)
	s.control.forget(s)
	if conn != nil {
		conn.end(s, cause)
	}
}

// err is why the stream ended, nil while it has not.
func (s *stream) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cause
}

// take makes conn the stream's, with what it takes over from, and queues first, if
// not nil, in front of all that conn has to send; false when the stream is ending.
func (s *stream) take(conn *Conn, before *stream, place settlement, first []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed || s.closing {
		return false
	}
	s.conn, s.before, s.place = conn, before, place
	if first != nil {
		s.urgent = append(s.urgent, first)
	}
	return true
}

// settlement is the stream's place among those of the pair.
func (s *stream) settlement() settlement {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.place
}

// user is the Conn that the stream belongs to, or nil.
func (s *stream) user() *Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn
}

// write is the writing goroutine.
func (s *stream) write() {
	var buf []byte
	var batch [][]byte
	for {
		var closing bool
		batch, closing = s.collect(batch[:0])
		if len(batch) == 0 {
			if closing {
				break
			}
			select {
			case <-s.wake:
			case <-s.gone:
				return
			}
			continue
		}
		var err error
		if buf, err = sealBatch(s.seal, buf[:0], batch); err == nil {
			err = s.put(buf)
		}
		if err != nil {
			s.fail(fmt.Errorf("transport: write to %v: %w", s.remote, err))
			return
		}
		if conn := s.user(); conn != nil {
			conn.recycle(batch)
		}
		clear(batch)
		if cap(buf) > 2*maxSealed {
			buf = nil
		}
	}
	s.mu.Lock()
	code := s.code
	s.mu.Unlock()
	buf, err := s.seal.Append(buf[:0], []byte{byte(messageClose), byte(code)})
	if err == nil {
		err = s.put(s.seal.AppendClose(buf))
	}
	if err == nil {
		limit := flushTime
		if code == closeShutdown {
			limit = shutdownTime
		}
		t := time.NewTimer(limit)
		defer t.Stop()
		select {
		case <-s.ended:
		case <-s.gone:
		case <-t.C:
		}
	}
	s.fail(nil)
}

// collect gives what is to be sent next, and whether that is all before the end.
func (s *stream) collect(batch [][]byte) (_ [][]byte, closing bool) {
	s.mu.Lock()
	batch = append(batch, s.urgent...)
	s.urgent = nil
	conn, closing := s.conn, s.closing
	s.mu.Unlock()
	if conn != nil {
		batch = conn.pull(s, batch, maxSealed)
	}
	return batch, closing
}

// put writes b within the time that a living peer takes at most.
func (s *stream) put(b []byte) error {
	s.mu.Lock()
	if !s.closing {
		s.nc.SetWriteDeadline(time.Now().Add(stuck))
	}
	s.mu.Unlock()
	_, err := s.nc.Write(b)
	return err
}

// read is the reading goroutine.
func (s *stream) read() {
	err := s.readMessages(bufio.NewReaderSize(streamReader{s}, readBuffer))
	close(s.ended)
	if errors.Is(err, errSuperseded) {
		// Our writer has its last batch to finish, and closes then.
		t := time.NewTimer(flushTime)
		defer t.Stop()
		select {
		case <-s.gone:
		case <-t.C:
		}
	}
	s.fail(err)
}

// errSuperseded is the ordinary end of a connection whose place was taken.
var errSuperseded = fmt.Errorf("another connection took over: %w", net.ErrClosed)

// closedError is what the peer said at the end.
type closedError struct{ code closeCode }

func (e closedError) Error() string { return ErrPeerClosed.Error() + ": " + e.code.String() }
func (e closedError) Unwrap() error { return ErrPeerClosed }

// readState is what the reader remembers from message to message.
type readState struct {
	ready  bool      // a message has come
	signed time.Time // the last proof of life was made
}

func (s *stream) readMessages(r io.Reader) error {
	var state readState
	for {
		m, err := s.open.Read(r)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
			return ErrSilent
		case err == io.EOF:
			return ErrPeerClosed
		case err != nil:
			return err
		}
		if err := s.handle(m, &state); err != nil {
			return err
		}
	}
}

// handle deals with one message; an error ends the stream.
func (s *stream) handle(m []byte, state *readState) error {
	kind, body := MessageKind(m[0]), m[1:]
	if kind == messageClose {
		return s.closedBy(parseClose(body))
	}
	if !state.ready {
		state.ready = true
		close(s.ready)
	}
	switch kind {
	case MessageGossip, MessageSession, MessageDatagram:
		return s.deliver(kind, body)
	case messageReady:
	case messageSettled:
		place, err := parseSettlement(body)
		if err != nil {
			s.control.counts.add(countMalformed)
			return nil
		}
		select {
		case <-s.settled:
		default:
			s.mu.Lock()
			s.place = place
			s.mu.Unlock()
			close(s.settled)
		}
	case messagePing, messagePong, messageAlive, messageProof, messageClone:
		if err := s.answer(kind, body, &state.signed); err != nil {
			s.control.counts.add(countMalformed)
		}
	default:
		s.control.counts.add(countUnknownKind)
	}
	return nil
}

// deliver hands a message to the Conn once the stream is in use and, lest messages
// overtake each other, once the stream that it took over from has ended. Datagrams
// may overtake.
func (s *stream) deliver(kind MessageKind, body []byte) error {
	select {
	case <-s.admitted:
	case <-s.gone:
		return net.ErrClosed
	}
	s.mu.Lock()
	conn, before := s.conn, s.before
	if kind != MessageDatagram {
		s.before = nil
	}
	s.mu.Unlock()
	if before != nil && kind != MessageDatagram {
		waitFor(handoverTime, before.ended, s.gone)
	}
	conn.deliver(kind, body)
	return nil
}

// closedBy deals with the peer's last message.
func (s *stream) closedBy(code closeCode) error {
	if code == closeSuperseded && waitFor(handoverTime, s.retired, s.gone) {
		return errSuperseded
	}
	return closedError{code}
}

// waitFor reports whether event came before give and within d.
func waitFor(d time.Duration, event, giveUp <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-event:
		return true
	case <-giveUp:
	case <-t.C:
	}
	return false
}

// streamReader reads from the socket; each Read has the peer's whole time. A peer that
// is silent is asked for a sign of life, which both ends hear, so the end that dialled
// asks first, and the other only if that does not. A time-out that this process slept
// through (a suspended machine, a starved CPU) is given once more, since what the peer
// sent meanwhile may be waiting in the kernel.
type streamReader struct{ *stream }

func (r streamReader) Read(b []byte) (int, error) {
	pause := pingEvery
	if !r.dialled {
		pause += pingEvery / 2
	}
	end := time.Now().Add(silence)
	for late := false; ; {
		deadline := time.Now().Add(pause)
		if deadline.After(end) {
			deadline = end
		}
		r.nc.SetReadDeadline(deadline)
		n, err := r.nc.Read(b)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		now := time.Now()
		if !late && now.Sub(deadline) > latePause {
			late, end = true, later(end, now.Add(pingEvery))
		}
		if !now.Before(end) || !r.ping() {
			return n, err
		}
	}
}

// ping asks for a sign of life, and waits for none; false: the stream has ended.
func (s *stream) ping() bool {
	s.mu.Lock()
	s.number++
	n, failed := s.number, s.failed
	s.mu.Unlock()
	s.urge(numberMessage(messagePing, n))
	return !failed
}
