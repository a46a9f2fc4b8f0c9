package crypto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/flynn/noise"
)

// A session is Noise_IKpsk2_25519_ChaChaPoly_SHA256 to the static key that the
// peer's name commits to. Its two messages have fixed lengths:
//
//	offset  0        1         2      4       8
//	1       │ number │ version │ zero │ zero  │ e 32, enc(s) 48, enc(payload 32) 48 │  136
//	2       │ number │ version │ zero │ index │ e 32, enc(payload 16) 32            │   72
//
// The index of message 2 is the initiator's receive index out of message 1, by
// which the waiting SessionInitiator is found. Payloads:
//
//	offset  0         1     4       8      16   24        32
//	1       │ ciphers │ zero │ index │ from │ to │ attempt │
//	2       │ ciphers │ cipher │ zero 2 │ index │ zero 8 │
//
// The zeros of headers must be zero, those of payloads are reserved and ignored.
// The prologue is label ‖ network ID ‖ header of message 1; the header of message
// 2 is known beforehand, byte for byte.
const (
	// SessionMessage1Len and SessionMessage2Len are the lengths of the two messages.
	SessionMessage1Len = sessionHeaderLen + 32 + 48 + sessionPayload1Len + 16
	SessionMessage2Len = sessionHeaderLen + 32 + sessionPayload2Len + 16

	sessionVersion     = 1
	sessionHeaderLen   = 8
	sessionPayload1Len = 32
	sessionPayload2Len = 16
	sessionPrologue    = "ripstop session v1"
)

// The life of a session's keys, for the caller who has the clock.
const (
	// RekeyAfter is when the initiator makes new keys, ±RekeyJitter of it.
	RekeyAfter  = 120 * time.Second
	RekeyJitter = 0.1
	// RekeyAfterMessages makes new keys once Sent of a channel is above it.
	RekeyAfterMessages = 1 << 27
	// RejectAfter is when nothing more is sealed or opened with the keys.
	RejectAfter = 180 * time.Second
)

// SessionHeader is what both messages of a session handshake carry in clear.
type SessionHeader struct {
	Number uint8  // 1 or 2
	Index  uint32 // message 2: the initiator's receive index; message 1: 0
}

// ParseSessionHeader tells message 1 from message 2 and checks the length;
// ErrVersion for other versions, ErrHandshake for the rest.
func ParseSessionHeader(message []byte) (SessionHeader, error) {
	if len(message) < sessionHeaderLen {
		return SessionHeader{}, fmt.Errorf("crypto: session message: %w: %d bytes", ErrHandshake, len(message))
	}
	if message[1] != sessionVersion {
		return SessionHeader{}, fmt.Errorf("crypto: session message: %w: version %d", ErrVersion, message[1])
	}
	h := SessionHeader{message[0], binary.BigEndian.Uint32(message[4:])}
	one := h.Number == 1 && h.Index == 0 && len(message) == SessionMessage1Len
	two := h.Number == 2 && h.Index != 0 && len(message) == SessionMessage2Len
	if !one && !two || message[2] != 0 || message[3] != 0 {
		return SessionHeader{}, fmt.Errorf("crypto: session message: %w: number %d with %d bytes", ErrHandshake, h.Number, len(message))
	}
	return h, nil
}

func (h SessionHeader) put() (b [sessionHeaderLen]byte) {
	b[0], b[1] = h.Number, sessionVersion
	binary.BigEndian.PutUint32(b[4:], h.Index)
	return b
}

// SessionConfig is what the initiator of a session needs; all but Random is required.
type SessionConfig struct {
	Identity *Identity
	Network  *Network
	Random   io.Reader // nil: crypto/rand
	Peer     PublicKeys
	Self     UID     // this run
	PeerUID  UID     // the peer's run: another one will not answer
	Attempt  uint64  // counts this run's attempts at this peer, from 1
	Index    uint32  // our receive index, unique among our live sessions; not 0
	Ciphers  Ciphers // LocalCiphers of the network's policy
}

// SessionInitiator waits for message 2. Not safe for concurrent use.
type SessionInitiator struct {
	cfg       SessionConfig
	ephemeral *ephemeral
	noise     *noise.HandshakeState // nil: it has seen a wrong message 2
	done      bool
}

// InitiateSession starts a session and returns message 1.
func InitiateSession(cfg SessionConfig) (*SessionInitiator, []byte, error) {
	switch {
	case cfg.Identity == nil || cfg.Network == nil:
		return nil, nil, errors.New("crypto: initiate session: identity and network are required")
	case cfg.Index == 0:
		return nil, nil, errors.New("crypto: initiate session: receive index 0")
	case cfg.Peer.Noise == cfg.Identity.public.Noise:
		return nil, nil, errors.New("crypto: initiate session: with ourselves")
	}
	if _, _, err := chooseCiphers(cfg.Network.policy, cfg.Ciphers, cfg.Ciphers); err != nil {
		return nil, nil, fmt.Errorf("crypto: initiate session: %w", err)
	}
	e, err := newEphemeral(cfg.Random)
	if err != nil {
		return nil, nil, err
	}
	i := &SessionInitiator{cfg: cfg, ephemeral: e}
	message, err := i.start()
	if err != nil {
		return nil, nil, err
	}
	return i, message, nil
}

