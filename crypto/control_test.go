package crypto

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/flynn/noise"
)

// controlConfigs are both sides of a handshake that is the same at every run.
func controlConfigs(t testing.TB, network *Network) (initiator, responder ControlConfig) {
	t.Helper()
	initiator = ControlConfig{Identity: testIdentity(t, 10), Network: network, Initiator: true, Random: seeded(30), Features: 0xa0b1, Hello: []byte("hello from a")}
	responder = ControlConfig{Identity: testIdentity(t, 11), Network: network, Random: seeded(31), Features: 0xc2d3, Hello: []byte("hello from b")}
	return initiator, responder
}

type controlEnd struct {
	result *ControlResult
	err    error
}

// recorder keeps what its side wrote and read.
type recorder struct {
	net.Conn
	wrote []byte
}

func (r *recorder) Write(b []byte) (int, error) {
	r.wrote = append(r.wrote, b...)
	return r.Conn.Write(b)
}

// shake runs both sides on a pipe; the side that fails closes its end.
func shake(t testing.TB, a, b ControlConfig) (ea, eb controlEnd, fromA, fromB []byte) {
	t.Helper()
	pa, pb := net.Pipe()
	defer pa.Close()
	defer pb.Close()
	deadline := time.Now().Add(10 * time.Second)
	pa.SetDeadline(deadline)
	pb.SetDeadline(deadline)
	ra, rb := &recorder{Conn: pa}, &recorder{Conn: pb}
	done := make(chan controlEnd)
	go func() {
		var e controlEnd
		e.result, e.err = ControlHandshake(rb, b)
		if e.err != nil && e.result == nil {
			pb.Close()
		}
		done <- e
	}()
	ea.result, ea.err = ControlHandshake(ra, a)
	if ea.err != nil && ea.result == nil {
		pa.Close()
	}
	eb = <-done
	return ea, eb, ra.wrote, rb.wrote
}

func controlPair(t testing.TB) (a, b *ControlResult) {
	t.Helper()
	ca, cb := controlConfigs(t, testNetwork(t, 1, CipherAuto))
	ea, eb, _, _ := shake(t, ca, cb)
	if ea.err != nil || eb.err != nil {
		t.Fatal(ea.err, eb.err)
	}
	return ea.result, eb.result
}

// recorded is a handshake's bytes in both directions. Since both random sources
// are seeded, each side can be run again against the other's recorded bytes.
func recorded(t testing.TB, network *Network) (fromA, fromB []byte) {
	t.Helper()
	a, b := controlConfigs(t, network)
	ea, eb, fromA, fromB := shake(t, a, b)
	if ea.err != nil || eb.err != nil {
		t.Fatal(ea.err, eb.err)
	}
	return fromA, fromB
}

// rerunner is the two sides of a recorded handshake, to be run again.
type rerunner struct{ initiator, responder ControlConfig }

func newRerunner(t testing.TB, network *Network) (r rerunner) {
	r.initiator, r.responder = controlConfigs(t, network)
	return r
}

// run runs one side against given bytes.
func (r rerunner) run(initiator bool, in []byte) (e controlEnd, s *stream) {
	cfg, s := r.responder, newStream(in)
	cfg.Random = seeded(31)
	if initiator {
		cfg = r.initiator
		cfg.Random = seeded(30)
	}
	e.result, e.err = ControlHandshake(s, cfg)
	return e, s
}

