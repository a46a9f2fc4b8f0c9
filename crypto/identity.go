package crypto

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"strconv"
)

// Name is what a peer is called for good: the first 16 bytes of SHA-256 over a
// label and both its public keys. The zero Name is nobody's.
type Name [16]byte

// ShortName is the first 8 bytes of a Name, as relay headers carry it.
type ShortName [8]byte

// nameLabel separates names from every other use of SHA-256 over the same keys.
const nameLabel = "ripstop name v1"

// MAC returns the first 6 bytes as a locally administered unicast MAC address.
func (n Name) MAC() [6]byte {
	m := [6]byte(n[:6])
	m[0] = m[0]&^0x01 | 0x02
	return m
}

// Short returns the prefix that relay headers carry.
func (n Name) Short() ShortName { return ShortName(n[:8]) }

// IsZero reports whether n is the zero Name.
func (n Name) IsZero() bool { return n == Name{} }

// Compare orders names bytewise: "the lower name" of the protocol.
func (n Name) Compare(o Name) int { return bytes.Compare(n[:], o[:]) }

// String is the short form for people: the name's MAC.
func (n Name) String() string {
	m := n.MAC()
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// LogValue is how logs show a name: as String, like everything else that people read.
func (n Name) LogValue() slog.Value { return slog.StringValue(n.String()) }

// MarshalText writes all 16 bytes in hexadecimal.
func (n Name) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, n[:]), nil }

// UnmarshalText reads what MarshalText wrote.
func (n *Name) UnmarshalText(text []byte) error {
	if len(text) != 2*len(n) {
		return fmt.Errorf("crypto: name: %d characters instead of %d", len(text), 2*len(n))
	}
	if _, err := hex.Decode(n[:], text); err != nil {
		return fmt.Errorf("crypto: name: %w", err)
	}
	return nil
}

// UID tells two runs of one host apart: random, new at every start, never 0.
type UID uint64

// String is the UID in 16 hexadecimal digits.
func (u UID) String() string { return fmt.Sprintf("%016x", uint64(u)) }

// MarshalText writes the 16 hexadecimal digits.
func (u UID) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (u *UID) UnmarshalText(text []byte) error {
	v, err := strconv.ParseUint(string(text), 16, 64)
	if err != nil {
		return fmt.Errorf("crypto: uid: %w", err)
	}
	*u = UID(v)
	return nil
}

// NoisePublic is an X25519 public key, SignPublic an Ed25519 one.
type (
	NoisePublic [32]byte
	SignPublic  [32]byte
)

// PublicKeys are the two public keys that a Name commits to.
type PublicKeys struct {
	Noise NoisePublic
	Sign  SignPublic
}

// Name derives the name that commits to the keys.
func (k PublicKeys) Name() Name {
	h := sha256.New()
	io.WriteString(h, nameLabel)
	h.Write(k.Noise[:])
	h.Write(k.Sign[:])
	return Name(h.Sum(nil)[:16])
}

// Signature is an Ed25519 signature.
type Signature [ed25519.SignatureSize]byte

// Seed is the host's root secret (STATE/seed, 0600). It cannot be compared or printed.
type Seed struct {
	_     [0]func()
	bytes [32]byte
}

// NewSeed draws a seed from random.
func NewSeed(random io.Reader) (*Seed, error) {
	s := new(Seed)
	if _, err := io.ReadFull(random, s.bytes[:]); err != nil {
		return nil, fmt.Errorf("crypto: draw seed: %w", err)
	}
	return s, nil
}

// ParseSeed reads the 64 hexadecimal digits that MarshalText wrote; white space around them is ignored.
func ParseSeed(text []byte) (*Seed, error) {
	text = bytes.TrimSpace(text)
	s := new(Seed)
	if len(text) != 2*len(s.bytes) {
		return nil, fmt.Errorf("crypto: seed: %d characters instead of %d", len(text), 2*len(s.bytes))
	}
	if _, err := hex.Decode(s.bytes[:], text); err != nil {
		return nil, fmt.Errorf("crypto: seed: not hexadecimal")
	}
	return s, nil
}

// MarshalText writes the seed itself, for STATE/seed only.
func (s *Seed) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, s.bytes[:]), nil }

// String never shows the seed.
func (s *Seed) String() string { return "seed(secret)" }

// GoString never shows the seed.
func (s *Seed) GoString() string { return s.String() }

// Format never shows the seed, whatever the verb.
func (s *Seed) Format(f fmt.State, verb rune) { io.WriteString(f, s.String()) }

// LogValue never shows the seed: handlers prefer MarshalText to String.
func (s *Seed) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Identity is a host's two private keys and the state key, all derived from its Seed.
type Identity struct {
	_        [0]func()
	noise    *ecdh.PrivateKey
	sign     ed25519.PrivateKey
	stateKey [32]byte
	public   PublicKeys
	name     Name
}

// NewIdentity derives the key pairs of seed by HKDF-SHA256, one label each.
func NewIdentity(seed *Seed) (*Identity, error) {
	derive := func(label string) ([]byte, error) {
		return hkdf.Key(sha256.New, seed.bytes[:], nil, label, 32)
	}
	noiseKey, err := derive("ripstop noise v1")
	if err != nil {
		return nil, fmt.Errorf("crypto: derive identity: %w", err)
	}
	signKey, err := derive("ripstop sign v1")
	if err != nil {
		return nil, fmt.Errorf("crypto: derive identity: %w", err)
	}
	stateKey, err := derive("ripstop state v1")
	if err != nil {
		return nil, fmt.Errorf("crypto: derive identity: %w", err)
	}
	id := &Identity{sign: ed25519.NewKeyFromSeed(signKey), stateKey: [32]byte(stateKey)}
	if id.noise, err = ecdh.X25519().NewPrivateKey(noiseKey); err != nil {
		return nil, fmt.Errorf("crypto: derive identity: %w", err)
	}
	id.public.Noise = NoisePublic(id.noise.PublicKey().Bytes())
	id.public.Sign = SignPublic(id.sign.Public().(ed25519.PublicKey))
	id.name = id.public.Name()
	return id, nil
}

// Name is the host's name.
func (id *Identity) Name() Name { return id.name }

// Public are the host's public keys.
func (id *Identity) Public() PublicKeys { return id.public }

// String shows the name only.
func (id *Identity) String() string { return id.name.String() }

// GoString shows the name only.
func (id *Identity) GoString() string { return id.name.String() }

// Format shows the name only, whatever the verb.
func (id *Identity) Format(f fmt.State, verb rune) { io.WriteString(f, id.String()) }

// Sign signs message for the purpose that label names. A signature made under
// one label never verifies under another.
func (id *Identity) Sign(label string, message []byte) Signature {
	return Signature(ed25519.Sign(id.sign, signedBytes(label, message)))
}

// Verify reports whether sig is key's signature over label and message. Keys of
// low order sign nothing.
func Verify(key SignPublic, sig Signature, label string, message []byte) bool {
	return !key.weak() && ed25519.Verify(key[:], signedBytes(label, message), sig[:])
}

// signedBytes puts the label's length, the label and the message one behind the other.
func signedBytes(label string, message []byte) []byte {
	b := make([]byte, 0, 1+len(label)+len(message))
	b = append(b, byte(len(label)))
	b = append(b, label...)
	return append(b, message...)
}
