package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"ripstop/crypto"
)

// Times of dialling.
const (
	dialTimeout    = 3 * time.Second        // for TCP to one address
	resolveTimeout = 5 * time.Second        // for a name
	dialStagger    = 250 * time.Millisecond // before the next address is tried beside those under way
	maxDialAddrs   = 48                     // addresses tried for one target at a time
	backoffMin     = 250 * time.Millisecond
	backoffMax     = 5 * time.Second
	stableAfter    = 5 * time.Second // a connection that lasted so long starts back-off anew
	selfAgain      = time.Minute     // until an address that was our own is looked at again
	maxReasons     = 8               // logged of a target, each once, until it is reached
)

// TargetState is what has become of a target.
type TargetState string

// The states of a target.
const (
	TargetConnecting TargetState = "connecting" // a dial is under way
	TargetUp         TargetState = "up"         // the peer there is connected, whoever dialled
	TargetWaiting    TargetState = "waiting"    // until NextTry
	TargetSelf       TargetState = "self"       // this host's own address
	TargetRefused    TargetState = "refused"    // somebody is there, but no peer of this network; tried again at NextTry
)

// TargetStatus is a target as status shows it.
type TargetStatus struct {
	Target    string
	State     TargetState
	Peer      crypto.Name // who was reached there last; zero: nobody yet
	LastError string      // of the last try; empty when it went well
	NextTry   time.Time   // zero unless State is waiting, refused or self
}

// dialler keeps one target, or one wanted peer, connected for ever. Its fields from
// status on are guarded by Control.mu.
type dialler struct {
	target Target      // of the operator; the zero value for a wanted peer
	want   crypto.Name // zero: whoever is there
	wake   chan struct{}

	status  TargetStatus
	addrs   []netip.AddrPort // of a wanted peer
	cancel  context.CancelFunc
	invalid bool // the target could not be parsed: nothing is dialled
}

// SetTargets replaces the operator's dial list. Dials that are no longer wanted are
// given up; connections that exist stay. What ParseTarget refuses is listed by
// Targets with the reason.
func (c *Control) SetTargets(targets []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.order = c.order[:0]
	listed := make(map[string]bool)
	for _, text := range targets {
		t, err := ParseTarget(text)
		key := text
		if err == nil {
			key = t.String()
		}
		if listed[key] {
			continue
		}
		listed[key] = true
		c.order = append(c.order, key)
		if c.targets[key] != nil {
			continue
		}
		d := &dialler{target: t, wake: make(chan struct{}, 1), status: TargetStatus{Target: key, State: TargetConnecting}}
		if err != nil {
			d.invalid, d.status.State, d.status.LastError = true, TargetRefused, err.Error()
		}
		c.targets[key] = d
		c.startLocked(d)
	}
	for key, d := range c.targets {
		if !listed[key] {
			d.stopLocked()
			delete(c.targets, key)
		}
	}
}

// SetWanted replaces the set of peers that are to be connected, each with the
// addresses where it may be: only that peer is accepted there. A peer that is
// connected already is not dialled.
func (c *Control) SetWanted(wanted map[crypto.Name][]netip.AddrPort) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, addrs := range wanted {
		if name == c.name || name.IsZero() {
			continue
		}
		d := c.wanted[name]
		if d == nil {
			d = &dialler{want: name, wake: make(chan struct{}, 1), addrs: slices.Clone(addrs),
				status: TargetStatus{Target: name.String(), State: TargetConnecting, Peer: name}}
			c.wanted[name] = d
			c.startLocked(d)
		} else if !slices.Equal(d.addrs, addrs) {
			d.addrs = slices.Clone(addrs)
			select {
			case d.wake <- struct{}{}:
			default:
			}
		}
	}
	for name, d := range c.wanted {
		if _, ok := wanted[name]; !ok {
			d.stopLocked()
			delete(c.wanted, name)
		}
	}
}

// Targets are the operator's targets in the order told.
func (c *Control) Targets() []TargetStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]TargetStatus, 0, len(c.order))
	for _, key := range c.order {
		list = append(list, c.statusLocked(c.targets[key]))
	}
	return list
}

// Wanted are the wanted peers, sorted by name.
func (c *Control) Wanted() []TargetStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]TargetStatus, 0, len(c.wanted))
	for _, name := range slices.SortedFunc(maps.Keys(c.wanted), crypto.Name.Compare) {
		list = append(list, c.statusLocked(c.wanted[name]))
	}
	return list
}

func (c *Control) statusLocked(d *dialler) TargetStatus {
	s := d.status
	if p := c.peers[s.Peer]; p != nil && p.conn != nil {
		return TargetStatus{Target: s.Target, State: TargetUp, Peer: s.Peer}
	}
	if s.State == TargetUp {
		s.State = TargetConnecting
	}
	return s
}

