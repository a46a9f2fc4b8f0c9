package crypto

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
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
