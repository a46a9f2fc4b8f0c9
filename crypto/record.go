package crypto

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/nacl/secretbox"
)

// MaxRecord is the longest message of one control record in bytes.
const MaxRecord = 64 * 1024

// A record on the wire:
//
//	offset  0         1        4
//	        │ purpose │ length │ secretbox: tag 16 ‖ text of that length │
//
// Purpose and length also stand in the nonce (nonce.go), so neither can be
// changed. Every 2^20 records the key is replaced by one derived from it.
const (
	recordHeaderLen  = 4
	recordOverhead   = recordHeaderLen + secretbox.Overhead
	labelNextControl = "ripstop control next v1"
)

// recordPurpose tells what a record is for.
type recordPurpose uint8

const (
	purposeHello   recordPurpose = 1 // the first of each direction: who sends
	purposeMessage recordPurpose = 2
	purposeClose   recordPurpose = 3 // the last of a direction; empty
)

// ErrRecord: a record does not open, is too long or out of place. The
// connection is beyond repair.
var ErrRecord = errors.New("unreadable record")

// recordKey is the key of one direction with the number of its next record.
type recordKey struct {
	_         [0]func()
	key       [32]byte
	direction direction
	count     recordCounter
}

// Format shows nothing of the key, whatever the verb.
func (k *recordKey) Format(f fmt.State, verb rune) {
	fmt.Fprintf(f, "record key(%d records)", uint64(k.count))
}

// next gives the number of the next record, its key being k.key from now on.
func (k *recordKey) next(last bool) (uint64, error) {
	starts := k.count.startsKey()
	n, err := k.count.take(last)
	if err != nil {
		return 0, err
	}
	if starts {
		b, err := hkdf.Expand(sha256.New, k.key[:], labelNextControl, len(k.key))
		if err != nil {
			return 0, fmt.Errorf("crypto: next control key: %w", err)
		}
		copy(k.key[:], b)
	}
	return n, nil
}

// RecordSealer seals the records of one direction of a control connection. Not
// safe for concurrent use: the records leave in the order they were sealed in.
type RecordSealer struct {
	recordKey
	closed bool
}

// Append seals message (1 to MaxRecord bytes) as one record behind dst.
// ErrExhausted after 2^36 records, io.ErrClosedPipe after AppendClose.
func (s *RecordSealer) Append(dst, message []byte) ([]byte, error) {
	return s.append(dst, message, purposeMessage, 1, MaxRecord)
}

// AppendClose seals the record that tells an end from a cut; a second call
// appends nothing.
func (s *RecordSealer) AppendClose(dst []byte) []byte {
	b, err := s.append(dst, nil, purposeClose, 0, 0)
	s.closed = true
	if err != nil {
		return dst
	}
	return b
}

func (s *RecordSealer) append(dst, text []byte, purpose recordPurpose, shortest, longest int) ([]byte, error) {
	if s.closed {
		return dst, fmt.Errorf("crypto: seal record: %w", io.ErrClosedPipe)
	}
	if len(text) < shortest || len(text) > longest {
		return dst, fmt.Errorf("crypto: seal record: %d bytes, not %d to %d", len(text), shortest, longest)
	}
	n, err := s.next(purpose == purposeClose)
	if err != nil {
		return dst, err
	}
	var nonce [recordNonceLen]byte
	recordNonce(&nonce, purpose, s.direction, len(text), n)
	dst = binary.BigEndian.AppendUint32(dst, uint32(purpose)<<24|uint32(len(text)))
	return secretbox.Seal(dst, text, &nonce, &s.key), nil
}

// RecordOpener opens the records of the other direction. Not safe for concurrent
// use. Its first error is final and comes again at every further Read.
type RecordOpener struct {
	recordKey
	box, text []byte // reused; at most MaxRecord and a tag each
	err       error
}

// Read reads one whole record from r and returns its message, which is valid
// until the next Read. io.EOF only after a close record; a stream that ends
// elsewhere gives io.ErrUnexpectedEOF, one that was changed ErrRecord. Nothing
// is read beyond the record.
func (o *RecordOpener) Read(r io.Reader) ([]byte, error) {
	text, purpose, err := o.read(r, MaxRecord)
	if err != nil {
		return nil, err
	}
	switch {
	case purpose == purposeClose && len(text) == 0:
		o.err = io.EOF
		return nil, io.EOF
	case purpose == purposeMessage && len(text) > 0:
		return text, nil
	}
	return nil, o.fail(fmt.Errorf("crypto: read record: %w: purpose %d with %d bytes", ErrRecord, purpose, len(text)))
}

// readHello reads the first record of a direction.
func (o *RecordOpener) readHello(r io.Reader) ([]byte, error) {
	text, purpose, err := o.read(r, helloRecordMax)
	if err == nil && purpose != purposeHello {
		err = o.fail(fmt.Errorf("crypto: read record: %w: purpose %d instead of a hello", ErrRecord, purpose))
	}
	return text, err
}

func (o *RecordOpener) fail(err error) error {
	o.err = err
	return err
}

// read bounds the length before taking memory for it.
func (o *RecordOpener) read(r io.Reader, longest int) ([]byte, recordPurpose, error) {
	if o.err != nil {
		return nil, 0, o.err
	}
	var header [recordHeaderLen]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, 0, o.fail(cut("read record", err))
	}
	h := binary.BigEndian.Uint32(header[:])
	purpose, length := recordPurpose(h>>24), int(h&0xffffff)
	if length > longest {
		return nil, 0, o.fail(fmt.Errorf("crypto: read record: %w: %d bytes, at most %d are allowed", ErrRecord, length, longest))
	}
	if need := length + secretbox.Overhead; cap(o.box) < need {
		o.box = make([]byte, need)
	}
	box := o.box[:length+secretbox.Overhead]
	if _, err := io.ReadFull(r, box); err != nil {
		return nil, 0, o.fail(cut("read record", err))
	}
	n, err := o.next(purpose == purposeClose)
	if err != nil {
		return nil, 0, o.fail(err)
	}
	var nonce [recordNonceLen]byte
	recordNonce(&nonce, purpose, o.direction, length, n)
	text, ok := secretbox.Open(o.text[:0], box, &nonce, &o.key)
	if !ok {
		return nil, 0, o.fail(fmt.Errorf("crypto: read record: %w: not authentic", ErrRecord))
	}
	o.text = text
	return text, purpose, nil
}

// cut is a read error for people; an end where more was due is never a clean one.
func cut(operation string, err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("crypto: %s: %w", operation, err)
}
