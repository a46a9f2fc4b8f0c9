package gossip

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"ripstop/crypto"
)

// origin is the replica of one host's records.
type origin struct {
	name crypto.Name
	keys crypto.PublicKeys

	records []*stored // by kind and key; deletions among them
	shadow  []*stored // covered by head, replaced by newer records: the set of head can still be given
	live    int       // how many records are not deletions
	size    int       // cost of records and shadow
	head    *head     // its set is held in full; nil: none yet
	target  *head     // verified and better than head, its set not yet held
	plan    *plan     // how to reach a head newer than head, once its list is known
	floor   uint64    // deletions at or below may be forgotten: who is below needs a list
	refused uint64    // left of an earlier life here: at or below it only a plan's records

	digested bool     // the next four are valid
	digest   [32]byte // over the live records
	top      uint64   // the highest version of a record, or complete
	short    [8]byte  // over all that is here, for digests
	mix      uint64   // the same, for the buckets of a summary

	alive     bool      // a member
	deadSince time.Time // when alive went, if it is false
}

// plan is the verified list of a newer head's live records.
type plan struct {
	target  *head      // mostly the origin's target; an older one when that moved on
	ids     []recordID // ascending
	have    []bool     // held, or superseded by a newer record
	shadow  []*stored  // the superseded ones
	missing int
}

// planCost is what a plan of n records is charged.
func planCost(n int) int { return n * 13 }

// keptDeletions is how many deletions at or below complete are kept to answer
// pulls without a list.
const keptDeletions = 32

// complete is the version up to which everything is here.
func (o *origin) complete() uint64 {
	if o.head == nil {
		return 0
	}
	return o.head.Version
}

// entry is what a digest says of o.
func (o *origin) entry() digestEntry {
	o.hash()
	return digestEntry{o.name, o.complete(), o.top, o.short}
}

// best is the newest head known, held in full or not.
func (o *origin) best() *head {
	if o.target != nil {
		return o.target
	}
	return o.head
}

// find returns where the record of that place is, or would be.
func (o *origin) find(kind Kind, key string) (int, bool) {
	return slices.BinarySearchFunc(o.records, kind, func(r *stored, kind Kind) int { return -place(kind, key, r) })
}

// hash is what a head over the present live records would sign.
func (o *origin) hash() [32]byte {
	if !o.digested {
		live, all := sha256.New(), sha256.New()
		all.Write(o.name[:])
		o.top = o.complete()
		for _, r := range o.records {
			o.top = max(o.top, r.Version)
			if !r.Deleted {
				live.Write(r.id[:])
			} else if r.Version > o.complete() {
				all.Write(r.id[:])
			}
		}
		live.Sum(o.digest[:0])
		all.Write(o.digest[:])
		for _, h := range []*head{o.head, o.target} {
			if h != nil {
				all.Write(binary.BigEndian.AppendUint64(nil, h.Version))
				all.Write(h.Hash[:])
			}
		}
		sum := all.Sum(nil)
		o.short = [8]byte(sum[:8])
		o.mix = binary.BigEndian.Uint64(sum[8:])
		o.digested = true
	}
	return o.digest
}

// sum is what digests carry: it differs as soon as records, head or target do.
func (o *origin) sum() [8]byte {
	o.hash()
	return o.short
}

// covered lists head's set, in the order of its hash; nil when it cannot be
// given now, because a plan is half done that replaces one set of this version
// by another.
func (o *origin) covered() []*stored {
	list := make([]*stored, 0, o.live)
	for _, r := range o.records {
		if !r.Deleted && r.Version <= o.complete() {
			list = append(list, r)
		}
	}
	if len(o.shadow) > 0 {
		list = append(list, o.shadow...)
		slices.SortFunc(list, func(a, b *stored) int { return place(a.Kind, a.Key, b) })
	}
	h := sha256.New()
	for _, r := range list {
		h.Write(r.id[:])
	}
	if o.head == nil || o.head.Hash != [32]byte(h.Sum(nil)) {
		return nil
	}
	return list
}

