package crypto

import (
	"bytes"
	"encoding/hex"
	"sync"
	"testing"
)

func TestNonceLayouts(t *testing.T) {
	var record [recordNonceLen]byte
	for i := range record {
		record[i] = 0xee // what an earlier record left
	}
	recordNonce(&record, purposeMessage, toInitiator, 0x10203, 5<<recordsPerKeyBits|7)
	if got, want := hex.EncodeToString(record[:]), "02"+"02"+"0005"+"00010203"+"0000000000000000"+"0000000000500007"; got != want {
		t.Errorf("record nonce %s, want %s", got, want)
	}
	var data [dataNonceLen]byte
	iv := [dataNonceLen]byte{1, 2, 3, 4, 0xff, 0, 0, 0, 0, 0, 0, 0x0f}
	dataNonce(&data, &iv, 0x0100000000000011)
	if got, want := hex.EncodeToString(data[:]), "01020304"+"fe0000000000001e"; got != want {
		t.Errorf("data nonce %s, want %s", got, want)
	}
	if _, err := stateNonce(bytes.NewReader(make([]byte, stateNonceLen-1))); err == nil {
		t.Error("a state nonce of 23 random bytes")
	}
}

// Whatever differs between two records differs in their nonces.
func TestRecordNoncesDiffer(t *testing.T) {
	seen := map[[recordNonceLen]byte]bool{}
	n := 0
	for _, p := range []recordPurpose{purposeHello, purposeMessage, purposeClose} {
		for _, d := range []direction{toResponder, toInitiator} {
			for _, length := range []int{0, 1, 256, MaxRecord} {
				for _, record := range []uint64{0, 1, 1<<recordsPerKeyBits - 1, 1 << recordsPerKeyBits, maxRecords - 1} {
					var nonce [recordNonceLen]byte
					recordNonce(&nonce, p, d, length, record)
					seen[nonce] = true
					n++
				}
			}
		}
	}
	if len(seen) != n {
		t.Errorf("%d nonces for %d records", len(seen), n)
	}
}

func TestMessageCounterConcurrent(t *testing.T) {
	var c messageCounter
	const workers, each = 8, 2000
	c.next.Store(maxMessages - workers*each/2)
	taken := make([][]uint64, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for range each {
				if n, err := c.take(); err == nil {
					taken[w] = append(taken[w], n)
				} else if err != ErrExhausted {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	seen := map[uint64]bool{}
	for _, list := range taken {
		for _, n := range list {
			if seen[n] || n >= maxMessages {
				t.Fatalf("counter %d handed out twice, or beyond the end", n)
			}
			seen[n] = true
		}
	}
	if len(seen) != workers*each/2 || c.taken() != maxMessages {
		t.Errorf("%d counters, %d taken", len(seen), c.taken())
	}
}

// ledger holds what a stream cipher made of one constant text. Each entry is a
// function of key and nonce alone, so an entry met twice is a pair used twice.
type ledger struct {
	t    *testing.T
	seen map[string]string
}

func (l ledger) add(what string, sealed []byte) {
	l.t.Helper()
	if before, ok := l.seen[string(sealed)]; ok {
		l.t.Fatalf("one key and nonce sealed %s and %s", before, what)
	}
	l.seen[string(sealed)] = what
}

// 1000 restarts of both hosts from the same seeds, each with a control
// connection, a session, a rekey and a saved state: no (key, nonce) twice.
func TestNonceLedger(t *testing.T) {
	l := ledger{t, map[string]string{}}
	restarts := 1000
	if raceEnabled {
		restarts = 100
	}
	text := make([]byte, 32)
	channels := func(s *Session, what string) {
		for name, c := range map[string]*Channel{"data": s.Data, "control": s.Control} {
			for range 3 {
				_, sealed := seal(t, c, text)
				l.add(what+" "+name, sealed[:len(text)])
			}
		}
		for range 3 {
			n, _ := s.Hop.Next()
			tag := s.Hop.Tag(new(Scratch), n, nil)
			l.add(what+" hop", append([]byte("tag"), tag[:]...))
		}
	}
	for run := range restarts {
		h := testHosts(t, CipherAuto)
		h.cfg.Random = nil
		if run%2 == 1 {
			h.ciphers = CipherSet(CipherChaCha20Poly1305)
			h.cfg.Ciphers = h.ciphers
		}
		for attempt := range uint64(2) { // first keys and a rekey
			h.cfg.Attempt = attempt + 1
			i, message1 := h.initiate(t)
			b, message2 := h.accept(t, message1, nil)
			a, err := i.Finish(message2)
			if err != nil {
				t.Fatal(err)
			}
			l.add("message 1", message1[sessionHeaderLen:])
			l.add("message 2", message2[sessionHeaderLen:])
			channels(a, "a")
			channels(b, "b")
		}
		for name, id := range map[string]*Identity{"a": h.a, "b": h.b} {
			box := id.SealState(nil, text)
			l.add(name+" state", box[1+stateNonceLen:])
		}
		ca, cb := controlConfigs(t, h.network)
		ca.Random, cb.Random = nil, nil
		ea, eb, _, _ := shake(t, ca, cb)
		if ea.err != nil || eb.err != nil {
			t.Fatal(ea.err, eb.err)
		}
		for name, s := range map[string]*RecordSealer{"a": ea.result.Send, "b": eb.result.Send} {
			s.count = 1<<recordsPerKeyBits - 2 // the next key comes within the loop
			for range 4 {
				record, err := s.Append(nil, text)
				if err != nil {
					t.Fatal(err)
				}
				l.add(name+" record", record[recordOverhead:])
			}
		}
	}
	if want := restarts * (2*(2+2*9) + 2 + 8); len(l.seen) != want {
		t.Errorf("%d entries, want %d", len(l.seen), want)
	}
}
