package gossip

import (
	"math/bits"
	"slices"
	"time"

	"ripstop/crypto"
)

// spreadEvery and spreadPer, for every member, are the time between two rounds
// of a storm: the more hosts change at once, the more goes into one round.
const (
	spreadEvery = 20 * time.Millisecond
	spreadPer   = time.Millisecond / 2
)

// eagerBytes is up to how much of an origin's news is pushed whole. More is
// only offered by its digest, and each host pulls it from one neighbour.
const eagerBytes = 2048

// neighbour is a host with an authenticated control connection.
type neighbour struct {
	name   crypto.Name
	keys   crypto.PublicKeys
	busy   bool // a message was handed out and Sent has not come
	queued bool // is in the State's queue

	slot    map[crypto.Name]*pending
	data    map[string]*dataSlot
	summary bool
	shift   int       // of the buckets
	buckets [4]uint64 // whose digests are to be sent, one bit each

	strikes  int       // pulls in a row that came to nothing
	distrust time.Time // it is asked for nothing before
}

// pending is what waits for one neighbour about one origin. Whatever is merged
// into it, it stays this small; identifiers are at most MaxRecords.
type pending struct {
	offer bool       // a digest entry
	head  bool       // the head
	list  bool       // the list of live records
	give  bool       // the records above since
	since uint64     //
	ids   []recordID // and these
	done  bool       // and that this was all

	pull     bool // our question about the origin
	pullList bool
	want     []recordID // and what we lack of it
}

// NeighbourUp says that a control connection with the peer stands.
func (s *State) NeighbourUp(now time.Time, name crypto.Name, keys crypto.PublicKeys) {
	s.at(now)
	if name == s.self || s.neighbours[name] != nil || keys.Name() != name {
		return
	}
	n := &neighbour{name: name, keys: keys, slot: make(map[crypto.Name]*pending)}
	s.neighbours[name] = n
	i, _ := slices.BinarySearchFunc(s.ring, name, func(n *neighbour, name crypto.Name) int { return n.name.Compare(name) })
	s.ring = slices.Insert(s.ring, i, n)
	if _, member := s.alive[name]; !member {
		s.dirty()
	}
	s.slot(n, name).head = true
	s.flush()
	s.soon()
	if h := s.own.head; h != nil {
		s.offer(n, s.own, 0)
	}
	if s.self.Compare(name) < 0 {
		n.summary = true
		for _, d := range s.cfg.Datasets {
			s.dataSlot(n, d.Name()).ask = true
		}
	}
	s.enqueue(n)
}

// NeighbourDown says that the control connection has gone. What waited for the
// neighbour is forgotten; what was asked of it is asked of others.
func (s *State) NeighbourDown(now time.Time, name crypto.Name) {
	s.at(now)
	n := s.neighbours[name]
	if n == nil {
		return
	}
	delete(s.neighbours, name)
	s.ring = slices.DeleteFunc(s.ring, func(o *neighbour) bool { return o == n })
	s.queue = slices.DeleteFunc(s.queue, func(o *neighbour) bool { return o == n })
	s.bridges = slices.DeleteFunc(s.bridges, func(o *neighbour) bool { return o == n })
	s.dirty()
	for _, p := range s.pulls {
		if p.from == name {
			p.deadline, s.pullDue = s.now, s.now
		}
	}
}

// Sent says that the message handed out for the neighbour has left, so that the
// next may be handed out.
func (s *State) Sent(name crypto.Name) {
	if n := s.neighbours[name]; n != nil && n.busy {
		n.busy = false
		if !n.idle() {
			s.enqueue(n)
		}
	}
}

// Ready hands out what there is to do; what it returns is not returned again.
func (s *State) Ready() Ready {
	s.flush()
	if s.stale && !s.now.Before(s.fresh) {
		s.refresh()
	}
	s.spread()
	r := Ready{Changed: s.changed, Members: s.members}
	s.changed, s.members = nil, false
	if len(s.queue) == 0 {
		return r
	}
	queue := s.queue
	s.queue = nil
	slices.SortFunc(queue, func(a, b *neighbour) int { return a.name.Compare(b.name) })
	for _, n := range queue {
		n.queued = false
		if n.busy {
			continue // Sent queues it again
		}
		if b := s.message(n); b != nil {
			n.busy = true
			s.stats.MessagesOut++
			s.stats.BytesOut += uint64(len(b))
			r.Messages = append(r.Messages, Outgoing{To: n.name, Bytes: b})
		}
	}
	return r
}

// slot returns what waits for n about an origin, and queues n.
func (s *State) slot(n *neighbour, name crypto.Name) *pending {
	p := n.slot[name]
	if p == nil {
		p = new(pending)
		n.slot[name] = p
	}
	s.enqueue(n)
	return p
}

