// Package ipam gives out overlay addresses so that no two live workloads of a mesh
// ever get the same one, without a message in the usual case, in any partition.
//
//	range   10.32.0.0/12, the same for all hosts of a network
//	        ├─ block 0 ─┼─ block 1 ─┼─ block 2 ─┼─ … ─┤   equal blocks of 1 to 64 addresses
//	owner   │  host A   │  host A   │  host B   │     │   one register a block
//
//	register (term, step)   genesis ──▶ (0,1) ──▶ (0,2) ──▶ (1,0) ──▶ (1,1)
//	                                  signed by the   │     takeover: the operator's word
//	                                  owner before ───┘     and witnesses' signatures
//
//	own block           address states
//	 · · U U H · R ·    free, Used here, Held by another host, Resting 60 s after release
//
// A host grants from its own blocks alone. Blocks change hands by a step that the
// owner signs; a host that is gone for good loses its blocks by the next term. Of
// two records of one block the one with the greater term holds, then the greater
// step, then the lower hash: so maps join to the same whatever the order. The map
// begins with a genesis, a pure function of the sorted list of founders.
//
// What a host tells others it has saved before: Ready hands out the bytes to
// append to the journal, and what may be sent, answered and announced once they
// are durable. A register that is not saved is not shown to gossip. A host that
// starts lists what is attached (Listed) before it grants; one that lost its state
// finds that out from what others remember of it, and then counts all its
// addresses as used until it has waited the rest and heard who holds what.
//
// An address in a block of another host (claimed by name, moved, lent when no
// block was whole, or left over from a lost block) is noted at the block's owner as
// held; its holder confirms it every 20 s, gives it back after use, and fences it
// when the owner refuses.
//
// Machine is pure: it has no clock, goroutine, socket, disk or log. A Machine is
// for one goroutine. Times are compared with each other only.
//
// Read layout.go and chain.go first, then register.go, genesis.go, space.go,
// request.go, donate.go, hold.go, leave.go, takeover.go, hint.go; keys.go, wire.go,
// message.go, bundle.go, dataset.go and save.go are forms.
package ipam

import (
	"cmp"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"ripstop/crypto"
)

const (
	defaultRest     = 60 * time.Second
	defaultDeadline = 10 * time.Second
	defaultLeave    = 30 * time.Second

	contactWait  = 5 * time.Second // after a restart, for somebody to compare maps with
	retryAsk     = 300 * time.Millisecond
	retrySave    = time.Second
	refreshEvery = 20 * time.Second // holders confirm what they hold
	fencedEvery  = 60 * time.Second // and ask again for what was refused
	auditEvery   = 30 * time.Second // owners ask whether it is still held
	silentFor    = 60 * time.Second // not heard, before a host may be removed
	promiseFor   = 30 * time.Second // a witness signs for one taker only

	MaxID      = 128  // bytes of what an address is given to
	MaxMessage = 4096 // bytes of a message between two hosts
)

// Config says who this host is and how its network is numbered. Zero values are
// the defaults except where "required" stands.
type Config struct {
	Identity *crypto.Identity // required
	Network  crypto.NetworkID
	UID      crypto.UID // this run, required
	Random   *rand.Rand // required: whom to ask first, nothing secret
	Nonces   io.Reader  // for the sealed journal; nil: crypto/rand

	Range    netip.Prefix   // the same on all hosts; DefaultRange
	Subnet   netip.Prefix   // of requests that name none; the range
	Reserved []netip.Prefix // never given out here unless claimed by address
	NoIPv6   bool           // no twin beside an IPv4 address

	Rest     time.Duration // an address is not given out again before; 60 s
	Deadline time.Duration // of a request that names none; 10 s

	// Elsewhere says which other host the endpoint map has an address at, be that
	// host in reach or not. Such an address is not given out. Nil: the map is empty.
	Elsewhere func(netip.Addr) (crypto.Name, bool)
}

// Message is for a host of the mesh, by whatever path; it may be lost, repeated
// and overtaken.
type Message struct {
	To    crypto.Name
	Bytes []byte // at most MaxMessage, the receiver's of Ready to keep
}

