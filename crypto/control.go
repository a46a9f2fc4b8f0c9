package crypto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/flynn/noise"
)

// The control handshake is Noise_XXpsk3_25519_ChaChaPoly_SHA256. Every length is
// fixed, so nothing but the hello records has one on the wire:
//
//	1  first flight                  128   flight.go
//	2  e, enc(s), enc(payload 32)    128   payload: version, vmin, vmax, 0, features 4, zero 24
//	3  enc(s), enc(payload 32)        96   payload: features 4, zero 28
//	   hello record of the initiator       in the same write
//	4  hello record of the responder       it alone proves that the responder has the PSK
//
// Zeros in payloads are reserved: a receiver ignores them. A hello record
// (record.go) holds
//
//	offset  0              32          96
//	        │ Ed25519 key  │ signature │ the caller's hello, at most MaxHello │
//
// with the signature over the final handshake hash, one label for each role. The
// prologue is label ‖ network ID ‖ the 128 bytes of the first flight.
const (
	controlPrologue    = "ripstop control v1"
	controlMessage2Len = 32 + 48 + controlPayloadLen + 16
	controlMessage3Len = 48 + controlPayloadLen + 16
	controlPayloadLen  = 32

	helloPrefixLen       = 32 + 64
	helloRecordMax       = helloPrefixLen + MaxHello
	labelSignInitiator   = "ripstop control initiator v1"
	labelSignResponder   = "ripstop control responder v1"
	labelControlSchedule = "control"
)

// MaxHello is the longest hello of a control connection in bytes.
const MaxHello = 4096

// Errors of handshakes.
var (
	// ErrNotOurs: the first flight's tag is wrong; nothing was sent.
	ErrNotOurs = errors.New("crypto: first flight is not of this network")
	// ErrNoAnswer: the other end closed, or stayed silent, without sending a byte
	// of message 2. Most often it has another secret.
	ErrNoAnswer = errors.New("no answer")
	// ErrSecret: the other end has not proved the network secret.
	ErrSecret = errors.New("the other end has another secret")
	// ErrSelf: the other end has our own static key. It is ourselves or a clone.
	ErrSelf = errors.New("crypto: control handshake: the other end has our own key")
	// ErrVersion: no protocol version in common, or not the highest one was chosen.
	ErrVersion = errors.New("no protocol version in common")
	// ErrHandshake: a message was changed, or made for another handshake.
	ErrHandshake = errors.New("unreadable handshake message")
)

// versionRange is the protocol versions a side speaks, both ends included.
type versionRange struct{ min, max uint8 }

// protocolVersions are what this code speaks.
var protocolVersions = versionRange{1, 1}

// common is the highest version of both ranges.
func (v versionRange) common(o versionRange) (uint8, error) {
	low, high := max(v.min, o.min), min(v.max, o.max)
	if low == 0 || low > high {
		return 0, fmt.Errorf("crypto: control handshake: %w: %d to %d here, %d to %d there", ErrVersion, v.min, v.max, o.min, o.max)
	}
	return high, nil
}

// ControlConfig is one side of a control handshake. Identity and Network are required.
type ControlConfig struct {
	Identity  *Identity
	Network   *Network
	Initiator bool      // this side dialled
	Random    io.Reader // nil: crypto/rand
	Features  uint32    // this side's capability bits
	Hello     []byte    // for the peer once it has proved the secret; at most MaxHello bytes
}

// ControlResult is a finished handshake: both ends have proved the network's
// secret and both private keys of their names.
type ControlResult struct {
	Peer      PublicKeys
	Name      Name // Peer.Name()
	Hello     []byte
	Features  uint32 // the peer's
	Version   uint8  // chosen: the highest in common
	Initiator bool
	Send      *RecordSealer
	Receive   *RecordOpener
	Hash      [32]byte // Noise's handshake hash: names this connection, no secret
}

