package gossip

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"ripstop/crypto"
)

// stepping is the state of one message being read.
type stepping struct {
	n *neighbour
	o *origin // of the sections that follow an origin section; nil: none yet

	head  *head       // the verified one last seen in this origin's sections
	name  crypto.Name // of the last origin section
	keys  crypto.PublicKeys
	quiet uint16
	open  bool // there was an origin section
}

// Step reads a message of the neighbour from. What can be used of it is used
// also when there is an error: it is the first violation met, to be counted, and
// no reason to close anything. The message is not kept.
func (s *State) Step(now time.Time, from crypto.Name, message []byte) error {
	s.at(now)
	s.stats.MessagesIn++
	s.stats.BytesIn += uint64(len(message))
	n := s.neighbours[from]
	if n == nil {
		return fmt.Errorf("gossip: message from %v, which is no neighbour", from)
	}
	err := s.read(n, message)
	if err != nil {
		s.stats.Malformed++
		err = fmt.Errorf("gossip: message from %v: %w", from, err)
	}
	s.settleTouched(n)
	s.flush()
	return err
}

func (s *State) read(n *neighbour, b []byte) error {
	if len(b) > MaxMessage {
		return fmt.Errorf("%w: %d bytes", errProtocol, len(b))
	}
	if len(b) == 0 || b[0] != format {
		return fmt.Errorf("%w: another format", errProtocol)
	}
	st := stepping{n: n}
	var first error
	for b = b[1:]; len(b) > 0; {
		kind, body, rest, err := nextSection(b)
		if err != nil {
			return err
		}
		b = rest
		if err := s.section(&st, kind, body); err != nil && first == nil {
			first = err
		}
	}
	return first
}

func (s *State) section(st *stepping, kind byte, body []byte) error {
	switch kind {
	case sectionSummary:
		return s.stepSummary(st.n, body)
	case sectionDigest:
		return s.stepDigest(st.n, body)
	case sectionPull:
		return s.stepPull(st.n, body)
	case sectionWant:
		return s.stepWant(st.n, body)
	case sectionData:
		return s.stepData(st.n, body)
	case sectionOrigin:
		keys, quiet, err := parseOrigin(body)
		st.open, st.o, st.head = err == nil, nil, nil
		if err != nil {
			return err
		}
		st.name, st.keys, st.quiet = keys.Name(), keys, quiet
		st.o = s.origins[st.name]
		return nil
	case sectionHead, sectionRecord, sectionList, sectionDone:
		if !st.open {
			return fmt.Errorf("%w: section %d before any origin", errProtocol, kind)
		}
	default:
		s.stats.UnknownSections++
		return nil
	}
	switch kind {
	case sectionHead:
		return s.stepHead(st, body)
	case sectionRecord:
		return s.stepRecord(st, body)
	case sectionList:
		return s.stepList(st, body)
	}
	return s.stepDone(st, body)
}

// stepHead takes a signed head: a newer one becomes the target.
func (s *State) stepHead(st *stepping, body []byte) error {
	h, err := parseHead(body)
	if err != nil {
		return err
	}
	if h.Version >= MaxVersion {
		s.stats.RefusedVersion++
		return nil
	}
	if st.name == s.self {
		return s.hearHead(&h)
	}
	st.head = nil
	if o := st.o; o != nil {
		for _, known := range []*head{o.head, o.target} {
			if known != nil && known.Version == h.Version && known.Hash == h.Hash {
				st.head = known
			}
		}
		if st.head != nil || o.head != nil && !h.beats(o.head) {
			s.stats.Duplicates++
			return nil
		}
	}
	if g := s.buried[st.name]; g != nil && (h.Version < g.head.Version || h.Version == g.head.Version && !s.isAlive(st.name)) {
		s.stats.RefusedDeleted++
		return nil
	}
	if !s.verifyHead(st.name, st.keys, &h) {
		return fmt.Errorf("%w: signature of a head of %v", errProtocol, st.name)
	}
	o := s.admit(st)
	if o == nil {
		return nil
	}
	if h.Version < o.refused {
		s.stats.RefusedDeleted++
		return nil
	}
	st.head = &h // what a list behind it is checked against
	s.progress(o.name, st.n)
	b := o.best()
	if b != nil && b.Version == h.Version {
		s.stats.Equivocations++
	}
	if !h.beats(b) {
		s.stats.Duplicates++
		return nil
	}
	s.settle(o, st.n)
	o.target = &h
	o.digested = false
	s.touch(o)
	return nil
}