// start makes message 1: the same bytes at every call.
func (i *SessionInitiator) start() ([]byte, error) {
	header := SessionHeader{Number: 1}.put()
	c := sessionNoise(i.cfg.Identity, i.cfg.Network, header)
	c.initiator = true
	c.peer = bytes.Clone(i.cfg.Peer.Noise[:])
	c.random = i.ephemeral.source()
	hs, err := c.start()
	if err != nil {
		return nil, err
	}
	var payload [sessionPayload1Len]byte
	payload[0] = byte(i.cfg.Ciphers)
	binary.BigEndian.PutUint32(payload[4:], i.cfg.Index)
	binary.BigEndian.PutUint64(payload[8:], uint64(i.cfg.Self))
	binary.BigEndian.PutUint64(payload[16:], uint64(i.cfg.PeerUID))
	binary.BigEndian.PutUint64(payload[24:], i.cfg.Attempt)
	message, _, _, err := hs.WriteMessage(header[:], payload[:])
	if err != nil {
		return nil, fmt.Errorf("crypto: initiate session: %w: %w", ErrHandshake, err)
	}
	i.noise = hs
	return message, nil
}

// Finish reads message 2. A wrong one leaves the initiator as it was: the right
// one may still come. After success it is used up.
func (i *SessionInitiator) Finish(message2 []byte) (*Session, error) {
	if i.done {
		return nil, errors.New("crypto: finish session: already finished")
	}
	h, err := ParseSessionHeader(message2)
	if err != nil {
		return nil, err
	}
	if h.Number != 2 || h.Index != i.cfg.Index {
		return nil, fmt.Errorf("crypto: finish session: %w: message %d for index %08x", ErrHandshake, h.Number, h.Index)
	}
	if i.noise == nil {
		// Noise's state is not to be trusted once it has refused a message.
		if _, err := i.start(); err != nil {
			return nil, err
		}
	}
	hs := i.noise
	i.noise = nil
	payload, k1, k2, err := hs.ReadMessage(nil, message2[sessionHeaderLen:])
	if err != nil {
		return nil, fmt.Errorf("crypto: finish session: %w: %w", ErrHandshake, err)
	}
	data, sealed, err := chooseCiphers(i.cfg.Network.policy, i.cfg.Ciphers, Ciphers(payload[0]))
	if err != nil {
		return nil, fmt.Errorf("crypto: finish session: %w", err)
	}
	remote := binary.BigEndian.Uint32(payload[4:])
	if Cipher(payload[1]) != data || remote == 0 {
		return nil, fmt.Errorf("crypto: finish session: %w: cipher %d, index %08x", ErrHandshake, payload[1], remote)
	}
	s, err := newSession(hs, k1, k2, true, data, sealed)
	if err != nil {
		return nil, err
	}
	s.Local, s.Remote = i.cfg.Index, remote
	i.done, i.ephemeral = true, nil // forward secrecy: nothing of the handshake stays
	return s, nil
}

// SessionRequest is a message 1 that was made for this host with the network's
// secret. It may be a replay: before Accept the caller checks that Initiator is
// the key of the member it expects, To is its own UID, and Attempt is above the
// last one of that member's From.
type SessionRequest struct {
	Initiator NoisePublic
	From, To  UID
	Attempt   uint64
	Index     uint32 // the initiator's receive index
	Ciphers   Ciphers

	network *Network
	noise   *noise.HandshakeState // nil once accepted
	random  *lateReader
}

// lateReader gets its source after the handshake was started.
type lateReader struct{ io.Reader }

