package transport

import (
	"slices"
	"time"
)

// How large a datagram a path carries in one packet is found out by asking: probes of
// each size of a ladder leave at once, and what is answered passes. Nothing is believed
// that comes from in between (ICMP), for anybody can send it, and many filter it.
//
//	up ──▶ search: all rungs at once, what is missing twice more ──▶ the largest answered is the limit
//	        ▲                                                               │ while traffic leaves, every 1.5 s,
//	        │                                                               ▼ in silence every 0.5 s
//	        ├──── three unanswered while the path lives ◀── a probe of the limit's own size
//	        ├──── refused by this host (TooBig): back to BaseLimit at once
//	        └──── 10 min later, to look upward; 1 min after a fall
//
// An answered size counts at once, so that a good limit is known after one round trip.
// A limit falls at the end of a search's first round if it was a search for trouble,
// and of its last otherwise: a lost probe lowers nothing.

// BaseLimit is how many bytes of UDP payload are sent to a path in one packet before
// more is known of it: what IPv6's least MTU of 1280 leaves (RFC 8200 section 5).
const BaseLimit = 1280 - ipv6Header - udpHeader

// TCPLimit is how long a datagram over the TCP connection should be, in bytes. TCP cuts
// by itself, so longer means less work; but a datagram is written whole, and control
// messages wait for it: 16 KiB take 13 ms at 10 Mbit/s.
const TCPLimit = 16 << 10

const (
	ipv4Header = 20
	ipv6Header = 40
	udpHeader  = 8

	sizeTries    = 3                       // more where probes get lost
	verifyPause  = 1500 * time.Millisecond // between probes of the limit, while traffic leaves
	suspectPause = 500 * time.Millisecond  // likewise, when nothing comes back
	lookPause    = 10 * time.Minute        // between searches when nothing is the matter
	fallenPause  = time.Minute             // after a fall, doubled up to lookPause
	muteSearch   = 5 * time.Second         // after a search without any answer
	searchPause  = 200 * time.Millisecond  // between searches, whatever happens
)

// packetSizes are MTUs that are found in the world, in bytes: IPv4's least; mobile and
// odd ones; IPv6's least; tunnels in tunnels; WireGuard (1420), VXLAN (1450), clouds
// (1460, 8896), GRE and IPsec, PPPoE (1492), Ethernet, jumbo frames of all kinds,
// loopback.
var packetSizes = [...]int{576, 1200, 1280, 1340, 1380, 1400, 1420, 1440, 1450, 1460, 1480, 1492, 1500, 2000, 4000, 8000, 8896, 9000, 16000, 65000}

// ladders are the sizes that are tried, in bytes of UDP payload, ascending.
var ladder4, ladder6 = ladder(ipv4Header), ladder(ipv6Header)

func ladder(header int) []int {
	rungs := []int{BaseLimit}
	for _, mtu := range packetSizes {
		rungs = append(rungs, mtu-header-udpHeader)
	}
	slices.Sort(rungs)
	return slices.Compact(rungs)
}

// pathSize is what is known of the sizes that a path carries.
type pathSize struct {
	found int  // the limit; 0: BaseLimit
	known bool // a search has had answers

	// The search that goes on.
	searching bool
	suspect   bool // the limit itself is in doubt
	round     int
	roundEnds time.Time
	answered  int // the largest size so far
	refused   int // the smallest size that this host does not send; 0: none
	asked     []sizeAsked

	lookAt time.Time // next search; zero: as soon as the path is up
	look   time.Duration

	tried time.Time // last probe of the limit
	tries int       // of them unanswered
	first time.Time // the first of these
}

// sizeAsked is a probe of a size that may still be answered.
type sizeAsked struct {
	id   uint64
	size int
}

// limit is how many bytes of UDP payload fit into one packet of the path.
func (q *path) limit() int {
	switch {
	case q.Kind == PathTCP:
		return TCPLimit
	case q.size.found == 0:
		return BaseLimit
	}
	return q.size.found
}

// rungs are the sizes that q may be tried with.
func (q *path) rungs() []int {
	if q.Remote.Addr().Is4() {
		return ladder4
	}
	return ladder6
}

