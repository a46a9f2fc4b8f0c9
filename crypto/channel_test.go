package crypto

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"
)

var sealedCiphers = []Cipher{CipherAES256GCM, CipherChaCha20Poly1305}

// channelPair is both ends of one purpose.
func channelPair(t testing.TB, c Cipher) (a, b *Channel) {
	t.Helper()
	root := &schedule{root: bytes.Repeat([]byte{7}, 32)}
	a, err := newChannel(root, "test", c, true)
	if err != nil {
		t.Fatal(err)
	}
	if b, err = newChannel(root, "test", c, false); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// inPlace seals body where it stands.
func inPlace(c *Channel, counter uint64, ad, body []byte) []byte {
	return c.Seal(new(Scratch), body[:0], counter, ad, body)
}

// seal seals a text under the next counter.
func seal(t testing.TB, c *Channel, text []byte) (counter uint64, sealed []byte) {
	t.Helper()
	counter, err := c.Next()
	if err != nil {
		t.Fatal(err)
	}
	return counter, inPlace(c, counter, nil, append(make([]byte, 0, len(text)+TagLen), text...))
}

func TestChannelFlippedBits(t *testing.T) {
	for _, c := range sealedCiphers {
		a, b := channelPair(t, c)
		ad := []byte("16 bytes of head")
		counter, _ := a.Next()
		sealed := inPlace(a, counter, ad, append(make([]byte, 0, 64), "a frame"...))
		for bit := range 8 * len(sealed) {
			if _, err := b.Open(new(Scratch), counter, ad, flipped(sealed, bit)); err != ErrAuth {
				t.Fatalf("%v: bit %d flipped: %v", c, bit, err)
			}
		}
		for bit := range 8 * len(ad) {
			if _, err := b.Open(new(Scratch), counter, flipped(ad, bit), bytes.Clone(sealed)); err != ErrAuth {
				t.Fatalf("%v: bit %d of the header flipped: %v", c, bit, err)
			}
		}
		for n := range sealed {
			if _, err := b.Open(new(Scratch), counter, ad, bytes.Clone(sealed[:n])); err != ErrAuth {
				t.Fatalf("%v: cut at %d: %v", c, n, err)
			}
		}
		if _, err := b.Open(new(Scratch), counter+1, ad, bytes.Clone(sealed)); err != ErrAuth {
			t.Fatalf("%v: another counter: %v", c, err)
		}
		if _, err := a.Open(new(Scratch), counter, ad, bytes.Clone(sealed)); err != ErrAuth {
			t.Fatalf("%v: reflected: %v", c, err)
		}
		if b.heard.Load() {
			t.Errorf("%v: a failed open counts as heard", c)
		}
		plain, err := b.Open(new(Scratch), counter, ad, bytes.Clone(sealed))
		if err != nil || string(plain) != "a frame" || !b.heard.Load() {
			t.Fatalf("%v: %q, %v", c, plain, err)
		}
		if _, err := b.Open(new(Scratch), counter, ad, sealed); err != ErrReplay {
			t.Fatalf("%v: replayed: %v", c, err)
		}
	}
}

// 10 000 failed opens between good datagrams lose none and leave the window as it was.
func TestChannelFailedOpensLoseNothing(t *testing.T) {
	for _, c := range sealedCiphers {
		a, b := channelPair(t, c)
		r := rand.New(seeded(3))
		type datagram struct {
			counter uint64
			sealed  []byte
		}
		var good []datagram
		for range 1000 {
			n, sealed := seal(t, a, []byte("frame"))
			good = append(good, datagram{n, sealed})
		}
		for i, d := range good {
			before := b.window
			for range 10 {
				forged := make([]byte, 21)
				seeded(r.Uint64()).Read(forged)
				counter := d.counter
				switch r.IntN(4) {
				case 0:
					counter += r.Uint64N(100)
				case 1:
					counter = r.Uint64N(maxMessages)
				case 2:
					counter = r.Uint64()
				case 3:
					forged = flipped(d.sealed, r.IntN(8*len(d.sealed)))
				}
				if _, err := b.Open(new(Scratch), counter, nil, forged); err == nil {
					t.Fatalf("%v: forged datagram opened", c)
				}
			}
			if b.window != before {
				t.Fatalf("%v: failed opens moved the window", c)
			}
			if _, err := b.Open(new(Scratch), d.counter, nil, d.sealed); err != nil {
				t.Fatalf("%v: good datagram %d lost: %v", c, i, err)
			}
		}
	}
}

// Displaced by up to the window all arrive; beyond it they are refused.
func TestChannelReorder(t *testing.T) {
	a, b := channelPair(t, CipherAES256GCM)
	_, early := seal(t, a, []byte("early"))
	_, second := seal(t, a, []byte("second"))
	for range ReplayWindow - 1 {
		a.Next()
	}
	n, late := seal(t, a, []byte("late"))
	if n != ReplayWindow+1 {
		t.Fatalf("counter %d", n)
	}
	if _, err := b.Open(new(Scratch), n, nil, late); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Open(new(Scratch), 0, nil, early); err != ErrReplay {
		t.Errorf("older than the window: %v", err)
	}
	if _, err := b.Open(new(Scratch), 1, nil, bytes.Clone(second)); err != ErrReplay {
		t.Errorf("just outside the window: %v", err)
	}
	if _, err := b.Open(new(Scratch), 2, nil, second); err != ErrAuth {
		t.Errorf("the last of the window is looked at: %v", err)
	}
}

func TestChannelExhausted(t *testing.T) {
	a, b := channelPair(t, CipherChaCha20Poly1305)
	a.sent.next.Store(maxMessages - 1)
	n, sealed := seal(t, a, []byte("the last"))
	if n != maxMessages-1 {
		t.Fatalf("counter %d", n)
	}
	for range 3 {
		if _, err := a.Next(); err != ErrExhausted {
			t.Fatalf("beyond the end: %v", err)
		}
	}
	if a.Sent() != maxMessages {
		t.Errorf("%d sent", a.Sent())
	}
	if _, err := b.Open(new(Scratch), n, nil, sealed); err != nil {
		t.Error(err)
	}
	for _, far := range []uint64{maxMessages, maxMessages + 1, 1 << 63, ^uint64(0)} {
		body := inPlace(a, far, nil, make([]byte, 4, 20))
		if _, err := b.Open(new(Scratch), far, nil, body); err != ErrReplay {
			t.Errorf("counter %d is opened: %v", far, err)
		}
	}
}

func TestChannelClear(t *testing.T) {
	a, b := sessionPair(t, CipherNone)
	if a.Data.Overhead() != 0 {
		t.Fatalf("overhead %d", a.Data.Overhead())
	}
	body := []byte("frame")
	sealed := inPlace(a.Data, 0, nil, body[:5:5])
	plain, err := b.Data.Open(new(Scratch), 0, nil, sealed)
	if err != nil || &plain[0] != &body[0] || len(plain) != 5 {
		t.Errorf("%q, %v", plain, err)
	}
	if _, err := b.Data.Open(new(Scratch), 0, nil, sealed); err != nil || b.Data.window != (replayWindow{}) {
		t.Errorf("a clear channel has a window: %v", err)
	}
	if n, err := a.Data.Next(); n != 0 || err != nil || a.Data.Sent() != 1 {
		t.Errorf("counter %d, %v", n, err)
	}
}

func TestSealNeedsRoom(t *testing.T) {
	a, _ := channelPair(t, CipherAES256GCM)
	defer func() {
		if recover() == nil {
			t.Error("sealed without room for the tag")
		}
	}()
	inPlace(a, 0, nil, make([]byte, 10, 10+TagLen-1))
}

// Several goroutines seal and open at once: no counter twice, no datagram lost,
// and of two copies exactly one opens.
func TestChannelConcurrent(t *testing.T) {
	const workers, each = 4, 500
	for _, c := range sealedCiphers {
		a, b := channelPair(t, c)
		type datagram struct {
			counter uint64
			sealed  []byte
		}
		queue := make(chan datagram, workers*each*2)
		var senders, receivers sync.WaitGroup
		for range workers {
			senders.Go(func() {
				for range each {
					n, err := a.Next()
					if err != nil {
						t.Error(err)
						return
					}
					sealed := inPlace(a, n, nil, make([]byte, 32, 48))
					queue <- datagram{n, bytes.Clone(sealed)}
					queue <- datagram{n, sealed}
				}
			})
		}
		var mu sync.Mutex
		opened := map[uint64]int{}
		replays := 0
		for range workers {
			receivers.Go(func() {
				for d := range queue {
					_, err := b.Open(new(Scratch), d.counter, nil, d.sealed)
					mu.Lock()
					switch err {
					case nil:
						opened[d.counter]++
					case ErrReplay:
						replays++
					default:
						t.Error(err)
					}
					mu.Unlock()
				}
			})
		}
		senders.Wait()
		close(queue)
		receivers.Wait()
		if len(opened) != workers*each || replays != workers*each {
			t.Errorf("%v: %d opened, %d replays, want %d each", c, len(opened), replays, workers*each)
		}
	}
}

func TestChannelAllocations(t *testing.T) {
	for _, c := range sealedCiphers {
		a, b := channelPair(t, c)
		ad, text, buf := make([]byte, 16), make([]byte, 1400), make([]byte, 0, 1400+TagLen)
		s := new(Scratch)
		if n := testing.AllocsPerRun(2000, func() {
			counter, _ := a.Next()
			sealed := a.Seal(s, buf, counter, ad, text)
			if _, err := b.Open(s, counter, ad, sealed); err != nil {
				t.Fatal(err)
			}
			if _, err := b.Open(s, counter, ad, sealed); err != ErrReplay {
				t.Fatal(err)
			}
			if _, err := b.Open(s, counter+1, ad, sealed); err != ErrAuth {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%v: Seal and Open allocate %v times", c, n)
		}
		if n := testing.AllocsPerRun(2000, func() {
			counter, _ := a.Next()
			if err := b.Check(s, counter, ad, a.Tag(s, counter, ad)); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%v: Tag and Check allocate %v times", c, n)
		}
	}
}

// TestSealAside: what is sealed into other memory is what is sealed in place, behind what
// stands there, and the text stays.
func TestSealAside(t *testing.T) {
	ad, text := []byte("a header"), bytes.Repeat([]byte("text"), 100)
	for _, c := range sealedCiphers {
		a, b := channelPair(t, c)
		in := inPlace(a, 7, ad, append(make([]byte, 0, len(text)+TagLen), text...))
		aside := a.Seal(new(Scratch), append(make([]byte, 0, 1000), "before"...), 7, ad, text)
		if !bytes.Equal(aside, append([]byte("before"), in...)) || string(text[:4]) != "text" {
			t.Errorf("%v: %x aside, %x in place", c, aside, in)
		}
		if plain, err := b.Open(new(Scratch), 7, ad, aside[len("before"):]); err != nil || !bytes.Equal(plain, text) {
			t.Errorf("%v: opened %q, %v", c, plain, err)
		}
	}
	a, _ := sessionPair(t, CipherNone)
	if aside := a.Data.Seal(new(Scratch), make([]byte, 0, 1000), 7, ad, text); !bytes.Equal(aside, text) || &aside[0] == &text[0] {
		t.Errorf("clear: %q", aside)
	}
}

// FuzzChannelOpen: nothing but what was sealed opens.
func FuzzChannelOpen(f *testing.F) {
	a, _ := channelPair(f, CipherAES256GCM)
	counter, sealed := seal(f, a, []byte("frame"))
	f.Add(counter, []byte(nil), sealed)
	f.Add(counter+1, []byte("head"), sealed[:3])
	f.Fuzz(func(t *testing.T, n uint64, ad, body []byte) {
		_, b := channelPair(t, CipherAES256GCM)
		genuine := n == counter && len(ad) == 0 && bytes.Equal(body, sealed)
		_, err := b.Open(new(Scratch), n, ad, bytes.Clone(body))
		if (err == nil) != genuine {
			t.Fatalf("%d %x %x: %v", n, ad, body, err)
		}
	})
}

func benchmarkChannels(b *testing.B, run func(b *testing.B, x, y *Channel)) {
	for _, c := range sealedCiphers {
		b.Run(c.String(), func(b *testing.B) {
			x, y := channelPair(b, c)
			b.ReportAllocs()
			run(b, x, y)
		})
	}
}

func BenchmarkSeal1400(b *testing.B) {
	benchmarkChannels(b, func(b *testing.B, x, _ *Channel) {
		ad, body, s := make([]byte, 16), make([]byte, 1400, 1400+TagLen), new(Scratch)
		b.SetBytes(1400)
		var n uint64
		for b.Loop() {
			x.Seal(s, body[:0], n, ad, body)
			n++
		}
	})
}

// Open needs a new datagram each time: sealed ones are copied from a ring, and
// the window starts anew after each round, so the copy of 1416 bytes is included.
func BenchmarkOpen1400(b *testing.B) {
	benchmarkChannels(b, func(b *testing.B, x, y *Channel) {
		ad, s := make([]byte, 16), new(Scratch)
		ring := make([][]byte, 256)
		for n := range ring {
			ring[n] = inPlace(x, uint64(n), ad, make([]byte, 1400, 1400+TagLen))
		}
		body := make([]byte, 1400+TagLen)
		b.SetBytes(1400)
		n := 0
		for b.Loop() {
			if n == len(ring) {
				n, y.window = 0, replayWindow{}
			}
			copy(body, ring[n])
			if _, err := y.Open(s, uint64(n), ad, body); err != nil {
				b.Fatal(err)
			}
			n++
		}
	})
}

func BenchmarkHopTagAndCheck(b *testing.B) {
	benchmarkChannels(b, func(b *testing.B, x, y *Channel) {
		ad, s := make([]byte, 64), new(Scratch)
		var n uint64
		for b.Loop() {
			if n == maxMessages {
				n, y.window = 0, replayWindow{}
			}
			if err := y.Check(s, n, ad, x.Tag(s, n, ad)); err != nil {
				b.Fatal(err)
			}
			n++
		}
	})
}

func BenchmarkSessionHandshake(b *testing.B) {
	h := testHosts(b, CipherAuto)
	b.ReportAllocs()
	for b.Loop() {
		h.cfg.Random = nil
		i, message1 := h.initiate(b)
		_, message2 := h.accept(b, message1, nil)
		if _, err := i.Finish(message2); err != nil {
			b.Fatal(err)
		}
	}
}
