package crypto

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/nacl/secretbox"
)

// A box at rest:
//
//	offset  0         1       25
//	        │ version │ nonce │ secretbox of the text (16 bytes longer than it) │
const (
	stateVersion  = 1
	stateOverhead = 1 + stateNonceLen + secretbox.Overhead
)

// ErrState: the box was sealed by another host's seed, or was damaged.
var ErrState = errors.New("sealed by another seed, or damaged")

// SealState seals what a host keeps on disk with a key from its seed and a new
// random nonce. A nil random means crypto/rand; a random source that fails is a
// broken invariant and panics.
func (id *Identity) SealState(random io.Reader, plain []byte) []byte {
	nonce, err := stateNonce(randomOr(random))
	if err != nil {
		panic("crypto: seal state: the random source must not fail: " + err.Error())
	}
	box := make([]byte, 0, stateOverhead+len(plain))
	box = append(box, stateVersion)
	box = append(box, nonce[:]...)
	return secretbox.Seal(box, plain, &nonce, &id.stateKey)
}

// OpenState opens what SealState sealed; ErrNewerFormat or ErrState.
func (id *Identity) OpenState(box []byte) ([]byte, error) {
	if len(box) > 0 && box[0] > stateVersion {
		return nil, fmt.Errorf("crypto: open state of format %d: %w", box[0], ErrNewerFormat)
	}
	if len(box) < stateOverhead || box[0] != stateVersion {
		return nil, fmt.Errorf("crypto: open state: %w", ErrState)
	}
	nonce := [stateNonceLen]byte(box[1:])
	plain, ok := secretbox.Open(nil, box[1+stateNonceLen:], &nonce, &id.stateKey)
	if !ok {
		return nil, fmt.Errorf("crypto: open state: %w", ErrState)
	}
	return plain, nil
}
