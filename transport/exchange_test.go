package transport

import (
	"bytes"
	"crypto/rand"
	"errors"
	mathrand "math/rand/v2"
	"testing"
	"time"

	"ripstop/crypto"
)

// exchangeEnd is one end of a pair of exchanges in virtual time.
type exchangeEnd struct {
	*Exchange
	identity *crypto.Identity
	uid      crypto.UID
}

// exchangePair makes both ends; a has the lower name. Each wants a session and
// knows the other's run.
func exchangePair(t *testing.T, now time.Time) (a, b *exchangeEnd) {
	t.Helper()
	network, _, err := crypto.NewNetwork(rand.Reader, crypto.CipherAuto)
	if err != nil {
		t.Fatal(err)
	}
	identity := func() *crypto.Identity {
		seed, err := crypto.NewSeed(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		id, err := crypto.NewIdentity(seed)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	one, two := identity(), identity()
	if one.Name().Compare(two.Name()) > 0 {
		one, two = two, one
	}
	index := uint32(0)
	end := func(self, other *crypto.Identity, uid, otherUID crypto.UID) *exchangeEnd {
		x := NewExchange(ExchangeConfig{
			Identity: self, Network: network, UID: uid, Peer: other.Public(), Random: rand.Reader,
			Jitter: mathrand.New(mathrand.NewPCG(1, uint64(uid))),
			Index:  func() uint32 { index++; return index },
		})
		x.SetPeer(otherUID)
		x.Want(now, true)
		return &exchangeEnd{Exchange: x, identity: self, uid: uid}
	}
	return end(one, two, 1, 2), end(two, one, 2, 1)
}

// talk proves that what from seals to opens, and tells to that it heard it.
func talk(t *testing.T, now time.Time, from, to *exchangeEnd) {
	t.Helper()
	s := from.Sending()
	if s == nil {
		t.Fatal("no session to send under")
	}
	counter, err := s.Data.Next()
	if err != nil {
		t.Fatal(err)
	}
	ad, text := []byte("header"), []byte("a frame of some bytes")
	sealed := s.Data.Seal(new(crypto.Scratch), make([]byte, 0, 64), counter, ad, text)
	for _, r := range to.Receiving() {
		if r.Local == s.Remote {
			opened, err := r.Data.Open(new(crypto.Scratch), counter, ad, sealed)
			if err != nil || !bytes.Equal(opened, text) {
				t.Fatalf("opened %q, %v", opened, err)
			}
			to.Heard(now, r.Local)
			return
		}
	}
	t.Fatalf("the other end has no session with index %d", s.Remote)
}

// deliver hands over what from wants sent and returns how many messages it was.
func deliver(t *testing.T, now time.Time, from, to *exchangeEnd) int {
	out := from.Outgoing()
	for _, m := range out {
		if err := to.Receive(now, m); err != nil {
			t.Fatal(err)
		}
	}
	return len(out)
}

func TestExchangeLowerNameBegins(t *testing.T) {
	now := time.Unix(0, 0)
	a, b := exchangePair(t, now)
	b.Tick(now)
	if n := len(b.Outgoing()); n != 0 {
		t.Fatalf("the higher name sent %d messages at once", n)
	}
	a.Tick(now)
	if n := deliver(t, now, a, b); n != 1 {
		t.Fatalf("%d requests, want 1", n)
	}
	if b.Sending() != nil {
		t.Fatal("the answering end sends before it heard anything under the keys")
	}
	if n := deliver(t, now, b, a); n != 1 {
		t.Fatalf("%d answers, want 1", n)
	}
	if !a.Unconfirmed() {
		t.Fatal("confirmed without a datagram")
	}
	talk(t, now, a, b)
	talk(t, now, b, a)
	if a.Unconfirmed() || b.Unconfirmed() {
		t.Fatal("unconfirmed after a datagram each way")
	}
	if !a.Changed() || !b.Changed() || a.Changed() {
		t.Fatal("Changed does not report the change once")
	}
}

func TestExchangeHigherNameBeginsLater(t *testing.T) {
	now := time.Unix(0, 0)
	a, b := exchangePair(t, now)
	now = now.Add(exchangeDefer)
	b.Tick(now)
	deliver(t, now, b, a)
	deliver(t, now, a, b)
	talk(t, now, b, a)
	talk(t, now, a, b)
}

func TestExchangeCrossing(t *testing.T) {
	now := time.Unix(0, 0)
	a, b := exchangePair(t, now)
	now = now.Add(exchangeDefer)
	a.Tick(now)
	b.Tick(now)
	fromA, fromB := a.Outgoing(), b.Outgoing()
	if len(fromA) != 1 || len(fromB) != 1 {
		t.Fatalf("%d and %d requests, want one each", len(fromA), len(fromB))
	}
	if err := a.Receive(now, fromB[0]); !errors.Is(err, ErrExchangeCrossed) {
		t.Fatalf("the lower name took a crossing request: %v", err)
	}
	if err := b.Receive(now, fromA[0]); err != nil {
		t.Fatal(err)
	}
	deliver(t, now, b, a)
	talk(t, now, a, b)
	talk(t, now, b, a)
}

// TestExchangeRenewal runs a pair for an hour of virtual time, with a message
// lost now and then: no datagram is ever sealed that the other end can't open.
func TestExchangeRenewal(t *testing.T) {
	start := time.Unix(0, 0)
	a, b := exchangePair(t, start)
	random := mathrand.New(mathrand.NewPCG(7, 7))
	sessions := make(map[uint32]bool)
	for now := start; now.Before(start.Add(time.Hour)); now = now.Add(100 * time.Millisecond) {
		for _, pair := range [][2]*exchangeEnd{{a, b}, {b, a}} {
			pair[0].Tick(now)
			for _, m := range pair[0].Outgoing() {
				if random.IntN(3) > 0 {
					pair[1].Receive(now, m) // a refusal is the other end's right
				}
			}
		}
		for _, pair := range [][2]*exchangeEnd{{a, b}, {b, a}} {
			if s := pair[0].Sending(); s != nil {
				talk(t, now, pair[0], pair[1])
				sessions[s.Remote] = true
			} else if now.Sub(start) > 15*time.Second {
				t.Fatalf("no session after %v", now.Sub(start))
			}
		}
	}
	if n := len(sessions); n < 2*25 || n > 2*40 {
		t.Fatalf("%d sessions in an hour for both directions, want about 60", n)
	}
}

// TestExchangeNext: ends that are ticked only when Next says so keep a session for an
// hour, and are not ticked often.
func TestExchangeNext(t *testing.T) {
	now := time.Unix(0, 0)
	a, b := exchangePair(t, now)
	end, ticks := now.Add(time.Hour), 0
	made := make(map[uint32]bool)
	for now.Before(end) {
		if ticks++; ticks > 2000 {
			t.Fatal("ticked more than 2000 times in an hour")
		}
		for _, pair := range [][2]*exchangeEnd{{a, b}, {b, a}} {
			pair[0].Tick(now)
		}
		for deliver(t, now, a, b)+deliver(t, now, b, a) > 0 {
		}
		for _, pair := range [][2]*exchangeEnd{{a, b}, {b, a}} {
			if pair[0].Sending() != nil {
				talk(t, now, pair[0], pair[1])
				made[pair[0].Sending().Local] = true
			} else if ticks > 10 {
				t.Fatalf("no session at %v", now.Sub(time.Unix(0, 0)))
			}
		}
		at := a.Next()
		if x := b.Next(); at.IsZero() || !x.IsZero() && x.Before(at) {
			at = x
		}
		if at.IsZero() {
			t.Fatal("nothing is ever due again")
		}
		if !at.After(now) {
			at = now.Add(time.Millisecond)
		}
		now = at
	}
	if len(made) < 50 {
		t.Errorf("%d sessions in an hour at both ends, want about 60", len(made))
	}
}

// TestExchangeNextFollows: what Next says is what follows from the state, after every call
// that changes it.
func TestExchangeNextFollows(t *testing.T) {
	now := time.Unix(0, 0)
	a, b := exchangePair(t, now)
	after := func(name string, call func()) {
		t.Helper()
		a.Next()
		b.Next()
		call()
		for _, x := range []*exchangeEnd{a, b} {
			if got, want := x.Next(), x.schedule(); got != want {
				t.Errorf("after %s: %v, not %v", name, got, want)
			}
		}
	}
	after("Want", func() { a.Want(now, true) })
	after("Tick", func() { a.Tick(now) })
	after("a request", func() { deliver(t, now, a, b) })
	now = now.Add(time.Millisecond)
	after("an answer", func() { deliver(t, now, b, a) })
	after("Heard", func() { talk(t, now, a, b) })
	after("Want no more", func() { a.Want(now, false) })
	after("Want again", func() { a.Want(now.Add(time.Second), true) })
	after("SetPeer", func() { a.SetPeer(a.Exchange.uid + 1) })
}

func TestExchangeRefuses(t *testing.T) {
	now := time.Unix(0, 0)
	a, b := exchangePair(t, now)
	a.Tick(now)
	request := a.Outgoing()[0]
	if err := b.Receive(now, request); err != nil {
		t.Fatal(err)
	}
	answer := b.Outgoing()[0]
	if err := a.Receive(now, answer); err != nil {
		t.Fatal(err)
	}
	talk(t, now, a, b)
	talk(t, now, b, a)
	live := b.Sending()

	later := now.Add(time.Second)
	if err := b.Receive(now.Add(exchangeEvery/2), request); !errors.Is(err, ErrExchangeSoon) {
		t.Errorf("a second request within %v: %v", exchangeEvery, err)
	}
	if err := b.Receive(later, request); !errors.Is(err, ErrExchangeOld) {
		t.Errorf("replayed request: %v", err)
	}
	if err := a.Receive(later, answer); !errors.Is(err, ErrExchangeAnswer) {
		t.Errorf("replayed answer: %v", err)
	}
	for _, m := range [][]byte{nil, {exchangeRequest}, {9, 9, 9}} {
		if err := b.Receive(later, m); !errors.Is(err, ErrExchangeForm) {
			t.Errorf("message %v: %v", m, err)
		}
	}
	// To another run of this host.
	a.SetPeer(77)
	a.Tick(later)
	if err := b.Receive(later, a.Outgoing()[0]); !errors.Is(err, ErrExchangeRun) {
		t.Errorf("request to another run: %v", err)
	}
	// From somebody else of the same network.
	x, _ := exchangePair(t, now)
	x.cfg.Network, x.cfg.Peer = a.cfg.Network, b.identity.Public()
	x.SetPeer(b.uid)
	x.Want(later, true)
	x.first = true
	x.Tick(later)
	if err := b.Receive(later, x.Outgoing()[0]); !errors.Is(err, ErrExchangePeer) {
		t.Errorf("request from another key: %v", err)
	}
	if b.Sending() != live {
		t.Error("a refused message changed the session")
	}
	talk(t, later, b, a)
}

// TestExchangePeerRestarted: a new run of the peer gets a new session, the old one
// is received under until then.
func TestExchangePeerRestarted(t *testing.T) {
	now := time.Unix(0, 0)
	a, b := exchangePair(t, now)
	a.Tick(now)
	deliver(t, now, a, b)
	deliver(t, now, b, a)
	old := a.Sending()
	now = now.Add(10 * time.Second)
	fresh := &exchangeEnd{Exchange: NewExchange(b.cfg), identity: b.identity, uid: 3}
	fresh.cfg.UID = 3
	fresh.SetPeer(a.uid)
	fresh.Want(now, true)
	a.SetPeer(3)
	a.Tick(now)
	deliver(t, now, a, fresh)
	deliver(t, now, fresh, a)
	if a.Sending() == old {
		t.Fatal("the session with the run that ended is still used")
	}
	talk(t, now, a, fresh)
	talk(t, now, fresh, a)
	a.Want(now, false)
	a.Tick(now.Add(exchangeKeep))
	if n := len(a.Receiving()); n != 1 {
		t.Fatalf("%d sessions are kept, want 1", n)
	}
	a.Tick(now.Add(crypto.RejectAfter))
	if a.Sending() != nil {
		t.Fatal("a session is used beyond its life")
	}
}

// TestExchangeStatus: what is shown of a session is what there is.
func TestExchangeStatus(t *testing.T) {
	now := time.Unix(1000, 0)
	a, b := exchangePair(t, now)
	if s := a.Status(); s != (ExchangeStatus{Wanted: now}) {
		t.Errorf("before anything: %+v", s)
	}
	a.Tick(now)
	lost := a.Outgoing()
	if s := a.Status(); s.Tries != 1 || !s.Since.IsZero() {
		t.Errorf("asked once: %+v", s)
	}
	now = now.Add(time.Second)
	for _, m := range lost {
		if err := b.Receive(now, m); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range b.Outgoing() {
		if err := a.Receive(now, m); err != nil {
			t.Fatal(err)
		}
	}
	cipher := a.Sending().Cipher
	if s := a.Status(); s.Since != now || s.Cipher != cipher || s.Confirmed || s.Sent != 0 || s.Tries != 0 {
		t.Errorf("made: %+v", s)
	}
	talk(t, now, a, b)
	talk(t, now, b, a)
	if s := a.Status(); !s.Confirmed || s.Sent != 1 {
		t.Errorf("after a datagram each way: %+v", s)
	}
	a.Want(now, false)
	if s := a.Status(); !s.Wanted.IsZero() {
		t.Errorf("wanted no more: %+v", s)
	}
}
