// Package gossip replicates small signed facts to every host of a mesh, and
// decides from them who is a member and who dials whom.
//
//	origin X signs                                   every host keeps, per origin
//	┌────────────────────────────────────────┐       ┌──────────────────────────────────┐
//	│ record  kind, key, version, body       │──────▶│ records  by kind and key         │
//	│ record  kind, key, version, deleted    │       │ head     version = complete      │
//	│ head    version, count, hash(live set) │       │ target   newer head, set lacking │
//	└────────────────────────────────────────┘       │ plan     verified list of target │
//	  one version counter for all of them            └──────────────────────────────────┘
//
//	a change        news ──▶ slot of each of log2(n) neighbours ──▶ one message at a time
//	a repair        summary ─▶ digest ─▶ pull ─▶ head, records (and list ─▶ want ─▶ records)
//
// Only the origin writes its records. The absence of a record is the origin's
// word too: the head signs the hash over all live records, so no host in
// between can make another forget anything or remember what was deleted. Once a
// head's set is there in full its version is `complete`; a record at or below
// it that is not in the set was deleted and is refused. Records above it are
// shown at once but do not raise it. An origin that hears a higher version of
// itself (its state was lost) continues above it and republishes what is true now.
//
// A host that left stays known: its records are offered for 1 h, kept for 24 h,
// and its last head for 30 days. Membership is separate: a name is a member
// while a member with links reports a link to it.
//
// State is a pure machine: it has no clock, goroutine, socket or log. The
// caller hands it time and messages (Step, Tick, NeighbourUp, NeighbourDown) and
// facts (Publish, Withdraw), after each of them takes what is to be done (Ready),
// says when a message has left (Sent, then Ready again), and calls Tick at Next.
// Times are compared with each other only. A State is for one goroutine.
//
// Memory is bounded by what is held, never by the number of messages: what waits
// for a neighbour is a slot that says which origins from which version, and is
// filled with the newest records when it is sent.
//
// Read record.go first, then origin.go, step.go, spread.go, repair.go,
// member.go, dial.go.
package gossip

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"time"

	"ripstop/crypto"
)

const (
	defaultMembers  = 4096
	defaultBytes    = 128 << 20
	defaultFullMesh = 64
	defaultPeriod   = 5 * time.Second

	MaxMessage = 60 << 10 // bytes of one message
)

// Config says who this host is and what bounds hold. Zero values are the
// defaults except where "required" stands.
type Config struct {
	Identity *crypto.Identity // required
	Network  crypto.NetworkID // bound into every signature
	UID      crypto.UID       // this run; if not 0, a published PeerBody must carry it
	Random   *rand.Rand       // required: choice of neighbours and jitter, nothing secret

	MaxMembers int           // members and held origins; 4096
	MaxBytes   int           // keys and bodies of all origins; 128 MiB
	FullMesh   int           // up to this many hosts each dials each; 64
	Period     time.Duration // between two anti-entropy rounds, ±20 %; 5 s

	Datasets []Dataset // registers; names must differ
	Cache    *Cache    // verified signatures shared by simulations; nil: none
}

// Change names a record that came, changed or went.
type Change struct {
	Kind    Kind
	Origin  crypto.Name
	Key     string
	Deleted bool
}

// Outgoing is a message for a neighbour. The next one for it comes only after Sent.
type Outgoing struct {
	To    crypto.Name
	Bytes []byte // the receiver's of Ready to keep; at most MaxMessage
}

// Ready is what is to be done now.
type Ready struct {
	Messages []Outgoing // sorted by neighbour
	Changed  []Change   // in the order of happening
	Members  bool       // Members and Dial may answer otherwise than before
}

// Stats counts since New, but for the last four, which say what is held now.
type Stats struct {
	MessagesIn, MessagesOut, BytesIn, BytesOut uint64

	Duplicates       uint64 // records and heads that were there already, or older
	RefusedDeleted   uint64 // records at or below complete that are not in the set
	RefusedVersion   uint64 // version 0 or from 2^62
	RefusedSignature uint64
	RefusedSize      uint64 // more records or bytes than an origin or this host may hold
	RefusedOrigin    uint64 // no room for another origin, or its prefix is a known host's
	Equivocations    uint64 // two different records or heads with one version
	Recoveries       uint64 // times this host continued above a version it had forgotten
	UnknownSections  uint64
	UnknownRecords   uint64 // kept and passed on, not understood
	Malformed        uint64 // messages with an error in their form
	PullsFailed      uint64 // neighbours asked that did not answer, or had not what they claimed
	Purged           uint64 // origins forgotten after 24 h

	Origins, Records, Bytes, ExcessMembers int
}