func TestControlHandshake(t *testing.T) {
	passphrase, err := PassphraseNetwork("correct horse battery", "lab")
	if err != nil {
		t.Fatal(err)
	}
	for what, network := range map[string]*Network{"token": testNetwork(t, 1, CipherAuto), "clear": testNetwork(t, 1, CipherNone), "passphrase": passphrase} {
		t.Run(what, func(t *testing.T) {
			ca, cb := controlConfigs(t, network)
			ea, eb, fromA, fromB := shake(t, ca, cb)
			if ea.err != nil || eb.err != nil {
				t.Fatal(ea.err, eb.err)
			}
			a, b := ea.result, eb.result
			if a.Peer != cb.Identity.Public() || b.Peer != ca.Identity.Public() || a.Name != cb.Identity.Name() || b.Name != ca.Identity.Name() {
				t.Error("wrong peers")
			}
			if string(a.Hello) != "hello from b" || string(b.Hello) != "hello from a" || a.Features != 0xc2d3 || b.Features != 0xa0b1 {
				t.Errorf("%q %#x, %q %#x", a.Hello, a.Features, b.Hello, b.Features)
			}
			if a.Version != 1 || b.Version != 1 || !a.Initiator || b.Initiator || a.Hash != b.Hash || a.Hash == ([32]byte{}) {
				t.Errorf("%+v\n%+v", a, b)
			}
			if len(fromA) != FirstFlightLen+controlMessage3Len+recordOverhead+helloPrefixLen+12 || len(fromB) != controlMessage2Len+recordOverhead+helloPrefixLen+12 {
				t.Errorf("%d and %d bytes on the wire", len(fromA), len(fromB))
			}
			// No identity travels in clear: neither keys, names nor hellos.
			wire := append(bytes.Clone(fromA), fromB...)
			for _, id := range []*Identity{ca.Identity, cb.Identity} {
				name := id.Name()
				for _, secret := range [][]byte{id.public.Noise[:], id.public.Sign[:], name[:6], []byte("hello from")} {
					if bytes.Contains(wire, secret) {
						t.Errorf("%x is on the wire", secret)
					}
				}
			}
			exchange(t, a.Send, b.Receive, "gossip to b")
			exchange(t, b.Send, a.Receive, "gossip to a")
		})
	}
}

// A wrong token gets no byte.
func TestControlWrongToken(t *testing.T) {
	a, b := controlConfigs(t, testNetwork(t, 1, CipherAuto))
	b.Network = testNetwork(t, 2, CipherAuto)
	ea, eb, _, fromB := shake(t, a, b)
	if len(fromB) != 0 {
		t.Errorf("a stranger got %d bytes", len(fromB))
	}
	wantError(t, "responder", eb.err, ErrNotOurs)
	wantError(t, "initiator", ea.err, ErrNoAnswer)
	if !errors.Is(ea.err, io.EOF) {
		t.Errorf("the cause is lost: %v", ea.err)
	}
}

// A wrong passphrase gets at most message 2, and neither end learns a name.
func TestControlWrongPassphrase(t *testing.T) {
	one, err := PassphraseNetwork("correct horse battery", "lab")
	if err != nil {
		t.Fatal(err)
	}
	two, err := PassphraseNetwork("correct horse batterz", "lab")
	if err != nil {
		t.Fatal(err)
	}
	a, b := controlConfigs(t, one)
	b.Network = two
	ea, eb, _, fromB := shake(t, a, b)
	if len(fromB) != controlMessage2Len {
		t.Errorf("%d bytes from the responder, want message 2 alone", len(fromB))
	}
	wantError(t, "responder", eb.err, ErrSecret)
	wantError(t, "initiator", ea.err, ErrSecret)
	if ea.result != nil || eb.result != nil {
		t.Error("a result beside an error")
	}
}

// A responder that knows the silence key but not the PSK cannot make the
// initiator believe it, whatever it answers; nor can it read message 3's payload.
func TestControlResponderWithoutPSK(t *testing.T) {
	network := testNetwork(t, 1, CipherAuto)
	rogue := *network
	rogue.controlPSK[5] ^= 1
	a, b := controlConfigs(t, network)
	b.Network = &rogue
	ea, eb, _, _ := shake(t, a, b)
	wantError(t, "responder", eb.err, ErrSecret)
	wantError(t, "initiator", ea.err, ErrSecret)

	newer := *network
	newer.generation = 1
	a, b = controlConfigs(t, network)
	b.Network = &newer
	_, eb, _, fromB := shake(t, a, b)
	wantError(t, "another generation", eb.err, ErrSecret)
	if len(fromB) != 0 {
		t.Errorf("%d bytes to another generation", len(fromB))
	}
}

