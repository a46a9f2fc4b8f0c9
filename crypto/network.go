package crypto

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// NetworkID names a network. It is no secret, but strangers don't know it either.
//
//	token networks       SHA-256(label, cipher policy, admin public key)[:16]
//	passphrase networks  SHA-256(label, network name)[:16]
//
// So neither the cipher policy nor the admin key can be exchanged under a
// network: another policy is another network.
type NetworkID [16]byte

// String is the ID in 32 hexadecimal digits.
func (id NetworkID) String() string { return hex.EncodeToString(id[:]) }

// Labels of the network ID; each is hashed with its length in front.
const (
	labelNetworkToken      = "ripstop network token v1"
	labelNetworkPassphrase = "ripstop network passphrase v1"
)

// Labels of the keys that are derived from the network secret.
const (
	labelSilence    = "silence"
	labelControlPSK = "control psk"
	labelSessionPSK = "session psk"
)

// CipherPolicy says how a network protects its data. It is fixed when the
// network is made and is part of the network's ID.
type CipherPolicy uint8

const (
	// CipherAuto seals all data, with AES-256-GCM where both CPUs have AES, else
	// with ChaCha20-Poly1305.
	CipherAuto CipherPolicy = 0
	// CipherNone sends data in clear. Handshakes, control, probes and relay
	// headers stay authenticated.
	CipherNone CipherPolicy = 1
)

// String is "auto" or "none".
func (p CipherPolicy) String() string {
	switch p {
	case CipherAuto:
		return "auto"
	case CipherNone:
		return "none"
	}
	return fmt.Sprintf("cipher policy %d", uint8(p))
}

// ParseCipherPolicy reads what String wrote.
func ParseCipherPolicy(s string) (CipherPolicy, error) {
	switch s {
	case "auto":
		return CipherAuto, nil
	case "none":
		return CipherNone, nil
	}
	return 0, fmt.Errorf("crypto: cipher policy %q: neither auto nor none", s)
}

// Errors of networks and their text forms.
var (
	// ErrForeign: the text is neither a token nor a network file (it may be a passphrase).
	ErrForeign = errors.New("neither a ripstop token nor a network file")
	// ErrMistyped: the text is a token or network file of which something was lost or changed.
	ErrMistyped = errors.New("damaged or mistyped")
	// ErrNewerFormat: the text was written by a newer version of ripstop.
	ErrNewerFormat = errors.New("written by a newer version of ripstop")
	// ErrNoToken: a passphrase network has no token to show.
	ErrNoToken = errors.New("a passphrase network has no token: its secret is the passphrase")
	// ErrShortPassphrase: fewer than MinPassphrase characters.
	ErrShortPassphrase = errors.New("passphrase too short")
)

// networkKind tells how the secret came to be.
type networkKind uint8

const (
	kindToken      networkKind = 1 // 32 random bytes; the ID commits to policy and admin key
	kindPassphrase networkKind = 2 // Argon2id; the ID comes from the network's name
)

// Network is what every host of a network knows: its ID, cipher policy and
// secret. It cannot be compared, and prints as its ID only. Safe for concurrent
// use, since nothing changes it.
type Network struct {
	_          [0]func()
	kind       networkKind
	policy     CipherPolicy
	generation uint8      // of the secret; counts up when the secret is exchanged
	secret     [32]byte   // random, or Argon2id's output
	admin      SignPublic // token networks only
	name       string     // passphrase networks only
	id         NetworkID

	silence    [32]byte // keys the first flight's tag
	controlPSK [32]byte
	sessionPSK [32]byte
}

