package ipam

import (
	"container/heap"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"ripstop/crypto"
	"ripstop/mesh/gossip"
	"ripstop/mesh/store"
	"ripstop/mesh/store/storetest"
)

// world is a deterministic model of everything around the machines: the network
// between hosts, disks, clocks, workloads. Gossip and journals are the real ones. One
// seed, one history.
type world struct {
	rng    *rand.Rand
	now    time.Time
	events eventQueue
	order  uint64
	hosts  []*simHost
	byName map[crypto.Name][]*simHost
	bug    bug
	trace  interface {
		Write([]byte) (int, error)
		Sum64() uint64
	}
	err    error // the first property that did not hold
	steps  int
	prefix netip.Prefix

	loss, duplicate float64
	slow            float64 // part of messages that take seconds
	cut             map[[2]int]bool
	clones          bool // one host may become two
	twofold         bool // one is or was since the last quiet point: whatever it told may clash
	calm            bool // no fault is active
	busy            bool // faults and operations happen

	resume  map[int]func()             // ends the pause of a host
	maps    map[[32]byte][]crypto.Name // founders of each map there ever was
	lost    bool                       // some host lost its state
	ended   map[netip.Addr]time.Time   // last release of an address
	ledger  map[[32]byte]bool          // records that exist
	live    map[netip.Addr][]*workload // by address
	cache   *gossip.Cache
	tainted map[uint32]bool // blocks in which an asserted or lost state may clash for a while
	stats   struct{ requests, granted, failed, late, reachable, reached int }
	elapsed time.Duration
}

// simHost is a host: its machine, its disk, its workloads.
type simHost struct {
	w         *world
	i         int
	id        *crypto.Identity
	name      crypto.Name
	m         *Machine // nil: down
	run       int      // counts starts, so that late events of an earlier one are dropped
	paused    bool
	destroyed bool
	clone     bool // another machine with a copy of a host's disk
	copied    bool // there is one of this host

	disk   *storetest.Disk
	log    *store.Journal
	saving *Ready

	g     *gossip.State
	near  map[*simHost]int             // gossip's neighbours, with the run that they were met in
	where map[netip.Addr][]crypto.Name // the endpoint map: who says that it has an address, by name

	pending     map[uint64]*simRequest
	work        map[netip.Addr]*workload
	places      map[uint32]simPlace // saved records: they never fall
	targets     []int
	next        int
	bornOld     bool
	restoredOld bool      // this run began with an old disk
	told        time.Time // when others first told it that its disk is old
	ids         int
	lastMap     [32]byte
}

type simPlace struct {
	term, num uint32
	hash      [32]byte
}

type workload struct {
	host   *simHost
	id     string
	addr   netip.Addr
	fenced bool
	origin [32]byte // the map by which it was given
	older  bool     // its host's disk may be older than it
}

type simRequest struct {
	kind     string
	id       string
	addr     netip.Addr
	deadline time.Time
	made     time.Time
	sticky   bool
	local    bool // there is a free address here: it must succeed
	calm     bool
}

type event struct {
	at    time.Time
	order uint64
	do    func()
}

type eventQueue []event

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	if !q[i].at.Equal(q[j].at) {
		return q[i].at.Before(q[j].at)
	}
	return q[i].order < q[j].order
}
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *eventQueue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *eventQueue) Pop() any {
	o := *q
	e := o[len(o)-1]
	*q = o[:len(o)-1]
	return e
}

var simEpoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// simIdentities are made once: key derivation is slow.
var simIdentities = func() (ids []*crypto.Identity) {
	src := rand.NewChaCha8([32]byte{7})
	for range 12 {
		seed, err := crypto.NewSeed(src)
		if err != nil {
			panic(err)
		}
		id, err := crypto.NewIdentity(seed)
		if err != nil {
			panic(err)
		}
		ids = append(ids, id)
	}
	return ids
}()

