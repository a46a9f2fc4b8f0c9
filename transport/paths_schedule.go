package transport

import (
	"slices"
	"time"
)

// need is how many unanswered probes end q, and the pause between them: more and
// quicker ones where probes get lost, in the same time.
func (p *Paths) need(q *path) (n int, pause time.Duration) {
	n = p.cfg.Lost
	if q.counted >= 16 {
		switch loss := q.loss(); {
		case loss >= 0.15:
			n *= 3
		case loss >= 0.05:
			n *= 2
		}
	}
	return n, p.cfg.ProbeActive * time.Duration(p.cfg.Lost-1) / time.Duration(max(n-1, 1))
}

// jitter is d ± 20 %.
func (p *Paths) jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*p.cfg.Random.Float64()))
}

// EarlyProbe is how much sooner than it says an idle probe may leave: with others, for
// which the host is awake anyway.
const EarlyProbe = 500 * time.Millisecond

// idlePause is the time between probes of a path with which nothing is the matter. With
// EarlyProbe off, the shortest is ProbeIdle ± 20 %, and less where traffic has become slower.
// Paths that are not in use are measured until they can be compared, and then only lest a
// NAT forgets them.
func (p *Paths) idlePause(q *path) time.Duration {
	d := p.cfg.ProbeIdle
	switch {
	case q == p.best && (p.slower() || q.samples < samplesEnough):
		d = min(d, slowerPause)
	case q == p.best || p.best == nil:
	case q.samples < samplesEnough:
		d *= 2
	case q.Kind == PathTCP:
		d *= 12
	default:
		d *= 4
	}
	return time.Duration(float64(d) * (0.9 + 0.3*p.cfg.Random.Float64()))
}

// spare takes a probe of the peer, which says that all is well, for one of ours: so of
// two ends one asks, by turns as chance has it. Each measures for itself now and then, and
// always while another path may be better than the one in use.
func (p *Paths) spare(now time.Time, q *path) {
	if q == p.best && (p.slower() || p.challenger != nil) {
		return
	}
	if q.up && q.both && q.unheard == 0 && q.samples >= samplesEnough {
		pause := p.idlePause(q)
		if at := now.Add(pause); at.Before(q.answered.Add(3 * pause)) {
			q.idleAt = later(q.idleAt, at)
		}
	}
}

// slower reports whether the path in use carries traffic and its last round trip was far
// above the shortest: whether that lasts is soon to be known.
func (p *Paths) slower() bool {
	q := p.best
	return !p.sent.IsZero() && p.clock.Sub(p.sent) < activeFor &&
		q.samples > 0 && q.recent[(q.samples-1)%len(q.recent)] > 2*q.shortest()+slowerBy
}

// probeDue reports whether q is to be probed now.
func (p *Paths) probeDue(now time.Time, q *path) bool {
	at, ok := p.probeAt(q)
	if !ok || !at.After(now) {
		return ok
	}
	wanted, _ := p.wantedAt(q)
	return q.up && q.idle(wanted) && !wanted.After(now.Add(EarlyProbe)) && !later(q.slotAt, q.heldTo).After(now)
}

// probeAt is when q is to be probed next; false: not before something happens.
func (p *Paths) probeAt(q *path) (time.Time, bool) {
	at, ok := p.wantedAt(q)
	idle := q.idle(at)
	if !q.probed.IsZero() {
		space := probeSpace
		if q.burst > 0 {
			space = burstPause
		}
		at = later(at, q.probed.Add(space))
	}
	if idle {
		at = later(at, q.slotAt)
	}
	return later(at, q.heldTo), ok
}

// idle reports whether nothing is the matter with a path that is wanted to be probed
// at the time told: the probe may wait.
func (q *path) idle(wanted time.Time) bool {
	return q.up && wanted.Equal(q.idleAt) || !q.up && q.tries >= firstTries && wanted.Equal(q.retryAt)
}

func (p *Paths) wantedAt(q *path) (time.Time, bool) {
	n, pause := p.need(q)
	switch {
	case q.up && q.unheard >= n:
		return time.Time{}, false
	case q.soon, q.burst > 0 && q.burst < burstLen:
		return p.clock, true
	case !q.up && q.probed.IsZero():
		return p.clock, true
	case !q.up && (q.tries < firstTries || q.answers > 0):
		return q.probed.Add(p.cfg.ProbeActive), true
	case !q.up:
		return q.retryAt, q.listed
	case q.unheard > 0:
		return q.probed.Add(pause), true
	case q.verify, !q.both && q.eager < eagerTries:
		return q.probed.Add(p.cfg.ProbeActive), true
	}
	at := q.idleAt
	if q == p.best && !p.sent.IsZero() {
		silent := later(q.heard, q.base).Add(p.cfg.ProbeActive)
		if silent.Sub(p.sent) < activeFor && silent.Before(at) && p.clock.Sub(p.sent) < activeFor {
			at = silent
		}
	}
	if b := p.best; b != nil && b != q && b.up && b.overdue(p.clock) > 0 && q.heard.Before(b.seriesStart()) {
		at = p.clock
	}
	return at, true
}

