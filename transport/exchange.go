package transport

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"ripstop/crypto"
)

// The numbers of the session messages, the first byte of each. Never reused.
const (
	exchangeRequest = 1 // Noise IKpsk2 message 1
	exchangeAnswer  = 2 // Noise IKpsk2 message 2
)

// How long things last in an Exchange.
const (
	exchangeEvery     = 500 * time.Millisecond  // requests taken from one peer at most
	exchangePatience  = 2 * time.Second         // for the answer to a request, and for the first datagram under a session we answered
	exchangeRetry     = 5 * time.Second         // longest pause between requests
	exchangeDefer     = 1500 * time.Millisecond // the higher name lets the lower begin for so long
	exchangeKeep      = 30 * time.Second        // a replaced session is still received under for so long
	exchangeLateRekey = 150 * time.Second       // the higher name renews a session when the lower did not
)

// Why an Exchange refuses a message. None of them changes what it holds.
var (
	ErrExchangeForm    = errors.New("transport: session message of no known form")
	ErrExchangeSoon    = errors.New("transport: session request too soon after the last")
	ErrExchangePeer    = errors.New("transport: session request from another key than the peer's")
	ErrExchangeRun     = errors.New("transport: session request to another run of this host")
	ErrExchangeOld     = errors.New("transport: session request with an attempt that was seen")
	ErrExchangeCrossed = errors.New("transport: session request crossed ours, which stands")
	ErrExchangeAnswer  = errors.New("transport: session answer to no request")
)

// ExchangeConfig says between whom sessions are made. All fields are required.
type ExchangeConfig struct {
	Identity *crypto.Identity
	Network  *crypto.Network
	UID      crypto.UID        // of this run
	Peer     crypto.PublicKeys // what the peer's name commits to
	Random   io.Reader
	Jitter   *rand.Rand    // of rekey times
	Index    func() uint32 // a receive index no live session has
}

// Exchange makes and renews the data session of one pair of hosts. It is pure:
// messages and time go in, messages and sessions come out, nothing is sent.
//
//	lower name                                 higher name
//	  Tick ── request (IKpsk2 message 1) ────────▶ Receive: next
//	  Receive: current ◀── answer (message 2) ─────
//	  ── first datagram under the new keys ──────▶ Heard: next becomes current
//
// The answering end goes on sending under the old session until it has opened a
// datagram under the new one, so no datagram is lost to a renewal. The session
// that was replaced is received under for another 30 s. If both begin, the lower
// name's request stands. A request is accepted only for this run of this host, and
// with a higher attempt number than the last from that run of the peer, so an old
// one replayed changes nothing.
type Exchange struct {
	cfg   ExchangeConfig
	first bool // our name is the lower one

	uid        crypto.UID // the peer's run, 0 = not known
	wanted     bool
	wantedFrom time.Time

	current, next, previous *made
	pending                 *crypto.SessionInitiator
	pendingFrom             time.Time
	attempt                 uint64
	tries                   int
	nextTry                 time.Time

	plan    time.Time // what Next says
	planned bool      // it holds

	seen     map[crypto.UID]uint64 // highest attempt of each run of the peer
	lastSeen time.Time             // when a request was last looked at
	outgoing [][]byte
	changed  bool
	failure  error
}

// made is a session and when it has to be replaced.
type made struct {
	*crypto.Session
	uid   crypto.UID
	born  time.Time
	life  time.Duration
	heard bool
}

// NewExchange makes the exchange with one peer; nothing is wanted yet.
func NewExchange(cfg ExchangeConfig) *Exchange {
	return &Exchange{
		cfg:   cfg,
		first: cfg.Identity.Name().Compare(cfg.Peer.Name()) < 0,
		seen:  make(map[crypto.UID]uint64),
	}
}

// SetPeer says which run of the peer there is now. A session with an earlier run
// is replaced as soon as one is wanted.
func (x *Exchange) SetPeer(uid crypto.UID) { x.uid, x.planned = uid, false }

// Want says whether a session is to be kept with the peer.
func (x *Exchange) Want(now time.Time, wanted bool) {
	if wanted && !x.wanted {
		x.wantedFrom, x.tries, x.nextTry = now, 0, now
	}
	if wanted != x.wanted {
		x.wanted, x.planned = wanted, false
	}
}

// Sending is the session to seal under, nil when there is none.
func (x *Exchange) Sending() *crypto.Session {
	if x.current == nil {
		return nil
	}
	return x.current.Session
}