// State is one host's replica. See the package comment.
type State struct {
	cfg  Config
	self crypto.Name
	now  time.Time // the latest time given

	own     *origin
	version uint64    // this host's counter
	heard   uint64    // highest version of itself heard that it did not issue; 0 = none
	recover time.Time // no second recovery before

	origins map[crypto.Name]*origin
	order   []*origin // by name
	shorts  map[crypto.ShortName]crypto.Name
	buried  map[crypto.Name]*grave
	bytes   int

	neighbours map[crypto.Name]*neighbour
	ring       []*neighbour // by name
	queue      []*neighbour // with something in the slot
	pulls      map[crypto.Name]*pull
	pullDue    time.Time // no deadline of a pull is earlier
	rumours    map[crypto.Name]*rumour
	spreadDue  time.Time // no round of spreading before
	period     time.Time // next anti-entropy round
	round      int
	sweep      time.Time // next look for what expired

	alive    map[crypto.Name]struct{}
	stale    bool      // alive must be computed again
	fresh    time.Time // not before
	members  bool      // to be told in Ready
	bridges  []*neighbour
	bridged  time.Time
	dial     *dialPlan
	changed  []Change
	scratch  []byte
	touched  []*origin
	datasets map[string]Dataset
	more     map[string]map[crypto.Name]bool // by data set, who gave a full delta and may have more
	stats    Stats
}

// New makes the replica of a host that knows nothing but itself.
func New(cfg Config, now time.Time) *State {
	if cfg.Identity == nil || cfg.Random == nil {
		panic("gossip: Config without Identity or Random")
	}
	cfg.MaxMembers = cmp.Or(cfg.MaxMembers, defaultMembers)
	cfg.MaxBytes = cmp.Or(cfg.MaxBytes, defaultBytes)
	cfg.FullMesh = cmp.Or(cfg.FullMesh, defaultFullMesh)
	cfg.Period = cmp.Or(cfg.Period, defaultPeriod)
	s := &State{
		cfg: cfg, self: cfg.Identity.Name(), now: now,
		origins:    make(map[crypto.Name]*origin),
		shorts:     make(map[crypto.ShortName]crypto.Name),
		buried:     make(map[crypto.Name]*grave),
		neighbours: make(map[crypto.Name]*neighbour),
		pulls:      make(map[crypto.Name]*pull),
		rumours:    make(map[crypto.Name]*rumour),
		alive:      make(map[crypto.Name]struct{}),
		datasets:   make(map[string]Dataset),
		more:       make(map[string]map[crypto.Name]bool),
	}
	for _, d := range cfg.Datasets {
		if len(d.Name()) == 0 || len(d.Name()) > maxDatasetName || s.datasets[d.Name()] != nil {
			panic(fmt.Sprintf("gossip: dataset name %q empty, too long or twice", d.Name()))
		}
		s.datasets[d.Name()] = d
	}
	s.own = s.add(s.self, cfg.Identity.Public())
	s.own.alive = true
	s.alive[s.self] = struct{}{}
	s.period = now.Add(s.jitter(cfg.Period))
	s.sweep = now.Add(sweepEvery)
	return s
}

// Publish states a fact of this host; stating it again unchanged is no news.
// An error means that the fact is not one that others would accept.
func (s *State) Publish(now time.Time, kind Kind, key string, body []byte) error {
	s.at(now)
	if len(key) > MaxKey {
		return fmt.Errorf("gossip: publish %s: key of %d bytes", kind, len(key))
	}
	if len(body) > maxBody(kind) {
		return fmt.Errorf("gossip: publish %s %q: body of %d bytes, at most %d", kind, key, len(body), maxBody(kind))
	}
	r := Record{Origin: s.self, Kind: kind, Key: key, Body: slices.Clone(body)}
	if !r.understood() {
		return fmt.Errorf("gossip: publish %s %q: body is not a %s's", kind, key, kind)
	}
	if kind == KindPeer && s.cfg.UID != 0 {
		if p, _ := ParsePeerBody(body); p.UID != s.cfg.UID {
			return fmt.Errorf("gossip: publish peer: uid %v of another run than %v", p.UID, s.cfg.UID)
		}
	}
	i, there := s.own.find(kind, key)
	if there {
		if old := s.own.records[i]; !old.Deleted && slices.Equal(old.Body, body) {
			return nil
		}
	}
	if !there && len(s.own.records) >= MaxRecords || s.own.size+recordCost+len(key)+len(body) > maxOriginBytes {
		return fmt.Errorf("gossip: publish %s %q: this host's facts are too many", kind, key)
	}
	s.issue(r)
	return nil
}

