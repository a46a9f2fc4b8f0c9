package crypto

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// hosts are two members of a network with their session configurations.
type hosts struct {
	network *Network
	a, b    *Identity
	cfg     SessionConfig // a's, towards b
	ciphers Ciphers
}

func testHosts(t testing.TB, policy CipherPolicy) hosts {
	t.Helper()
	h := hosts{network: testNetwork(t, 1, policy), a: testIdentity(t, 10), b: testIdentity(t, 11)}
	h.ciphers = CipherSet(CipherAES256GCM, CipherChaCha20Poly1305)
	if policy == CipherNone {
		h.ciphers |= CipherSet(CipherClear)
	}
	h.cfg = SessionConfig{
		Identity: h.a, Network: h.network, Random: seeded(20), Peer: h.b.Public(),
		Self: 0xa1, PeerUID: 0xb1, Attempt: 3, Index: 0x1001, Ciphers: h.ciphers,
	}
	return h
}

func (h hosts) initiate(t testing.TB) (*SessionInitiator, []byte) {
	t.Helper()
	i, message1, err := InitiateSession(h.cfg)
	if err != nil {
		t.Fatal(err)
	}
	return i, message1
}

func (h hosts) accept(t testing.TB, message1 []byte, random io.Reader) (*Session, []byte) {
	t.Helper()
	r, err := ReadSessionRequest(h.b, h.network, message1)
	if err != nil {
		t.Fatal(err)
	}
	s, message2, err := r.Accept(random, 0x2002, h.ciphers)
	if err != nil {
		t.Fatal(err)
	}
	return s, message2
}