// ReadSessionRequest opens message 1. It keeps no state: a wrong one costs two
// X25519 products and is forgotten.
func ReadSessionRequest(identity *Identity, network *Network, message1 []byte) (*SessionRequest, error) {
	h, err := ParseSessionHeader(message1)
	if err != nil {
		return nil, err
	}
	if h.Number != 1 {
		return nil, fmt.Errorf("crypto: read session request: %w: message %d", ErrHandshake, h.Number)
	}
	r := &SessionRequest{network: network, random: new(lateReader)}
	c := sessionNoise(identity, network, h.put())
	c.random = r.random
	if r.noise, err = c.start(); err != nil {
		return nil, err
	}
	payload, _, _, err := r.noise.ReadMessage(nil, message1[sessionHeaderLen:])
	if err != nil {
		return nil, fmt.Errorf("crypto: read session request: %w: %w", ErrHandshake, err)
	}
	r.Initiator = NoisePublic(r.noise.PeerStatic())
	r.Ciphers = Ciphers(payload[0])
	r.Index = binary.BigEndian.Uint32(payload[4:])
	r.From = UID(binary.BigEndian.Uint64(payload[8:]))
	r.To = UID(binary.BigEndian.Uint64(payload[16:]))
	r.Attempt = binary.BigEndian.Uint64(payload[24:])
	if r.Index == 0 || r.Initiator == identity.public.Noise {
		return nil, fmt.Errorf("crypto: read session request: %w: from ourselves or without an index", ErrHandshake)
	}
	return r, nil
}

// Accept makes the session and message 2; index is our receive index, not 0. A
// request is accepted once. The session is not Confirmed yet.
func (r *SessionRequest) Accept(random io.Reader, index uint32, ciphers Ciphers) (*Session, []byte, error) {
	if r.noise == nil || index == 0 {
		return nil, nil, errors.New("crypto: accept session: accepted before, or receive index 0")
	}
	data, sealed, err := chooseCiphers(r.network.policy, r.Ciphers, ciphers)
	if err != nil {
		return nil, nil, fmt.Errorf("crypto: accept session: %w", err)
	}
	hs := r.noise
	r.noise = nil
	r.random.Reader = randomOr(random)
	payload := [sessionPayload2Len]byte{byte(ciphers), byte(data)}
	binary.BigEndian.PutUint32(payload[4:], index)
	header := SessionHeader{2, r.Index}.put()
	message, k1, k2, err := hs.WriteMessage(header[:], payload[:])
	if err != nil {
		return nil, nil, fmt.Errorf("crypto: accept session: %w: %w", ErrHandshake, err)
	}
	s, err := newSession(hs, k1, k2, false, data, sealed)
	if err != nil {
		return nil, nil, err
	}
	s.Local, s.Remote = index, r.Index
	return s, message, nil
}

func sessionNoise(identity *Identity, network *Network, header1 [sessionHeaderLen]byte) noiseConfig {
	prologue := []byte(sessionPrologue)
	prologue = append(prologue, network.id[:]...)
	prologue = append(prologue, header1[:]...)
	return noiseConfig{
		suite: suite, pattern: noise.HandshakeIK, placement: 2, psk: &network.sessionPSK,
		prologue: prologue, static: identity.noiseKey(),
	}
}

// Session is the keys of one pair of hosts for the next two minutes. Its
// channels are safe for concurrent use; the other fields never change.
type Session struct {
	Local, Remote uint32 // receive indices: ours, theirs
	Cipher        Cipher // of the Data channel
	Initiator     bool

	Data    *Channel // frames
	Control *Channel // probes and messages from host to host; sealed in every network
	Hop     *Channel // tags of relay headers, over empty text; in every network
}

// Confirmed reports whether the other end is known to have the keys: always for
// the initiator, for the responder once it has opened something under them.
// Until then it goes on sending under the old session. (A clear Data channel
// confirms nothing.)
func (s *Session) Confirmed() bool {
	return s.Initiator || s.Data.heard.Load() || s.Control.heard.Load() || s.Hop.heard.Load()
}

func newSession(hs *noise.HandshakeState, k1, k2 *noise.CipherState, initiator bool, data, sealed Cipher) (*Session, error) {
	root, err := newSchedule(hs, k1, k2)
	if err != nil {
		return nil, err
	}
	s := &Session{Cipher: data, Initiator: initiator}
	for _, c := range []struct {
		channel **Channel
		purpose string
		cipher  Cipher
	}{{&s.Data, "data", data}, {&s.Control, "probe", sealed}, {&s.Hop, "hop", sealed}} {
		if *c.channel, err = newChannel(root, c.purpose, c.cipher, initiator); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// newChannel expands key and IV for both directions of a purpose.
func newChannel(root *schedule, purpose string, c Cipher, initiator bool) (*Channel, error) {
	ch := &Channel{clear: c == CipherClear}
	if ch.clear {
		return ch, nil
	}
	send, receive := directions(initiator)
	b, err := root.expand(purpose, send, 32+dataNonceLen)
	if err != nil {
		return nil, err
	}
	if ch.seal, err = newAEAD(c, b[:32]); err != nil {
		return nil, err
	}
	ch.sealIV = [dataNonceLen]byte(b[32:])
	if b, err = root.expand(purpose, receive, 32+dataNonceLen); err != nil {
		return nil, err
	}
	if ch.open, err = newAEAD(c, b[:32]); err != nil {
		return nil, err
	}
	ch.openIV = [dataNonceLen]byte(b[32:])
	return ch, nil
}
