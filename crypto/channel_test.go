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
	pool := newScratch()
	a, err := newChannel(root, "test", c, true, pool)
	if err != nil {
		t.Fatal(err)
	}
	if b, err = newChannel(root, "test", c, false, pool); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// seal seals a text under the next counter.
func seal(t testing.TB, c *Channel, text []byte) (counter uint64, sealed []byte) {
	t.Helper()
	counter, err := c.Next()
	if err != nil {
		t.Fatal(err)
	}
	return counter, c.Seal(counter, nil, append(make([]byte, 0, len(text)+TagLen), text...))
}

func TestChannelFlippedBits(t *testing.T) {
	for _, c := range sealedCiphers {
		a, b := channelPair(t, c)
		ad := []byte("16 bytes of head")
		counter, _ := a.Next()
		sealed := a.Seal(counter, ad, append(make([]byte, 0, 64), "a frame"...))
		for bit := range 8 * len(sealed) {
			if _, err := b.Open(counter, ad, flipped(sealed, bit)); err != ErrAuth {
				t.Fatalf("%v: bit %d flipped: %v", c, bit, err)
			}
		}
		for bit := range 8 * len(ad) {
			if _, err := b.Open(counter, flipped(ad, bit), bytes.Clone(sealed)); err != ErrAuth {
				t.Fatalf("%v: bit %d of the header flipped: %v", c, bit, err)
			}
		}
		for n := range sealed {
			if _, err := b.Open(counter, ad, bytes.Clone(sealed[:n])); err != ErrAuth {
				t.Fatalf("%v: cut at %d: %v", c, n, err)
			}
		}
		if _, err := b.Open(counter+1, ad, bytes.Clone(sealed)); err != ErrAuth {
			t.Fatalf("%v: another counter: %v", c, err)
		}
		if _, err := a.Open(counter, ad, bytes.Clone(sealed)); err != ErrAuth {
			t.Fatalf("%v: reflected: %v", c, err)
		}
		if b.heard.Load() {
			t.Errorf("%v: a failed open counts as heard", c)
		}
		plain, err := b.Open(counter, ad, bytes.Clone(sealed))
		if err != nil || string(plain) != "a frame" || !b.heard.Load() {
			t.Fatalf("%v: %q, %v", c, plain, err)
		}
		if _, err := b.Open(counter, ad, sealed); err != ErrReplay {
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
				if _, err := b.Open(counter, nil, forged); err == nil {
					t.Fatalf("%v: forged datagram opened", c)
				}
			}
			if b.window != before {
				t.Fatalf("%v: failed opens moved the window", c)
			}
			if _, err := b.Open(d.counter, nil, d.sealed); err != nil {
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
	if _, err := b.Open(n, nil, late); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Open(0, nil, early); err != ErrReplay {
		t.Errorf("older than the window: %v", err)
	}
	if _, err := b.Open(1, nil, bytes.Clone(second)); err != ErrReplay {
		t.Errorf("just outside the window: %v", err)
	}
	if _, err := b.Open(2, nil, second); err != ErrAuth {
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
	if _, err := b.Open(n, nil, sealed); err != nil {
		t.Error(err)
	}
	for _, far := range []uint64{maxMessages, maxMessages + 1, 1 << 63, ^uint64(0)} {
		body := a.Seal(far, nil, make([]byte, 4, 20))
		if _, err := b.Open(far, nil, body); err != ErrReplay {
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
	sealed := a.Data.Seal(0, nil, body[:5:5])
	plain, err := b.Data.Open(0, nil, sealed)
	if err != nil || &plain[0] != &body[0] || len(plain) != 5 {
		t.Errorf("%q, %v", plain, err)
	}
	if _, err := b.Data.Open(0, nil, sealed); err != nil || b.Data.window != (replayWindow{}) {
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
	a.Seal(0, nil, make([]byte, 10, 10+TagLen-1))
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
					sealed := a.Seal(n, nil, make([]byte, 32, 48))
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
					_, err := b.Open(d.counter, nil, d.sealed)
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
	if raceEnabled {
		t.Skip("sync.Pool drops at random under the race detector")
	}
	for _, c := range sealedCiphers {
		a, b := channelPair(t, c)
		ad, buf := make([]byte, 16), make([]byte, 1400, 1400+TagLen)
		if n := testing.AllocsPerRun(2000, func() {
			counter, _ := a.Next()
			if _, err := b.Open(counter, ad, a.Seal(counter, ad, buf)); err != nil {
				t.Fatal(err)
			}
			if _, err := b.Open(counter, ad, buf); err != ErrReplay {
				t.Fatal(err)
			}
			if _, err := b.Open(counter+1, ad, buf); err != ErrAuth {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%v: Seal and Open allocate %v times", c, n)
		}
		if n := testing.AllocsPerRun(2000, func() {
			counter, _ := a.Next()
			if err := b.Check(counter, ad, a.Tag(counter, ad)); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%v: Tag and Check allocate %v times", c, n)
		}
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
		_, err := b.Open(n, ad, bytes.Clone(body))
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
		ad, body := make([]byte, 16), make([]byte, 1400, 1400+TagLen)
		b.SetBytes(1400)
		var n uint64
		for b.Loop() {
			x.Seal(n, ad, body)
			n++
		}
	})
}

// Open needs a new datagram each time: sealed ones are copied from a ring, and
// the window starts anew after each round, so the copy of 1416 bytes is included.
func BenchmarkOpen1400(b *testing.B) {
	benchmarkChannels(b, func(b *testing.B, x, y *Channel) {
		ad := make([]byte, 16)
		ring := make([][]byte, 256)
		for n := range ring {
			ring[n] = x.Seal(uint64(n), ad, make([]byte, 1400, 1400+TagLen))
		}
		body := make([]byte, 1400+TagLen)
		b.SetBytes(1400)
		n := 0
		for b.Loop() {
			if n == len(ring) {
				n, y.window = 0, replayWindow{}
			}
			copy(body, ring[n])
			if _, err := y.Open(uint64(n), ad, body); err != nil {
				b.Fatal(err)
			}
			n++
		}
	})
}

func BenchmarkHopTagAndCheck(b *testing.B) {
	benchmarkChannels(b, func(b *testing.B, x, y *Channel) {
		ad := make([]byte, 64)
		var n uint64
		for b.Loop() {
			if n == maxMessages {
				n, y.window = 0, replayWindow{}
			}
			if err := y.Check(n, ad, x.Tag(n, ad)); err != nil {
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
