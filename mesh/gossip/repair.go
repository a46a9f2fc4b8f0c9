package gossip

import (
	"encoding/binary"
	"math/bits"
	"slices"
	"time"

	"ripstop/crypto"
)

const (
	pullTimeout = 2 * time.Second
	maxStrikes  = 5 // distrust grows to pullTimeout << maxStrikes
	maxOthers   = 4 // neighbours remembered to be asked next
)

// pull is a question about one origin that one neighbour was asked.
type pull struct {
	from     crypto.Name
	others   []crypto.Name // who claims to know, too
	claim    uint64        // the version that from says it holds
	list     bool          // the list was asked for
	wants    bool          // records of the list were asked for
	wanted   bool          // and the answer to the first question has ended
	deadline time.Time
}

// antiEntropy sends the summary to one neighbour, every other time to one that
// leads elsewhere.
func (s *State) antiEntropy() {
	if len(s.ring) == 0 {
		return
	}
	s.round++
	from := s.ring
	if s.round%2 == 0 {
		s.findBridges()
		if len(s.bridges) > 0 {
			from = s.bridges
		}
	}
	n := from[s.cfg.Random.IntN(len(from))]
	n.summary = true
	for _, d := range s.cfg.Datasets {
		s.dataSlot(n, d.Name()).ask = true
	}
	s.enqueue(n)
}

// soon brings the next round of anti-entropy near: something is out of step.
func (s *State) soon() {
	if at := s.now.Add(s.cfg.Period / 5); at.Before(s.period) {
		s.period = at
	}
}

// bucketOf is the bucket of a name among 2^shift.
func bucketOf(name crypto.Name, shift int) int { return int(name[0]) >> (8 - shift) }

// sums hashes what is offered of each of 2^shift buckets.
func (s *State) sums(shift int) []uint64 {
	sums := make([]uint64, 1<<shift)
	for _, o := range s.order {
		if s.offered(o) {
			o.hash()
			sums[bucketOf(o.name, shift)] += o.mix
		}
	}
	return sums
}

// appendSummary writes the hashes over so many buckets that each has about four origins.
func (s *State) appendSummary(b []byte) []byte {
	shift := min(maxShift, bits.Len(uint(len(s.order)/4)))
	b, at := openSection(b, sectionSummary)
	b = append(b, byte(shift))
	for _, sum := range s.sums(shift) {
		b = binary.BigEndian.AppendUint64(b, sum)
	}
	closeSection(b, at)
	return b
}

// stepSummary answers with the digests of the buckets that differ.
func (s *State) stepSummary(n *neighbour, body []byte) error {
	shift, err := parseSummary(body)
	if err != nil {
		return err
	}
	n.shift, n.buckets = shift, [4]uint64{}
	for i, sum := range s.sums(shift) {
		if binary.BigEndian.Uint64(body[1+8*i:]) != sum {
			n.buckets[i/64] |= 1 << (i % 64)
		}
	}
	if n.buckets != [4]uint64{} {
		s.enqueue(n)
		s.soon()
	}
	return nil
}

// appendBuckets writes the digests of whole buckets, as many as fit. A bucket
// that fits in no message goes in part, and says nothing about the rest.
func (s *State) appendBuckets(b []byte, n *neighbour) ([]byte, bool) {
	if n.buckets == [4]uint64{} {
		return b, true
	}
	const most = 1400
	for bucket := range 1 << n.shift {
		bit := uint64(1) << (bucket % 64)
		if n.buckets[bucket/64]&bit == 0 {
			continue
		}
		var list []*origin
		first, _ := slices.BinarySearchFunc(s.order, bucket, func(o *origin, bucket int) int { return bucketOf(o.name, n.shift) - bucket })
		for _, o := range s.order[first:] {
			if bucketOf(o.name, n.shift) != bucket {
				break
			}
			if s.offered(o) {
				list = append(list, o)
			}
		}
		kind, number := byte(1+n.shift), byte(bucket)
		if len(list) > most {
			kind, number = 0, 0
			at := s.cfg.Random.IntN(len(list) - most + 1)
			list = list[at : at+most]
		}
		if len(b)+sectionHeader+digestHeader+digestLen*len(list) > MaxMessage {
			return b, false
		}
		entries := make([]digestEntry, len(list))
		for i, o := range list {
			entries[i] = o.entry()
		}
		b = appendDigest(b, kind, number, entries)
		n.buckets[bucket/64] &^= bit
	}
	return b, true
}

