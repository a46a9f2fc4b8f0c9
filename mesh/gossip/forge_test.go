package gossip

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"ripstop/crypto"
)

// two makes a host a that knows what its neighbour b and a further host c have
// published, and a message that teaches all of c to somebody new.
func two(t testing.TB) (w *world, a, b, c *host, all []byte) {
	w = newWorld(t, 5)
	a, b, c = w.add("a", false), w.add("b", false), w.add("c", false)
	w.connect(a, b)
	w.connect(b, c)
	c.endpoint("web", 1)
	c.endpoint("db", 1)
	c.withdraw(KindEndpoint, "db")
	w.run(5 * time.Second)
	if d := w.differences(); len(d) > 0 {
		t.Fatal(d)
	}
	o := b.origins[c.id.Name()]
	all = appendOrigin([]byte{format}, o.keys, 0)
	all = appendHead(all, o.head)
	for _, r := range o.records {
		all = appendRecord(all, &r.Record)
	}
	return w, a, b, c, all
}

// fresh makes a state that has b for a neighbour and knows nothing else.
func fresh(w *world, b *host, cache *Cache) *State {
	s := New(Config{Identity: identity(w.t, 99), Random: rand.New(rand.NewPCG(1, 1)), Cache: cache}, w.now)
	s.NeighbourUp(w.now, b.id.Name(), b.id.Public())
	return s
}

// TestForged changes every bit of a message with a head, records and a deletion,
// also when a cache of verified records is shared: what is accepted is never
// anything else than what the origin signed.
func TestForged(t *testing.T) {
	t.Parallel()
	w, _, b, c, all := two(t)
	genuine := make(map[recordID]bool)
	for _, r := range c.own.records {
		genuine[r.id] = true
	}
	if s := fresh(w, b, w.cache); s.Step(w.now, b.id.Name(), all) != nil || s.origins[c.id.Name()].complete() != c.own.complete() {
		t.Fatal("the message itself is not accepted")
	}
	refused := 0
	for i := range 8 * len(all) {
		forged := slices.Clone(all)
		forged[i/8] ^= 1 << (i % 8)
		s := fresh(w, b, w.cache)
		if s.Step(w.now, b.id.Name(), forged) != nil {
			refused++
		}
		for _, o := range s.order {
			if o.head != nil && o != s.own && (o.name != c.id.Name() || *o.head != *c.own.head) {
				t.Fatalf("bit %d: a head of %v at %d was accepted", i, o.name, o.complete())
			}
			for _, r := range o.records {
				if !genuine[r.id] {
					t.Fatalf("bit %d: %s %q@%d of %v was accepted", i, r.Kind, r.Key, r.Version, o.name)
				}
			}
		}
	}
	t.Logf("%d forged messages, %d with an error, nothing forged accepted", 8*len(all), refused)
}

// TestWrongSigner offers facts about c that b signed with all sorts of keys,
// labels and networks.
func TestWrongSigner(t *testing.T) {
	w, a, b, c, _ := two(t)
	body, _ := HintBody{FreeBlocks: 9}.Append(nil)
	other := crypto.NetworkID{1}
	version := c.version + 10
	rec := func(signer *crypto.Identity, label string, network crypto.NetworkID, version uint64) []byte {
		r := Record{Origin: c.id.Name(), Kind: KindHint, Key: "x", Version: version, Body: body}
		r.Signature = signer.Sign(label, r.text(network))
		return appendRecord(appendOrigin([]byte{format}, c.id.Public(), 0), &r)
	}
	hd := func(signer *crypto.Identity, label string, network crypto.NetworkID, version uint64) []byte {
		h := head{Version: version, Hash: hashIDs(nil)}
		h.Signature = signer.Sign(label, h.text(network, c.id.Name()))
		return appendHead(appendOrigin([]byte{format}, c.id.Public(), 0), &h)
	}
	var none crypto.NetworkID
	for name, m := range map[string][]byte{
		"record by another key":     rec(b.id, recordLabel, none, version),
		"record of another network": rec(c.id, recordLabel, other, version),
		"record under head's label": rec(c.id, headLabel, none, version),
		"record at 2^62":            rec(c.id, recordLabel, none, MaxVersion),
		"record at 2^64-1":          rec(c.id, recordLabel, none, 1<<64-1),
		"record at 0":               rec(c.id, recordLabel, none, 0),
		"record at complete":        rec(c.id, recordLabel, none, c.version),
		"head by another key":       hd(b.id, headLabel, none, version),
		"head of another network":   hd(c.id, headLabel, other, version),
		"head under record's label": hd(c.id, recordLabel, none, version),
		"head at 2^62":              hd(c.id, headLabel, none, MaxVersion),
	} {
		before := view(a.State, c.id.Name())
		_ = a.Step(w.now, b.id.Name(), m)
		if o := a.origins[c.id.Name()]; view(a.State, c.id.Name()) != before || o.target != nil {
			t.Errorf("%s: was accepted", name)
		}
	}
	if st := a.Stats(); st.RefusedSignature == 0 || st.RefusedVersion != 4 || st.RefusedDeleted == 0 {
		t.Errorf("not counted: %+v", st)
	}
	// The same by the right key, label and network is taken, so the above can fail.
	if err := a.Step(w.now, b.id.Name(), rec(c.id, recordLabel, none, version)); err != nil {
		t.Error(err)
	}
	if _, there := a.Get(c.id.Name(), KindHint, "x"); !there {
		t.Error("a genuine record was refused")
	}
}