// EventKind says what an Event tells.
type EventKind uint8

const (
	EventFenced   EventKind = iota + 1 // an address in use here is held by another host
	EventUnfenced                      // and no longer
	EventLost                          // blocks were taken by another host
	EventConflict                      // two records with one place; both are kept
	EventRecovery                      // this host's state was lost
	EventClone                         // another host runs with this identity
	EventMeeting                       // two networks with a map each met
	EventJoined                        // this host has a map now
	EventTaken                         // this host took the blocks of another one
	EventRange                         // another host numbers another range
)

// Event is something that people should see once.
type Event struct {
	Kind EventKind
	Host crypto.Name // the other host, if there is one
	Addr netip.Addr  // the address, or the first one of the block
	Text string
}

// Ready is what is to be done now, in this order: deliver Refusals and Events;
// then write Snapshot or append Save, and wait until it is durable; then Send,
// Answers and Announce; then call Done, and Ready again until it is Empty. When
// writing fails, nothing after it is done and Done gets the error. While a write is
// under way the machine takes requests and messages; they go with the next one.
type Ready struct {
	Refusals []Answer // depend on nothing that is to be saved
	Events   []Event
	Snapshot []byte // the whole journal anew, instead of the old one
	Save     []byte // to be appended to the journal
	Send     []Message
	Answers  []Answer
	Announce [][]byte // news for the data set
}

// Empty reports whether there is nothing to do.
func (r *Ready) Empty() bool {
	return len(r.Refusals) == 0 && len(r.Events) == 0 && r.Snapshot == nil && r.Save == nil &&
		len(r.Send) == 0 && len(r.Answers) == 0 && len(r.Announce) == 0
}

// Stats counts since New or Restore.
type Stats struct {
	Granted, Released, Donated, Received, Lent uint64 // addresses, addresses, blocks, blocks, addresses
	Merged, Gaps, Conflicts, RefusedRecords    uint64 // registers
	Malformed, Foreign                         uint64 // messages; of another map
	SaveFailures                               uint64
	Looked                                     uint64 // at waiting requests, blocks, addresses and hosts, for requests
}

// Machine is one host's address management. See the package comment.
type Machine struct {
	cfg   Config
	hooks *hooks
	self  crypto.Name
	lay   layout
	now   time.Time
	start time.Time
	stats Stats

	keys      map[crypto.Name]crypto.PublicKeys
	known     map[crypto.Name]bool // whose keys Known told
	keysLimit int                  // how many keys there may be before sweepKeys

	// The map.
	statements map[crypto.Name]*statement
	genesis    *genesis
	refused    map[hash]bool // geneses and ranges whose meeting was reported, maxReported at the most
	strange    string        // who numbers another range, as was reported last
	met        *genesis      // the last one that could be adopted
	registers  map[uint32]*register
	takeovers  map[hash]*takeover // by root, as long as a chain needs them
	extra      int                // steps held beyond one a chain
	groups     [digestGroups]uint64
	gaps       map[uint32]*gap
	proofs     []proof
	foundAsked bool // somebody asked for an address before there was a map
	turn       int  // where the next Delta begins

	// What this host has.
	own       map[uint32]*ownBlock
	waiting   bool // one of them may be in quarantine
	ownOrder  []uint32
	cursor    uint32
	entries   map[netip.Addr]*entry
	ids       map[string][]netip.Addr
	kept      map[netip.Addr]bool // of entries, those of kindKept
	rests     []rest
	offers    map[uint32]*offer
	promises  map[crypto.Name]*promise
	claims    uint32 // the last claim number of this boot
	restored  bool
	diskBoot  uint32 // what the journal said at the start, or others since
	diskSeq   uint64
	listed    bool
	contact   bool
	recover   time.Time // own blocks count as full before
	cloned    crypto.UID
	otherLife crypto.UID // a later run of this host that others know of
	nextClaim time.Time
	nextAudit time.Time

	// Others, as far as known.
	neighbours []crypto.Name
	reachable  map[crypto.Name]bool
	heard      map[crypto.Name]time.Time
	hints      map[crypto.Name]*hint
	boot       uint32
	bootSaved  bool
	hinted     time.Time
	hintSum    [digestHints]uint64

	// What goes on.
	requests  uint64
	pendings  []*pending
	asks      map[uint64]time.Time // request numbers of this run that donors may answer
	expected  map[uint32]hash      // blocks promised to this host, by their head
	signed    map[hash]bool        // lists of founders that this run signed, by their genesis
	lastGiven map[crypto.Name]*given
	share     pending
	leaving   *leaving
	left      bool
	removal   *removal

	// What is to be done.
	dirty    map[saveKey]bool // to be saved before anything goes out
	lazy     map[saveKey]bool // to be saved with the next save
	flight   *flight
	seq      uint64 // of the last save that is durable
	next     uint64 // of the next save
	journal  int    // bytes appended since the last snapshot
	snapshot int    // bytes of the last snapshot
	rewrite  bool
	retry    time.Time
	send     []Message
	answers  []Answer
	refusals []Answer
	events   []Event
	lost     map[crypto.Name][]uint32 // blocks that a host took, to become an event
	news     map[uint32]bool          // blocks to announce
	newsMap  bool                     // genesis or statements to announce
	newsHint map[crypto.Name]bool
}