// stepDigest compares what the neighbour holds with what is here: it is asked
// for what is newer there, and offered what is newer here.
func (s *State) stepDigest(n *neighbour, body []byte) error {
	kind, bucket, count, at, err := parseDigest(body)
	if err != nil {
		return err
	}
	told := make(map[crypto.Name]struct{}, count)
	for i := range count {
		e := at(i)
		told[e.name] = struct{}{}
		s.compare(n, e, kind == 0)
	}
	if kind == 0 {
		return nil
	}
	for _, o := range s.order {
		if bucketOf(o.name, int(kind-1)) != int(bucket) || !s.offered(o) || o.head == nil && len(o.records) == 0 {
			continue
		}
		if _, there := told[o.name]; !there {
			s.slot(n, o.name).offer = true
		}
	}
	return nil
}

// compare acts on one entry of a neighbour's digest. An offer that shows the
// other to be behind is answered only if it is behind in all: else offers could
// answer offers for ever.
func (s *State) compare(n *neighbour, e digestEntry, offer bool) {
	if e.complete >= MaxVersion || e.top >= MaxVersion {
		s.stats.RefusedVersion++
		return
	}
	o := s.origins[e.name]
	if o == nil {
		if g := s.buried[e.name]; g != nil && e.complete <= g.head.Version && !s.isAlive(e.name) {
			return
		}
		if len(s.origins) >= s.cfg.MaxMembers && !s.isAlive(e.name) {
			s.stats.RefusedOrigin++
			return
		}
		s.seek(n, e.name, s.buried[e.name] != nil, e.top)
		return
	}
	mine := o.entry()
	if e.sum == mine.sum && e.complete == mine.complete {
		s.satisfied(n, o)
		return
	}
	// What the other holds above our complete is news, or may be; and the other way round.
	switch {
	case e.complete > mine.complete || e.top > mine.complete:
		s.seek(n, e.name, o.refused != 0 || e.complete == mine.complete, e.top)
	case e.complete == mine.complete && mine.top == mine.complete:
		s.seek(n, e.name, true, 0) // two sets of one version
	}
	ahead := mine.complete > e.complete || mine.top > e.complete
	if offer {
		ahead = mine.complete > e.complete && e.top <= mine.complete
	}
	if ahead && s.offered(o) {
		s.slot(n, e.name).offer = true
	}
}

// seek asks n about an origin unless somebody was asked already.
func (s *State) seek(n *neighbour, name crypto.Name, list bool, claim uint64) {
	if s.now.Before(n.distrust) {
		return
	}
	if p := s.pulls[name]; p != nil {
		if p.from != n.name && len(p.others) < maxOthers && !slices.Contains(p.others, n.name) {
			p.others = append(p.others, n.name)
		}
		return
	}
	if len(s.pulls) >= 2*s.cfg.MaxMembers {
		return
	}
	s.ask(n, name, &pull{list: list, claim: claim})
}

// ask sends the question of p to n.
func (s *State) ask(n *neighbour, name crypto.Name, p *pull) {
	p.from, p.wants, p.wanted = n.name, false, false
	p.deadline = s.now.Add(pullTimeout)
	if len(s.pulls) == 0 || p.deadline.Before(s.pullDue) {
		s.pullDue = p.deadline
	}
	s.pulls[name] = p
	slot := s.slot(n, name)
	slot.pull = true
	slot.pullList = slot.pullList || p.list
}

// question is what this host holds of an origin, as a pull says it.
func (s *State) question(name crypto.Name, list bool) pullBody {
	q := pullBody{name: name, list: list}
	if o := s.origins[name]; o != nil {
		q.version, q.sum = o.complete(), o.sum()
	}
	return q
}

