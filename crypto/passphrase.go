package crypto

import (
	"crypto/sha256"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
)

const (
	// MinPassphrase is the least length of a passphrase in characters.
	MinPassphrase = 12
	// MaxPassphrase is the greatest length of a passphrase in bytes.
	MaxPassphrase = 1024
	// MaxNetworkName is the greatest length of a network's name in bytes.
	MaxNetworkName = 64
)

// Argon2id's cost: the second set that RFC 9106 section 4 recommends. About
// 0.1 s and 64 MiB once a start.
const (
	argonTime    = 3
	argonMemory  = 64 * 1024 // KiB
	argonThreads = 4
	labelSalt    = "ripstop salt v1"
)

// PassphraseNetwork stretches a passphrase (white space around it is ignored) to
// the secret of the network of that name. Its cipher policy is auto. It has no
// admin key.
func PassphraseNetwork(passphrase, network string) (*Network, error) {
	passphrase = strings.TrimSpace(passphrase)
	if len(passphrase) > MaxPassphrase {
		return nil, fmt.Errorf("crypto: passphrase: %d bytes, at most %d are allowed", len(passphrase), MaxPassphrase)
	}
	if c := utf8.RuneCountInString(passphrase); c < MinPassphrase {
		return nil, fmt.Errorf("crypto: %w: %d characters, at least %d are needed", ErrShortPassphrase, c, MinPassphrase)
	}
	if err := checkNetworkName(network); err != nil {
		return nil, err
	}
	n := &Network{kind: kindPassphrase, policy: CipherAuto, name: network}
	id := passphraseNetworkID(network)
	salt := sha256.Sum256(append([]byte(labelSalt), id[:]...))
	copy(n.secret[:], argon2.IDKey([]byte(passphrase), salt[:16], argonTime, argonMemory, argonThreads, 32))
	if err := n.derive(); err != nil {
		return nil, err
	}
	return n, nil
}

// checkNetworkName allows 1 to MaxNetworkName bytes of printable text without
// white space, so that a name never depends on how it was quoted.
func checkNetworkName(name string) error {
	if name == "" || len(name) > MaxNetworkName || !utf8.ValidString(name) {
		return fmt.Errorf("crypto: network name: %d bytes, 1 to %d bytes of text are allowed", len(name), MaxNetworkName)
	}
	for _, r := range name {
		if unicode.IsSpace(r) || !unicode.IsGraphic(r) {
			return fmt.Errorf("crypto: network name %q: holds white space or control characters", name)
		}
	}
	return nil
}

func passphraseNetworkID(name string) NetworkID {
	h := sha256.New()
	h.Write([]byte{byte(len(labelNetworkPassphrase))})
	io.WriteString(h, labelNetworkPassphrase)
	io.WriteString(h, name)
	return NetworkID(h.Sum(nil)[:16])
}