// Limit is how many bytes of UDP payload fit into one packet of the path in use:
// BaseLimit before more is known, TCPLimit over TCP.
func (p *Paths) Limit() int {
	if p.best == nil {
		return BaseLimit
	}
	return p.best.limit()
}

// TooBig notes that this host refused to send size bytes of UDP payload on a path
// (EMSGSIZE), as a probe or otherwise.
func (p *Paths) TooBig(now time.Time, on Path, size int) {
	now = p.enter(now)
	defer p.leave(now)
	q := p.find(on)
	if q == nil || q.Kind != PathDirect || size <= 0 {
		return
	}
	s := &q.size
	if s.searching {
		if s.refused == 0 || size < s.refused {
			s.refused = size
		}
		if s.answered >= size {
			s.answered = 0
		}
	}
	if size <= q.limit() {
		s.found = q.under(size)
		s.look = fallenPause
		s.tries, s.tried = 0, now
		if !s.searching {
			s.known = false // so that a path that is not in use is searched, too
			s.lookAt = later(now, s.roundEnds.Add(searchPause))
		}
	}
	p.settleSize(now, q)
}

// under is the limit that is safe when size is too much: BaseLimit, or else the next rung.
func (q *path) under(size int) int {
	if size > BaseLimit {
		return BaseLimit
	}
	rungs := q.rungs()
	i, _ := slices.BinarySearch(rungs, size)
	return rungs[max(i-1, 0)]
}

// sized reports whether q's sizes are to be measured at all.
func (p *Paths) sized(q *path) bool {
	return q.up && q.Kind == PathDirect && !p.cfg.Fragmenting
}

// sizeAt is when tickSize is due; false: not before something happens.
func (p *Paths) sizeAt(q *path) (time.Time, bool) {
	s := &q.size
	switch {
	case !p.sized(q):
		return time.Time{}, false
	case s.searching:
		return s.roundEnds, true
	case s.tries > 0:
		return s.tried.Add(q.answerTime()), true
	}
	at, ok := p.searchAt(q)
	if verify, wanted := p.verifyAt(q); wanted && (!ok || verify.Before(at)) {
		return verify, true
	}
	return at, ok
}

// searchAt is when q is to be searched. Paths take turns, the one in use first; the
// others are searched once.
func (p *Paths) searchAt(q *path) (time.Time, bool) {
	if q != p.best && q.size.known {
		return time.Time{}, false
	}
	for _, o := range p.paths {
		if o != q && (o.size.searching || o == p.best && p.sized(o) && !o.size.known) {
			return time.Time{}, false
		}
	}
	return later(q.size.lookAt, p.clock), true
}

// verifyAt is when the limit of q is to be tried: if traffic has left since it was.
func (p *Paths) verifyAt(q *path) (time.Time, bool) {
	s := &q.size
	if q != p.best || !s.known || !p.sent.After(s.tried) {
		return time.Time{}, false
	}
	if q.unheard > 0 {
		return s.tried.Add(suspectPause), true
	}
	return s.tried.Add(verifyPause), true
}

// tickSize does what is due about q's sizes.
func (p *Paths) tickSize(now time.Time, q *path) {
	s := &q.size
	if at, ok := p.sizeAt(q); !ok || at.After(now) {
		return
	}
	switch {
	case s.searching:
		p.endRound(now, q)
	case s.tries >= p.sizeTries(q) && q.heard.After(s.first):
		s.tries = 0
		p.search(now, q, true)
	case s.tries >= p.sizeTries(q):
		s.tries, s.tried = 0, now // nothing passes at all: no matter of size
	case s.tries > 0:
		p.verifySize(now, q)
	default:
		if at, ok := p.searchAt(q); ok && !at.After(now) {
			p.search(now, q, false)
			return
		}
		p.verifySize(now, q)
	}
}

// sizeTries is how often a size is tried on q before it is taken not to pass.
func (p *Paths) sizeTries(q *path) int {
	n, _ := p.need(q)
	return sizeTries * n / p.cfg.Lost
}

