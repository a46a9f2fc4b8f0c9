package route

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	learnWays     = 8
	learnSweep    = 4 // buckets looked through for the aged at each try to enter something new
	secondMask    = 1<<24 - 1
	checkMask     = 1<<24 - 1
	defaultSlots  = 32768
	defaultPeer   = 1024
	defaultBridge = 4096
	defaultAge    = 10 * time.Minute
)

// LearnedConfig sizes a Learned.
type LearnedConfig struct {
	Seed      uint64        // random, so that nobody can aim at one bucket
	Entries   int           // slots of 16 bytes; 0: 32768. Rounded up to a power of two
	PerPeer   int           // most entries of one peer; 0: 1024
	PerBridge int           // most entries of the local ports of one VNI; 0: 4096
	Age       time.Duration // an entry not seen for this long is none; 0: 10 min
}

// Learned remembers where MACs that are no endpoint's were last seen. It has a fixed
// size. Looking up and refreshing take no lock; entering, moving and removing take
// one for some tens of nanoseconds, and a peer at its bound never gets that far.
//
//	bucket = hash(VNI, MAC):  8 slots of
//	  key    VNI 16 | MAC 48           0: free
//	  value  peer 16 | check 24 | second 24      0: no value
//
// check is odd and made from the key: a reader that meets a slot while it changes
// hands sees a value whose check is not its key's, and takes it for unknown. second
// is when the MAC was last seen, modulo 2^24 (194 days).
type Learned struct {
	seed      uint64
	mask      uint32 // buckets - 1
	age       uint64 // seconds
	perPeer   int32
	perBridge int32
	slots     []learnSlot
	peers     []atomic.Int32 // entries of each peer but 0
	bridges   []atomic.Int32 // entries of peer 0, by VNI
	refused   atomic.Uint64

	mu   sync.Mutex // held to change a key or a count
	hand uint32     // the next bucket to sweep; guarded by mu
}

type learnSlot struct{ key, value atomic.Uint64 }

// NewLearned makes an empty table.
func NewLearned(cfg LearnedConfig) *Learned {
	pick := func(v, standard int) int {
		if v <= 0 {
			return standard
		}
		return v
	}
	buckets := 1
	for buckets*learnWays < pick(cfg.Entries, defaultSlots) {
		buckets *= 2
	}
	age := cfg.Age
	if age <= 0 {
		age = defaultAge
	}
	return &Learned{
		seed:      cfg.Seed,
		mask:      uint32(buckets - 1),
		age:       uint64(age / time.Second),
		perPeer:   int32(pick(cfg.PerPeer, defaultPeer)),
		perBridge: int32(pick(cfg.PerBridge, defaultBridge)),
		slots:     make([]learnSlot, buckets*learnWays),
		peers:     make([]atomic.Int32, 1<<16),
		bridges:   make([]atomic.Int32, 1<<16),
	}
}

// place returns the bucket of a key and the check of its values.
func (l *Learned) place(key uint64) (bucket []learnSlot, check uint64) {
	h := mix(key^l.seed, l.seed+hashC)
	at := int(uint32(h)&l.mask) * learnWays
	return l.slots[at : at+learnWays : at+learnWays], (h>>40 | 1) & checkMask
}

func learnValue(peer PeerID, check, second uint64) uint64 {
	return uint64(peer)<<48 | check<<24 | second
}

func valuePeer(v uint64) PeerID { return PeerID(v >> 48) }

func valueCheck(v uint64) uint64 { return v >> 24 & checkMask }

func second(now int64) uint64 { return uint64(now) / uint64(time.Second) & secondMask }

// unseen is for how many seconds a value's MAC was not seen; 0 also for a value
// made by a reader of the clock who was ahead of the caller.
func unseen(v, second uint64) uint64 {
	d := (second - v) & secondMask
	if d > secondMask/2 {
		return 0
	}
	return d
}

func (l *Learned) aged(v, second uint64) bool { return unseen(v, second) > l.age }

// Learn notes that mac was seen at peer (0: a local port) at the time now, in
// nanoseconds of any monotonic clock. An entry of another peer moves at once. It
// does not allocate.
func (l *Learned) Learn(now int64, vni VNI, mac MAC, peer PeerID) {
	key, sec := macKey(vni, mac), second(now)
	bucket, check := l.place(key)
	for i := range bucket {
		s := &bucket[i]
		if s.key.Load() != key {
			continue
		}
		if v := s.value.Load(); valueCheck(v) == check && valuePeer(v) == peer {
			if v&secondMask != sec {
				s.value.CompareAndSwap(v, learnValue(peer, check, sec))
			}
			return
		}
		break
	}
	l.enter(key, bucket, check, sec, vni, peer)
}

