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
	live    int       // how many are not deletions
	size    int       // cost of all of them
	head    *head     // its set is held in full; nil: none yet
	target  *head     // verified and better than head, its set not yet held
	plan    *plan     // how to reach target, once its list is known
	floor   uint64    // deletions at or below may be forgotten: who is below needs a list
	refused uint64    // left of an earlier life here: at or below it only a plan's records

	digest   [32]byte // over the live records; valid if digested
	digested bool
	mix      uint64 // for the buckets of a summary; valid if digested

	alive     bool      // a member
	deadSince time.Time // when alive went, if it is false
}

// plan is the verified list of a target's live records.
type plan struct {
	target  *head
	ids     []recordID // ascending
	have    []bool     // held, or superseded by a newer record
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
		h := sha256.New()
		for _, r := range o.records {
			if !r.Deleted {
				h.Write(r.id[:])
			}
		}
		h.Sum(o.digest[:0])
		h.Reset()
		var b [40]byte
		copy(b[:], o.name[:])
		binary.BigEndian.PutUint64(b[16:], o.complete())
		copy(b[24:], o.digest[:16])
		sum := sha256.Sum256(b[:])
		o.mix = binary.BigEndian.Uint64(sum[:])
		o.digested = true
	}
	return o.digest
}

// sum is the part of hash that digests carry.
func (o *origin) sum() [8]byte {
	h := o.hash()
	return [8]byte(h[:8])
}

// ids lists the live records in the order of the hash.
func (o *origin) ids() []recordID {
	list := make([]recordID, 0, o.live)
	for _, r := range o.records {
		if !r.Deleted {
			list = append(list, r.id)
		}
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

// reached reports whether the target's set is here.
func (o *origin) reached() bool {
	if o.target == nil {
		return false
	}
	if o.plan != nil && o.plan.missing == 0 {
		return true
	}
	return o.live == int(o.target.Count) && o.hash() == o.target.Hash
}

// idOf is a record's identifier.
func idOf(text []byte, sig crypto.Signature) recordID {
	sum := sha256.Sum256(append(text, sig[:]...))
	return recordID(sum[:12])
}

func compareIDs(a, b recordID) int { return bytes.Compare(a[:], b[:]) }

// newPlan says what of the list is here already. The list's hash is the target's.
func (o *origin) newPlan(ids []recordID) *plan {
	p := &plan{target: o.target, ids: slices.Clone(ids), have: make([]bool, len(ids)), missing: len(ids)}
	slices.SortFunc(p.ids, compareIDs)
	for _, r := range o.records {
		if !r.Deleted {
			p.mark(r.id)
		}
	}
	return p
}

// has reports whether the plan names the record.
func (p *plan) has(id recordID) bool {
	_, there := slices.BinarySearchFunc(p.ids, id, compareIDs)
	return there
}

// mark notes that the record is here, or that something newer took its place.
func (p *plan) mark(id recordID) {
	if i, there := slices.BinarySearchFunc(p.ids, id, compareIDs); there && !p.have[i] {
		p.have[i] = true
		p.missing--
	}
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
	s.dirty()
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
	s.dirty()
}

// hold puts a record in its place and tells of it.
func (s *State) hold(o *origin, r *stored) {
	i, there := o.find(r.Kind, r.Key)
	shown := false
	if there {
		old := o.records[i]
		shown = old.known && !old.Deleted
		s.charge(o, -old.cost())
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
	if r.known {
		s.tell(Change{Kind: r.Kind, Origin: o.name, Key: r.Key, Deleted: true})
	}
}

// tell notes a change for Ready.
func (s *State) tell(c Change) {
	s.changed = append(s.changed, c)
	if c.Kind == KindLinks {
		s.dirty()
	}
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

// settle makes the target the head if its set is here, and drops what is not in it.
func (s *State) settle(o *origin) bool {
	if !o.reached() {
		return false
	}
	t := o.target
	if p := o.plan; p != nil && p.missing == 0 {
		for i := len(o.records) - 1; i >= 0; i-- {
			if r := o.records[i]; !r.Deleted && r.Version <= t.Version && !p.has(r.id) {
				s.release(o, i)
			}
		}
		o.floor = max(o.floor, t.Version)
	} else if o.head == nil {
		o.floor = max(o.floor, t.Version)
	}
	o.head, o.target = t, nil
	o.refused = 0
	s.setPlan(o, nil)
	s.settled(o)
	return true
}

// settled forgets all but the newest deletions that the head covers.
func (s *State) settled(o *origin) {
	o.digested = false
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