// TestLiar lets a neighbour claim versions of c that do not exist: c's news
// arrives all the same, and nothing is forgotten.
func TestLiar(t *testing.T) {
	w, a, b, c, _ := two(t)
	liar := w.add("liar", false)
	w.connect(a, liar)
	w.run(time.Second)
	for i := range 200 {
		claim := appendDigest([]byte{format}, 0, 0, []digestEntry{{c.id.Name(), uint64(1e6 + i), uint64(1e6 + i), [8]byte{byte(i)}}})
		if err := a.Step(w.now, liar.id.Name(), claim); err != nil {
			t.Fatal(err)
		}
		a.act()
		if i == 100 {
			c.endpoint("new", 1)
		}
		w.run(100 * time.Millisecond)
	}
	if _, there := a.Get(c.id.Name(), KindEndpoint, "new"); !there {
		t.Error("the liar kept c's news away")
	}
	_ = b
}

// TestEquivocation gives two hosts two records and heads of one version: both
// settle on the same ones when they meet, and count it.
func TestEquivocation(t *testing.T) {
	w := newWorld(t, 2)
	id := identity(t, 50)
	one := New(Config{Identity: id, Random: rand.New(rand.NewPCG(1, 1))}, w.now)
	other := New(Config{Identity: id, Random: rand.New(rand.NewPCG(1, 1))}, w.now)
	a, b := w.add("a", false), w.add("b", false)
	for i, s := range []*State{one, other} {
		body, _ := HintBody{FreeBlocks: uint32(i)}.Append(nil)
		if err := s.Publish(w.now, KindHint, "", body); err != nil {
			t.Fatal(err)
		}
		h := w.hosts[i]
		h.NeighbourUp(w.now, id.Name(), id.Public())
		s.NeighbourUp(w.now, h.id.Name(), h.id.Public())
		for _, m := range s.Ready().Messages {
			if err := h.Step(w.now, id.Name(), m.Bytes); err != nil {
				t.Fatal(err)
			}
		}
		h.NeighbourDown(w.now, id.Name())
		h.act()
	}
	if view(a.State, id.Name()) != "complete 1: @1" || a.origins[id.Name()].hash() == b.origins[id.Name()].hash() {
		t.Fatal("the two do not hold different facts to begin with")
	}
	w.connect(a, b)
	w.run(20 * time.Second)
	if a.origins[id.Name()].hash() != b.origins[id.Name()].hash() {
		t.Error("they hold different facts for good")
	}
	if a.Stats().Equivocations+b.Stats().Equivocations == 0 {
		t.Error("not counted")
	}
}