// startLocked starts d's goroutine if Run is under way.
func (c *Control) startLocked(d *dialler) {
	if c.ctx == nil || c.closing || d.invalid {
		return
	}
	ctx, cancel := context.WithCancel(c.ctx)
	d.cancel = cancel
	c.wg.Go(func() {
		defer cancel()
		c.keep(ctx, d)
	})
}

func (d *dialler) stopLocked() {
	if d.cancel != nil {
		d.cancel()
	}
}

// backoff is the pause after so many tries in a row, drawn by r from 0 up to 1
// between half and all of 250 ms, 500 ms, ... 5 s.
func backoff(tries int, r float64) time.Duration {
	d := backoffMin
	for range tries {
		if d = 2 * d; d >= backoffMax {
			d = backoffMax
			break
		}
	}
	return d/2 + time.Duration(float64(d/2)*r)
}

// keep dials, waits while the peer is connected, and dials again, until ctx is done.
func (c *Control) keep(ctx context.Context, d *dialler) {
	tries := 0
	var logged []string
	for ctx.Err() == nil {
		conn := c.Conn(c.peerAt(d))
		var err error
		if conn == nil {
			c.report(d, TargetConnecting, nil, 0)
			if err = c.reach(ctx, d); err == nil {
				conn = c.Conn(c.peerAt(d))
			}
		}
		if ctx.Err() != nil {
			return
		}
		if conn != nil {
			logged = nil
			c.report(d, TargetUp, nil, 0)
			since := time.Now()
			select {
			case <-conn.done:
			case <-ctx.Done():
				return
			}
			if time.Since(since) >= stableAfter {
				tries = 0
			}
		}
		pause := backoff(tries, c.cfg.Jitter())
		tries++
		state := stateOf(err)
		if state == TargetSelf {
			pause, tries = selfAgain, 0
		}
		c.report(d, state, err, pause)
		if err != nil && len(logged) < maxReasons && !slices.Contains(logged, err.Error()) {
			level := slog.LevelDebug
			if d.want.IsZero() && state != TargetSelf {
				level = slog.LevelInfo
			}
			logged = append(logged, err.Error())
			c.cfg.Log.Log(ctx, level, "target not reached, going on trying", "target", d.status.Target, "error", err)
		}
		if !sleep(ctx, pause, d.wake) {
			return
		}
	}
}

// peerAt is who was reached at d last.
func (c *Control) peerAt(d *dialler) crypto.Name {
	c.mu.Lock()
	defer c.mu.Unlock()
	return d.status.Peer
}

// report sets what status shows. An error stays visible while the next try runs.
func (c *Control) report(d *dialler, state TargetState, err error, pause time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d.status.State, d.status.NextTry = state, time.Time{}
	if pause > 0 {
		d.status.NextTry = time.Now().Add(pause)
	}
	switch {
	case state == TargetUp, state == TargetSelf:
		d.status.LastError = ""
	case err != nil:
		d.status.LastError = err.Error()
	}
	if state == TargetSelf && d.want.IsZero() {
		d.status.Peer = c.name
	}
}

// errOnlyUs is a target that is this host itself.
var errOnlyUs = errors.New("this host's own address")

// stateOf is the state that a failed try leads to.
func stateOf(err error) TargetState {
	switch {
	case errors.Is(err, errOnlyUs):
		return TargetSelf
	case errors.Is(err, crypto.ErrNoAnswer), errors.Is(err, crypto.ErrSecret), errors.Is(err, crypto.ErrVersion),
		errors.Is(err, crypto.ErrHandshake), errors.Is(err, crypto.ErrSelf), errors.Is(err, ErrCloned),
		errors.Is(err, errOtherPeer), errors.Is(err, errRefusedAddress):
		return TargetRefused
	}
	return TargetWaiting
}

// Further reasons why a target is not reached.
var (
	errOtherPeer      = errors.New("another host of this network answers there")
	errRefusedAddress = errors.New("it lies inside the overlay network: name an address of the network below")
	errNoAddress      = errors.New("no address")
)

// reach tries every address of d. nil: a connection to d's peer is in use.
func (c *Control) reach(ctx context.Context, d *dialler) error {
	addrs, err := c.addresses(ctx, d)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type outcome struct {
		at  netip.AddrPort
		err error
	}
	results := make(chan outcome, len(addrs))
	stagger := time.NewTimer(dialStagger)
	defer stagger.Stop()
	next, running := 0, 0
	var worst error
	for {
		launch := running == 0
		if !launch {
			select {
			case r := <-results:
				running--
				switch {
				case r.err == nil:
					// The others are given up; what has got through meanwhile is
					// settled like any other connection.
					cancel()
					for ; running > 0; running-- {
						<-results
					}
					return nil
				case telling(r.err) > telling(worst):
					worst = fmt.Errorf("%v: %w", r.at, r.err)
				}
				launch = true
			case <-stagger.C:
				launch = true
			}
		}
		if launch && next < len(addrs) && ctx.Err() == nil {
			at := addrs[next]
			next++
			running++
			c.wg.Go(func() { results <- outcome{at, c.dial(ctx, d, at)} })
			stagger.Reset(dialStagger)
		}
		if running == 0 {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return worst
		}
	}
}