// ControlHandshake runs one side over rw, whose deadlines are the caller's. It
// never reads beyond what the handshake needs. After an error the connection can
// only be closed.
//
// ErrSelf comes with a result: the peer's hello tells this run from a clone.
// errors.Is tells ErrNotOurs, ErrNoAnswer, ErrSecret, ErrVersion, ErrHandshake
// and ErrRecord apart; errors of rw are wrapped.
//
// The responder's last record may get lost after it has returned: its first
// record from the initiator proves that both have finished.
func ControlHandshake(rw io.ReadWriter, cfg ControlConfig) (*ControlResult, error) {
	if cfg.Identity == nil || cfg.Network == nil {
		return nil, errors.New("crypto: control handshake: identity and network are required")
	}
	if len(cfg.Hello) > MaxHello {
		return nil, fmt.Errorf("crypto: control handshake: hello of %d bytes, at most %d are allowed", len(cfg.Hello), MaxHello)
	}
	h := &controlHandshake{ControlConfig: cfg, rw: rw, versions: protocolVersions}
	run := h.respond
	if cfg.Initiator {
		run = h.initiate
	}
	if err := run(); err != nil {
		return nil, err
	}
	if h.result.Peer.Noise == cfg.Identity.public.Noise {
		return &h.result, ErrSelf
	}
	return &h.result, nil
}

// controlHandshake is a handshake under way.
type controlHandshake struct {
	ControlConfig
	rw       io.ReadWriter
	versions versionRange
	noise    *noise.HandshakeState
	result   ControlResult
}

func (h *controlHandshake) config(flight *[FirstFlightLen]byte) noiseConfig {
	prologue := []byte(controlPrologue)
	prologue = append(prologue, h.Network.id[:]...)
	prologue = append(prologue, flight[:]...)
	return noiseConfig{
		suite: suite, pattern: noise.HandshakeXX, placement: 3, psk: &h.Network.controlPSK,
		initiator: h.Initiator, prologue: prologue, static: h.Identity.noiseKey(), random: randomOr(h.Random),
	}
}

func (h *controlHandshake) initiate() error {
	e, err := newEphemeral(h.Random)
	if err != nil {
		return err
	}
	flight := firstFlight{h.versions, h.Network.generation, e.public}.seal(h.Network)
	c := h.config(&flight)
	c.random = e.source()
	if h.noise, err = c.start(); err != nil {
		return err
	}
	if _, _, _, err := h.noise.WriteMessage(nil, nil); err != nil {
		return fmt.Errorf("crypto: control handshake: message 1: %w", err)
	}
	if _, err := h.rw.Write(flight[:]); err != nil {
		return fmt.Errorf("crypto: control handshake: write first flight: %w", err)
	}

	var message2 [controlMessage2Len]byte
	if n, err := io.ReadFull(h.rw, message2[:]); err != nil {
		if n == 0 {
			return fmt.Errorf("crypto: control handshake: %w: %w", ErrNoAnswer, err)
		}
		return cut("control handshake: read message 2", err)
	}
	payload, _, _, err := h.noise.ReadMessage(nil, message2[:])
	if err != nil {
		return fmt.Errorf("crypto: control handshake: message 2: %w: %w", ErrHandshake, err)
	}
	version, err := h.versions.common(versionRange{payload[1], payload[2]})
	if err != nil {
		return err
	}
	if payload[0] != version {
		return fmt.Errorf("crypto: control handshake: %w: the other end chose %d, the highest in common is %d", ErrVersion, payload[0], version)
	}
	h.result.Version = version
	h.result.Features = binary.BigEndian.Uint32(payload[4:])

	var payload3 [controlPayloadLen]byte
	binary.BigEndian.PutUint32(payload3[:], h.Features)
	out, k1, k2, err := h.noise.WriteMessage(nil, payload3[:])
	if err != nil {
		return fmt.Errorf("crypto: control handshake: message 3: %w", err)
	}
	if err := h.split(k1, k2); err != nil {
		return err
	}
	if out, err = h.appendHello(out); err != nil {
		return err
	}
	// From here on a connection that ends is one whose other end could not read
	// message 3, which only the secret opens.
	if _, err := h.rw.Write(out); err != nil {
		return ended("write message 3", err)
	}
	return h.readHello()
}