// endAt is when q has left so many probes unanswered that it ends.
func (p *Paths) endAt(q *path) (time.Time, bool) {
	if n, _ := p.need(q); q.up && q.unheard >= n {
		return q.probed.Add(q.answerTime()), true
	}
	return time.Time{}, false
}

// order is all paths, the one in use first: it gets its probes before the others.
func (p *Paths) order() []*path {
	order := slices.Clone(p.paths)
	if i := slices.Index(order, p.best); i > 0 {
		order[0], order[i] = order[i], order[0]
	}
	return order
}

// probe sends one on q, if the rates allow.
func (p *Paths) probe(now time.Time, q *path) {
	if at, _ := p.wantedAt(q); q.slotAt.IsZero() && q.idle(at) {
		if q.slotAt = p.cfg.Budget.slot(now); q.slotAt.After(now) {
			return
		}
	}
	if p.tokensAt.IsZero() {
		p.tokens = probeBurst
	} else {
		p.tokens = min(probeBurst, p.tokens+probeRate*now.Sub(p.tokensAt).Seconds())
	}
	p.tokensAt = now
	least := 1.0
	if q != p.best {
		least = probeReserve + 1
	}
	if p.tokens < least {
		q.heldTo = now.Add(postpone)
		return
	}
	if !p.cfg.Budget.Take(now) {
		q.heldTo, q.slotAt = now.Add(p.jitter(postpone)), time.Time{}
		return
	}
	p.tokens--
	q.slotAt = time.Time{}

	if len(q.asked) == maxAsked {
		q.lose(q.asked[0])
		q.asked = slices.Delete(q.asked, 0, 1)
	}
	id := p.cfg.Random.Uint64()
	hears := q.hears(now)
	q.asked = append(q.asked, asked{id: id, sent: now, series: true})
	q.probed, q.soon = now, false
	q.burst = max(0, q.burst-1)
	q.idleAt = now.Add(p.idlePause(q))
	if q.up {
		q.unheard++
		if !q.both {
			q.eager++
		}
	} else {
		q.tries++
		q.retry = min(max(p.cfg.ProbeIdle, 2*q.retry), retryMax)
		q.retryAt = now.Add(p.jitter(q.retry))
	}
	if len(p.out) == maxProbeOut {
		p.out = slices.Delete(p.out, 0, 1)
	}
	p.out = append(p.out, ProbeOut{ID: id, Path: q.Path, HearsYou: hears})
}

// cost compares paths of one kind.
func (q *path) cost() time.Duration {
	return q.shortest() + time.Duration(q.loss()*float64(lossCost))
}

// choose decides which path is in use.
func (p *Paths) choose(now time.Time) {
	if p.best != nil && !p.best.up {
		p.best = nil
	}
	var first *path
	for _, q := range p.paths {
		if q.up && (first == nil || p.before(now, q, first)) {
			first = q
		}
	}
	if first == nil || first == p.best {
		p.challenger = nil
		return
	}
	b := p.best
	switch {
	case b == nil,
		b.Kind == PathTCP && first.Kind == PathDirect && first.twoWay(now),
		!b.twoWay(now) && first.twoWay(now),
		b.overdue(now) >= 2 && first.overdue(now) == 0 && first.heard.After(b.seriesStart()):
		p.use(now, first)
		return
	}
	if first.Kind != b.Kind || first.twoWay(now) != b.twoWay(now) || first.samples < samplesEnough ||
		first.cost() >= b.cost()*4/5-time.Millisecond {
		p.challenger = nil
		return
	}
	if p.challenger != first {
		p.challenger, p.since, p.measured = first, now, b.samples
	} else if now.Sub(p.since) >= betterFor && b.samples-p.measured >= samplesEnough {
		p.use(now, first)
	}
}

// use takes q into use.
func (p *Paths) use(now time.Time, q *path) {
	p.best, p.challenger = q, nil
	q.base = now // its silence so far was nobody's
	if q.idleAt.After(now.Add(p.cfg.ProbeIdle)) {
		q.idleAt = now.Add(p.jitter(p.cfg.ProbeIdle))
	}
	q.soonSize(now)
}

// before orders paths that are up: those that work both ways, those whose answers are
// not late, UDP before TCP, then by cost.
func (p *Paths) before(now time.Time, a, b *path) bool {
	if x, y := a.twoWay(now), b.twoWay(now); x != y {
		return x
	}
	if x, y := a.overdue(now) >= 2, b.overdue(now) >= 2; x != y {
		return y
	}
	if a.Kind != b.Kind {
		return a.Kind == PathDirect
	}
	return a.cost() < b.cost()
}