// New makes the machine of a host that has no state.
func New(cfg Config, now time.Time) (*Machine, error) { return newMachine(cfg, nil, now) }

func newMachine(cfg Config, h *hooks, now time.Time) (*Machine, error) {
	if cfg.Identity == nil || cfg.Random == nil || cfg.UID == 0 {
		panic("ipam: Config without Identity, Random or UID")
	}
	cfg.Range = cmp.Or(cfg.Range, DefaultRange)
	cfg.Subnet = cmp.Or(cfg.Subnet, cfg.Range)
	cfg.Rest = cmp.Or(cfg.Rest, defaultRest)
	cfg.Deadline = cmp.Or(cfg.Deadline, defaultDeadline)
	if cfg.Elsewhere == nil {
		cfg.Elsewhere = func(netip.Addr) (crypto.Name, bool) { return crypto.Name{}, false }
	}
	lay, err := newLayout(cfg.Range)
	if err != nil {
		return nil, err
	}
	m := &Machine{
		cfg: cfg, hooks: h, self: cfg.Identity.Name(), lay: lay, now: now, start: now,
		keys:       map[crypto.Name]crypto.PublicKeys{cfg.Identity.Name(): cfg.Identity.Public()},
		known:      make(map[crypto.Name]bool),
		keysLimit:  maxKeys,
		statements: make(map[crypto.Name]*statement),
		refused:    make(map[hash]bool),
		registers:  make(map[uint32]*register),
		takeovers:  make(map[hash]*takeover),
		gaps:       make(map[uint32]*gap),
		own:        make(map[uint32]*ownBlock),
		entries:    make(map[netip.Addr]*entry),
		ids:        make(map[string][]netip.Addr),
		kept:       make(map[netip.Addr]bool),
		offers:     make(map[uint32]*offer),
		promises:   make(map[crypto.Name]*promise),
		reachable:  make(map[crypto.Name]bool),
		heard:      make(map[crypto.Name]time.Time),
		hints:      make(map[crypto.Name]*hint),
		asks:       make(map[uint64]time.Time),
		expected:   make(map[uint32]hash),
		signed:     make(map[hash]bool),
		lastGiven:  make(map[crypto.Name]*given),
		dirty:      make(map[saveKey]bool),
		lazy:       make(map[saveKey]bool),
		lost:       make(map[crypto.Name][]uint32),
		news:       make(map[uint32]bool),
		newsHint:   make(map[crypto.Name]bool),
		next:       1,
		nextClaim:  now,
		nextAudit:  now.Add(auditEvery),
	}
	if err := m.checkSubnet(cfg.Subnet); err != nil {
		return nil, err
	}
	m.newBoot(1)
	m.rewrite = true
	return m, nil
}

