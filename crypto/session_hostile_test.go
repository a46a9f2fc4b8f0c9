package crypto

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/flynn/noise"
)

// Every bit of both messages, flipped: no session on either side; and after all
// the wrong ones the right message 2 still finishes.
func TestSessionFlippedBits(t *testing.T) {
	h := testHosts(t, CipherAuto)
	i, message1 := h.initiate(t)
	for bit := range 8 * len(message1) {
		if r, err := ReadSessionRequest(h.b, h.network, flipped(message1, bit)); err == nil || r != nil {
			t.Fatalf("message 1 with bit %d flipped is a request", bit)
		}
	}
	for n := range message1 {
		if _, err := ReadSessionRequest(h.b, h.network, message1[:n]); err == nil {
			t.Fatalf("message 1 cut at %d is a request", n)
		}
	}
	if _, err := ReadSessionRequest(h.b, h.network, append(bytes.Clone(message1), 0)); err == nil {
		t.Fatal("message 1 with a byte more is a request")
	}
	b, message2 := h.accept(t, message1, seeded(21))
	for bit := range 8 * len(message2) {
		if s, err := i.Finish(flipped(message2, bit)); err == nil || s != nil {
			t.Fatalf("message 2 with bit %d flipped finishes", bit)
		}
	}
	for n := range message2 {
		if _, err := i.Finish(message2[:n]); err == nil {
			t.Fatalf("message 2 cut at %d finishes", n)
		}
	}
	if b.Confirmed() {
		t.Error("the responder believes in a session that the initiator never got")
	}
	a, err := i.Finish(message2)
	if err != nil {
		t.Fatalf("wrong messages used the initiator up: %v", err)
	}
	passes(t, a.Data, b.Data, "frame")
	passes(t, b.Data, a.Data, "frame")
}

// weakDH is an attacker's arithmetic: it offers a low-order key and knows the product.
type weakDH struct {
	noise.DHFunc
	public [32]byte
}

var weakPrivate = bytes.Repeat([]byte{0xaa}, 32)

func (d weakDH) GenerateKeypair(r io.Reader) (noise.DHKey, error) {
	if d.public == ([32]byte{0: 0xff}) {
		return noise.DH25519.GenerateKeypair(r)
	}
	return noise.DHKey{Private: weakPrivate, Public: d.public[:]}, nil
}

func (d weakDH) DH(private, public []byte) ([]byte, error) {
	if shared, err := noise.DH25519.DH(private, public); err == nil && !bytes.Equal(private, weakPrivate) {
		return shared, nil
	}
	return make([]byte, 32), nil
}

// A member of the network offers keys of low order in each slot: no session.
func TestSessionLowOrderKeys(t *testing.T) {
	h := testHosts(t, CipherAuto)
	for _, weak := range lowOrderX25519() {
		cfg := h.cfg
		cfg.Peer.Noise = weak
		if _, _, err := InitiateSession(cfg); !errors.Is(err, ErrHandshake) {
			t.Fatalf("initiated towards a low-order key: %v", err)
		}
		header := SessionHeader{Number: 1}.put()
		for _, slot := range []string{"e", "s"} {
			c := sessionNoise(h.a, h.network, header)
			c.initiator, c.random, c.peer = true, seeded(1), bytes.Clone(h.b.public.Noise[:])
			attack := weakDH{noise.DH25519, weak}
			if slot == "s" {
				attack.public = [32]byte{0: 0xff}
				c.static = noise.DHKey{Private: weakPrivate, Public: weak[:]}
			}
			c.suite = noise.NewCipherSuite(attack, suite, suite)
			hs, err := c.start()
			if err != nil {
				t.Fatal(err)
			}
			payload := make([]byte, sessionPayload1Len)
			payload[0], payload[7] = byte(h.ciphers), 1
			message1, _, _, err := hs.WriteMessage(header[:], payload)
			if err != nil {
				t.Fatal(err)
			}
			if r, err := ReadSessionRequest(h.b, h.network, message1); err == nil || r != nil {
				t.Fatalf("request with low-order %s", slot)
			}
		}
		// Message 2 with a low-order e; then the right one still finishes.
		i, message1 := h.initiate(t)
		c := sessionNoise(h.b, h.network, header)
		c.suite = noise.NewCipherSuite(weakDH{noise.DH25519, weak}, suite, suite)
		hs, err := c.start()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := hs.ReadMessage(nil, message1[sessionHeaderLen:]); err != nil {
			t.Fatal(err)
		}
		payload := make([]byte, sessionPayload2Len)
		payload[0], payload[1], payload[7] = byte(h.ciphers), byte(CipherAES256GCM), 1
		answer := SessionHeader{2, h.cfg.Index}.put()
		message2, _, _, err := hs.WriteMessage(answer[:], payload)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := i.Finish(message2); err == nil {
			t.Fatal("finished with a low-order e")
		}
		_, message2 = h.accept(t, message1, nil)
		if _, err := i.Finish(message2); err != nil {
			t.Fatalf("a low-order e used the initiator up: %v", err)
		}
	}
}

