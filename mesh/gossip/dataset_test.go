package gossip

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"ripstop/crypto"
)

// maxima is a data set of 8 numbers that are merged by maximum.
type maxima struct {
	values [8]uint64
	merges int
}

func (m *maxima) Name() string { return "maxima" }

func (m *maxima) Merge(now time.Time, from crypto.Name, delta []byte) ([]byte, error) {
	m.merges++
	if len(delta)%9 != 0 {
		return nil, fmt.Errorf("maxima: %d bytes", len(delta))
	}
	var news []byte
	for ; len(delta) > 0; delta = delta[9:] {
		i, v := delta[0]%8, binary.BigEndian.Uint64(delta[1:])
		if v > m.values[i] {
			m.values[i] = v
			news = append(news, delta[:9]...)
		}
	}
	return news, nil
}

func (m *maxima) Delta(digest []byte) []byte {
	var delta []byte
	for i, v := range m.values {
		if len(digest) == 64 && v > binary.BigEndian.Uint64(digest[8*i:]) {
			delta = binary.BigEndian.AppendUint64(append(delta, byte(i)), v)
		}
	}
	return delta
}

func (m *maxima) Digest() []byte {
	var b []byte
	for _, v := range m.values {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}

// TestDataset: news of a data set crosses a line of hosts at once, two sides
// that meet agree, and a merge that fails closes nothing and is counted.
func TestDataset(t *testing.T) {
	w := newWorld(t, 4)
	var sets [4]*maxima
	for i := range sets {
		sets[i] = new(maxima)
		w.cfg.Datasets = []Dataset{sets[i]}
		w.add(fmt.Sprintf("h%d", i), false)
	}
	set := func(i int, key byte, v uint64) {
		h := w.hosts[i]
		news, _ := sets[i].Merge(w.now, h.id.Name(), binary.BigEndian.AppendUint64([]byte{key}, v))
		if err := h.Announce(w.now, "maxima", news); err != nil {
			t.Fatal(err)
		}
		h.act()
	}
	set(0, 1, 5)
	set(3, 2, 7)
	for i := range 3 {
		w.connect(w.hosts[i], w.hosts[i+1])
	}
	w.run(10 * time.Second)
	want := [8]uint64{1: 5, 2: 7}
	for i := range sets {
		if sets[i].values != want {
			t.Errorf("h%d holds %v", i, sets[i].values)
		}
	}
	for v := range uint64(100) {
		set(0, byte(v%8), v+10)
	}
	w.run(500 * time.Millisecond)
	if sets[3].values != sets[0].values {
		t.Errorf("h3 holds %v 500 ms after the news %v", sets[3].values, sets[0].values)
	}
	if sets[1].merges > 60 {
		t.Errorf("h1 merged %d times for 100 changes that waited in one slot", sets[1].merges)
	}
	merges := sets[2].merges
	w.run(time.Minute)
	if sets[2].merges > merges+20 {
		t.Errorf("%d merges in an idle minute", sets[2].merges-merges)
	}
	m, at := openSection([]byte{format}, sectionData)
	m = append(appendText(append(m, dataDelta), "maxima"), 1)
	closeSection(m, at)
	if err := w.hosts[0].Step(w.now, w.hosts[1].id.Name(), m); err == nil || w.hosts[0].Stats().Malformed != 1 {
		t.Error("a delta that cannot be merged is no error")
	}
	if err := w.hosts[0].Announce(w.now, "other", nil); err == nil {
		t.Error("news of an unknown data set was taken")
	}
}

// pages is a data set of long pages, of which one fits into a delta.
type pages struct {
	have  [24]bool
	later func(news []byte) // takes news that is told when it is saved; nil: at once
}

func (p *pages) Name() string { return "pages" }

func (p *pages) Merge(now time.Time, from crypto.Name, delta []byte) ([]byte, error) {
	if len(delta) != 40<<10 || p.have[delta[0]] {
		return nil, nil
	}
	p.have[delta[0]] = true
	if p.later != nil {
		p.later(delta)
		return nil, nil
	}
	return delta, nil
}

func (p *pages) Delta(digest []byte) []byte {
	for i, have := range p.have {
		if have && digest[i] == 0 {
			return append([]byte{byte(i)}, make([]byte, 40<<10-1)...)
		}
	}
	return nil
}

func (p *pages) Digest() []byte {
	b := make([]byte, len(p.have))
	for i, have := range p.have {
		if have {
			b[i] = 1
		}
	}
	return b
}

// TestManyDeltasAmongMany: hosts that tell each other what they just got ask the one
// that has the rest all the same.
func TestManyDeltasAmongMany(t *testing.T) {
	w := newWorld(t, 9)
	var sets [5]*pages
	for i := range sets {
		sets[i] = new(pages)
		w.cfg.Datasets = []Dataset{sets[i]}
		h := w.add(fmt.Sprintf("h%d", i), false)
		sets[i].later = func(news []byte) {
			w.after(10*time.Millisecond, func() {
				if err := h.Announce(w.now, "pages", news); err != nil {
					t.Error(err)
				}
				h.act()
			})
		}
	}
	for i := range sets[0].have {
		sets[0].have[i] = true
	}
	for i, a := range w.hosts {
		for _, b := range w.hosts[:i] {
			w.connect(a, b)
		}
	}
	w.run(4 * time.Second)
	for i, s := range sets {
		if s.have != sets[0].have {
			t.Errorf("after 4 s h%d has %v", i, s.have)
		}
	}
}

// TestManyDeltas: what takes many deltas crosses a line of hosts without waiting for a
// round of anti-entropy for each, whether news is told at once or when it is saved;
// and a neighbour that only repeats itself is not asked again.
func TestManyDeltas(t *testing.T) {
	for _, saves := range []bool{false, true} {
		w := newWorld(t, 4)
		var sets [3]*pages
		for i := range sets {
			sets[i] = new(pages)
			w.cfg.Datasets = []Dataset{sets[i]}
			h := w.add(fmt.Sprintf("h%d", i), false)
			if saves {
				sets[i].later = func(news []byte) {
					w.after(10*time.Millisecond, func() {
						if err := h.Announce(w.now, "pages", news); err != nil {
							t.Error(err)
						}
						h.act()
					})
				}
			}
		}
		for i := range sets[0].have {
			sets[0].have[i] = true
		}
		w.connect(w.hosts[0], w.hosts[1])
		w.connect(w.hosts[1], w.hosts[2])
		w.run(4 * time.Second)
		if sets[2].have != sets[0].have {
			t.Errorf("saves %v: after 4 s h2 has %v", saves, sets[2].have)
		}
		before := w.bytes
		h1 := w.hosts[1]
		m, at := openSection([]byte{format}, sectionData)
		m = append(appendText(append(m, dataDelta), "pages"), make([]byte, 40<<10)...)
		closeSection(m, at)
		if err := h1.Step(w.now, w.hosts[0].id.Name(), m); err != nil {
			t.Error(err)
		}
		h1.act()
		if w.bytes != before {
			t.Errorf("saves %v: what was known is answered by %d bytes", saves, w.bytes-before)
		}
	}
}