// telling orders errors by how much they tell: a host that answers as no peer of
// ours over one that could not be reached.
func telling(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errOnlyUs):
		return 4
	case errors.Is(err, crypto.ErrNoAnswer):
		return 2
	case stateOf(err) == TargetRefused:
		return 3
	}
	return 1
}

// addresses are what d stands for now, in the order to be tried.
func (c *Control) addresses(ctx context.Context, d *dialler) ([]netip.AddrPort, error) {
	var addrs []netip.AddrPort
	port := d.target.Port
	if port == 0 {
		port = c.cfg.Port
	}
	switch {
	case !d.want.IsZero():
		c.mu.Lock()
		addrs = slices.Clone(d.addrs)
		c.mu.Unlock()
	case d.target.Addr.IsValid():
		addrs = []netip.AddrPort{netip.AddrPortFrom(d.target.Addr, port)}
	default:
		lookup, cancel := context.WithTimeout(ctx, resolveTimeout)
		defer cancel()
		found, err := c.cfg.Resolve(lookup, d.target.Host)
		if err != nil {
			return nil, fmt.Errorf("resolve %s: %w", d.target.Host, err)
		}
		for _, a := range found {
			addrs = append(addrs, netip.AddrPortFrom(a.Unmap(), port))
		}
	}
	if len(addrs) == 0 {
		return nil, errNoAddress
	}
	var usable []netip.AddrPort
	for _, a := range addrs {
		if a.IsValid() && a.Port() != 0 && !c.cfg.Refuse(a.Addr()) && !slices.Contains(usable, a) {
			usable = append(usable, a)
		}
	}
	if len(usable) == 0 {
		return nil, fmt.Errorf("%v: %w", addrs[0], errRefusedAddress)
	}
	return usable[:min(len(usable), maxDialAddrs)], nil
}

// dial makes one connection and sees it settled. nil: the peer is connected.
func (c *Control) dial(ctx context.Context, d *dialler, at netip.AddrPort) error {
	dialling, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	nc, err := c.cfg.Dial(dialling, at)
	if err != nil {
		return dialError(err)
	}
	setSocketOptions(nc)
	nc.SetDeadline(time.Now().Add(handshakeTimeout))
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	s, err := c.handshake(nc, nc, at, true)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	var self *selfError
	switch {
	case err == nil:
	case errors.As(err, &self) && self.UID == c.cfg.UID:
		err = errOnlyUs
	case errors.Is(err, crypto.ErrNoAnswer) && errors.Is(err, os.ErrDeadlineExceeded):
		err = fmt.Errorf("connected, but %w within %v: another program, or a host under load", crypto.ErrNoAnswer, handshakeTimeout)
	case errors.Is(err, crypto.ErrNoAnswer):
		err = fmt.Errorf("%w: most often another secret", crypto.ErrNoAnswer)
	}
	if err != nil {
		nc.Close()
		return err
	}
	if !d.want.IsZero() && s.name != d.want {
		// Unsettled, so the other end has not taken the connection into use.
		nc.Close()
		return fmt.Errorf("%w: %v", errOtherPeer, s.name)
	}
	c.mu.Lock()
	d.status.Peer = s.name
	c.mu.Unlock()
	err = c.begin(ctx, s)
	var closed closedError
	if errors.Is(err, errDuplicate) || errors.As(err, &closed) && (closed.code == closeDuplicate || closed.code == closeSuperseded) {
		return nil
	}
	return err
}

// dialError drops what the operator knows already, the address.
func dialError(err error) error {
	var errno syscall.Errno
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("no answer to TCP within %v: down, or a firewall", dialTimeout)
	case errors.Is(err, syscall.ECONNREFUSED):
		return errors.New("connection refused: nothing listens there")
	case errors.As(err, &errno):
		return errors.New(strings.ToLower(errno.Error()))
	}
	return err
}

// tcpDial dials TCP, from the listening address of the same family if there is
// exactly one.
func tcpDial(listen []netip.AddrPort) func(context.Context, netip.AddrPort) (net.Conn, error) {
	return func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
		var from []netip.Addr
		for _, l := range listen {
			if a := l.Addr(); a.IsValid() && a.Is4() == to.Addr().Is4() && !slices.Contains(from, a) {
				from = append(from, a)
			}
		}
		var dialer net.Dialer
		dialer.SetMultipathTCP(false)
		if len(from) == 1 && !from[0].IsUnspecified() {
			dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from[0], 0))
		}
		return dialer.DialContext(ctx, "tcp", to.String())
	}
}