// Withdraw takes a fact of this host back.
func (s *State) Withdraw(now time.Time, kind Kind, key string) {
	s.at(now)
	i, there := s.own.find(kind, key)
	if !there || s.own.records[i].Deleted {
		return
	}
	s.issue(Record{Origin: s.self, Kind: kind, Key: key, Deleted: true})
}

// issue signs r under the next version and holds it. The head follows in flush.
func (s *State) issue(r Record) {
	s.version++
	r.Version = s.version
	text := r.text(s.cfg.Network)
	r.Signature = s.cfg.Identity.Sign(recordLabel, text)
	st := &stored{Record: r, id: idOf(text, r.Signature), known: true}
	s.hold(s.own, st)
}

// flush signs the head over what was published since the last one and spreads it.
func (s *State) flush() {
	if s.heard != 0 && !s.now.Before(s.recover) {
		s.republish()
	}
	if s.version == s.own.complete() {
		return
	}
	since := s.own.complete()
	s.sign()
	s.news(s.own, since, crypto.Name{})
}

// sign makes the head of this host's present set.
func (s *State) sign() {
	h := &head{Version: s.version, Count: uint16(s.own.live), Hash: s.own.hash()}
	h.Signature = s.cfg.Identity.Sign(headLabel, h.text(s.cfg.Network, s.self))
	s.own.head = h
	s.settled(s.own)
}

// republish continues above the version heard and signs all that is true now
// again, so that what others hold of an earlier run is superseded.
func (s *State) republish() {
	s.stats.Recoveries++
	s.recover = s.now.Add(time.Second)
	live := make([]Record, 0, s.own.live)
	for _, r := range s.own.records {
		if !r.Deleted {
			live = append(live, r.Record)
		}
	}
	slices.SortFunc(live, func(a, b Record) int { return cmp.Compare(a.Version, b.Version) })
	for i := len(s.own.records) - 1; i >= 0; i-- {
		if s.own.records[i].Deleted {
			s.release(s.own, i)
		}
	}
	s.version, s.heard = max(s.version, s.heard), 0
	s.own.floor = s.version
	for _, r := range live {
		s.issue(r)
	}
	if len(live) == 0 {
		s.version++
	}
}

// Get returns the live record of that place, if it is held and understood.
func (s *State) Get(name crypto.Name, kind Kind, key string) (Record, bool) {
	o := s.origins[name]
	if o == nil {
		return Record{}, false
	}
	i, there := o.find(kind, key)
	if !there || o.records[i].Deleted || !o.records[i].known {
		return Record{}, false
	}
	return o.records[i].Record, true
}

// Records walks the live records of one kind that are understood, by origin and
// key. Records of hosts that are no members now are among them.
func (s *State) Records(kind Kind) iter.Seq[Record] {
	return func(yield func(Record) bool) {
		for _, o := range s.order {
			i, _ := o.find(kind, "")
			for ; i < len(o.records) && o.records[i].Kind == kind; i++ {
				if r := o.records[i]; r.known && !r.Deleted && !yield(r.Record) {
					return
				}
			}
		}
	}
}

// Next is when Tick is due at the latest.
func (s *State) Next() time.Time {
	next := s.period
	earlier := func(t time.Time) {
		if t.Before(next) {
			next = t
		}
	}
	earlier(s.sweep)
	if s.stale {
		earlier(s.fresh)
	}
	if s.heard != 0 {
		earlier(s.recover)
	}
	if len(s.pulls) > 0 {
		earlier(s.pullDue)
	}
	if len(s.rumours) > 0 {
		earlier(s.spreadDue)
	}
	return next
}

// Tick does what time alone brings: anti-entropy, pulls that were not answered, expiry.
func (s *State) Tick(now time.Time) {
	s.at(now)
	s.expirePulls()
	if !now.Before(s.period) {
		s.period = now.Add(s.jitter(s.cfg.Period))
		s.antiEntropy()
	}
	if !now.Before(s.sweep) {
		s.sweep = now.Add(sweepEvery)
		s.expire()
	}
	if s.stale && !now.Before(s.fresh) {
		s.refresh()
	}
	s.flush()
}

// Stats returns the counters and what is held now.
func (s *State) Stats() Stats {
	st := s.stats
	st.Origins = len(s.origins)
	st.Bytes = s.bytes
	for _, o := range s.order {
		st.Records += o.live
	}
	return st
}

// at takes note of the time; it never goes back.
func (s *State) at(now time.Time) {
	if now.After(s.now) {
		s.now = now
	}
}

// jitter is d ± 20 %.
func (s *State) jitter(d time.Duration) time.Duration {
	return d*4/5 + time.Duration(s.cfg.Random.Int64N(int64(d)*2/5+1))
}

var errProtocol = errors.New("gossip: protocol violation")
