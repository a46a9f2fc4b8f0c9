package crypto

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/flynn/noise"
)

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

func TestControlVersions(t *testing.T) {
	network := testNetwork(t, 1, CipherAuto)
	run := func(va, vb versionRange, lie *uint8) (version uint8, ea, eb error) {
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
		return ha.result.Version, ea, <-done
	}
	for _, c := range []struct {
		a, b versionRange
		want uint8
	}{
		{versionRange{1, 1}, versionRange{1, 1}, 1}, {versionRange{1, 3}, versionRange{1, 2}, 2}, {versionRange{2, 9}, versionRange{1, 5}, 5},
		{versionRange{1, 1}, versionRange{2, 3}, 0}, {versionRange{4, 4}, versionRange{2, 3}, 0}, {versionRange{3, 2}, versionRange{1, 9}, 0}, {versionRange{0, 0}, versionRange{0, 9}, 0},
	} {
		version, ea, eb := run(c.a, c.b, nil)
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
		if _, ea, _ := run(versionRange{1, 2}, versionRange{1, 2}, &lie); !errors.Is(ea, ErrVersion) {
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
