package gossip

import (
	"fmt"
	"time"

	"ripstop/crypto"
)

const (
	maxDatasetName = 32
	// MaxDelta is the longest Delta, digest or news of a Dataset in bytes.
	MaxDelta = 48 << 10

	fullDelta = MaxDelta / 2 // a longer one may have left out what had no room
)

// Dataset is a set of registers that is merged by its own rules, beside the
// signed records, and never expires with a host. Gossip carries its bytes and
// judges nothing about them. All methods are called from the goroutine that
// calls the State, and all results are at most MaxDelta bytes long.
type Dataset interface {
	// Name tells data sets apart on the wire: 1 to 32 bytes, fixed.
	Name() string
	// Merge takes what a neighbour sent and returns what of it was news, to be
	// passed on; empty: nothing. An error is counted and never closes a link.
	Merge(now time.Time, from crypto.Name, delta []byte) (news []byte, err error)
	// Delta returns something that the holder of digest lacks, empty when it
	// lacks nothing. What does not fit comes after the next digest.
	Delta(digest []byte) []byte
	// Digest describes what is held; equal digests mean equal content.
	Digest() []byte
}

// dataSlot is what waits for one neighbour about one data set: at most one
// piece of news, and two flags.
type dataSlot struct {
	news   []byte // to be passed on; a second piece turns it into ask
	ask    bool   // send our digest and let the neighbour answer with delta and its own
	tell   bool   // send our digest without asking for one
	digest []byte // the neighbour's: answer it with a delta
}

// Announce spreads news of a data set that this host itself made, or that Merge took
// and kept back until now.
func (s *State) Announce(now time.Time, dataset string, news []byte) error {
	s.at(now)
	if s.datasets[dataset] == nil {
		return fmt.Errorf("gossip: announce: no dataset %q", dataset)
	}
	if len(news) > MaxDelta {
		return fmt.Errorf("gossip: announce %s: %d bytes, at most %d", dataset, len(news), MaxDelta)
	}
	s.spreadData(dataset, news, crypto.Name{})
	s.askMore(dataset)
	return nil
}

// askMore sends our digest to all that full deltas came from, now that something new
// was taken: so much that has changed crosses at once, not one delta a round, and who
// repeats itself is not asked. All of them, since most only pass on what they were just
// told, and who has the rest need not be the last that was heard.
func (s *State) askMore(dataset string) {
	for name := range s.more[dataset] {
		if n := s.neighbours[name]; n != nil {
			s.dataSlot(n, dataset).tell = true
		}
	}
	delete(s.more, dataset)
}

// spreadData puts news into the slots of some neighbours.
func (s *State) spreadData(dataset string, news []byte, except crypto.Name) {
	for _, n := range s.choose(except) {
		d := s.dataSlot(n, dataset)
		if d.news == nil && !d.ask {
			d.news = news
		} else {
			d.news, d.ask = nil, true
		}
	}
}

func (s *State) dataSlot(n *neighbour, dataset string) *dataSlot {
	if n.data == nil {
		n.data = make(map[string]*dataSlot)
	}
	d := n.data[dataset]
	if d == nil {
		d = new(dataSlot)
		n.data[dataset] = d
	}
	s.enqueue(n)
	return d
}

// stepData handles a section about a data set; the flag byte says which kind.
//
//	flags 1 (0 delta, 1 digest, 2 digest to be answered with a digest) | name length 1 | name | bytes
func (s *State) stepData(n *neighbour, b []byte) error {
	r := reader{b: b}
	flags := r.u8()
	name := string(r.take(r.count("dataset name bytes", maxDatasetName)))
	if r.err != nil {
		return r.err
	}
	d := s.datasets[name]
	if d == nil || flags > dataAsk {
		s.stats.UnknownSections++
		return nil
	}
	if len(r.b) > MaxDelta {
		return fmt.Errorf("gossip: dataset %s: %d bytes, at most %d", name, len(r.b), MaxDelta)
	}
	if flags == dataDelta {
		news, err := d.Merge(s.now, n.name, r.b)
		if err == nil && len(r.b) > fullDelta {
			if s.more[name] == nil {
				s.more[name] = make(map[crypto.Name]bool)
			}
			s.more[name][n.name] = true
		}
		if len(news) > 0 && len(news) <= MaxDelta {
			s.spreadData(name, news, n.name)
			s.askMore(name)
		}
		return err
	}
	if string(r.b) == string(d.Digest()) {
		return nil
	}
	slot := s.dataSlot(n, name)
	slot.digest = append([]byte(nil), r.b...)
	slot.tell = slot.tell || flags == dataAsk
	return nil
}

const (
	dataDelta  = 0
	dataDigest = 1
	dataAsk    = 2
)

// appendData writes what waits about data sets, as much as fits.
func (s *State) appendData(b []byte, n *neighbour) ([]byte, bool) {
	for _, set := range s.cfg.Datasets {
		d := n.data[set.Name()]
		if d == nil {
			continue
		}
		put := func(flags byte, body []byte) bool {
			if len(b)+sectionHeader+2+len(set.Name())+len(body) > MaxMessage {
				return false
			}
			var at int
			b, at = openSection(b, sectionData)
			b = append(b, flags)
			b = appendText(b, set.Name())
			b = append(b, body...)
			closeSection(b, at)
			return true
		}
		if d.news != nil {
			if !put(dataDelta, d.news) {
				return b, false
			}
			d.news = nil
		}
		if d.digest != nil {
			if delta := set.Delta(d.digest); len(delta) > 0 && len(delta) <= MaxDelta && !put(dataDelta, delta) {
				return b, false
			}
			d.digest = nil
		}
		if d.ask || d.tell {
			flags := byte(dataDigest)
			if d.ask {
				flags = dataAsk
			}
			if digest := set.Digest(); len(digest) <= MaxDelta && !put(flags, digest) {
				return b, false
			}
		}
		delete(n.data, set.Name())
	}
	return b, true
}
