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
	clear bool

	seal   cipher.AEAD
	sealIV [dataNonceLen]byte
	sent   messageCounter

	_ cpu.CacheLinePad // senders and receivers are different cores

	open   cipher.AEAD
	openIV [dataNonceLen]byte
	heard  atomic.Bool // something was opened

	mu     sync.Mutex // guards window
	window replayWindow
}

// Scratch is what an AEAD behind an interface needs on the heap. Whoever seals and opens
// has one, so that neither allocates: the zero value is ready, for one goroutine at a time.
type Scratch struct {
	nonce [dataNonceLen]byte
	tag   [TagLen]byte

	_ cpu.CacheLinePad // others' lie behind it, for other cores
}

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

// Seal encrypts body, appends it and its tag to dst and returns that; counter comes from
// Next and is used once. dst must have room for len(body) and Overhead bytes. It may be
// body[:0], to seal in place; apart from that dst, body and ad must not overlap. What a
// clear channel appends is body as it is.
func (c *Channel) Seal(s *Scratch, dst []byte, counter uint64, ad, body []byte) []byte {
	if cap(dst)-len(dst) < len(body)+c.Overhead() {
		panic("crypto: seal: dst needs room for the body and its tag")
	}
	if c.clear {
		sealed := dst[:len(dst)+len(body)]
		if len(body) > 0 && &sealed[len(dst)] != &body[0] {
			copy(sealed[len(dst):], body)
		}
		return sealed
	}
	dataNonce(&s.nonce, &c.sealIV, counter)
	return c.seal.Seal(dst, s.nonce[:], body, ad)
}

// Open decrypts body, tag included, in place and returns it without the tag.
// ErrReplay or ErrAuth; then the content of body is undefined. A clear channel
// returns body as it is and looks at no counter.
func (c *Channel) Open(s *Scratch, counter uint64, ad, body []byte) ([]byte, error) {
	if c.clear {
		return body, nil
	}
	if !c.fresh(counter) {
		return nil, ErrReplay
	}
	dataNonce(&s.nonce, &c.openIV, counter)
	plain, err := c.open.Open(body[:0], s.nonce[:], body, ad)
	if err != nil {
		return nil, ErrAuth
	}
	if !c.mark(counter) {
		return nil, ErrReplay
	}
	return plain, nil
}

// Tag authenticates ad alone: the AEAD's tag over empty text.
func (c *Channel) Tag(s *Scratch, counter uint64, ad []byte) [TagLen]byte {
	dataNonce(&s.nonce, &c.sealIV, counter)
	c.seal.Seal(s.tag[:0], s.nonce[:], nil, ad)
	return s.tag
}

// Check verifies what Tag made at the other end; ErrReplay or ErrAuth. There is little to
// verify, so that the window is locked once and not twice.
func (c *Channel) Check(s *Scratch, counter uint64, ad []byte, tag [TagLen]byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.window.fresh(counter) {
		return ErrReplay
	}
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
