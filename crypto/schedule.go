package crypto

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/flynn/noise"
	"golang.org/x/crypto/curve25519"
)

// suite is the one Noise suite of ripstop: its ciphers run in constant time on
// every CPU. What seals data is chosen apart (cipher.go).
var suite = noise.NewCipherSuite(noise.DH25519, noise.CipherChaChaPoly, noise.HashSHA256)

// noiseConfig is one side of a handshake.
type noiseConfig struct {
	suite     noise.CipherSuite
	pattern   noise.HandshakePattern
	placement int // of the PSK
	psk       *[32]byte
	initiator bool
	prologue  []byte
	static    noise.DHKey
	peer      []byte // the responder's static key where the pattern needs it before
	random    io.Reader
}

func (c noiseConfig) start() (*noise.HandshakeState, error) {
	hs, err := noise.NewHandshakeState(noise.Config{
		CipherSuite:           c.suite,
		Random:                c.random,
		Pattern:               c.pattern,
		Initiator:             c.initiator,
		Prologue:              c.prologue,
		PresharedKey:          c.psk[:],
		PresharedKeyPlacement: c.placement,
		StaticKeypair:         c.static,
		PeerStatic:            c.peer,
	})
	if err != nil {
		return nil, fmt.Errorf("crypto: start handshake: %w", err)
	}
	return hs, nil
}

// noiseKey is the identity's static key pair in Noise's form.
func (id *Identity) noiseKey() noise.DHKey {
	return noise.DHKey{Private: id.noise.Bytes(), Public: id.public.Noise[:]}
}

// ephemeral is a key pair that lives for one handshake. It is drawn before the
// handshake starts, so that what depends on it can be made first or made again.
type ephemeral struct {
	_       [0]func()
	private [32]byte
	public  [32]byte
}

func newEphemeral(random io.Reader) (*ephemeral, error) {
	e := new(ephemeral)
	if _, err := io.ReadFull(randomOr(random), e.private[:]); err != nil {
		return nil, fmt.Errorf("crypto: draw ephemeral key: %w", err)
	}
	public, err := curve25519.X25519(e.private[:], curve25519.Basepoint)
	if err != nil {
		return nil, fmt.Errorf("crypto: draw ephemeral key: %w", err)
	}
	copy(e.public[:], public)
	return e, nil
}

// source gives Noise the private key when it asks for random bytes.
func (e *ephemeral) source() io.Reader { return bytes.NewReader(e.private[:]) }

// schedule is the root from which the keys of a finished handshake come:
// HKDF-Extract(salt = handshake hash, k1 ‖ k2 of Noise's split), then one
// HKDF-Expand for each purpose and direction.
type schedule struct {
	_    [0]func()
	root []byte
}

func newSchedule(hs *noise.HandshakeState, k1, k2 *noise.CipherState) (*schedule, error) {
	if k1 == nil || k2 == nil {
		return nil, errors.New("crypto: key schedule: the handshake is not finished")
	}
	a, b := k1.UnsafeKey(), k2.UnsafeKey()
	root, err := hkdf.Extract(sha256.New, append(a[:], b[:]...), hs.ChannelBinding())
	if err != nil {
		return nil, fmt.Errorf("crypto: key schedule: %w", err)
	}
	return &schedule{root: root}, nil
}

// expand gives n bytes for a purpose and the direction they are used in.
func (s *schedule) expand(purpose string, d direction, n int) ([]byte, error) {
	arrow := " i>r"
	if d == toInitiator {
		arrow = " r>i"
	}
	b, err := hkdf.Expand(sha256.New, s.root, "ripstop "+purpose+arrow+" v1", n)
	if err != nil {
		return nil, fmt.Errorf("crypto: key schedule: %w", err)
	}
	return b, nil
}

// directions are the sending and the receiving one of a side.
func directions(initiator bool) (send, receive direction) {
	if initiator {
		return toResponder, toInitiator
	}
	return toInitiator, toResponder
}