// Receiving are the sessions to open under.
func (x *Exchange) Receiving() []*crypto.Session {
	var all []*crypto.Session
	for _, m := range []*made{x.current, x.next, x.previous} {
		if m != nil {
			all = append(all, m.Session)
		}
	}
	return all
}

// Unconfirmed reports whether we send under a session under which nothing came
// yet: the peer waits for a datagram to begin sending under it.
func (x *Exchange) Unconfirmed() bool { return x.current != nil && !x.current.heard }

// ExchangeStatus is how it stands with the session of a pair of hosts, for people.
type ExchangeStatus struct {
	Cipher    crypto.Cipher // of the session that is sent under
	Since     time.Time     // when its keys were made; zero: there is no session
	Sent      uint64        // counters used under it: datagrams sealed, whether they left or not
	Confirmed bool          // something came under it: the peer has the keys
	Wanted    time.Time     // since when a session is wanted; zero: none is
	Tries     int           // requests since there was an answer
}

// Status is how it stands.
func (x *Exchange) Status() ExchangeStatus {
	s := ExchangeStatus{Tries: x.tries}
	if x.wanted {
		s.Wanted = x.wantedFrom
	}
	if m := x.current; m != nil {
		s.Cipher, s.Since, s.Sent, s.Confirmed = m.Cipher, m.born, m.Data.Sent(), m.heard
	}
	return s
}

// Outgoing drains the messages to be sent to the peer.
func (x *Exchange) Outgoing() [][]byte {
	out := x.outgoing
	x.outgoing = nil
	return out
}

// Failure is why the last request could not even be made, once; nil when it could.
func (x *Exchange) Failure() error {
	err := x.failure
	x.failure = nil
	return err
}

// Changed reports, once, that Sending or Receiving changed.
func (x *Exchange) Changed() bool {
	c := x.changed
	x.changed = false
	return c
}

// Heard says that a datagram was opened under the session with that local index.
func (x *Exchange) Heard(now time.Time, local uint32) {
	switch {
	case x.next != nil && x.next.Local == local:
		x.next.heard = true
		x.install(now, x.next)
		x.next = nil
	case x.current != nil && x.current.Local == local:
		x.current.heard = true
	}
}

// Receive takes a session message that the peer, or somebody in its name, sent.
func (x *Exchange) Receive(now time.Time, message []byte) error {
	if len(message) < 2 {
		return ErrExchangeForm
	}
	switch message[0] {
	case exchangeRequest:
		return x.request(now, message[1:])
	case exchangeAnswer:
		return x.answer(now, message[1:])
	}
	return ErrExchangeForm
}

func (x *Exchange) request(now time.Time, message []byte) error {
	if !x.lastSeen.IsZero() && now.Sub(x.lastSeen) < exchangeEvery {
		return ErrExchangeSoon
	}
	r, err := crypto.ReadSessionRequest(x.cfg.Identity, x.cfg.Network, message)
	if err != nil {
		return fmt.Errorf("transport: session request: %w", err)
	}
	switch {
	case r.Initiator != x.cfg.Peer.Noise:
		return ErrExchangePeer
	case r.To != x.cfg.UID:
		return ErrExchangeRun
	case r.Attempt <= x.seen[r.From]:
		return ErrExchangeOld
	case x.pending != nil && x.first:
		return ErrExchangeCrossed
	}
	// Only what the peer itself made counts against its rate.
	x.lastSeen = now
	if len(x.seen) >= 8 {
		clear(x.seen)
	}
	x.seen[r.From] = r.Attempt
	index := x.cfg.Index()
	session, answer, err := r.Accept(x.cfg.Random, index, crypto.LocalCiphers(x.cfg.Network.Policy()))
	if err != nil {
		return fmt.Errorf("transport: session request: %w", err)
	}
	x.pending = nil
	x.next = &made{Session: session, uid: r.From, born: now, life: x.life()}
	x.changed, x.planned = true, false
	x.outgoing = append(x.outgoing, append([]byte{exchangeAnswer}, answer...))
	return nil
}

func (x *Exchange) answer(now time.Time, message []byte) error {
	if x.pending == nil {
		return ErrExchangeAnswer
	}
	session, err := x.pending.Finish(message)
	if err != nil {
		return fmt.Errorf("transport: session answer: %w", err)
	}
	x.pending = nil
	x.install(now, &made{Session: session, uid: x.uid, born: now, life: x.life()})
	return nil
}

