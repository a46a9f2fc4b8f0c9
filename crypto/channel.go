package crypto

import (
	"crypto/cipher"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/cpu"
)

// Errors of a channel. They are returned as they are: nothing is allocated for
// what a stranger sends.
var (
	// ErrReplay: the counter was opened before, or is older than the window.
	ErrReplay = errors.New("crypto: replayed or too old")
	// ErrAuth: the bytes were not sealed with this key, or were changed.
	ErrAuth = errors.New("crypto: not authentic")
)

// Channel is one purpose of a session in both directions: a sending key with its
// counter, a receiving key with its replay window. Safe for concurrent use; one
// sender's Seal never waits for another's.
//
//	Next ─▶ counter ─▶ the caller's header (associated data) ─▶ Seal ─▶ body ‖ tag 16
//	header's counter ─▶ Open: window asked ─▶ AEAD ─▶ window marked ─▶ body
//
// A failed Open changes neither key, counter nor window.
type Channel struct {
	clear   bool
	scratch *sync.Pool // of *scratch, shared by the session's channels

	seal   cipher.AEAD
	sealIV [dataNonceLen]byte
	sent   messageCounter

	_ cpu.CacheLinePad // senders and receivers are different cores

	open   cipher.AEAD
	openIV [dataNonceLen]byte
	heard  atomic.Bool // something was opened

	mu      sync.Mutex // guards window and checked
	window  replayWindow
	checked scratch // of Check
}

// scratch is what an AEAD behind an interface needs on the heap; pooled, so that
// sealing and opening allocate nothing.
type scratch struct {
	nonce [dataNonceLen]byte
	tag   [TagLen]byte
}

// newScratch makes the pool that the channels of one session share.
func newScratch() *sync.Pool { return &sync.Pool{New: func() any { return new(scratch) }} }

// Format shows nothing of the keys, whatever the verb.
func (c *Channel) Format(f fmt.State, verb rune) { fmt.Fprintf(f, "channel(%d sent)", c.Sent()) }

// Next reserves the counter of the next message to seal: each is handed out
// once, by counting up from 0. ErrExhausted at the end; it never wraps.
func (c *Channel) Next() (uint64, error) { return c.sent.take() }

// Sent is how many counters were reserved: RekeyAfterMessages asks for new keys.
func (c *Channel) Sent() uint64 { return c.sent.taken() }

// Overhead is how many bytes Seal appends: TagLen, or 0 for clear data.
func (c *Channel) Overhead() int {
	if c.clear {
		return 0
	}
	return TagLen
}

// Seal encrypts body in place and appends the tag; counter comes from Next and
// is used once. body must have Overhead bytes of spare capacity; ad must not
// overlap it. A clear channel returns body as it is.
func (c *Channel) Seal(counter uint64, ad, body []byte) []byte {
	if c.clear {
		return body
	}
	if cap(body)-len(body) < TagLen {
		panic("crypto: seal: the tag needs 16 bytes of spare capacity behind the body")
	}
	s := c.scratch.Get().(*scratch)
	dataNonce(&s.nonce, &c.sealIV, counter)
	sealed := c.seal.Seal(body[:0], s.nonce[:], body, ad)
	c.scratch.Put(s)
	return sealed
}

// Open decrypts body, tag included, in place and returns it without the tag.
// ErrReplay or ErrAuth; then the content of body is undefined. A clear channel
// returns body as it is and looks at no counter.
func (c *Channel) Open(counter uint64, ad, body []byte) ([]byte, error) {
	if c.clear {
		return body, nil
	}
	if !c.fresh(counter) {
		return nil, ErrReplay
	}
	s := c.scratch.Get().(*scratch)
	dataNonce(&s.nonce, &c.openIV, counter)
	plain, err := c.open.Open(body[:0], s.nonce[:], body, ad)
	c.scratch.Put(s)
	if err != nil {
		return nil, ErrAuth
	}
	if !c.mark(counter) {
		return nil, ErrReplay
	}
	return plain, nil
}

// Tag authenticates ad alone: the AEAD's tag over empty text.
func (c *Channel) Tag(counter uint64, ad []byte) [TagLen]byte {
	s := c.scratch.Get().(*scratch)
	dataNonce(&s.nonce, &c.sealIV, counter)
	c.seal.Seal(s.tag[:0], s.nonce[:], nil, ad)
	tag := s.tag
	c.scratch.Put(s)
	return tag
}

// Check verifies what Tag made at the other end; ErrReplay or ErrAuth. There is little to
// verify, so that the window is locked once and not twice, and what the AEAD needs is the
// channel's own.
func (c *Channel) Check(counter uint64, ad []byte, tag [TagLen]byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.window.fresh(counter) {
		return ErrReplay
	}
	s := &c.checked
	dataNonce(&s.nonce, &c.openIV, counter)
	s.tag = tag
	if _, err := c.open.Open(s.tag[:0], s.nonce[:], s.tag[:], ad); err != nil {
		return ErrAuth
	}
	c.window.mark(counter)
	if !c.heard.Load() {
		c.heard.Store(true)
	}
	return nil
}

func (c *Channel) fresh(counter uint64) bool {
	c.mu.Lock()
	ok := c.window.fresh(counter)
	c.mu.Unlock()
	return ok
}

func (c *Channel) mark(counter uint64) bool {
	c.mu.Lock()
	ok := c.window.mark(counter)
	c.mu.Unlock()
	if ok && !c.heard.Load() {
		c.heard.Store(true)
	}
	return ok
}