// 10 000 wrong messages 2 do not spoil the right one. (One in a hundred goes
// through Noise; the others fail at the header.)
func TestSessionManyWrongAnswers(t *testing.T) {
	h := testHosts(t, CipherAuto)
	i, message1 := h.initiate(t)
	_, message2 := h.accept(t, message1, nil)
	r := seeded(7)
	wrong := make([]byte, SessionMessage2Len)
	for n := range 10000 {
		r.Read(wrong)
		if n%100 == 0 {
			copy(wrong, message2[:sessionHeaderLen])
		}
		if _, err := i.Finish(wrong); err == nil {
			t.Fatal("random bytes finish a session")
		}
	}
	if _, err := i.Finish(message2); err != nil {
		t.Fatal(err)
	}
}

func FuzzSessionRequest(f *testing.F) {
	h := testHosts(f, CipherAuto)
	_, message1 := h.initiate(f)
	f.Add(message1)
	f.Add(flipped(message1, 70))
	f.Add(message1[:40])
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ReadSessionRequest(h.b, h.network, b)
		if (err == nil) != bytes.Equal(b, message1) || (r == nil) != (err != nil) {
			t.Fatalf("%x: %v", b, err)
		}
	})
}

func FuzzSessionAnswer(f *testing.F) {
	h := testHosts(f, CipherAuto)
	i, message1 := h.initiate(f)
	_, message2 := h.accept(f, message1, seeded(21))
	f.Add(message2)
	f.Add(flipped(message2, 70))
	f.Add(message2[:40])
	f.Fuzz(func(t *testing.T, b []byte) {
		if bytes.Equal(b, message2) {
			return
		}
		if s, err := i.Finish(b); err == nil || s != nil {
			t.Fatalf("%x finishes", b)
		}
	})
}

// A responder that knows the secret cannot talk the initiator into another
// cipher than the rule gives, nor into clear data.
func TestSessionDowngrade(t *testing.T) {
	h := testHosts(t, CipherAuto)
	i, message1 := h.initiate(t)
	both, chacha, clear := h.ciphers, CipherSet(CipherChaCha20Poly1305), CipherSet(CipherClear)
	for what, c := range map[string]struct {
		offered Ciphers
		chosen  Cipher
		index   byte
		want    error
	}{
		"weaker cipher":     {both, CipherChaCha20Poly1305, 1, ErrHandshake},
		"not offered":       {chacha, CipherAES256GCM, 1, ErrHandshake},
		"clear":             {both, CipherClear, 1, ErrHandshake},
		"clear, offered":    {both | clear, CipherClear, 1, ErrCiphers},
		"unknown":           {both, 9, 1, ErrHandshake},
		"nothing in common": {0, CipherAES256GCM, 1, ErrCiphers},
		"index 0":           {both, CipherAES256GCM, 0, ErrHandshake},
	} {
		hs, err := sessionNoise(h.b, h.network, SessionHeader{Number: 1}.put()).start()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := hs.ReadMessage(nil, message1[sessionHeaderLen:]); err != nil {
			t.Fatal(err)
		}
		payload := make([]byte, sessionPayload2Len)
		payload[0], payload[1], payload[7] = byte(c.offered), byte(c.chosen), c.index
		header := SessionHeader{2, h.cfg.Index}.put()
		message2, _, _, err := hs.WriteMessage(header[:], payload)
		if err != nil {
			t.Fatal(err)
		}
		s, err := i.Finish(message2)
		if s != nil {
			t.Errorf("%s: a session", what)
		}
		wantError(t, what, err, c.want)
	}
	_, message2 := h.accept(t, message1, nil)
	if _, err := i.Finish(message2); err != nil {
		t.Fatal(err)
	}
	// Message 1 without a receive index.
	cfg := h.cfg
	cfg.Index, cfg.Random = 0, nil
	e, _ := newEphemeral(nil)
	bad := &SessionInitiator{cfg: cfg, ephemeral: e}
	message1, err := bad.start()
	if err != nil {
		t.Fatal(err)
	}
	_, err = ReadSessionRequest(h.b, h.network, message1)
	wantError(t, "request without an index", err, ErrHandshake)
}
