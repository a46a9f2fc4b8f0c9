package transport

import (
	"bytes"
	"math/rand/v2"
	"net"
	"testing"

	"ripstop/crypto"
)

func TestProof(t *testing.T) {
	ids := testIdentities(t, 2)
	network, other := testNetwork(t).ID(), testNetwork(t).ID()
	p := makeProof(ids[0], network, 5, 6)
	b := p.append(nil)
	if len(b) != proofLen || !bytes.Equal(b[:16], []byte{7: 5, 15: 6}) {
		t.Errorf("% x", b[:16])
	}
	got, err := parseProof(b)
	if err != nil || got != p {
		t.Fatalf("%+v, %v", got, err)
	}
	if !p.holds(ids[0].Public().Sign, network) {
		t.Error("does not hold")
	}
	if p.holds(ids[1].Public().Sign, network) || p.holds(ids[0].Public().Sign, other) {
		t.Error("holds for another key or network")
	}
	for i := range b {
		for bit := range 8 {
			changed := bytes.Clone(b)
			changed[i] ^= 1 << bit
			if p, err := parseProof(changed); err == nil && p.holds(ids[0].Public().Sign, network) {
				t.Fatalf("bit %d of byte %d changed: holds", bit, i)
			}
		}
	}
	for n := range b {
		if _, err := parseProof(b[:n]); err == nil {
			t.Errorf("cut at %d: accepted", n)
		}
	}
	for name, b := range map[string][]byte{
		"longer": append(bytes.Clone(b), 0), "older 0": proof{newer: 1}.append(nil),
		"newer 0": proof{older: 1}.append(nil), "the same run": proof{older: 3, newer: 3}.append(nil),
	} {
		if _, err := parseProof(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestSettlement(t *testing.T) {
	m := settlement{number: 0x102, before: 3}
	b := m.append(nil)
	if !bytes.Equal(b, []byte{6: 1, 7: 2, 15: 3}) {
		t.Errorf("% x", b)
	}
	for n := range 20 {
		got, err := parseSettlement(append(bytes.Clone(b), 0, 0, 0, 0)[:n])
		if (err == nil) != (n == len(b)) || err == nil && got != m {
			t.Errorf("%d bytes: %+v, %v", n, got, err)
		}
	}
	for _, m := range []settlement{{0, 0}, {1, 1}, {1, 2}} {
		if _, err := parseSettlement(m.append(nil)); err == nil {
			t.Errorf("%+v accepted", m)
		}
	}
}

func TestNumberAndClose(t *testing.T) {
	m := numberMessage(messagePing, 0x0102030405060708)
	if !bytes.Equal(m, []byte{4, 1, 2, 3, 4, 5, 6, 7, 8}) {
		t.Errorf("% x", m)
	}
	for n := range 12 {
		v, err := parseNumber(append(m[1:], 0, 0, 0, 0)[:n])
		if (err == nil) != (n == numberLen) || err == nil && v != 0x0102030405060708 {
			t.Errorf("%d bytes: %x, %v", n, v, err)
		}
	}
	for body, want := range map[string]closeCode{"": closeOther, "\x02": closeSuperseded, "\x02\x02": closeOther, "\xff": 255} {
		if got := parseClose([]byte(body)); got != want || got.String() == "" {
			t.Errorf("%q: %d", body, got)
		}
	}
}

// No message of an authenticated peer makes the reader panic, call the handler without
// a Conn, or answer without end.
func FuzzConnMessage(f *testing.F) {
	ids := testIdentities(f, 2)
	network := testNetwork(f)
	h := &testHost{t: f, id: ids[0], up: make(map[crypto.Name]*Conn)}
	c, err := NewControl(ControlConfig{Identity: ids[0], Network: network, UID: 1, Hello: func() Hello { return Hello{} }, Handler: h, Listeners: []net.Listener{}})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { c.Close() })
	f.Add(numberMessage(messagePing, 1))
	f.Add(numberMessage(messageAlive, 1))
	f.Add(makeProof(ids[1], network.ID(), 2, 1).append([]byte{byte(messageClone)}))
	f.Add(makeProof(ids[1], network.ID(), 2, 3).append([]byte{byte(messageProof)}))
	f.Add([]byte{byte(messageClose), 1})
	f.Add(settlement{2, 1}.append([]byte{byte(messageSettled)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 {
			return
		}
		s := fuzzStream(c, ids[1])
		var state readState
		for range 3 {
			s.handle(b, &state)
		}
		if len(s.urgent) > maxUrgent {
			t.Fatalf("%d answers", len(s.urgent))
		}
		if len(h.suspected()) != 0 {
			t.Fatal("a member proved a clone that there is not")
		}
	})
}

func fuzzStream(c *Control, peer *crypto.Identity) *stream {
	s := newStream(c, &memConn{}, &crypto.ControlResult{Name: peer.Name(), Peer: peer.Public()}, Hello{UID: 2}, worldAddr("10.0.0.1:1"))
	close(s.gone)
	return s
}

// The queue keeps messages in order, keeps its bounds, and drops the oldest datagrams:
// compared with a slow list.
func TestSendQueue(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 200 {
		var q sendQueue
		var messages, datagrams [][]byte
		size := func(list [][]byte) (n int) {
			for _, b := range list {
				n += len(b)
			}
			return n
		}
		for step := range 400 {
			b := make([]byte, r.IntN([]int{10, 1500, MaxMessage}[r.IntN(3)]))
			if len(b) > 0 {
				b[0] = byte(step)
			}
			switch r.IntN(5) {
			case 0:
				kind := []MessageKind{MessageGossip, MessageSession}[r.IntN(2)]
				limit := map[MessageKind]int{MessageGossip: maxQueuedGossip, MessageSession: maxQueuedBytes}[kind]
				fits := len(messages) == 0 || len(messages) < maxQueuedMessages && size(messages)+1+len(b) <= limit
				if q.push(kind, b) != fits {
					t.Fatalf("round %d: message %d of %d taken: %v", round, len(messages), size(messages), !fits)
				}
				if fits {
					messages = append(messages, append([]byte{byte(kind)}, b...))
				}
			case 1, 2, 3:
				want := 0
				for len(datagrams) == maxDatagrams || len(datagrams) > 0 && size(datagrams)+1+len(b) > maxDatagramBytes {
					datagrams = datagrams[1:]
					want++
				}
				datagrams = append(datagrams, append([]byte{byte(MessageDatagram)}, b...))
				if n := q.pushDatagram(b); n != want {
					t.Fatalf("round %d: %d datagrams dropped, not %d", round, n, want)
				}
			case 4:
				if r.IntN(4) > 0 {
					continue
				}
				batch := q.pull(nil, maxSealed)
				for i, m := range batch {
					list := &messages
					if len(*list) == 0 {
						list = &datagrams
					}
					if !bytes.Equal(m, (*list)[0]) {
						t.Fatalf("round %d: entry %d is not the oldest", round, i)
					}
					*list = (*list)[1:]
					if MessageKind(m[0]) == MessageDatagram {
						q.recycle(m)
					}
				}
				if n := size(batch); n > maxSealed+1+MaxMessage || n < maxSealed && len(messages)+len(datagrams) > 0 {
					t.Fatalf("round %d: %d bytes at a time", round, n)
				}
			}
			if q.messageBytes != size(messages) || q.datagramBytes != size(datagrams) || q.count != len(datagrams) {
				t.Fatalf("round %d: miscounted", round)
			}
		}
	}
}

func TestSendDatagramDoesNotAllocate(t *testing.T) {
	var q sendQueue
	b := make([]byte, 1400)
	batch := make([][]byte, 0, 16)
	if n := testing.AllocsPerRun(100, func() {
		q.pushDatagram(b)
		batch = q.pull(batch[:0], maxSealed)
		for _, d := range batch {
			q.recycle(d)
		}
	}); n != 0 {
		t.Errorf("%v allocations a datagram", n)
	}
}