// install makes m the session to send under.
func (x *Exchange) install(now time.Time, m *made) {
	if x.current != nil {
		x.previous = x.current
		x.previous.born = now // from here on: when it was replaced
	}
	x.current, x.tries, x.changed, x.planned = m, 0, true, false
}

// Tick lets go of what is over and begins what is due.
func (x *Exchange) Tick(now time.Time) {
	x.planned = false
	if x.previous != nil && now.Sub(x.previous.born) >= exchangeKeep {
		x.previous, x.changed = nil, true
	}
	if x.next != nil && now.Sub(x.next.born) >= exchangeKeep {
		x.next, x.changed = nil, true
	}
	if x.current != nil && now.Sub(x.current.born) >= crypto.RejectAfter {
		x.current, x.changed = nil, true
	}
	if x.pending != nil && now.Sub(x.pendingFrom) >= exchangePatience {
		x.pending = nil
	}
	if x.pending != nil || now.Before(x.nextTry) || !x.due(now) {
		return
	}
	x.begin(now)
}

// Next is when Tick has something to do at the latest, if nothing happens before;
// zero: not at all. What is exhausted by count is noticed by the next Tick.
func (x *Exchange) Next() time.Time {
	if !x.planned {
		x.plan, x.planned = x.schedule(), true
	}
	return x.plan
}

// schedule is what Next says, from the state: who changes that has it made anew.
func (x *Exchange) schedule() time.Time {
	var next time.Time
	at := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	if x.previous != nil {
		at(x.previous.born.Add(exchangeKeep))
	}
	if x.next != nil {
		at(x.next.born.Add(exchangeKeep))
	}
	if x.current != nil {
		at(x.current.born.Add(crypto.RejectAfter))
	}
	if x.pending != nil {
		at(x.pendingFrom.Add(exchangePatience))
		return next
	}
	if !x.wanted || x.uid == 0 {
		return next
	}
	begin := x.wantedFrom
	switch {
	case x.current == nil || x.current.uid != x.uid:
		if !x.first {
			begin = begin.Add(exchangeDefer)
		}
	case x.first:
		begin = x.current.born.Add(x.current.life)
	default:
		begin = x.current.born.Add(exchangeLateRekey)
	}
	if x.next != nil {
		begin = later(begin, x.next.born.Add(exchangePatience))
	}
	at(later(begin, x.nextTry))
	return next
}

// due reports whether it is for us, now, to begin.
func (x *Exchange) due(now time.Time) bool {
	if x.uid == 0 || x.next != nil && now.Sub(x.next.born) < exchangePatience {
		return false
	}
	if x.current == nil || x.current.uid != x.uid {
		return x.wanted && (x.first || now.Sub(x.wantedFrom) >= exchangeDefer)
	}
	age := now.Sub(x.current.born)
	if x.current.Data.Sent() >= crypto.RekeyAfterMessages {
		return true
	}
	return x.wanted && (x.first && age >= x.current.life || age >= exchangeLateRekey)
}

// begin sends a request.
func (x *Exchange) begin(now time.Time) {
	x.attempt++
	pending, message, err := crypto.InitiateSession(crypto.SessionConfig{
		Identity: x.cfg.Identity,
		Network:  x.cfg.Network,
		Random:   x.cfg.Random,
		Peer:     x.cfg.Peer,
		Self:     x.cfg.UID,
		PeerUID:  x.uid,
		Attempt:  x.attempt,
		Index:    x.cfg.Index(),
		Ciphers:  crypto.LocalCiphers(x.cfg.Network.Policy()),
	})
	pause := min(exchangeEvery<<max(0, min(x.tries-2, 4)), exchangeRetry)
	x.tries++
	x.nextTry = now.Add(pause + time.Duration(x.cfg.Jitter.Int64N(int64(pause/4))))
	if err != nil {
		x.failure = err // a key of the peer that no session can be made with
		return
	}
	x.pending, x.pendingFrom = pending, now
	x.outgoing = append(x.outgoing, append([]byte{exchangeRequest}, message...))
}

// life is how long a session is used before it is renewed.
func (x *Exchange) life() time.Duration {
	spread := time.Duration(float64(crypto.RekeyAfter) * crypto.RekeyJitter)
	return crypto.RekeyAfter - spread + time.Duration(x.cfg.Jitter.Int64N(int64(2*spread)))
}