// verifySize tries the limit.
func (p *Paths) verifySize(now time.Time, q *path) {
	s := &q.size
	if s.tries == 0 {
		s.first = now
		s.asked = s.asked[:0]
	}
	s.tries++
	s.tried = now
	p.askSize(now, q, q.limit())
}

// search begins one.
func (p *Paths) search(now time.Time, q *path, suspect bool) {
	s := &q.size
	s.searching, s.suspect = true, suspect
	s.round, s.answered, s.refused = 0, 0, 0
	s.tries = 0
	s.asked = s.asked[:0]
	p.nextRound(now, q)
}

// nextRound asks for every size that may still turn out to pass.
func (p *Paths) nextRound(now time.Time, q *path) {
	s := &q.size
	s.round++
	s.roundEnds = now.Add(q.answerTime())
	for _, size := range q.rungs() {
		small := size < BaseLimit && (s.round == 1 && !s.suspect)
		if size > s.answered && !small && (s.refused == 0 || size < s.refused) {
			p.askSize(now, q, size)
		}
	}
}

// askSize sends one probe of a size. Its loss says nothing about the path's life.
func (p *Paths) askSize(now time.Time, q *path, size int) {
	if len(p.out) == maxProbeOut {
		p.out = slices.Delete(p.out, 0, 1)
	}
	id := p.cfg.Random.Uint64()
	q.size.asked = append(q.size.asked, sizeAsked{id: id, size: size})
	p.out = append(p.out, ProbeOut{ID: id, Path: q.Path, HearsYou: q.hears(now), Pad: size})
}

// sizeAnswered takes the answer to a probe of a size; false: it was none.
func (p *Paths) sizeAnswered(now time.Time, q *path, id uint64) bool {
	s := &q.size
	i := slices.IndexFunc(s.asked, func(a sizeAsked) bool { return a.id == id })
	if i < 0 {
		return false
	}
	size := s.asked[i].size
	s.asked = slices.Delete(s.asked, i, i+1)
	if !s.searching {
		s.tries = 0
		return true
	}
	if s.refused == 0 || size < s.refused {
		s.answered = max(s.answered, size)
		s.known = true
		if size > q.limit() {
			s.found = size
		}
	}
	p.settleSize(now, q)
	return true
}

// settleSize ends a search that can find out no more.
func (p *Paths) settleSize(now time.Time, q *path) {
	s := &q.size
	if !s.searching || s.answered == 0 {
		return
	}
	for _, size := range q.rungs() {
		if size > s.answered && (s.refused == 0 || size < s.refused) {
			return
		}
	}
	p.endSearch(now, q)
}

// endRound takes what a round has shown.
func (p *Paths) endRound(now time.Time, q *path) {
	s := &q.size
	if s.suspect && s.answered > 0 && s.answered < q.limit() {
		s.found, s.look = s.answered, fallenPause
	}
	if s.round < p.sizeTries(q) {
		p.nextRound(now, q)
		return
	}
	p.endSearch(now, q)
}

// endSearch takes what a search has shown.
func (p *Paths) endSearch(now time.Time, q *path) {
	s := &q.size
	s.searching = false
	s.roundEnds = now
	s.tries, s.tried = 0, now
	if s.answered == 0 {
		s.lookAt = now.Add(muteSearch)
		return
	}
	switch {
	case s.answered < s.found:
		s.look = fallenPause
	case s.look == 0:
		s.look = lookPause
	}
	s.found = s.answered
	s.lookAt = now.Add(p.jitter(s.look))
	s.look = min(2*s.look, lookPause)
}

// soonSize brings forward the next search of a path that is taken into use, for it may
// have changed since it was searched.
func (q *path) soonSize(now time.Time) {
	if at := later(now, q.size.roundEnds.Add(muteSearch)); at.Before(q.size.lookAt) {
		q.size.lookAt = at
	}
}

// renewSize begins all deadlines again, after a pause of the caller.
func (q *path) renewSize(now time.Time) {
	s := &q.size
	s.tries, s.tried = 0, later(s.tried, now)
	s.asked = s.asked[:0]
	if s.searching {
		s.searching = false
		s.lookAt = now
	}
}