// enter makes or moves an entry.
func (l *Learned) enter(key uint64, bucket []learnSlot, check, sec uint64, vni VNI, peer PeerID) {
	count, most := l.count(peer, vni)
	full := count.Load() >= most
	if full && !l.mu.TryLock() { // another sweeps: a flood never waits here
		l.refused.Add(1)
		return
	} else if !full {
		l.mu.Lock()
	}
	defer l.mu.Unlock()
	l.sweepLocked(sec)
	var chosen *learnSlot
	for i := range bucket {
		if s := &bucket[i]; s.key.Load() == key { // it moves: wherever it was, it is not there now
			l.freeLocked(s)
			chosen = s
			break
		}
	}
	if count.Load() >= most {
		l.refused.Add(1)
		return
	}
	if chosen == nil {
		chosen = l.victimLocked(bucket, sec)
		l.freeLocked(chosen)
	}
	chosen.key.Store(key)
	chosen.value.Store(learnValue(peer, check, sec))
	count.Add(1)
}

// count is the number of entries of who sits behind peer, and its bound.
func (l *Learned) count(peer PeerID, vni VNI) (*atomic.Int32, int32) {
	if peer == 0 {
		return &l.bridges[vni], l.perBridge
	}
	return &l.peers[peer], l.perPeer
}

// victimLocked picks the slot of a bucket to be used: a free one, an aged one, or
// of the entries of who has most in the table the longest unseen.
func (l *Learned) victimLocked(bucket []learnSlot, sec uint64) *learnSlot {
	var worst *learnSlot
	var worstCount int32
	var worstAge uint64
	for i := range bucket {
		s := &bucket[i]
		key, v := s.key.Load(), s.value.Load()
		if key == 0 || l.aged(v, sec) {
			return s
		}
		count, _ := l.count(valuePeer(v), VNI(key>>48))
		n, age := count.Load(), unseen(v, sec)
		if worst == nil || n > worstCount || n == worstCount && age > worstAge {
			worst, worstCount, worstAge = s, n, age
		}
	}
	return worst
}

// freeLocked empties a slot.
func (l *Learned) freeLocked(s *learnSlot) {
	key := s.key.Load()
	if key == 0 {
		return
	}
	v := s.value.Swap(0)
	s.key.Store(0)
	count, _ := l.count(valuePeer(v), VNI(key>>48))
	count.Add(-1)
}

// sweepLocked frees what has aged in the next few buckets, so that old entries
// don't count against anybody for long.
func (l *Learned) sweepLocked(sec uint64) {
	for range learnSweep {
		at := int(l.hand&l.mask) * learnWays
		l.hand++
		for i := at; i < at+learnWays; i++ {
			if s := &l.slots[i]; s.key.Load() != 0 && l.aged(s.value.Load(), sec) {
				l.freeLocked(s)
			}
		}
	}
}

// Lookup returns where mac was last seen; 0 is a local port. It does not allocate.
func (l *Learned) Lookup(now int64, vni VNI, mac MAC) (PeerID, bool) {
	key := macKey(vni, mac)
	bucket, check := l.place(key)
	for i := range bucket {
		if bucket[i].key.Load() != key {
			continue
		}
		v := bucket[i].value.Load()
		return valuePeer(v), valueCheck(v) == check && !l.aged(v, second(now))
	}
	return 0, false
}

// Forget removes all entries of a peer: before its number is given to another host.
func (l *Learned) Forget(peer PeerID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.slots {
		if s := &l.slots[i]; s.key.Load() != 0 && valuePeer(s.value.Load()) == peer {
			l.freeLocked(s)
		}
	}
}

// Count is the number of entries of a peer but 0, aged ones included until swept.
func (l *Learned) Count(peer PeerID) int { return int(l.peers[peer].Load()) }

// CountLocal is the number of entries of a VNI's local ports, aged ones included
// until swept.
func (l *Learned) CountLocal(vni VNI) int { return int(l.bridges[vni].Load()) }

// Refused is how often a MAC was not learned because its peer or bridge had its fill.
func (l *Learned) Refused() uint64 { return l.refused.Load() }