// NewNetwork draws a secret and an admin key. A nil random means crypto/rand.
// The admin key belongs beside the network file of the host that made it and
// nowhere else.
func NewNetwork(random io.Reader, policy CipherPolicy) (*Network, *Admin, error) {
	if policy != CipherAuto && policy != CipherNone {
		return nil, nil, fmt.Errorf("crypto: new network: unknown %v", policy)
	}
	n := &Network{kind: kindToken, policy: policy}
	random = randomOr(random)
	if _, err := io.ReadFull(random, n.secret[:]); err != nil {
		return nil, nil, fmt.Errorf("crypto: new network: %w", err)
	}
	admin := new(Admin)
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(random, seed); err != nil {
		return nil, nil, fmt.Errorf("crypto: new network: %w", err)
	}
	admin.set(seed, policy)
	n.admin = admin.public
	if err := n.derive(); err != nil {
		return nil, nil, err
	}
	return n, admin, nil
}

// ID names the network.
func (n *Network) ID() NetworkID { return n.id }

// Policy says how the network protects its data.
func (n *Network) Policy() CipherPolicy { return n.policy }

// Passphrase reports whether the secret came from a passphrase.
func (n *Network) Passphrase() bool { return n.kind == kindPassphrase }

// Name is the name a passphrase network was given; empty for token networks.
func (n *Network) Name() string { return n.name }

// String shows the ID only.
func (n *Network) String() string { return "network(" + n.id.String() + ")" }

// Format shows the ID only, whatever the verb.
func (n *Network) Format(f fmt.State, verb rune) { io.WriteString(f, n.String()) }

// LogValue shows the ID only: handlers prefer MarshalText to String.
func (n *Network) LogValue() slog.Value { return slog.StringValue(n.String()) }

// derive computes the ID and the keys from the fields that the text forms carry.
func (n *Network) derive() error {
	n.id = tokenNetworkID(n.policy, n.admin)
	if n.kind == kindPassphrase {
		n.id = passphraseNetworkID(n.name)
	}
	// In a passphrase network the silence key must not depend on the passphrase:
	// whoever listens to one first flight could test guesses against its tag.
	silence := n.secret[:]
	if n.kind == kindPassphrase {
		silence = n.id[:]
	}
	for _, k := range []struct {
		key    *[32]byte
		secret []byte
		label  string
	}{
		{&n.silence, silence, labelSilence},
		{&n.controlPSK, n.secret[:], labelControlPSK},
		{&n.sessionPSK, n.secret[:], labelSessionPSK},
	} {
		b, err := hkdf.Key(sha256.New, k.secret, n.id[:], "ripstop "+k.label+" v1", len(k.key))
		if err != nil {
			return fmt.Errorf("crypto: derive network keys: %w", err)
		}
		copy(k.key[:], b)
	}
	return nil
}

func tokenNetworkID(policy CipherPolicy, admin SignPublic) NetworkID {
	h := sha256.New()
	h.Write([]byte{byte(len(labelNetworkToken))})
	io.WriteString(h, labelNetworkToken)
	h.Write([]byte{byte(policy)})
	h.Write(admin[:])
	return NetworkID(h.Sum(nil)[:16])
}

// Admin is the private key that the ID of a token network commits to.
type Admin struct {
	_      [0]func()
	key    ed25519.PrivateKey
	public SignPublic
	policy CipherPolicy
}

func (a *Admin) set(seed []byte, policy CipherPolicy) {
	a.key = ed25519.NewKeyFromSeed(seed)
	a.public = SignPublic(a.key.Public().(ed25519.PublicKey))
	a.policy = policy
}

// Network is the ID of the network that the key administers.
func (a *Admin) Network() NetworkID { return tokenNetworkID(a.policy, a.public) }

// String shows the network's ID only.
func (a *Admin) String() string { return "admin(" + a.Network().String() + ")" }

// Format shows the network's ID only, whatever the verb.
func (a *Admin) Format(f fmt.State, verb rune) { io.WriteString(f, a.String()) }

// LogValue shows the network's ID only: handlers prefer MarshalText to String.
func (a *Admin) LogValue() slog.Value { return slog.StringValue(a.String()) }

// randomOr is random, or crypto/rand's reader where none is given.
func randomOr(random io.Reader) io.Reader {
	if random == nil {
		return rand.Reader
	}
	return random
}