// stepPull answers with everything above the asker's version, and with the list
// if the asker wants it or could not do without it.
func (s *State) stepPull(n *neighbour, body []byte) error {
	q, err := parsePull(body)
	if err != nil {
		return err
	}
	o := s.origins[q.name]
	if o == nil {
		if s.buried[q.name] != nil && q.name == n.name {
			s.slot(n, q.name).head = true
		}
		return nil
	}
	if !s.offered(o) && q.name != n.name {
		return nil
	}
	p := s.slot(n, q.name)
	p.done = true
	p.head = true
	if q.version == o.complete() && q.sum == o.sum() {
		return nil
	}
	p.list = p.list || q.list || q.version != 0 && q.version < o.floor
	p.giveAbove(q.version)
	return nil
}

// stepWant gives records by their identifiers.
func (s *State) stepWant(n *neighbour, body []byte) error {
	name, ids, err := parseWant(body)
	if err != nil {
		return err
	}
	o := s.origins[name]
	if o == nil || !s.offered(o) && name != n.name {
		return nil
	}
	p := s.slot(n, name)
	p.ids, p.done = ids, true
	return nil
}

// progress notes that the neighbour asked does answer.
func (s *State) progress(name crypto.Name, n *neighbour) {
	if p := s.pulls[name]; p != nil && p.from == n.name {
		p.deadline = s.now.Add(pullTimeout)
		n.strikes = 0
	}
}

// stepDone is the end of an answer: if the origin is not complete now, the list
// is asked for, then the records of the list, then another neighbour.
func (s *State) stepDone(st *stepping, body []byte) error {
	if len(body) != 0 {
		return errTrailing
	}
	p := s.pulls[st.name]
	if p == nil || p.from != st.n.name {
		return nil
	}
	o := st.o
	if o != nil {
		s.settle(o, st.n)
	}
	switch {
	case p.wants && !p.wanted:
		p.wanted = true
		p.deadline = s.now.Add(pullTimeout)
	case o == nil || o.target == nil:
		delete(s.pulls, st.name)
		if o != s.own && (o == nil || o.entry().top < p.claim) {
			s.strike(st.n)
		}
	case !p.list:
		p.list = true
		s.ask(st.n, st.name, p)
	default:
		s.askNext(st.name, p)
	}
	return nil
}

// expirePulls turns to somebody else where no answer came.
func (s *State) expirePulls() {
	if len(s.pulls) == 0 || s.now.Before(s.pullDue) {
		return
	}
	var late []crypto.Name
	s.pullDue = s.now.Add(pullTimeout)
	for name, p := range s.pulls {
		if !s.now.Before(p.deadline) {
			late = append(late, name)
		} else if p.deadline.Before(s.pullDue) {
			s.pullDue = p.deadline
		}
	}
	slices.SortFunc(late, crypto.Name.Compare)
	for _, name := range late {
		p := s.pulls[name]
		o := s.origins[name]
		if n := s.neighbours[p.from]; n != nil && !(p.wants && (o == nil || o.target == nil)) {
			s.strike(n)
		}
		s.askNext(name, p)
	}
}

// strike notes that n did not have what it claimed, or did not answer: it is
// asked nothing for a while, for longer each time in a row.
func (s *State) strike(n *neighbour) {
	s.stats.PullsFailed++
	n.strikes = min(n.strikes+1, maxStrikes)
	n.distrust = s.now.Add(pullTimeout << n.strikes)
}

// askNext asks one of the others who claimed to know, or gives up until the
// next digest.
func (s *State) askNext(name crypto.Name, p *pull) {
	delete(s.pulls, name)
	for len(p.others) > 0 {
		i := s.cfg.Random.IntN(len(p.others))
		n := s.neighbours[p.others[i]]
		p.others = slices.Delete(p.others, i, i+1)
		if n != nil && !s.now.Before(n.distrust) {
			p.list, p.claim = true, 0
			s.ask(n, name, p)
			return
		}
	}
}