func (s *State) enqueue(n *neighbour) {
	if !n.queued {
		n.queued = true
		s.queue = append(s.queue, n)
	}
}

// idle reports whether nothing waits for n.
func (n *neighbour) idle() bool {
	return len(n.slot) == 0 && len(n.data) == 0 && !n.summary && n.buckets == [4]uint64{}
}

// give merges "the records above since" into p.
func (p *pending) giveAbove(since uint64) {
	if !p.give || since < p.since {
		p.give, p.since = true, since
	}
}

// rumour is news of one origin that waits for the next round.
type rumour struct {
	since uint64      // what is above it is news
	from  crypto.Name // who told it; zero: several, or this host itself
}

// news notes that o has news above since, to be spread by the next round.
func (s *State) news(o *origin, since uint64, from crypto.Name) {
	if !s.offered(o) {
		return
	}
	if o == s.own {
		since = max(since, min(o.floor, s.version-1))
	}
	if r := s.rumours[o.name]; r != nil {
		r.since = min(r.since, since)
		if r.from != from {
			r.from = crypto.Name{}
		}
		return
	}
	s.rumours[o.name] = &rumour{since, from}
}

// spread is one round: all news goes to the same few neighbours, to the first
// of them whole and to the others as an offer. When nothing was told for a
// while a round comes at once, the next after spreadEvery and a little: so a storm of
// changes costs a bounded number of messages.
func (s *State) spread() {
	if len(s.rumours) == 0 || s.now.Before(s.spreadDue) {
		return
	}
	s.spreadDue = s.now.Add(spreadEvery + spreadPer*time.Duration(len(s.alive)))
	names := make([]crypto.Name, 0, len(s.rumours))
	for name := range s.rumours {
		names = append(names, name)
	}
	slices.SortFunc(names, crypto.Name.Compare)
	whole := max(3, s.fanout()/2)
	for i, n := range s.choose(crypto.Name{}) {
		for _, name := range names {
			o, r := s.origins[name], s.rumours[name]
			switch {
			case o == nil || r.from == n.name || name == n.name:
			case i < whole:
				s.offer(n, o, r.since)
			default:
				s.slot(n, name).offer = true
			}
		}
	}
	clear(s.rumours)
}

// offer puts o's news above since into n's slot: whole if they are small and
// enough for one that is complete to since, else by name only.
func (s *State) offer(n *neighbour, o *origin, since uint64) {
	p := s.slot(n, o.name)
	size := 0
	for _, r := range o.records {
		if r.Version > since {
			size += r.cost()
		}
	}
	if size > eagerBytes || since != 0 && since < o.floor {
		p.offer = true
		return
	}
	p.head = true
	p.giveAbove(since)
}

// satisfied takes back what is waiting for n about o: n has just shown that it has it.
func (s *State) satisfied(n *neighbour, o *origin) {
	if p := n.slot[o.name]; p != nil && !p.done {
		p.offer, p.head, p.give = false, false, false
		if !p.pull && len(p.want) == 0 && !p.list && len(p.ids) == 0 {
			delete(n.slot, o.name)
		}
	}
}

// fanout is to how many neighbours news goes: log2 of the members, at least 3.
func (s *State) fanout() int { return max(3, bits.Len(uint(len(s.alive)))) }

// choose draws the neighbours that news goes to: at random, but up to half of
// them from those that lead elsewhere, so that a bottleneck is soon crossed.
func (s *State) choose(except crypto.Name) []*neighbour {
	want := s.fanout()
	if len(s.ring) <= want {
		list := make([]*neighbour, 0, len(s.ring))
		for _, n := range s.ring {
			if n.name != except {
				list = append(list, n)
			}
		}
		return list
	}
	s.findBridges()
	list := make([]*neighbour, 0, want)
	draw := func(from []*neighbour, upTo int) {
		for tries := 4 * want; tries > 0 && len(list) < upTo; tries-- {
			n := from[s.cfg.Random.IntN(len(from))]
			if n.name != except && !slices.Contains(list, n) {
				list = append(list, n)
			}
		}
	}
	if len(s.bridges) > 0 {
		draw(s.bridges, min(want/2, len(s.bridges)))
	}
	draw(s.ring, want)
	return list
}

// findBridges looks, at most every 10 s, for the neighbours that report links to
// less than a quarter of our other neighbours.
func (s *State) findBridges() {
	if !s.bridged.IsZero() && s.now.Sub(s.bridged) < 10*time.Second {
		return
	}
	s.bridged = s.now
	s.bridges = nil
	for _, n := range s.ring {
		common := 0
		if links := s.links(n.name); links != nil {
			linkPeers(links, func(p crypto.Name) bool {
				if s.neighbours[p] != nil {
					common++
				}
				return true
			})
		}
		if common*4 < len(s.ring)-1 {
			s.bridges = append(s.bridges, n)
		}
	}
}

