package gossip

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"ripstop/crypto"
)

// TestLyingList: a neighbour that leaves a record out of c's list, or adds one,
// makes nobody forget or take anything.
func TestLyingList(t *testing.T) {
	w, a, b, c, _ := two(t)
	w.disconnect(b, c)
	c.endpoint("new", 1)
	c.flush()
	whole := c.own.covered()
	begin := appendHead(appendOrigin([]byte{format}, c.id.Public(), 0), c.own.head)
	if err := a.Step(w.now, b.id.Name(), begin); err != nil {
		t.Fatal(err)
	}
	before := view(a.State, c.id.Name())
	for name, list := range map[string][]*stored{
		"one left out": whole[1:],
		"one twice":    append(whole[:len(whole):len(whole)], whole[0]),
		"none":         nil,
		"exchanged":    append([]*stored{whole[1], whole[0]}, whole[2:]...),
	} {
		lie := appendList(append([]byte(nil), begin...), c.own.head.Version, list)
		if err := a.Step(w.now, b.id.Name(), lie); err == nil {
			t.Errorf("%s: no error", name)
		}
		if o := a.origins[c.id.Name()]; o.plan != nil || view(a.State, c.id.Name()) != before {
			t.Errorf("%s: was believed: %s became %s", name, before, view(a.State, c.id.Name()))
		}
	}
	truth := appendList(append([]byte(nil), begin...), c.own.head.Version, whole)
	if err := a.Step(w.now, b.id.Name(), truth); err != nil || a.origins[c.id.Name()].plan == nil {
		t.Errorf("the true list is not believed: %v", err)
	}
}

// TestLiarIsLeftAlone: who claims what it cannot show is asked ever more seldom.
func TestLiarIsLeftAlone(t *testing.T) {
	w, a, _, c, _ := two(t)
	liar := w.add("liar", false)
	w.connect(a, liar)
	w.run(time.Second)
	for i := range 600 {
		claim := appendDigest([]byte{format}, 0, 0, []digestEntry{{c.id.Name(), uint64(1e6 + i), uint64(1e6 + i), [8]byte{byte(i)}}})
		if err := a.Step(w.now, liar.id.Name(), claim); err != nil {
			t.Fatal(err)
		}
		w.run(100 * time.Millisecond)
	}
	if n := a.Stats().PullsFailed; n == 0 || n > 8 {
		t.Errorf("%d questions in vain in a minute", n)
	}
}

// TestGreedyOrigin: one origin may hold no more than its bytes and records.
func TestGreedyOrigin(t *testing.T) {
	w, a, b, c, _ := two(t)
	bytes := a.bytes
	body := make([]byte, 1024)
	version := c.version
	for i := range 1200 {
		version++
		r := Record{Origin: c.id.Name(), Kind: 77, Key: string(rune('a'+i%26)) + strings.Repeat("x", i/26), Version: version, Body: body}
		r.Signature = c.id.Sign(recordLabel, r.text(crypto.NetworkID{}))
		m := appendRecord(appendOrigin([]byte{format}, c.id.Public(), 0), &r)
		if err := a.Step(w.now, b.id.Name(), m); err != nil {
			t.Fatal(err)
		}
		a.Ready()
		a.Sent(b.id.Name())
	}
	st := a.Stats()
	if o := a.origins[c.id.Name()]; o.size > maxOriginBytes || a.bytes-bytes > maxOriginBytes {
		t.Errorf("%d bytes are held", o.size)
	}
	if st.RefusedSize == 0 || st.UnknownRecords == 0 {
		t.Errorf("not counted: %+v", st)
	}
	for range a.Records(77) {
		t.Fatal("a record of an unknown kind is shown")
	}
}

// TestPublishRefused: what others would not take is not published.
func TestPublishRefused(t *testing.T) {
	w := newWorld(t, 1)
	s := New(Config{Identity: identity(t, 1), UID: 7, Random: rand.New(rand.NewPCG(1, 1))}, w.now)
	peer, _ := PeerBody{UID: 8, Keys: s.cfg.Identity.Public()}.Append(nil)
	stranger, _ := PeerBody{UID: 7, Keys: identity(t, 2).Public()}.Append(nil)
	hint, _ := HintBody{}.Append(nil)
	for name, err := range map[string]error{
		"another run":  s.Publish(w.now, KindPeer, "", peer),
		"another host": s.Publish(w.now, KindPeer, "", stranger),
		"no body":      s.Publish(w.now, KindHint, "", nil),
		"long body":    s.Publish(w.now, KindHint, "", make([]byte, 2000)),
		"long key":     s.Publish(w.now, KindHint, strings.Repeat("k", MaxKey+1), hint),
		"unknown kind": s.Publish(w.now, 9, "", hint),
	} {
		if err == nil || !strings.HasPrefix(err.Error(), "gossip: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := s.Publish(w.now, KindHint, "", hint); err != nil || s.version != 1 {
		t.Error(err, s.version)
	}
	if err := s.Publish(w.now, KindHint, "", hint); err != nil || s.version != 1 {
		t.Error("the same fact twice is news", err, s.version)
	}
}

// TestManyRecords: thousands of records of one host reach another in messages
// of bounded length, and a gap is repaired by list without sending them again.
func TestManyRecords(t *testing.T) {
	w := newWorld(t, 6)
	a, b := w.add("a", false), w.add("b", false)
	key := func(i int) string { return strings.Repeat(string(rune('a'+i%26)), 1+i/26) }
	const n = 1200
	for i := range n {
		body, _ := HintBody{FreeBlocks: uint32(i)}.Append(nil)
		if err := a.Publish(w.now, KindHint, key(i), body); err != nil {
			t.Fatal(err)
		}
	}
	w.connect(a, b)
	w.run(3 * time.Second)
	if d := w.differences(); len(d) > 0 {
		t.Fatal(d)
	}
	w.disconnect(a, b)
	for i := range 100 {
		a.withdraw(KindHint, key(i)) // more deletions than are kept
	}
	w.bytes = 0
	w.connect(a, b)
	w.run(3 * time.Second)
	if d := w.differences(); len(d) > 0 {
		t.Fatal(d)
	}
	if w.bytes > n*idLen+16000 {
		t.Errorf("%d bytes for 100 deletions of %d records", w.bytes, n)
	}
}