// at takes note of the time; it never goes back.
func (m *Machine) at(now time.Time) {
	if now.After(m.now) {
		m.now = now
	}
}

// Peers says whose gossip this host exchanges, and which hosts it can reach at all.
func (m *Machine) Peers(now time.Time, neighbours, reachable []crypto.Name) {
	m.at(now)
	m.neighbours = slices.Clone(neighbours)
	for n := range m.reachable {
		m.heard[n] = m.now
	}
	clear(m.reachable)
	for _, n := range reachable {
		if n != m.self {
			m.reachable[n] = true
			m.heard[n] = m.now
		}
	}
}

// silence is for how long a host was not heard.
func (m *Machine) silence(host crypto.Name) time.Duration {
	if m.reachable[host] {
		return 0
	}
	last := m.start
	if t, ok := m.heard[host]; ok {
		last = t
	}
	return m.now.Sub(last)
}

// Tick does what time alone brings.
func (m *Machine) Tick(now time.Time) {
	m.at(now)
	m.expireRests()
	m.expireAsks()
	m.liftQuarantine()
	m.settleGaps()
	m.evaluate()
	m.publishHint()
	m.confirmHeld()
	m.audit()
	m.askShare()
	m.workLeave()
	m.workRemoval()
	m.workRequests()
}

// Next is when Tick is due at the latest.
func (m *Machine) Next() time.Time {
	if len(m.pendings) > 0 || m.leaving != nil || m.removal != nil || !m.retry.IsZero() {
		return m.now.Add(100 * time.Millisecond)
	}
	return m.now.Add(time.Second)
}

// Ready returns what is to be done; see the type. The next call but for Refusals
// and Events is of use only after Done.
func (m *Machine) Ready(now time.Time) Ready {
	m.at(now)
	m.tellLost()
	r := Ready{Refusals: m.refusals, Events: m.events}
	m.refusals, m.events = nil, nil
	if m.flight != nil || m.now.Before(m.retry) {
		return r
	}
	m.retry = time.Time{}
	r.Announce = m.announce()
	if m.planted(bugSendBeforeSave) && len(m.send)+len(m.answers) > 0 {
		r.Send, r.Answers = m.send, m.answers
		m.send, m.answers = nil, nil
		return r
	}
	if len(m.dirty) == 0 && !m.rewrite {
		r.Send, r.Answers = m.send, m.answers
		m.send, m.answers = nil, nil
		return r
	}
	f := m.depart()
	if m.rewrite || m.journal > max(1<<20, 2*m.snapshot) {
		r.Snapshot = m.encodeSnapshot(f.seq)
		f.bytes, f.whole = len(r.Snapshot), true
	} else {
		r.Save = m.encodeSave(f.seq, f.keys)
		f.bytes = len(r.Save)
	}
	f.answers = m.answers
	r.Send, r.Answers = m.send, m.answers
	m.send, m.answers = nil, nil
	return r
}

// Done says how the last Ready went. After an error the machine takes back what
// was not answered, and asks for the whole journal anew.
func (m *Machine) Done(now time.Time, err error) {
	m.at(now)
	f := m.flight
	if f == nil {
		return
	}
	m.flight = nil
	if err != nil {
		m.stats.SaveFailures++
		m.rewrite, m.retry = true, m.now.Add(retrySave)
		for _, k := range f.keys {
			m.dirty[k] = true
		}
		for _, a := range f.answers {
			m.takeBack(a, err)
		}
		return
	}
	m.seq = f.seq
	if f.whole {
		m.rewrite, m.journal, m.snapshot = false, 0, f.bytes
	} else {
		m.journal += f.bytes
	}
	m.landed(f)
}

func (m *Machine) event(kind EventKind, host crypto.Name, a netip.Addr, format string, args ...any) {
	m.events = append(m.events, Event{Kind: kind, Host: host, Addr: a, Text: fmt.Sprintf(format, args...)})
}

// Stats returns the counters.
func (m *Machine) Stats() Stats { return m.stats }