// session shakes hands and returns both ends.
func (h hosts) session(t testing.TB) (a, b *Session) {
	t.Helper()
	i, message1 := h.initiate(t)
	b, message2 := h.accept(t, message1, seeded(21))
	a, err := i.Finish(message2)
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

func sessionPair(t testing.TB, policy CipherPolicy) (a, b *Session) {
	t.Helper()
	return testHosts(t, policy).session(t)
}

// passes sends one message over a channel.
func passes(t testing.TB, from, to *Channel, text string) {
	t.Helper()
	counter, err := from.Next()
	if err != nil {
		t.Fatal(err)
	}
	body := append(make([]byte, 0, len(text)+TagLen), text...)
	sealed := inPlace(from, counter, []byte("header"), body)
	if len(sealed) != len(text)+from.Overhead() {
		t.Fatalf("%d bytes sealed to %d, overhead %d", len(text), len(sealed), from.Overhead())
	}
	if from.Overhead() > 0 && bytes.Contains(sealed, []byte(text)) {
		t.Fatal("sealed text can be read")
	}
	plain, err := to.Open(new(Scratch), counter, []byte("header"), sealed)
	if err != nil || string(plain) != text {
		t.Fatalf("opened %q, %v", plain, err)
	}
}

func TestSession(t *testing.T) {
	for _, policy := range []CipherPolicy{CipherAuto, CipherNone} {
		t.Run(policy.String(), func(t *testing.T) {
			h := testHosts(t, policy)
			i, message1 := h.initiate(t)
			if len(message1) != SessionMessage1Len {
				t.Errorf("message 1 of %d bytes", len(message1))
			}
			r, err := ReadSessionRequest(h.b, h.network, message1)
			if err != nil {
				t.Fatal(err)
			}
			if r.Initiator != h.a.Public().Noise || r.From != 0xa1 || r.To != 0xb1 || r.Attempt != 3 || r.Index != 0x1001 || r.Ciphers != h.ciphers {
				t.Errorf("request %+v", r)
			}
			b, message2, err := r.Accept(nil, 0x2002, h.ciphers)
			if err != nil {
				t.Fatal(err)
			}
			if header, err := ParseSessionHeader(message2); err != nil || header != (SessionHeader{2, 0x1001}) || len(message2) != SessionMessage2Len {
				t.Errorf("message 2: %+v, %v, %d bytes", header, err, len(message2))
			}
			if _, _, err := r.Accept(nil, 0x2003, h.ciphers); err == nil {
				t.Error("a request is accepted twice")
			}
			a, err := i.Finish(message2)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := i.Finish(message2); err == nil {
				t.Error("a session is finished twice")
			}
			want := CipherAES256GCM
			if policy == CipherNone {
				want = CipherClear
			}
			if a.Local != 0x1001 || a.Remote != 0x2002 || b.Local != 0x2002 || b.Remote != 0x1001 || a.Cipher != want || b.Cipher != want || !a.Initiator || b.Initiator {
				t.Errorf("%+v\n%+v", a, b)
			}
			if !a.Confirmed() || b.Confirmed() {
				t.Errorf("confirmed: initiator %v, responder %v before any datagram", a.Confirmed(), b.Confirmed())
			}
			passes(t, a.Data, b.Data, "a frame to b")
			if got, want := b.Confirmed(), policy == CipherAuto; got != want {
				t.Errorf("confirmed by data: %v, want %v", got, want)
			}
			passes(t, b.Data, a.Data, "a frame to a")
			passes(t, a.Control, b.Control, "a probe to b")
			passes(t, b.Control, a.Control, "a probe to a")
			if !b.Confirmed() {
				t.Error("not confirmed by a probe")
			}
			for _, ends := range [][2]*Channel{{a.Hop, b.Hop}, {b.Hop, a.Hop}} {
				n, _ := ends[0].Next()
				tag := ends[0].Tag(new(Scratch), n, []byte("relay header"))
				if err := ends[1].Check(new(Scratch), n, []byte("relay headex"), tag); err != ErrAuth {
					t.Errorf("changed header: %v", err)
				}
				if err := ends[1].Check(new(Scratch), n, []byte("relay header"), tag); err != nil {
					t.Error(err)
				}
				if err := ends[1].Check(new(Scratch), n, []byte("relay header"), tag); err != ErrReplay {
					t.Errorf("replayed header: %v", err)
				}
			}
			if a.Control.Overhead() != TagLen || a.Hop.Overhead() != TagLen {
				t.Error("probes or relay headers are in clear")
			}
		})
	}
}

// No key serves two directions or two purposes.
func TestSessionKeysApart(t *testing.T) {
	a, b := sessionPair(t, CipherAuto)
	seen := map[[TagLen]byte]string{}
	for what, c := range map[string]*Channel{"a data": a.Data, "a control": a.Control, "a hop": a.Hop, "b data": b.Data, "b control": b.Control, "b hop": b.Hop} {
		tag := c.Tag(new(Scratch), 0, nil)
		if other, ok := seen[tag]; ok {
			t.Errorf("%s and %s share a key", what, other)
		}
		seen[tag] = what
	}
}

func TestCipherChoice(t *testing.T) {
	aes, chacha, clear := CipherSet(CipherAES256GCM), CipherSet(CipherChaCha20Poly1305), CipherSet(CipherClear)
	future := Ciphers(1 << 6)
	for _, c := range []struct {
		policy       CipherPolicy
		a, b         Ciphers
		data, sealed Cipher
		err          error
	}{
		{CipherAuto, aes | chacha, aes | chacha, CipherAES256GCM, CipherAES256GCM, nil},
		{CipherAuto, aes | chacha, chacha, CipherChaCha20Poly1305, CipherChaCha20Poly1305, nil},
		{CipherAuto, chacha, aes | chacha | future, CipherChaCha20Poly1305, CipherChaCha20Poly1305, nil},
		{CipherAuto, aes, chacha, 0, 0, ErrCiphers},
		{CipherAuto, 0, 0, 0, 0, ErrCiphers},
		{CipherAuto, future, future, 0, 0, ErrCiphers},
		{CipherAuto, aes | chacha | clear, aes | chacha, 0, 0, ErrCiphers},
		{CipherAuto, aes | chacha, aes | chacha | clear, 0, 0, ErrCiphers},
		{CipherAuto, clear, clear, 0, 0, ErrCiphers},
		{CipherNone, chacha | clear, aes | chacha | clear, CipherClear, CipherChaCha20Poly1305, nil},
		{CipherNone, aes | clear, aes | chacha | clear, CipherClear, CipherAES256GCM, nil},
		{CipherNone, aes | chacha, aes | chacha | clear, 0, 0, ErrCiphers},
		{CipherNone, clear, clear, 0, 0, ErrCiphers},
	} {
		data, sealed, err := chooseCiphers(c.policy, c.a, c.b)
		if data != c.data || sealed != c.sealed || err != c.err {
			t.Errorf("%v %08b %08b: %v %v %v, want %v %v %v", c.policy, c.a, c.b, data, sealed, err, c.data, c.sealed, c.err)
		}
	}
	if l := LocalCiphers(CipherAuto); !l.Has(CipherChaCha20Poly1305) || l.Has(CipherClear) || l.Has(0) || l.Has(9) {
		t.Errorf("local ciphers %08b", l)
	}
	if l := LocalCiphers(CipherNone); !l.Has(CipherClear) || !l.Has(CipherChaCha20Poly1305) {
		t.Errorf("local ciphers without encryption %08b", l)
	}
	for _, c := range []Cipher{CipherAES256GCM, CipherChaCha20Poly1305, CipherClear, 77} {
		if c.String() == "" {
			t.Errorf("cipher %d has no name", c)
		}
	}
}

func TestInitiateSessionRefuses(t *testing.T) {
	h := testHosts(t, CipherAuto)
	for what, change := range map[string]func(*SessionConfig){
		"no identity":   func(c *SessionConfig) { c.Identity = nil },
		"no network":    func(c *SessionConfig) { c.Network = nil },
		"index 0":       func(c *SessionConfig) { c.Index = 0 },
		"itself":        func(c *SessionConfig) { c.Peer = c.Identity.Public() },
		"no ciphers":    func(c *SessionConfig) { c.Ciphers = 0 },
		"clear":         func(c *SessionConfig) { c.Ciphers |= CipherSet(CipherClear) },
		"no randomness": func(c *SessionConfig) { c.Random = bytes.NewReader(make([]byte, 31)) },
	} {
		cfg := h.cfg
		change(&cfg)
		if i, m, err := InitiateSession(cfg); err == nil || i != nil || m != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, message1 := h.initiate(t)
	r, err := ReadSessionRequest(h.b, h.network, message1)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Accept(nil, 0, h.ciphers); err == nil {
		t.Error("accepted with index 0")
	}
	_, _, err = r.Accept(nil, 1, h.ciphers|CipherSet(CipherClear))
	wantError(t, "clear offered by the responder", err, ErrCiphers)
	if _, _, err := r.Accept(nil, 1, h.ciphers); err != nil {
		t.Errorf("what was refused for its parameters used the request up: %v", err)
	}
}

// A replayed message 1 is told by its attempt and UIDs, and disturbs no live session.
func TestSessionReplayedRequest(t *testing.T) {
	h := testHosts(t, CipherAuto)
	i, message1 := h.initiate(t)
	b, message2 := h.accept(t, message1, seeded(21))
	a, err := i.Finish(message2)
	if err != nil {
		t.Fatal(err)
	}
	passes(t, a.Data, b.Data, "before")
	for n := range 100 {
		r, err := ReadSessionRequest(h.b, h.network, message1)
		if err != nil {
			t.Fatal(err)
		}
		if r.Attempt != 3 || r.From != 0xa1 || r.To != 0xb1 {
			t.Fatalf("the replay does not show itself: %+v", r)
		}
		// Even a caller that accepts it gets keys of its own, which nobody confirms.
		s, answer, err := r.Accept(seeded(uint64(100+n)), 0x2002, h.ciphers)
		if err != nil || s.Confirmed() {
			t.Fatalf("replay: %v, confirmed %v", err, s.Confirmed())
		}
		if _, err := i.Finish(answer); err == nil {
			t.Fatal("a used initiator finishes again")
		}
		counter, _ := a.Data.Next()
		sealed := inPlace(a.Data, counter, nil, make([]byte, 8, 8+TagLen))
		if _, err := s.Data.Open(new(Scratch), counter, nil, bytes.Clone(sealed)); err != ErrAuth {
			t.Fatalf("the replay's session opens the live one's frames: %v", err)
		}
		if _, err := b.Data.Open(new(Scratch), counter, nil, sealed); err != nil {
			t.Fatalf("the live session lost a frame: %v", err)
		}
	}
	passes(t, a.Data, b.Data, "after")
	passes(t, b.Data, a.Data, "after")
}

// Only the network's secret, its ID and the right static key open a request.
func TestSessionWrongSecretOrPeer(t *testing.T) {
	h := testHosts(t, CipherAuto)
	_, message1 := h.initiate(t)
	if _, err := ReadSessionRequest(testIdentity(t, 12), h.network, message1); !errors.Is(err, ErrHandshake) {
		t.Errorf("another host opens the request: %v", err)
	}
	if _, err := ReadSessionRequest(h.b, testNetwork(t, 2, CipherAuto), message1); !errors.Is(err, ErrHandshake) {
		t.Errorf("another network opens the request: %v", err)
	}
	// Without the PSK message 1 opens (it is mixed in with message 2), but no session comes of it.
	thief := *h.network
	thief.sessionPSK[0] ^= 1
	r, err := ReadSessionRequest(h.b, &thief, message1)
	if err != nil {
		t.Fatal(err)
	}
	_, message2, err := r.Accept(nil, 5, h.ciphers)
	if err != nil {
		t.Fatal(err)
	}
	i, _ := h.initiate(t)
	if _, err := i.Finish(message2); err == nil {
		t.Error("a session without the secret")
	}
	// A request to ourselves, and one whose answer belongs to another attempt.
	own, err := ReadSessionRequest(h.a, h.network, message1)
	if err == nil || own != nil {
		t.Error("the initiator reads its own request")
	}
	cfg := h.cfg
	cfg.Random, cfg.Index = seeded(99), 0x1002
	j, _, err := InitiateSession(cfg)
	if err != nil {
		t.Fatal(err)
	}
	_, message2 = h.accept(t, message1, nil)
	if _, err := j.Finish(message2); !errors.Is(err, ErrHandshake) {
		t.Errorf("the answer to another attempt: %v", err)
	}
}

func TestParseSessionHeader(t *testing.T) {
	one, two := make([]byte, SessionMessage1Len), make([]byte, SessionMessage2Len)
	copy(one, []byte{1, 1})
	copy(two, []byte{2, 1, 0, 0, 0, 0, 0, 9})
	if h, err := ParseSessionHeader(one); err != nil || h != (SessionHeader{1, 0}) {
		t.Errorf("%+v, %v", h, err)
	}
	if h, err := ParseSessionHeader(two); err != nil || h != (SessionHeader{2, 9}) || h.put() != [8]byte(two) {
		t.Errorf("%+v, %v", h, err)
	}
	newer := bytes.Clone(one)
	newer[1] = 2
	_, err := ParseSessionHeader(newer)
	wantError(t, "newer version", err, ErrVersion)
	for _, b := range [][]byte{nil, {1, 1}, one[:SessionMessage1Len-1], two[:SessionMessage1Len-70], append(two, 0), {3, 1, 0, 0, 0, 0, 0, 0}} {
		_, err := ParseSessionHeader(b)
		wantError(t, "odd message", err, ErrHandshake)
	}
}