// above returns the records with versions above since, in the order of versions.
func (o *origin) above(since uint64) []*stored {
	var list []*stored
	for _, r := range o.records {
		if r.Version > since {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b *stored) int { return cmp.Compare(a.Version, b.Version) })
	return list
}

// reached returns the newest head whose set is here, if it is newer than head.
func (o *origin) reached() (h *head, byPlan bool) {
	if t := o.target; t != nil && o.live == int(t.Count) && o.hash() == t.Hash {
		return t, false
	}
	if p := o.plan; p != nil && p.missing == 0 {
		return p.target, true
	}
	return nil, false
}

// idOf is a record's identifier.
func idOf(text []byte, sig crypto.Signature) recordID {
	sum := sha256.Sum256(append(text, sig[:]...))
	return recordID(sum[:12])
}

func compareIDs(a, b recordID) int { return bytes.Compare(a[:], b[:]) }

// newPlan says what of the list is here already. The list's hash is the head's.
func (o *origin) newPlan(target *head, ids []recordID) *plan {
	p := &plan{target: target, ids: slices.Clone(ids), have: make([]bool, len(ids)), missing: len(ids)}
	slices.SortFunc(p.ids, compareIDs)
	for _, r := range o.records {
		if !r.Deleted {
			p.mark(r.id)
		}
	}
	for _, r := range o.shadow {
		if p.mark(r.id) {
			p.shadow = append(p.shadow, r)
		}
	}
	return p
}

// has reports whether the plan names the record.
func (p *plan) has(id recordID) bool {
	_, there := slices.BinarySearchFunc(p.ids, id, compareIDs)
	return there
}

// mark notes that the record is here, or that something newer took its place,
// and reports whether that was not known.
func (p *plan) mark(id recordID) bool {
	i, there := slices.BinarySearchFunc(p.ids, id, compareIDs)
	if !there || p.have[i] {
		return false
	}
	p.have[i] = true
	p.missing--
	return true
}

// wanted lists what is still missing.
func (p *plan) wanted() []recordID {
	var list []recordID
	for i, have := range p.have {
		if !have {
			list = append(list, p.ids[i])
		}
	}
	return list
}

// add makes room for a new origin. The caller has checked that there may be one.
func (s *State) add(name crypto.Name, keys crypto.PublicKeys) *origin {
	o := &origin{name: name, keys: keys, deadSince: s.now}
	if g := s.buried[name]; g != nil {
		o.refused = g.head.Version
		delete(s.buried, name)
	}
	s.origins[name] = o
	s.shorts[name.Short()] = name
	i, _ := slices.BinarySearchFunc(s.order, name, func(o *origin, n crypto.Name) int { return o.name.Compare(n) })
	s.order = slices.Insert(s.order, i, o)
	_, o.alive = s.alive[name]
	return o
}

// remove forgets an origin but for its last head.
func (s *State) remove(o *origin) {
	for i := len(o.records) - 1; i >= 0; i-- {
		if r := o.records[i]; r.known && !r.Deleted {
			s.changed = append(s.changed, Change{Kind: r.Kind, Origin: o.name, Key: r.Key, Deleted: true})
		}
	}
	s.bytes -= o.size
	s.setPlan(o, nil)
	delete(s.origins, o.name)
	delete(s.shorts, o.name.Short())
	delete(s.pulls, o.name)
	i, _ := slices.BinarySearchFunc(s.order, o.name, func(o *origin, n crypto.Name) int { return o.name.Compare(n) })
	s.order = slices.Delete(s.order, i, i+1)
	if o.head != nil {
		s.bury(o)
	}
	s.members, s.dial = true, nil
}