// stepRecord takes a signed record.
func (s *State) stepRecord(st *stepping, body []byte) error {
	r, err := parseRecord(st.name, body)
	if err != nil {
		return err
	}
	if r.Version == 0 || r.Version >= MaxVersion {
		s.stats.RefusedVersion++
		return nil
	}
	if st.name == s.self {
		return s.hearRecord(&r)
	}
	if g := s.buried[st.name]; g != nil && st.o == nil && r.Version <= g.head.Version {
		s.stats.RefusedDeleted++
		return nil
	}
	var old *stored
	var limit uint64 // at or below: only what a plan names
	var p *plan
	if o := st.o; o != nil {
		p, limit = o.plan, max(o.complete(), o.refused)
		if i, there := o.find(r.Kind, r.Key); there {
			old = o.records[i]
		}
	}
	if old != nil && old.Version == r.Version && old.Signature == r.Signature {
		s.stats.Duplicates++
		return nil
	}
	if p == nil {
		if old != nil && old.Version > r.Version {
			s.stats.Duplicates++
			return nil
		}
		if r.Version <= limit {
			s.stats.RefusedDeleted++
			return nil
		}
	}
	text, sum := s.identify(&r)
	id := recordID(sum[:12])
	planned := p != nil && p.has(id)
	if !planned && r.Version <= limit {
		s.stats.RefusedDeleted++
		return nil
	}
	rec := s.verified(&r, st.keys, text, sum)
	if rec == nil {
		s.stats.RefusedSignature++
		return fmt.Errorf("%w: signature of a %s record of %v", errProtocol, r.Kind, st.name)
	}
	if old != nil && old.Version > r.Version {
		s.stats.Duplicates++
		if planned && old.Version > p.target.Version {
			if p.mark(id) {
				p.shadow = append(p.shadow, rec)
				s.touch(st.o)
			}
			return nil
		}
		if !planned {
			return nil
		}
	}
	if old != nil && old.Version == r.Version {
		s.stats.Equivocations++
		if !planned && compareIDs(id, old.id) < 0 {
			return nil
		}
	}
	o := s.admit(st)
	if o == nil {
		return nil
	}
	if !s.fits(o, old, rec) {
		s.stats.RefusedSize++
		return nil
	}
	s.hold(o, rec)
	if p != nil {
		p.mark(id)
	}
	s.touch(o)
	s.progress(o.name, st.n)
	return nil
}

// fits reports whether o and this host may hold rec instead of old.
func (s *State) fits(o *origin, old, rec *stored) bool {
	more := rec.cost()
	if old != nil {
		more -= old.cost()
	} else if len(o.records) >= MaxRecords+keptDeletions {
		return false
	}
	return more <= 0 || o.size+more <= maxOriginBytes && s.bytes+more <= s.cfg.MaxBytes
}

// stepList takes the list of the records that the head before it covers: if
// that head is newer than what is complete here, the list is how to get there.
func (s *State) stepList(st *stepping, body []byte) error {
	version, ids, err := parseList(body)
	if err != nil {
		return err
	}
	o, h := st.o, st.head
	pl := s.pulls[st.name]
	if o == nil || h == nil || o == s.own || !h.beats(o.head) || pl == nil || pl.from != st.n.name {
		return nil // not asked for, or of no use any more
	}
	if version != h.Version || len(ids) != int(h.Count) || hashIDs(ids) != h.Hash {
		return fmt.Errorf("%w: list of %v that its head does not sign", errProtocol, st.name)
	}
	if o.plan != nil && !h.beats(o.plan.target) {
		return nil
	}
	if s.bytes+planCost(len(ids)) > s.cfg.MaxBytes {
		s.stats.RefusedSize++
		return nil
	}
	s.setPlan(o, o.newPlan(h, ids))
	s.touch(o)
	if want := o.plan.wanted(); len(want) > 0 {
		pl.wants = true
		s.slot(st.n, st.name).want = want
	}
	return nil
}

// hearHead looks at a head of this host's own that somebody sent: one that this
// run did not make tells the version to continue above.
func (s *State) hearHead(h *head) error {
	if h.Version < s.version || h.Version == s.version && h.Hash == s.own.hash() || h.Version <= s.heard {
		s.stats.Duplicates++
		return nil
	}
	if !s.verifyHead(s.self, s.cfg.Identity.Public(), h) {
		return fmt.Errorf("%w: signature of a head of this host", errProtocol)
	}
	s.heard = h.Version
	return nil
}

