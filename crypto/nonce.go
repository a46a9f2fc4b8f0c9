package crypto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
)

// All nonces are made here and nowhere else (those inside a Noise handshake are
// Noise's own).
//
// Control record, 24 bytes for secretbox, which has no associated data: whatever
// has to be authentic beside the text stands in the nonce, so that a record with
// a changed header does not open.
//
//	offset  0         1           2       4        8       16         24
//	        │ purpose │ direction │ epoch │ length │ 0 … 0 │ record   │
//	purpose    recordPurpose; direction 1 = initiator to responder, 2 = back
//	epoch      record >> 20: the number of the key; length of the text in bytes
//	record     counts the records of this direction from 0
//
// Data, control and hop datagrams, 12 bytes:
//
//	offset  0       4                              12
//	        │ iv    │ iv xor counter, big endian   │
//
// where the IV comes with the key from the session's transcript: keys of many
// sessions then have no nonces in common (the multi-key bounds of
// draft-irtf-cfrg-aead-limits assume it).
//
// State at rest, 24 random bytes, new for every box.

const (
	recordNonceLen = 24
	dataNonceLen   = 12
	stateNonceLen  = 24

	// recordsPerKey: every 2^20 records a new key.
	recordsPerKeyBits = 20
	// maxRecords fills the epoch's 16 bits; the last one is kept for the close record.
	maxRecords = 1 << (16 + recordsPerKeyBits)

	// maxMessages is the hard end of a channel: 2^30 datagrams of 1500 bytes keep
	// GCM's advantage far below 2^-50, and no host sends them within RejectAfter.
	// Counters therefore never come near their 64 bits.
	maxMessages = 1 << 30
)

// ErrExhausted: the key has sealed as much as it may. The session or connection
// must be made anew.
var ErrExhausted = errors.New("crypto: key exhausted")

// direction of a record, as seen by both ends.
type direction uint8

const (
	toResponder direction = 1
	toInitiator direction = 2
)

// recordCounter numbers the records of one direction.
type recordCounter uint64

// take gives the number of the next record and counts it; last allows the very
// last number, which only the close record may have.
func (c *recordCounter) take(last bool) (uint64, error) {
	n := uint64(*c)
	if n >= maxRecords || n == maxRecords-1 && !last {
		return 0, ErrExhausted
	}
	*c++
	return n, nil
}

// startsKey reports whether the next record is the first of a new key.
func (c recordCounter) startsKey() bool {
	return c != 0 && c&(1<<recordsPerKeyBits-1) == 0
}

// recordNonce fills in the nonce of a control record.
func recordNonce(nonce *[recordNonceLen]byte, purpose recordPurpose, d direction, length int, record uint64) {
	nonce[0] = byte(purpose)
	nonce[1] = byte(d)
	binary.BigEndian.PutUint16(nonce[2:], uint16(record>>recordsPerKeyBits))
	binary.BigEndian.PutUint32(nonce[4:], uint32(length))
	binary.BigEndian.PutUint64(nonce[8:], 0)
	binary.BigEndian.PutUint64(nonce[16:], record)
}

// messageCounter reserves the counters of a channel's sending direction; safe
// for concurrent use.
type messageCounter struct{ next atomic.Uint64 }

// take reserves a counter. Asking before adding keeps the value within
// maxMessages plus the number of goroutines: it cannot wrap.
func (c *messageCounter) take() (uint64, error) {
	if c.next.Load() >= maxMessages {
		return 0, ErrExhausted
	}
	n := c.next.Add(1) - 1
	if n >= maxMessages {
		return 0, ErrExhausted
	}
	return n, nil
}

// taken is how many counters were reserved.
func (c *messageCounter) taken() uint64 { return min(c.next.Load(), maxMessages) }

// dataNonce fills in the nonce of a datagram.
func dataNonce(nonce, iv *[dataNonceLen]byte, counter uint64) {
	*nonce = *iv
	binary.BigEndian.PutUint64(nonce[4:], binary.BigEndian.Uint64(iv[4:])^counter)
}

// stateNonce draws the nonce of a box at rest.
func stateNonce(random io.Reader) (nonce [stateNonceLen]byte, err error) {
	if _, err = io.ReadFull(random, nonce[:]); err != nil {
		return nonce, fmt.Errorf("crypto: draw nonce: %w", err)
	}
	return nonce, nil
}