// fakeHooks sign by hashing and seal by a checksum: who signed can still be told,
// and every changed bit is seen.
func fakeHooks(b bug) *hooks {
	sign := func(by crypto.Name, label string, text []byte) (s crypto.Signature) {
		h := sha256.New()
		h.Write(by[:])
		h.Write([]byte(label))
		h.Write(text)
		copy(s[:], h.Sum(nil))
		return s
	}
	return &hooks{
		sign: sign,
		verify: func(by crypto.Name, sig crypto.Signature, label string, text []byte) bool {
			return sig == sign(by, label, text)
		},
		seal: func(plain []byte) []byte {
			h := fnv.New64a()
			h.Write(plain)
			return binary.BigEndian.AppendUint64(slices.Clone(plain), h.Sum64())
		},
		open: func(box []byte) ([]byte, error) {
			if len(box) < 8 {
				return nil, errors.New("short")
			}
			h := fnv.New64a()
			h.Write(box[:len(box)-8])
			if h.Sum64() != binary.BigEndian.Uint64(box[len(box)-8:]) {
				return nil, errors.New("checksum")
			}
			return slices.Clone(box[:len(box)-8]), nil
		},
		bug: b,
	}
}

func newWorld(seed uint64, b bug) *world {
	return &world{
		rng: rand.New(rand.NewPCG(seed, 0x51ed)), now: simEpoch, byName: make(map[crypto.Name][]*simHost), bug: b,
		trace: fnv.New64a(), cut: make(map[[2]int]bool), ledger: make(map[[32]byte]bool), calm: true, busy: true,
		resume: make(map[int]func()), maps: make(map[[32]byte][]crypto.Name), ended: make(map[netip.Addr]time.Time),
		live: make(map[netip.Addr][]*workload), tainted: make(map[uint32]bool), cache: gossip.NewCache(1 << 16),
	}
}

func (w *world) fail(property int, format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf("after %v, property %d: %s", w.now.Sub(simEpoch).Round(time.Millisecond), property, fmt.Sprintf(format, args...))
	}
}

func (w *world) after(d time.Duration, do func()) {
	w.order++
	heap.Push(&w.events, event{w.now.Add(d), w.order, do})
}

// note makes something part of the history's hash.
func (w *world) note(format string, args ...any) {
	fmt.Fprintf(w.trace, "%d ", w.now.Sub(simEpoch))
	fmt.Fprintf(w.trace, format, args...)
}

// runFor lets time pass.
func (w *world) runFor(d time.Duration) {
	end := w.now.Add(d)
	for w.err == nil && len(w.events) > 0 && !w.events[0].at.After(end) {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		e.do()
		w.steps++
	}
	if w.err == nil {
		w.now = end
	}
}

func (w *world) chance(p float64) bool { return w.rng.Float64() < p }

func (w *world) between(a, b time.Duration) time.Duration {
	return a + time.Duration(w.rng.Int64N(int64(b-a)+1))
}

func (w *world) add(id *crypto.Identity) *simHost {
	h := &simHost{w: w, i: len(w.hosts), id: id, name: id.Name(), disk: storetest.NewDisk(),
		work: make(map[netip.Addr]*workload), places: make(map[uint32]simPlace)}
	w.hosts = append(w.hosts, h)
	w.byName[h.name] = append(w.byName[h.name], h)
	return h
}

func (h *simHost) config() Config {
	return Config{
		Identity: h.id, UID: crypto.UID(h.w.rng.Uint64() | 1), Random: rand.New(rand.NewPCG(h.w.rng.Uint64(), 1)),
		Range: h.w.prefix, Elsewhere: h.elsewhere,
	}
}