// Every bit of every message flipped: no session on either side. The last record
// is the exception that every protocol has: its sender has finished, but then
// meets the end of the stream and never opens a record.
func TestControlFlippedBits(t *testing.T) {
	network := testNetwork(t, 1, CipherAuto)
	fromA, fromB := recorded(t, network)
	again := newRerunner(t, network)
	step := 1
	if raceEnabled {
		step = 7
	}
	for bit := 0; bit < 8*len(fromA); bit += step {
		eb, s := again.run(false, flipped(fromA, bit))
		if eb.err == nil || eb.result != nil {
			t.Fatalf("bit %d of the initiator flipped: the responder has a session", bit)
		}
		if bit < 8*FirstFlightLen && (s.out.Len() != 0 || !errors.Is(eb.err, ErrNotOurs)) {
			t.Fatalf("bit %d of the first flight flipped: %d bytes sent, %v", bit, s.out.Len(), eb.err)
		}
		ea, _ := again.run(true, s.out.Bytes())
		if ea.err == nil || ea.result != nil {
			t.Fatalf("bit %d of the initiator flipped: the initiator has a session", bit)
		}
	}
	for bit := 0; bit < 8*len(fromB); bit += step {
		ea, s := again.run(true, flipped(fromB, bit))
		if ea.err == nil || ea.result != nil {
			t.Fatalf("bit %d of the responder flipped: the initiator has a session", bit)
		}
		eb, sb := again.run(false, s.out.Bytes())
		if bit < 8*controlMessage2Len {
			if eb.err == nil || eb.result != nil {
				t.Fatalf("bit %d of the responder flipped: the responder has a session", bit)
			}
			continue
		}
		if eb.err != nil {
			t.Fatal(eb.err)
		}
		if _, err := eb.result.Receive.Read(sb); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("bit %d of the last record flipped: the responder reads on: %v", bit, err)
		}
	}
}

// Cut at every byte: always an error, never a clean end.
func TestControlTruncated(t *testing.T) {
	network := testNetwork(t, 1, CipherAuto)
	fromA, fromB := recorded(t, network)
	again := newRerunner(t, network)
	for _, side := range []struct {
		initiator bool
		in        []byte
	}{{false, fromA}, {true, fromB}} {
		for n := range side.in {
			e, _ := again.run(side.initiator, side.in[:n])
			if e.err == nil || e.result != nil {
				t.Fatalf("initiator %v: a session after %d of %d bytes", side.initiator, n, len(side.in))
			}
			if !side.initiator && !errors.Is(e.err, io.ErrUnexpectedEOF) || side.initiator && n == 0 && !errors.Is(e.err, ErrNoAnswer) {
				t.Fatalf("initiator %v, %d bytes: %v", side.initiator, n, e.err)
			}
		}
		e, _ := again.run(side.initiator, side.in)
		if e.err != nil {
			t.Fatalf("initiator %v: the recording itself fails: %v", side.initiator, e.err)
		}
	}
}

// Nothing is read beyond the handshake: what follows belongs to the caller.
func TestControlReadsNoFurther(t *testing.T) {
	network := testNetwork(t, 1, CipherAuto)
	fromA, fromB := recorded(t, network)
	again := newRerunner(t, network)
	for _, side := range []struct {
		initiator bool
		in        []byte
	}{{false, fromA}, {true, fromB}} {
		e, s := again.run(side.initiator, append(bytes.Clone(side.in), "rest"...))
		if rest, _ := io.ReadAll(s.in); e.err != nil || string(rest) != "rest" {
			t.Errorf("initiator %v: %v, %q is left", side.initiator, e.err, rest)
		}
	}
}

