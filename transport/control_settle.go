package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"ripstop/crypto"
)

// Bounds of what authenticated hosts can make this one hold.
const (
	maxPeers      = 4096
	maxSettling   = 4 // connections of one peer that are not settled yet
	settleTimeout = 5 * time.Second
)

// peer is a name to which at least one authenticated connection exists.
type peer struct {
	turn     chan struct{} // capacity 1: held by the one connection that is being decided on
	conn     *Conn         // in use, or nil; guarded by Control.mu
	settling int           // guarded by Control.mu

	run   crypto.UID    // whose connections were settled last; guarded by Control.mu
	last  uint64        // number of the last settlement; guarded by Control.mu
	moved chan struct{} // closed and made anew when last changes; guarded by Control.mu
}

// Why an authenticated connection is not kept.
var (
	errDuplicate = fmt.Errorf("there is another connection to this peer: %w", net.ErrClosed)
	errUnsettled = errors.New("the peer did not take the connection into use in time")
	errCrowded   = errors.New("too many connections of this peer, or too many peers")
	errNoProof   = errors.New("an older run of the peer could not prove that it lives")
)

// begin starts s and returns when it is in use (nil), or why it never will be.
func (c *Control) begin(ctx context.Context, s *stream) error {
	c.mu.Lock()
	p := c.peers[s.name]
	switch {
	case c.closing || ctx.Err() != nil:
		c.mu.Unlock()
		s.nc.Close()
		return net.ErrClosed
	case p == nil && len(c.peers) >= maxPeers, p != nil && p.settling >= maxSettling:
		c.mu.Unlock()
		s.nc.Close()
		return errCrowded
	case p == nil:
		p = &peer{turn: make(chan struct{}, 1), moved: make(chan struct{})}
		c.peers[s.name] = p
	}
	p.settling++
	c.streams[s] = struct{}{}
	c.mu.Unlock()
	c.wg.Go(s.read)
	c.wg.Go(s.write)

	err := c.settle(p, s)

	c.mu.Lock()
	p.settling--
	c.dropLocked(s.name, p)
	c.mu.Unlock()
	return err
}

// settle decides what becomes of s.
func (c *Control) settle(p *peer, s *stream) error {
	lower := c.name.Compare(s.name) < 0
	s.urge([]byte{byte(messageReady)})
	if err := s.await(s.ready); err != nil {
		return err
	}
	if !lower {
		// An older run is to be asked before the lower name hears anything of a
		// newer one; the lower name does the same at its end.
		if err := c.take(p, s); err != nil {
			return err
		}
		cur := c.connOf(p)
		var err error
		if cur != nil && cur.uid != s.hello.UID {
			err = c.outlive(cur, s)
		}
		<-p.turn
		if err != nil {
			return err
		}
		if err := s.await(s.settled); err != nil {
			return err
		}
		c.inOrder(p, s)
	}
	if err := c.take(p, s); err != nil {
		return err
	}
	defer func() { <-p.turn }()
	for {
		cur := c.connOf(p)
		switch {
		case cur == nil:
			return c.attach(p, s, lower)
		case cur.uid != s.hello.UID:
			if err := c.outlive(cur, s); err != nil {
				return err
			}
		case lower && !prevails(cur.current(), s):
			c.counts.add(countDuplicate)
			s.finish(closeDuplicate, errDuplicate)
			return errDuplicate
		case !lower && s.settlement().number < cur.current().settlement().number:
			// The lower name has already gone over to the one in use.
			s.finish(closeSuperseded, errSuperseded)
			return errSuperseded
		default:
			if done, err := c.replace(p, cur, s, lower); done {
				return err
			}
		}
	}
}

// await waits for event, which needs the peer.
func (s *stream) await(event <-chan struct{}) error {
	if waitFor(settleTimeout, event, s.gone) {
		return nil
	}
	s.finish(closeOther, errUnsettled)
	return s.err()
}

// take gets the peer's turn: what is decided on one connection is done before the
// next is looked at.
func (c *Control) take(p *peer, s *stream) error {
	select {
	case p.turn <- struct{}{}:
		return nil
	case <-s.gone:
		return s.err()
	}
}

// prevails reports, at the lower name, whether s is to be used instead of current:
// because the lower name dialled it and not the other, or because the other is dead.
func prevails(current, s *stream) bool {
	if s.dialled && !current.dialled {
		return true
	}
	return !current.alive(probePatience)
}