// up starts a host from what its disk has.
func (h *simHost) up() {
	if h.m != nil || h.destroyed {
		return
	}
	h.run++
	run := h.run
	h.restoredOld, h.told = h.bornOld, time.Time{}
	h.pending, h.saving, h.paused = make(map[uint64]*simRequest), nil, false
	log, journals, err := store.OpenJournal(h.disk, "ipam")
	h.log = log
	if err == nil && len(journals) == 0 {
		h.m, err = newMachine(h.config(), fakeHooks(h.w.bug), h.w.now)
	} else if err == nil {
		h.m, err = restore(h.config(), fakeHooks(h.w.bug), h.w.now, journals...)
	}
	if err != nil {
		h.w.fail(4, "host %d: start: %v", h.i, err)
		return
	}
	for _, o := range h.w.hosts {
		h.m.know(o.id.Public())
	}
	h.w.note("up %d", h.i)
	if !h.bornOld {
		h.checkSurvived()
	}
	h.newGossip()
	h.setPeers()
	var names []crypto.Name
	for _, t := range h.targets {
		names = append(names, h.w.hosts[t].name)
	}
	h.m.Targets(h.w.now, names, nil)
	h.pump()
	h.w.after(h.w.between(time.Millisecond, 300*time.Millisecond), func() {
		if h.run != run || h.m == nil {
			return
		}
		var list []Attached
		for _, a := range sortedAddrs(h.work) {
			list = append(list, Attached{h.work[a].id, netip.PrefixFrom(a, h.w.prefix.Bits())})
		}
		// What is noted as in use and is not attached has died with the host. It must
		// be looked for before the first grant.
		var dead []netip.Addr
		for _, a := range sortedAddrs(h.m.entries) {
			if e := h.m.entries[a]; h.work[a] == nil && (e.kind == kindUsed || e.kind == kindForeign) {
				dead = append(dead, a)
			}
		}
		h.m.Listed(h.w.now, list)
		for _, a := range dead {
			h.m.Release(h.w.now, h.m.entries[a].id, a)
		}
		h.pump()
	})
	h.tickLater(run)
}

func (h *simHost) tickLater(run int) {
	h.w.after(h.w.between(150*time.Millisecond, 350*time.Millisecond), func() {
		if h.run != run || h.m == nil {
			return
		}
		if !h.paused {
			h.setPeers()
			h.g.Tick(h.w.now)
			h.m.Tick(h.w.now)
			h.pump()
		}
		h.tickLater(run)
	})
}

// reaches reports whether what h sends arrives at o.
func (h *simHost) reaches(o *simHost) bool {
	return h != o && h.m != nil && o.m != nil && !h.w.cut[[2]int{h.i, o.i}]
}

// peers are the hosts that h can talk with, both ways.
func (h *simHost) peers() (list []*simHost) {
	for _, o := range h.w.hosts {
		if h.reaches(o) && o.reaches(h) && !o.paused && o.name != h.name {
			list = append(list, o)
		}
	}
	return list
}

func (h *simHost) setPeers() {
	var names []crypto.Name
	for _, o := range h.peers() {
		names = append(names, o.name)
	}
	slices.SortFunc(names, crypto.Name.Compare)
	names = slices.Compact(names)
	h.m.Peers(h.w.now, names, names)
	h.meet()
}

// transmit carries something to o, or not, or twice, or late.
func (h *simHost) transmit(o *simHost, do func()) {
	w := h.w
	n := 1
	if w.chance(w.duplicate) {
		n = 2
	}
	for range n {
		if w.chance(w.loss) || w.cut[[2]int{h.i, o.i}] {
			continue
		}
		d := w.between(time.Millisecond, 30*time.Millisecond)
		if w.chance(w.slow) {
			d = w.between(time.Second, 40*time.Second)
		}
		run := o.run
		var deliver func()
		deliver = func() {
			if o.run != run || o.m == nil || w.cut[[2]int{h.i, o.i}] {
				return
			}
			if o.paused {
				w.after(100*time.Millisecond, deliver)
				return
			}
			do()
			if o.m != nil {
				o.pump()
			}
		}
		w.after(d, deliver)
	}
}