// Replayed and reflected messages give nothing.
func TestControlReplayAndReflection(t *testing.T) {
	network := testNetwork(t, 1, CipherAuto)
	fromA, fromB := recorded(t, network)
	again := newRerunner(t, network)
	// The whole of the initiator's stream, replayed to a responder with other random numbers.
	_, b := controlConfigs(t, network)
	b.Random = nil
	s := newStream(fromA)
	if r, err := ControlHandshake(s, b); err == nil || r != nil || s.out.Len() > controlMessage2Len {
		t.Errorf("replayed to the responder: %v, %d bytes sent", err, s.out.Len())
	}
	a, _ := controlConfigs(t, network)
	a.Random = nil
	if r, err := ControlHandshake(newStream(fromB), a); err == nil || r != nil {
		t.Errorf("replayed to the initiator: %v", err)
	}
	for what, in := range map[string][]byte{"reflected to the initiator": fromA, "its own answer to the responder": fromB} {
		if e, _ := again.run(what == "reflected to the initiator", in); e.err == nil {
			t.Errorf("%s: a session", what)
		}
	}
}

// The other end has our own key: both sides say so, and the hello tells a clone.
func TestControlSelf(t *testing.T) {
	a, b := controlConfigs(t, testNetwork(t, 1, CipherAuto))
	b.Identity = a.Identity
	ea, eb, _, _ := shake(t, a, b)
	for _, e := range []controlEnd{ea, eb} {
		if e.err != ErrSelf || e.result == nil || e.result.Name != a.Identity.Name() {
			t.Fatalf("%v, %v", e.result, e.err)
		}
	}
	if string(ea.result.Hello) != "hello from b" || string(eb.result.Hello) != "hello from a" {
		t.Error("the hello that tells a clone is missing")
	}
	exchange(t, ea.result.Send, eb.result.Receive, "are you the old one?")
}

func TestControlRefusesConfig(t *testing.T) {
	a, _ := controlConfigs(t, testNetwork(t, 1, CipherAuto))
	for what, change := range map[string]func(*ControlConfig){
		"no identity": func(c *ControlConfig) { c.Identity = nil }, "no network": func(c *ControlConfig) { c.Network = nil },
		"long hello": func(c *ControlConfig) { c.Hello = make([]byte, MaxHello+1) },
		"no random":  func(c *ControlConfig) { c.Random = bytes.NewReader(nil) },
	} {
		cfg := a
		change(&cfg)
		s := newStream(nil)
		if _, err := ControlHandshake(s, cfg); err == nil || s.out.Len() != 0 {
			t.Errorf("%s: %v, %d bytes sent", what, err, s.out.Len())
		}
	}
	_, responder := controlConfigs(t, a.Network)
	responder.Random = bytes.NewReader(nil)
	fromA, _ := recorded(t, a.Network)
	s := newStream(fromA)
	if _, err := ControlHandshake(s, responder); err == nil || s.out.Len() != 0 {
		t.Errorf("a responder without randomness: %v, %d bytes sent", err, s.out.Len())
	}
	long, b := controlConfigs(t, testNetwork(t, 1, CipherAuto))
	long.Hello, b.Hello = bytes.Repeat([]byte("a"), MaxHello), nil
	ea, eb, _, _ := shake(t, long, b)
	if ea.err != nil || eb.err != nil || len(eb.result.Hello) != MaxHello || len(ea.result.Hello) != 0 {
		t.Errorf("longest and shortest hello: %v, %v", ea.err, eb.err)
	}
}

// failing is a connection whose writes fail after n.
type failing struct {
	*stream
	n   int
	err error
}

func (f *failing) Write(b []byte) (int, error) {
	if f.n--; f.n < 0 {
		return 0, f.err
	}
	return f.stream.Write(b)
}

func TestControlWriteErrors(t *testing.T) {
	network := testNetwork(t, 1, CipherAuto)
	fromA, fromB := recorded(t, network)
	broken := errors.New("broken")
	for n := range 2 {
		a, b := controlConfigs(t, network)
		if _, err := ControlHandshake(&failing{newStream(fromB), n, broken}, a); !errors.Is(err, broken) || errors.Is(err, ErrSecret) != (n == 1) {
			t.Errorf("initiator's write %d: %v", n, err)
		}
		if _, err := ControlHandshake(&failing{newStream(fromA), n, broken}, b); !errors.Is(err, broken) || errors.Is(err, ErrSecret) {
			t.Errorf("responder's write %d: %v", n, err)
		}
	}
	// A deadline says nothing of the secret.
	a, _ := controlConfigs(t, network)
	_, err := ControlHandshake(&failing{newStream(fromB), 1, os.ErrDeadlineExceeded}, a)
	if !errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, ErrSecret) {
		t.Errorf("deadline: %v", err)
	}
}

