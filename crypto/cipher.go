package crypto

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/sys/cpu"
)

// TagLen is the length of every tag in bytes.
const TagLen = 16

// Cipher is what seals the data of a session.
type Cipher uint8

const (
	CipherAES256GCM        Cipher = 1 // where both CPUs have AES and a carry-less multiplication
	CipherChaCha20Poly1305 Cipher = 2 // everywhere else (RFC 8439)
	CipherClear            Cipher = 3 // networks with cipher policy none only
)

// String is the name that status shows.
func (c Cipher) String() string {
	switch c {
	case CipherAES256GCM:
		return "aes-256-gcm"
	case CipherChaCha20Poly1305:
		return "chacha20-poly1305"
	case CipherClear:
		return "none"
	}
	return fmt.Sprintf("cipher %d", uint8(c))
}

// Ciphers is a set: bit c-1 stands for Cipher c. Bits of ciphers unknown here
// are allowed in what a peer offers, and never chosen.
type Ciphers uint8

// CipherSet is the set of the given ciphers.
func CipherSet(list ...Cipher) Ciphers {
	var s Ciphers
	for _, c := range list {
		s |= 1 << (c - 1)
	}
	return s
}

// Has reports whether c is in the set.
func (s Ciphers) Has(c Cipher) bool { return c >= 1 && c <= 8 && s&(1<<(c-1)) != 0 }

// LocalCiphers is what this machine offers in a network of the given policy:
// AES only with hardware for it, and clear data only where the policy is none
// (where the other channels of a session still need a cipher).
func LocalCiphers(policy CipherPolicy) Ciphers {
	s := CipherSet(CipherChaCha20Poly1305)
	if hardwareAES() {
		s |= CipherSet(CipherAES256GCM)
	}
	if policy == CipherNone {
		s |= CipherSet(CipherClear)
	}
	return s
}

// hardwareAES asks for what Go's GCM needs to use the vector code.
func hardwareAES() bool {
	return cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ && cpu.X86.HasSSE41 && cpu.X86.HasSSSE3 ||
		cpu.ARM64.HasAES && cpu.ARM64.HasPMULL ||
		cpu.S390X.HasAES && cpu.S390X.HasAESGCM
}

// ErrCiphers: two hosts have no cipher in common, or one offers what the
// network's policy forbids.
var ErrCiphers = errors.New("no acceptable cipher in common")

// chooseCiphers is the fixed rule, a function of both offers and the network's
// policy alone, so that both ends come to the same result: sealed is the cipher
// of the Control and Hop channels, data that of the Data channel.
func chooseCiphers(policy CipherPolicy, a, b Ciphers) (data, sealed Cipher, err error) {
	both := a & b
	switch {
	case both.Has(CipherAES256GCM):
		sealed = CipherAES256GCM
	case both.Has(CipherChaCha20Poly1305):
		sealed = CipherChaCha20Poly1305
	default:
		return 0, 0, ErrCiphers
	}
	clear := CipherSet(CipherClear)
	if policy != CipherNone {
		if (a|b)&clear != 0 {
			return 0, 0, ErrCiphers
		}
		return sealed, sealed, nil
	}
	if both&clear == 0 {
		return 0, 0, ErrCiphers
	}
	return CipherClear, sealed, nil
}

// newAEAD makes the cipher of a 32-byte key; both have 12-byte nonces and 16-byte tags.
func newAEAD(c Cipher, key []byte) (cipher.AEAD, error) {
	switch c {
	case CipherAES256GCM:
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, fmt.Errorf("crypto: %v: %w", c, err)
		}
		return cipher.NewGCM(block)
	case CipherChaCha20Poly1305:
		return chacha20poly1305.New(key)
	}
	return nil, fmt.Errorf("crypto: %v seals nothing", c)
}