// hearRecord is hearHead for a record.
func (s *State) hearRecord(r *Record) error {
	if r.Version < s.version || r.Version <= s.heard {
		s.stats.Duplicates++
		return nil
	}
	if i, there := s.own.find(r.Kind, r.Key); there && s.own.records[i].Version == r.Version && s.own.records[i].Signature == r.Signature {
		s.stats.Duplicates++
		return nil
	}
	text, sum := s.identify(r)
	if s.verified(r, s.cfg.Identity.Public(), text, sum) == nil {
		s.stats.RefusedSignature++
		return fmt.Errorf("%w: signature of a record of this host", errProtocol)
	}
	s.heard = r.Version
	return nil
}

// admit returns the origin that the sections are about, a new one if there is room.
func (s *State) admit(st *stepping) *origin {
	if st.o != nil {
		return st.o
	}
	if other, taken := s.shorts[st.name.Short()]; taken && other != st.name || !s.room(st.name) {
		s.stats.RefusedOrigin++
		return nil
	}
	st.o = s.add(st.name, st.keys)
	st.o.deadSince = s.now.Add(-min(time.Duration(st.quiet)*time.Minute, purgeAfter))
	return st.o
}

// room reports whether an origin of that name may be held; a member takes the
// place of the one that has been none for longest.
func (s *State) room(name crypto.Name) bool {
	if len(s.origins) < s.cfg.MaxMembers {
		return true
	}
	if !s.isAlive(name) {
		return false
	}
	var oldest *origin
	for _, o := range s.order {
		if !o.alive && (oldest == nil || o.deadSince.Before(oldest.deadSince)) {
			oldest = o
		}
	}
	if oldest == nil {
		return false
	}
	s.remove(oldest)
	return true
}

// verifyHead checks a head's signature.
func (s *State) verifyHead(name crypto.Name, keys crypto.PublicKeys, h *head) bool {
	text := h.text(s.cfg.Network, name)
	c := s.cfg.Cache
	var key [32]byte
	if c != nil {
		key = sha256.Sum256(append(text, h.Signature[:]...))
		if _, there := c.heads[key]; there {
			c.Hits++
			return true
		}
		c.Misses++
	}
	if !crypto.Verify(keys.Sign, h.Signature, headLabel, text) {
		s.stats.RefusedSignature++
		return false
	}
	if c != nil {
		c.room()
		c.heads[key] = struct{}{}
	}
	return true
}

// identify returns what the record's signature is over, in scratch memory, and
// the hash over that and the signature.
func (s *State) identify(r *Record) ([]byte, [32]byte) {
	b := append(s.scratch[:0], s.cfg.Network[:]...)
	b = append(b, r.Origin[:]...)
	b = append(b, byte(r.Kind), oneIf(r.Deleted))
	b = binary.BigEndian.AppendUint64(b, r.Version)
	b = appendText(b, r.Key)
	b = append(b, r.Body...)
	n := len(b)
	b = append(b, r.Signature[:]...)
	s.scratch = b
	return b[:n], sha256.Sum256(b)
}

// verified checks the record's signature and returns the record in memory of
// its own, or nil.
func (s *State) verified(r *Record, keys crypto.PublicKeys, text []byte, sum [32]byte) *stored {
	c := s.cfg.Cache
	if c != nil {
		if rec := c.records[sum]; rec != nil {
			c.Hits++
			return rec
		}
		c.Misses++
	}
	if !crypto.Verify(keys.Sign, r.Signature, recordLabel, text) {
		return nil
	}
	rec := &stored{Record: *r, id: recordID(sum[:12])}
	rec.Body = slices.Clone(r.Body)
	rec.known = rec.understood()
	if c != nil {
		c.room()
		c.records[sum] = rec
	}
	return rec
}

// touch notes that something of o came in this message.
func (s *State) touch(o *origin) {
	if !slices.Contains(s.touched, o) {
		s.touched = append(s.touched, o)
	}
}

// settleTouched completes what this message completed, passes that on, and asks
// the sender for what is still missing.
func (s *State) settleTouched(n *neighbour) {
	for _, o := range s.touched {
		if s.origins[o.name] != o {
			continue
		}
		s.settle(o, n)
		if o.target != nil {
			s.seek(n, o.name, o.refused != 0, 0)
		}
	}
	s.touched = s.touched[:0]
}