func TestControlVersions(t *testing.T) {
	network := testNetwork(t, 1, CipherAuto)
	run := func(va, vb versionRange, lie *uint8) (ea, eb error, version uint8) {
		a, b := controlConfigs(t, network)
		pa, pb := net.Pipe()
		defer pa.Close()
		defer pb.Close()
		deadline := time.Now().Add(10 * time.Second)
		pa.SetDeadline(deadline)
		pb.SetDeadline(deadline)
		ha := &controlHandshake{ControlConfig: a, rw: pa, versions: va}
		hb := &controlHandshake{ControlConfig: b, rw: pb, versions: vb}
		done := make(chan error)
		go func() {
			var err error
			if lie != nil {
				err = hb.respondWith(*lie)
			} else {
				err = hb.respond()
			}
			if err != nil {
				pb.Close()
			}
			done <- err
		}()
		ea = ha.initiate()
		if ea != nil {
			pa.Close()
		}
		return ea, <-done, ha.result.Version
	}
	for _, c := range []struct {
		a, b versionRange
		want uint8
	}{
		{versionRange{1, 1}, versionRange{1, 1}, 1}, {versionRange{1, 3}, versionRange{1, 2}, 2}, {versionRange{2, 9}, versionRange{1, 5}, 5},
		{versionRange{1, 1}, versionRange{2, 3}, 0}, {versionRange{4, 4}, versionRange{2, 3}, 0}, {versionRange{3, 2}, versionRange{1, 9}, 0}, {versionRange{0, 0}, versionRange{0, 9}, 0},
	} {
		ea, eb, version := run(c.a, c.b, nil)
		if c.want == 0 {
			if !errors.Is(eb, ErrVersion) || !errors.Is(ea, ErrNoAnswer) {
				t.Errorf("%v with %v: %v, %v", c.a, c.b, ea, eb)
			}
		} else if ea != nil || eb != nil || version != c.want {
			t.Errorf("%v with %v: version %d, want %d; %v, %v", c.a, c.b, version, c.want, ea, eb)
		}
	}
	// A responder that chooses less than the highest in common, or more.
	for _, lie := range []uint8{0, 1, 3, 255} {
		if ea, _, _ := run(versionRange{1, 2}, versionRange{1, 2}, &lie); !errors.Is(ea, ErrVersion) {
			t.Errorf("chosen %d: %v", lie, ea)
		}
	}
}

// respondWith answers a first flight with a version of its own choice.
func (h *controlHandshake) respondWith(version uint8) error {
	var flight [FirstFlightLen]byte
	if _, err := io.ReadFull(h.rw, flight[:]); err != nil {
		return err
	}
	f, err := openFirstFlight(h.Network, &flight)
	if err != nil {
		return err
	}
	return answer(h.rw, h.config(&flight), f.ephemeral, []byte{version, h.versions.min, h.versions.max})
}

// answer sends a message 2 with a payload of the test's choice.
func answer(w io.Writer, c noiseConfig, e [32]byte, payload []byte) error {
	message1, err := firstMessage(c, e)
	if err != nil {
		return err
	}
	hs, err := c.start()
	if err != nil {
		return err
	}
	if _, _, _, err := hs.ReadMessage(nil, message1); err != nil {
		return err
	}
	message2, _, _, err := hs.WriteMessage(nil, append(payload, make([]byte, controlPayloadLen-len(payload))...))
	if err != nil {
		return err
	}
	_, err = w.Write(message2)
	return err
}