// hold puts a record in its place and tells of it.
func (s *State) hold(o *origin, r *stored) {
	i, there := o.find(r.Kind, r.Key)
	shown := false
	var old *stored
	if there {
		old = o.records[i]
		shown = old.known && !old.Deleted
		if p := o.plan; p != nil && !old.Deleted && r.Version > p.target.Version && p.has(old.id) {
			p.shadow = append(p.shadow, old)
		}
		if !old.Deleted && old.Version <= o.complete() && r.Version > o.complete() {
			o.shadow = append(o.shadow, old)
		} else {
			s.charge(o, -old.cost())
		}
		if !old.Deleted {
			o.live--
		}
		o.records[i] = r
	} else {
		o.records = slices.Insert(o.records, i, r)
	}
	s.charge(o, r.cost())
	if !r.Deleted {
		o.live++
	}
	o.digested = false
	if r.Kind == KindLinks {
		s.relink(o, old, r)
	}
	switch {
	case r.known && !r.Deleted:
		s.tell(Change{Kind: r.Kind, Origin: o.name, Key: r.Key})
	case shown:
		s.tell(Change{Kind: r.Kind, Origin: o.name, Key: r.Key, Deleted: true})
	}
	if !r.known {
		s.stats.UnknownRecords++
	}
}

// release takes the record at i away, a live one or a deletion.
func (s *State) release(o *origin, i int) {
	r := o.records[i]
	o.records = slices.Delete(o.records, i, i+1)
	s.charge(o, -r.cost())
	o.digested = false
	if r.Deleted {
		o.floor = max(o.floor, r.Version)
		return
	}
	o.live--
	if r.Kind == KindLinks {
		s.relink(o, r, nil)
	}
	if r.known {
		s.tell(Change{Kind: r.Kind, Origin: o.name, Key: r.Key, Deleted: true})
	}
}

// tell notes a change for Ready.
func (s *State) tell(c Change) {
	s.changed = append(s.changed, c)
	if c.Kind == KindPeer {
		s.members, s.dial = true, nil
	}
}

func (s *State) charge(o *origin, cost int) {
	o.size += cost
	s.bytes += cost
}

// setPlan replaces the plan and its charge.
func (s *State) setPlan(o *origin, p *plan) {
	if o.plan != nil {
		s.bytes -= planCost(len(o.plan.ids))
	}
	o.plan = p
	if p != nil {
		s.bytes += planCost(len(p.ids))
	}
}

// settle makes the newest head whose set is here o's head, drops what is not in
// it, and spreads that as the news of n.
func (s *State) settle(o *origin, n *neighbour) {
	h, byPlan := o.reached()
	if h == nil {
		return
	}
	since := o.complete()
	var shadow []*stored
	if byPlan {
		shadow = o.plan.shadow
		for i := len(o.records) - 1; i >= 0; i-- {
			if r := o.records[i]; !r.Deleted && r.Version <= h.Version && !o.plan.has(r.id) {
				s.release(o, i)
			}
		}
	}
	if byPlan || o.head == nil {
		o.floor = max(o.floor, h.Version)
	}
	o.head = h
	if !o.target.beats(h) {
		o.target = nil
	}
	o.refused = 0
	s.setPlan(o, nil)
	s.settled(o)
	for _, r := range shadow {
		s.charge(o, r.cost())
	}
	o.shadow = shadow
	s.news(o, since, n.name)
	if o.target == nil {
		s.satisfied(n, o)
	}
}

// settled forgets all but the newest deletions that the head covers.
func (s *State) settled(o *origin) {
	o.digested = false
	for _, r := range o.shadow {
		s.charge(o, -r.cost())
	}
	o.shadow = nil
	covered := 0
	for _, r := range o.records {
		if r.Deleted && r.Version <= o.head.Version {
			covered++
		}
	}
	if covered <= keptDeletions {
		return
	}
	old := make([]uint64, 0, covered)
	for _, r := range o.records {
		if r.Deleted && r.Version <= o.head.Version {
			old = append(old, r.Version)
		}
	}
	slices.Sort(old)
	last := old[covered-keptDeletions-1]
	for i := len(o.records) - 1; i >= 0; i-- {
		if r := o.records[i]; r.Deleted && r.Version <= last {
			s.release(o, i)
		}
	}
}