// TestBombs: what a message claims to hold takes no memory and no time.
func TestBombs(t *testing.T) {
	w, a, b, _, _ := two(t)
	big := func(kind byte, n int) []byte {
		m, at := openSection([]byte{format}, kind)
		m = append(m, make([]byte, n)...)
		closeSection(m, at)
		return m
	}
	for name, m := range map[string][]byte{
		"nothing":         {},
		"format 2":        {2},
		"no length":       {format, sectionHead, 0xff},
		"length too long": {format, sectionHead, 0xff, 0xff, 0},
		"head alone":      appendHead([]byte{format}, &head{Version: 1}),
		"long message":    make([]byte, MaxMessage+1),
		"summary shift":   {format, sectionSummary, 0, 1, 9},
		"short summary":   {format, sectionSummary, 0, 2, 3, 0},
		"digest bucket":   {format, sectionDigest, 0, 2, 2, 2},
		"ragged digest":   big(sectionDigest, 43),
		"ragged want":     big(sectionWant, 29),
		"long want":       big(sectionWant, 16+idLen*(MaxRecords+1)),
		"short pull":      big(sectionPull, 32),
		"origin":          big(sectionOrigin, 65),
	} {
		if err := a.Step(w.now, b.id.Name(), m); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := a.Step(w.now, crypto.Name{1}, []byte{format}); err == nil {
		t.Error("a message of a stranger was read")
	}
	// Sections and kinds of later versions are no error.
	if err := a.Step(w.now, b.id.Name(), big(200, 100)); err != nil || a.Stats().UnknownSections != 1 {
		t.Error(err, a.Stats().UnknownSections)
	}
}

// TestTruncated cuts a message at every byte: between sections what came before
// is used, elsewhere it is an error.
func TestTruncated(t *testing.T) {
	w, _, b, _, all := two(t)
	all = appendPull(all, pullBody{name: b.id.Name(), version: 1})
	all = appendDigest(all, 1, 0, []digestEntry{{b.id.Name(), 1, 1, [8]byte{}}})
	all = appendList(all, 1, nil)
	whole := map[int]bool{1: true}
	for rest := all[1:]; len(rest) > 0; {
		_, _, rest, _ = nextSection(rest)
		whole[len(all)-len(rest)] = true
	}
	for i := range all {
		if err := fresh(w, b, nil).Step(w.now, b.id.Name(), all[:i]); (err == nil) != whole[i] {
			t.Errorf("cut to %d bytes: %v", i, err)
		}
	}
}

// TestFlood lets a neighbour invent origins: they are held up to the limit, and
// then a real member still takes the place of one that nobody links to.
func TestFlood(t *testing.T) {
	w := newWorld(t, 8)
	w.cfg.MaxMembers = 20
	a, b := w.add("a", false), w.add("b", false)
	w.connect(a, b)
	w.run(time.Second)
	for i := range 60 {
		s := New(Config{Identity: identity(t, 1000+i), Random: rand.New(rand.NewPCG(1, 1))}, w.now)
		body, _ := PeerBody{Nickname: "x", Keys: s.cfg.Identity.Public()}.Append(nil)
		if err := s.Publish(w.now, KindPeer, "", body); err != nil {
			t.Fatal(err)
		}
		s.flush()
		m := appendOrigin([]byte{format}, s.cfg.Identity.Public(), 0)
		m = appendRecord(appendHead(m, s.own.head), &s.own.records[0].Record)
		if err := a.Step(w.now, b.id.Name(), m); err != nil {
			t.Fatal(err)
		}
		a.act()
	}
	st := a.Stats()
	if st.Origins != 20 || st.RefusedOrigin != 2*42 { // head and record each
		t.Errorf("%d origins, %d refused", st.Origins, st.RefusedOrigin)
	}
	c := w.add("c", false)
	w.connect(b, c)
	w.run(3 * time.Second)
	if _, there := a.Get(c.id.Name(), KindPeer, ""); !there {
		t.Error("a member finds no place")
	}
	if n := a.Stats().Origins; n != 20 {
		t.Errorf("%d origins", n)
	}
}

func FuzzStep(f *testing.F) {
	w, a, b, c, all := two(f)
	f.Add(all)
	w.trace = func(from, to *host, m []byte) { f.Add(slices.Clone(m)) }
	c.endpoint("more", 1)
	c.stop()
	c.boot()
	w.connect(b, c)
	w.run(20 * time.Second)
	w.trace = nil
	f.Add(appendPull([]byte{format}, pullBody{name: c.id.Name(), list: true}))
	f.Add(appendDigest([]byte{format}, 1, 0, []digestEntry{{c.id.Name(), 99, 99, [8]byte{}}}))
	name := c.id.Name()
	f.Fuzz(func(t *testing.T, m []byte) {
		before := view(a.State, name)
		_ = a.Step(w.now, b.id.Name(), m)
		for _, out := range a.Ready().Messages {
			if len(out.Bytes) > MaxMessage {
				t.Fatalf("answer of %d bytes", len(out.Bytes))
			}
			a.Sent(out.To)
		}
		if after := view(a.State, name); after != before {
			t.Fatalf("%s became %s", before, after)
		}
	})
}