// A member of the network offers keys of low order in each of the four slots.
func TestControlLowOrderKeys(t *testing.T) {
	network := testNetwork(t, 1, CipherAuto)
	honest := [32]byte{0: 0xff}
	for _, weak := range lowOrderX25519() {
		// e of the first flight: nothing is answered.
		a, b := controlConfigs(t, network)
		flight := firstFlight{protocolVersions, 0, weak}.seal(network)
		s := newStream(flight[:])
		if _, err := ControlHandshake(s, b); !errors.Is(err, ErrHandshake) || s.out.Len() != 0 {
			t.Fatalf("low-order e answered with %d bytes: %v", s.out.Len(), err)
		}
		// e and s of message 2.
		for _, attack := range []weakDH{{noise.DH25519, weak}, {noise.DH25519, honest}} {
			pa, pb := net.Pipe()
			done := make(chan error)
			go func() {
				defer pb.Close()
				h := &controlHandshake{ControlConfig: b, rw: pb}
				var flight [FirstFlightLen]byte
				io.ReadFull(pb, flight[:])
				f, err := openFirstFlight(network, &flight)
				if err != nil {
					done <- err
					return
				}
				c := h.config(&flight)
				c.random = seeded(1)
				c.suite = noise.NewCipherSuite(attack, suite, suite)
				if attack.public == honest {
					c.static = noise.DHKey{Private: weakPrivate, Public: weak[:]}
				}
				done <- answer(pb, c, f.ephemeral, []byte{1, 1, 1})
			}()
			_, err := ControlHandshake(pa, a)
			if attackErr := <-done; attackErr != nil {
				t.Fatal(attackErr)
			}
			if !errors.Is(err, ErrHandshake) {
				t.Fatalf("low-order key in message 2: %v", err)
			}
		}
		// s of message 3.
		a, b = controlConfigs(t, network)
		pa, pb := net.Pipe()
		done := make(chan error)
		go func() {
			defer pb.Close()
			_, err := ControlHandshake(pb, b)
			done <- err
		}()
		e, err := newEphemeral(seeded(1))
		if err != nil {
			t.Fatal(err)
		}
		flight = firstFlight{protocolVersions, 0, e.public}.seal(network)
		c := (&controlHandshake{ControlConfig: a}).config(&flight)
		c.random, c.static = e.source(), noise.DHKey{Private: weakPrivate, Public: weak[:]}
		c.suite = noise.NewCipherSuite(weakDH{noise.DH25519, honest}, suite, suite)
		hs, err := c.start()
		if err != nil {
			t.Fatal(err)
		}
		hs.WriteMessage(nil, nil)
		pa.Write(flight[:])
		message2 := make([]byte, controlMessage2Len)
		io.ReadFull(pa, message2)
		if _, _, _, err := hs.ReadMessage(nil, message2); err != nil {
			t.Fatal(err)
		}
		message3, _, _, err := hs.WriteMessage(nil, make([]byte, controlPayloadLen))
		if err != nil {
			t.Fatal(err)
		}
		pa.Write(message3)
		if err := <-done; !errors.Is(err, ErrSecret) {
			t.Fatalf("low-order s in message 3: %v", err)
		}
		pa.Close()
	}
}

func TestFirstFlight(t *testing.T) {
	network := testNetwork(t, 1, CipherAuto)
	want := firstFlight{versionRange{1, 4}, 9, [32]byte{1, 2, 3}}
	b := want.seal(network)
	if got, err := openFirstFlight(network, &b); err != nil || got != want {
		t.Fatalf("%+v, %v", got, err)
	}
	if string(b[:4]) != flightMagic || b[4] != 1 || b[5] != 4 || b[6] != 9 || b[7] != 0 || b[8] != 1 || !bytes.Equal(b[flightPadding:flightTag], make([]byte, flightTag-flightPadding)) {
		t.Errorf("layout %x", b)
	}
	// Padding and flags may be used later, and are authentic now.
	b[flightPadding+5], b[7] = 1, 1
	if _, err := openFirstFlight(network, &b); err != ErrNotOurs {
		t.Errorf("changed padding: %v", err)
	}
	retag(network, &b)
	if got, err := openFirstFlight(network, &b); err != nil || got != want {
		t.Errorf("padding in use: %+v, %v", got, err)
	}
	b[0] ^= 1
	retag(network, &b)
	if _, err := openFirstFlight(network, &b); !errors.Is(err, ErrVersion) {
		t.Errorf("another magic: %v", err)
	}
}