// outlive compares two runs of one peer. nil: the run of cur is over and its Conn
// gone. Otherwise s has been closed, most often since an older run has proved that
// it lives; then the newer one is told so, with the proof.
func (c *Control) outlive(cur *Conn, s *stream) error {
	used := cur.current()
	older, newer := used, s
	if s.begun.Before(used.begun) {
		older, newer = s, used
	}
	p, lives := older.prove(newer.hello.UID, probePatience)
	if lives {
		c.cfg.Log.Warn("two processes have one key: the newer one is sent away",
			"peer", s.name, "remote", newer.remote, "older", older.hello.UID, "newer", newer.hello.UID, "older_remote", older.remote)
		newer.urge(p.append([]byte{byte(messageClone)}))
		newer.finish(closeClone, ErrCloned)
		if newer == s {
			return ErrCloned
		}
		cur.end(nil, ErrCloned)
		return nil
	}
	if older == s {
		s.finish(closeOther, errNoProof)
		return errNoProof
	}
	used.finish(closeRestarted, ErrRestarted)
	cur.end(nil, ErrRestarted)
	return nil
}

// inOrder waits, at the higher name, until the connection that s takes over from has
// been settled here as well, if that is still to come.
func (c *Control) inOrder(p *peer, s *stream) {
	before := s.settlement().before
	t := time.NewTimer(handoverTime)
	defer t.Stop()
	for {
		c.mu.Lock()
		seen, moved := p.run == s.hello.UID && p.last >= before, p.moved
		c.mu.Unlock()
		if before == 0 || seen {
			return
		}
		select {
		case <-moved:
		case <-s.gone:
			return
		case <-t.C:
			return
		}
	}
}

// place numbers a decision, at the lower name, and makes the message that tells it. At
// the higher name it gives the number that was told.
func (c *Control) place(s *stream, before uint64, lower bool) (settlement, []byte) {
	if !lower {
		return s.settlement(), nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settlements++
	place := settlement{c.settlements, before}
	return place, place.append([]byte{byte(messageSettled)})
}

// movedLocked notes that s is in use at p.
func (p *peer) movedLocked(s *stream, place settlement) {
	p.run, p.last = s.hello.UID, place.number
	close(p.moved)
	p.moved = make(chan struct{})
}

// attach makes the first Conn of a peer's run.
func (c *Control) attach(p *peer, s *stream, lower bool) error {
	conn := newConn(s)
	conn.events <- struct{}{}
	defer func() { <-conn.events }()
	place, told := c.place(s, 0, lower)
	if !s.take(conn, nil, place, told) {
		return s.err()
	}
	c.mu.Lock()
	p.conn = conn
	p.movedLocked(s, place)
	c.mu.Unlock()
	c.cfg.Log.Debug("peer connected", "peer", s.name, "nickname", s.hello.Nickname, "remote", s.remote, "dialled", s.dialled)
	c.cfg.Handler.ConnUp(conn)
	close(s.admitted)
	s.kick()
	return nil
}

// replace takes s into use in the place of cur's stream; done is false when cur has
// just ended, so that everything is to be looked at again.
func (c *Control) replace(p *peer, cur *Conn, s *stream, lower bool) (done bool, err error) {
	previous, ok := cur.swap(s)
	if !ok {
		<-cur.done
		return false, nil
	}
	place, told := c.place(s, previous.settlement().number, lower)
	if !s.take(cur, previous, place, told) {
		// Back to the one that was in use; whoever ended either of them meanwhile
		// has not ended cur.
		if _, ok := cur.swap(previous); !ok {
			previous.finish(closeOther, net.ErrClosed)
			cur.end(nil, net.ErrClosed)
			return true, s.err()
		}
		select {
		case <-previous.gone:
			cur.end(previous, previous.err())
		default:
		}
		return true, s.err()
	}
	c.counts.add(countCrossed)
	c.mu.Lock()
	p.movedLocked(s, place)
	c.mu.Unlock()
	close(previous.retired)
	previous.finish(closeSuperseded, errSuperseded)
	close(s.admitted)
	s.kick()
	previous.kick()
	return true, nil
}

// connOf is p's Conn.
func (c *Control) connOf(p *peer) *Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return p.conn
}

// gone makes way for the next Conn of a peer.
func (c *Control) gone(conn *Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.peers[conn.name]; p != nil && p.conn == conn {
		p.conn = nil
		c.dropLocked(conn.name, p)
	}
}

// dropLocked forgets a peer with nothing left.
func (c *Control) dropLocked(name crypto.Name, p *peer) {
	if p.conn == nil && p.settling == 0 && c.peers[name] == p {
		delete(c.peers, name)
	}
}

// forget drops a stream that has ended.
func (c *Control) forget(s *stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.streams, s)
}
