package route

import (
	"sync/atomic"
	"time"
)

const (
	limitWays    = 4
	limitBuckets = 1024
	// burst is how far ahead of its rate a source or the host may be.
	burst = 200 * time.Millisecond
	// frameBurst is the same for a source's frames.
	frameBurst = 100 * time.Millisecond
)

// limiter caps copies. Every rate is kept as the time until which what was sent
// has used it up (the generic cell rate algorithm), one atomic word each.
//
// The host's budget is fair: as long as it is no more than half used up, anyone may
// send; the other half is kept for sources that are within their share, which is
// the host's rate divided by the number of sources that sent in the last second.
// So the sources within their share always get through, and the rest get what is
// left. All MACs that are no endpoint's are one source here: they may be made up.
type limiter struct {
	seed      uint64
	frameGap  int64        // nanoseconds a frame of one source
	copyGap   int64        // nanoseconds a copy of the host
	host      atomic.Int64 // used up until
	second    atomic.Int64 // the current one
	active    atomic.Int64 // sources in the current second
	before    atomic.Int64 // sources in the one before
	unmanaged share
	sources   []source
}

// share is one source's part of the host's budget.
type share struct {
	used   atomic.Int64 // used up until
	second atomic.Int64 // when it was last counted as active
}

// source is one MAC.
type source struct {
	key    atomic.Uint64
	frames atomic.Int64 // used up until
	share  share
}

func (l *limiter) init(seed uint64, framesPerSource, copiesPerHost int) {
	l.seed = seed
	l.frameGap = int64(time.Second) / int64(framesPerSource)
	l.copyGap = int64(time.Second) / int64(copiesPerHost)
	l.sources = make([]source, limitBuckets*limitWays)
}

// allow reports whether a frame of the source may be copied to that many hosts now,
// by DropNone, or by which cap it may not. managed: the source is an endpoint.
func (l *limiter) allow(now int64, key uint64, managed bool, copies int) Drop {
	s := l.source(now, key)
	if s.frames.Load()-now > int64(frameBurst) {
		return DropSourceCap
	}
	who := &l.unmanaged
	if managed {
		who = &s.share
	}
	cost := int64(copies) * l.copyGap
	part := cost * l.sharers(now, who)
	room := int64(burst) / 2
	within := who.used.Load()-now <= int64(burst)/2
	if within {
		room = int64(burst)
	}
	if !advance(&l.host, now, cost, room) {
		return DropHostCap
	}
	if within {
		advance(&who.used, now, part, int64(burst)/2)
	}
	advance(&s.frames, now, l.frameGap, int64(frameBurst))
	return DropNone
}

// advance uses up cost unless more than room is used up already.
func advance(until *atomic.Int64, now, cost, room int64) bool {
	for {
		old := until.Load()
		if old-now > room {
			return false
		}
		if until.CompareAndSwap(old, max(old, now)+cost) {
			return true
		}
	}
}

// sharers counts who as active and returns the number of active sources.
func (l *limiter) sharers(now int64, who *share) int64 {
	sec := now/int64(time.Second) + 1 // never 0, the mark of what was not yet seen
	if old := l.second.Load(); sec > old && l.second.CompareAndSwap(old, sec) {
		n := l.active.Swap(0)
		if sec > old+1 {
			n = 0
		}
		l.before.Store(n)
	}
	if who.second.Load() != sec && who.second.Swap(sec) != sec {
		l.active.Add(1)
	}
	return max(l.active.Load(), l.before.Load(), 1)
}

// source finds the source's words, or takes those of one that owes nothing. If all
// of its bucket owe, it shares the first one's: it gets less, never more.
func (l *limiter) source(now int64, key uint64) *source {
	at := int(uint32(mix(key^l.seed, l.seed+hashC))%limitBuckets) * limitWays
	bucket := l.sources[at : at+limitWays]
	for i := range bucket {
		if bucket[i].key.Load() == key {
			return &bucket[i]
		}
	}
	for i := range bucket {
		s := &bucket[i]
		old := s.key.Load()
		if s.frames.Load() <= now && s.share.used.Load() <= now && s.key.CompareAndSwap(old, key) {
			s.share.second.Store(0)
			return s
		}
	}
	return &bucket[0]
}