func (h *controlHandshake) respond() error {
	var flight [FirstFlightLen]byte
	if _, err := io.ReadFull(h.rw, flight[:]); err != nil {
		return cut("control handshake: read first flight", err)
	}
	f, err := openFirstFlight(h.Network, &flight)
	if err != nil {
		return err
	}
	if h.result.Version, err = h.versions.common(f.versions); err != nil {
		return err
	}
	if f.generation != h.Network.generation {
		return fmt.Errorf("crypto: control handshake: %w: generation %d there, %d here", ErrSecret, f.generation, h.Network.generation)
	}
	c := h.config(&flight)
	message1, err := firstMessage(c, f.ephemeral)
	if err != nil {
		return err
	}
	if h.noise, err = c.start(); err != nil {
		return err
	}
	if _, _, _, err := h.noise.ReadMessage(nil, message1); err != nil {
		return fmt.Errorf("crypto: control handshake: message 1: %w: %w", ErrHandshake, err)
	}

	payload2 := [controlPayloadLen]byte{h.result.Version, h.versions.min, h.versions.max}
	binary.BigEndian.PutUint32(payload2[4:], h.Features)
	message2, _, _, err := h.noise.WriteMessage(nil, payload2[:])
	if err != nil {
		return fmt.Errorf("crypto: control handshake: message 2: %w: %w", ErrHandshake, err)
	}
	if _, err := h.rw.Write(message2); err != nil {
		return fmt.Errorf("crypto: control handshake: write message 2: %w", err)
	}

	var message3 [controlMessage3Len]byte
	if _, err := io.ReadFull(h.rw, message3[:]); err != nil {
		return cut("control handshake: read message 3", err)
	}
	payload3, k1, k2, err := h.noise.ReadMessage(nil, message3[:])
	if err != nil {
		return fmt.Errorf("crypto: control handshake: message 3: %w: %w", ErrSecret, err)
	}
	h.result.Features = binary.BigEndian.Uint32(payload3)
	if err := h.split(k1, k2); err != nil {
		return err
	}
	if err := h.readHello(); err != nil {
		return err
	}
	out, err := h.appendHello(nil)
	if err != nil {
		return err
	}
	if _, err := h.rw.Write(out); err != nil {
		return fmt.Errorf("crypto: control handshake: write hello: %w", err)
	}
	return nil
}

// split makes the record keys of both directions.
func (h *controlHandshake) split(k1, k2 *noise.CipherState) error {
	s, err := newSchedule(h.noise, k1, k2)
	if err != nil {
		return err
	}
	h.result.Initiator = h.Initiator
	h.result.Hash = [32]byte(h.noise.ChannelBinding())
	h.result.Peer.Noise = NoisePublic(h.noise.PeerStatic())
	h.result.Send, h.result.Receive = new(RecordSealer), new(RecordOpener)
	send, receive := directions(h.Initiator)
	for _, k := range []struct {
		key *recordKey
		d   direction
	}{{&h.result.Send.recordKey, send}, {&h.result.Receive.recordKey, receive}} {
		b, err := s.expand(labelControlSchedule, k.d, len(k.key.key))
		if err != nil {
			return err
		}
		copy(k.key.key[:], b)
		k.key.direction = k.d
	}
	return nil
}

// signLabel is the label under which a side signs the handshake hash.
func signLabel(initiator bool) string {
	if initiator {
		return labelSignInitiator
	}
	return labelSignResponder
}

func (h *controlHandshake) appendHello(dst []byte) ([]byte, error) {
	signature := h.Identity.Sign(signLabel(h.Initiator), h.result.Hash[:])
	text := make([]byte, 0, helloPrefixLen+len(h.Hello))
	text = append(text, h.Identity.public.Sign[:]...)
	text = append(text, signature[:]...)
	text = append(text, h.Hello...)
	return h.result.Send.append(dst, text, purposeHello, helloPrefixLen, helloRecordMax)
}

func (h *controlHandshake) readHello() error {
	text, err := h.result.Receive.readHello(h.rw)
	if err != nil {
		if h.Initiator {
			return ended("read the other end's hello", err)
		}
		return fmt.Errorf("crypto: control handshake: read hello: %w", err)
	}
	if len(text) < helloPrefixLen {
		return fmt.Errorf("crypto: control handshake: %w: hello of %d bytes", ErrHandshake, len(text))
	}
	key, signature := SignPublic(text[:32]), Signature(text[32:helloPrefixLen])
	if !Verify(key, signature, signLabel(!h.Initiator), h.result.Hash[:]) {
		return fmt.Errorf("crypto: control handshake: %w: wrong signature", ErrHandshake)
	}
	h.result.Peer.Sign = key
	h.result.Name = h.result.Peer.Name()
	h.result.Hello = bytes.Clone(text[helloPrefixLen:])
	return nil
}

// ended is ErrSecret, unless the time ran out: that says nothing of the secret.
func ended(operation string, err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("crypto: control handshake: %s: %w", operation, err)
	}
	return fmt.Errorf("crypto: control handshake: %s: %w: %w", operation, ErrSecret, err)
}