// message fills one message from n's slot and takes out what went into it; nil
// when nothing waits.
func (s *State) message(n *neighbour) []byte {
	b := make([]byte, 0, min(MaxMessage, 512+256*len(n.slot)))
	b = append(b, format)
	if n.summary {
		b = s.appendSummary(b)
		n.summary = false
	}
	b, fits := s.appendBuckets(b, n)
	if fits {
		b, fits = s.appendData(b, n)
	}
	if fits && len(n.slot) > 0 {
		b = s.appendSlot(b, n)
	}
	if !n.idle() {
		s.enqueue(n)
	}
	if len(b) == 1 {
		return nil
	}
	return b
}

// appendSlot writes questions and offers first, then what origins are owed, as
// far as there is room. The order is by name, beginning anywhere, so that no
// origin waits behind the others for ever.
func (s *State) appendSlot(b []byte, n *neighbour) []byte {
	names := make([]crypto.Name, 0, len(n.slot))
	for name := range n.slot {
		names = append(names, name)
	}
	slices.SortFunc(names, crypto.Name.Compare)
	for _, name := range names {
		p := n.slot[name]
		if p.pull && len(b)+sectionHeader+pullLen <= MaxMessage {
			b = appendPull(b, s.question(name, p.pullList))
			p.pull, p.pullList = false, false
		}
		if size := sectionHeader + 16 + idLen*len(p.want); len(p.want) > 0 && len(b)+size <= MaxMessage {
			var at int
			b, at = openSection(b, sectionWant)
			b = append(b, name[:]...)
			b = appendIDs(b, p.want)
			closeSection(b, at)
			p.want = nil
		}
	}
	var offers []digestEntry
	most := (MaxMessage - len(b) - sectionHeader - digestHeader) / digestLen
	for _, name := range names {
		p := n.slot[name]
		if !p.offer {
			continue
		}
		o := s.origins[name]
		if o != nil && len(offers) >= most {
			break
		}
		p.offer = false
		if o != nil {
			offers = append(offers, o.entry())
		}
	}
	if len(offers) > 0 {
		b = appendDigest(b, 0, 0, offers)
	}
	start := 0
	if len(names) > 1 {
		start = s.cfg.Random.IntN(len(names))
	}
	for i := range names {
		name := names[(start+i)%len(names)]
		p := n.slot[name]
		var all bool
		if b, all = s.appendOwed(b, name, p); !all {
			break
		}
		if !p.pull && len(p.want) == 0 && !p.offer {
			delete(n.slot, name)
		}
	}
	return b
}

// appendOwed writes head, list, records and done of one origin, as much as
// fits, and reports whether that was all.
func (s *State) appendOwed(b []byte, name crypto.Name, p *pending) ([]byte, bool) {
	if !p.head && !p.list && !p.give && len(p.ids) == 0 && !p.done {
		return b, true
	}
	o := s.origins[name]
	if o == nil {
		if g := s.buried[name]; g != nil && p.head {
			if len(b)+2*sectionHeader+originLen+headLen > MaxMessage {
				return b, false
			}
			b = appendHead(appendOrigin(b, g.keys, 0), &g.head)
		}
		p.head, p.list, p.give, p.ids, p.done = false, false, false, nil, false
		return b, true
	}
	room := func(size int) bool { return len(b)+size <= MaxMessage }
	if !room(3*sectionHeader + originLen + 2*headLen) {
		return b, false
	}
	b = appendOrigin(b, o.keys, s.quiet(o))
	if (p.head || p.list) && o.head != nil {
		b = appendHead(b, o.head)
	}
	if p.list {
		if covered := o.covered(); covered != nil {
			if !room(sectionHeader + 8 + idLen*len(covered)) {
				return b, false
			}
			b = appendList(b, o.head.Version, covered)
		}
	}
	if p.head && o.target != nil {
		b = appendHead(b, o.target)
	}
	p.head, p.list = false, false
	if p.give {
		for _, r := range o.above(p.since) {
			if !room(recordSize(&r.Record)) {
				return b, false
			}
			b = appendRecord(b, &r.Record)
			p.since = r.Version
		}
		p.give = false
	}
	if len(p.ids) > 0 {
		slices.SortFunc(p.ids, compareIDs)
		var later []recordID
		for _, r := range slices.Concat(o.records, o.shadow) {
			if _, asked := slices.BinarySearchFunc(p.ids, r.id, compareIDs); !asked {
				continue
			}
			if later != nil || !room(recordSize(&r.Record)) {
				later = append(later, r.id)
				continue
			}
			b = appendRecord(b, &r.Record)
		}
		if p.ids = later; later != nil {
			return b, false
		}
	}
	if p.done {
		if !room(sectionHeader) {
			return b, false
		}
		var at int
		b, at = openSection(b, sectionDone)
		closeSection(b, at)
		p.done = false
	}
	return b, true
}