func retag(n *Network, b *[FirstFlightLen]byte) {
	tag := flightSum(n, b[:flightTag])
	copy(b[flightTag:], tag[:])
}

// FuzzFirstFlight feeds the responder: with a wrong tag it sends nothing, with a
// right one at most message 2, and never does it get a session.
func FuzzFirstFlight(f *testing.F) {
	network := testNetwork(f, 1, CipherAuto)
	fromA, _ := recorded(f, network)
	again := newRerunner(f, network)
	f.Add(fromA, false)
	f.Add(fromA[:FirstFlightLen], true)
	f.Add(flipped(fromA, 8*FirstFlightLen+3), true)
	f.Fuzz(func(t *testing.T, in []byte, tag bool) {
		in = bytes.Clone(in)
		if tag && len(in) >= FirstFlightLen {
			retag(network, (*[FirstFlightLen]byte)(in))
		}
		e, s := again.run(false, in)
		if bytes.HasPrefix(in, fromA) {
			return
		}
		if e.err == nil || e.result != nil || s.out.Len() > controlMessage2Len {
			t.Fatalf("%x: %v, %d bytes sent", in, e.err, s.out.Len())
		}
		if errors.Is(e.err, ErrNotOurs) && s.out.Len() != 0 {
			t.Fatalf("%x: %d bytes to a stranger", in, s.out.Len())
		}
	})
}

// FuzzControlAnswer feeds the initiator.
func FuzzControlAnswer(f *testing.F) {
	network := testNetwork(f, 1, CipherAuto)
	_, fromB := recorded(f, network)
	again := newRerunner(f, network)
	f.Add(fromB)
	f.Add(flipped(fromB, 8*controlMessage2Len+30))
	f.Add(fromB[:controlMessage2Len])
	f.Fuzz(func(t *testing.T, in []byte) {
		e, _ := again.run(true, in)
		if (e.err == nil) != bytes.HasPrefix(in, fromB) || (e.result == nil) != (e.err != nil) {
			t.Fatalf("%x: %v", in, e.err)
		}
	})
}

// A member that names an Ed25519 key which is not its own, in either role.
func TestControlForeignSignKey(t *testing.T) {
	network := testNetwork(t, 1, CipherAuto)
	victim := testIdentity(t, 12)
	for _, initiator := range []bool{true, false} {
		a, b := controlConfigs(t, network)
		thief, honest := &a, 1
		if !initiator {
			thief, honest = &b, 0
		}
		thief.Identity.public.Sign = victim.public.Sign
		ea, eb, _, _ := shake(t, a, b)
		e := []controlEnd{ea, eb}[honest]
		if !errors.Is(e.err, ErrHandshake) || e.result != nil {
			t.Errorf("initiator %v with a foreign key: %v, %v", initiator, e.result, e.err)
		}
	}
	// A signature of the other role, and a hello too short to hold one.
	for _, text := range [][]byte{make([]byte, helloPrefixLen-1), append(bytes.Clone(victim.public.Sign[:]), make([]byte, 64)...)} {
		_, b := controlConfigs(t, network)
		h := &controlHandshake{ControlConfig: b}
		var seal *RecordSealer
		seal, h.result.Receive = recordPair()
		if len(text) == helloPrefixLen {
			sig := victim.Sign(labelSignResponder, h.result.Hash[:])
			copy(text[32:], sig[:])
		}
		record, err := seal.append(nil, text, purposeHello, 0, helloRecordMax)
		if err != nil {
			t.Fatal(err)
		}
		h.rw = newStream(record)
		wantError(t, "hello", h.readHello(), ErrHandshake)
	}
}
