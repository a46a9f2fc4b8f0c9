package crypto

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"io"

	"github.com/flynn/noise"
)

// FirstFlightLen is how many bytes the initiator of a control connection sends
// first, and all that a responder reads before it knows that they come from a
// member of the network.
//
//	offset  0       4      5      6            7       8           40        112
//	        │ magic │ vmin │ vmax │ generation │ flags │ ephemeral │ padding │ tag 16 │
//
//	magic       "rstp"
//	vmin, vmax  the initiator's range of protocol versions
//	generation  of the network secret
//	flags       zero; a receiver ignores them, as it does the padding
//	ephemeral   the initiator's X25519 key e of Noise message 1
//	tag         first 16 bytes of HMAC-SHA256 over the other 112 bytes under
//	            the network's silence key
//
// Noise message 1 would be e and a tag over an empty text under a key that
// anyone can compute from e and the prologue. As the prologue holds all 128
// bytes of the flight, that tag cannot be among them; it isn't sent, since the
// responder computes it (firstMessage).
const FirstFlightLen = 128

const (
	flightMagic      = "rstp"
	flightVersions   = 4
	flightGeneration = 6
	flightEphemeral  = 8
	flightPadding    = 40
	flightTag        = FirstFlightLen - TagLen
)

// firstFlight is the content of the first 128 bytes.
type firstFlight struct {
	versions   versionRange
	generation uint8
	ephemeral  [32]byte
}

// seal lays the flight out and tags it.
func (f firstFlight) seal(n *Network) (b [FirstFlightLen]byte) {
	copy(b[:], flightMagic)
	b[flightVersions], b[flightVersions+1] = f.versions.min, f.versions.max
	b[flightGeneration] = f.generation
	copy(b[flightEphemeral:], f.ephemeral[:])
	tag := flightSum(n, b[:flightTag])
	copy(b[flightTag:], tag[:])
	return b
}

// openFirstFlight checks the tag before it looks at anything else.
func openFirstFlight(n *Network, b *[FirstFlightLen]byte) (f firstFlight, err error) {
	tag := flightSum(n, b[:flightTag])
	if !hmac.Equal(tag[:], b[flightTag:]) {
		return f, ErrNotOurs
	}
	if string(b[:len(flightMagic)]) != flightMagic {
		return f, fmt.Errorf("crypto: first flight: %w: unknown magic", ErrVersion)
	}
	f.versions = versionRange{b[flightVersions], b[flightVersions+1]}
	f.generation = b[flightGeneration]
	f.ephemeral = [32]byte(b[flightEphemeral:flightPadding])
	return f, nil
}

func flightSum(n *Network, b []byte) [TagLen]byte {
	h := hmac.New(sha256.New, n.silence[:])
	h.Write(b)
	return [TagLen]byte(h.Sum(nil)[:TagLen])
}

// firstMessage is Noise message 1 as the initiator with the public key e makes
// it: no private key goes into it.
func firstMessage(c noiseConfig, e [32]byte) ([]byte, error) {
	c.suite = noise.NewCipherSuite(publicOnly{noise.DH25519, e}, c.suite, c.suite)
	c.initiator = true
	hs, err := c.start()
	if err != nil {
		return nil, err
	}
	message, _, _, err := hs.WriteMessage(nil, nil)
	if err != nil {
		return nil, fmt.Errorf("crypto: first message: %w", err)
	}
	return message, nil
}

// publicOnly "draws" a key pair of which only the public half is known.
type publicOnly struct {
	noise.DHFunc
	public [32]byte
}

func (p publicOnly) GenerateKeypair(io.Reader) (noise.DHKey, error) {
	return noise.DHKey{Public: p.public[:]}, nil
}
