package transport

import (
	"net/netip"
	"slices"
	"time"
)

// SetCandidates replaces the addresses where the peer may be, as gossip, its Hello and
// observation tell them. At most 16 are kept; what cannot be an address of a host is
// left out. A path that is up stays until it fails.
func (p *Paths) SetCandidates(now time.Time, addrs []netip.AddrPort) {
	now = p.enter(now)
	for _, q := range p.paths {
		q.listed = false
	}
	listed := 0
	for _, a := range addrs {
		to := DirectPath(a)
		ip := to.Remote.Addr()
		if !ip.IsValid() || a.Port() == 0 || ip.IsUnspecified() || ip.IsMulticast() || listed == maxCandidates {
			continue
		}
		q := p.find(to)
		if q == nil {
			q = p.add(to)
		}
		if q != nil && !q.listed {
			q.listed = true
			listed++
		}
	}
	p.paths = slices.DeleteFunc(p.paths, func(q *path) bool {
		return q.Kind == PathDirect && !q.listed && !q.up
	})
	p.leave(now)
}

// SetTCP says whether the pair's TCP connection is there. When it goes, the path in
// use is asked three times within 100 ms whether the peer still lives.
func (p *Paths) SetTCP(now time.Time, up bool) {
	now = p.enter(now)
	tcp := Path{Kind: PathTCP}
	q := p.find(tcp)
	switch {
	case up && q == nil:
		p.paths = append(p.paths, &path{Path: tcp, listed: true, base: now})
	case !up && q != nil:
		p.paths = slices.DeleteFunc(p.paths, func(o *path) bool { return o == q })
		if p.best == q {
			p.best = nil
			p.choose(now)
		}
		if p.best != nil {
			p.best.burst, p.best.soon = burstLen, true
		}
	}
	p.leave(now)
}

// Heard notes an authenticated datagram. From an address that is not known, it makes
// that address a candidate: it is probed, and used only after it has answered.
func (p *Paths) Heard(now time.Time, on Path) {
	now = p.enter(now)
	if q := p.meet(now, on); q != nil {
		q.alive(now)
	}
	p.leave(now)
}

// Sent notes that traffic leaves for this peer.
func (p *Paths) Sent(now time.Time) {
	now = p.enter(now)
	p.sent = now
	p.leave(now)
}

// Probed notes a probe of the peer, and whether it says that it hears us there. The
// caller answers it, on the same path, with Hears.
func (p *Paths) Probed(now time.Time, on Path, hearsYou bool) {
	now = p.enter(now)
	if q := p.meet(now, on); q != nil {
		q.alive(now)
		q.told(now, hearsYou)
		if !q.up {
			q.soon, q.tries = true, 0
		}
		if hearsYou {
			p.spare(now, q)
		}
	}
	p.leave(now)
}

// Answered notes an answer. It counts when it comes on the path that the probe took.
func (p *Paths) Answered(now time.Time, on Path, id uint64, hearsYou bool) {
	now = p.enter(now)
	defer p.leave(now)
	q := p.find(on)
	if q == nil {
		return
	}
	if p.sizeAnswered(now, q, id) {
		q.verify = false
		q.alive(now)
		q.told(now, hearsYou)
		return
	}
	i := slices.IndexFunc(q.asked, func(a asked) bool { return a.id == id })
	if i < 0 {
		q.late(now, id)
		q.alive(now)
		return
	}
	q.sample(now.Sub(q.asked[i].sent))
	q.count(false)
	q.asked = slices.Delete(q.asked, i, i+1)
	q.verify, q.answered = false, now
	q.alive(now)
	q.answers++
	q.tries, q.retry = 0, 0
	if !q.up && (!q.failed || q.answers >= answersAgain) {
		q.up, q.failed = true, false
		q.asked = q.asked[:0] // what was asked while the other end was not ready is no loss
		q.soon = true         // to tell the peer that it is heard
		q.idleAt = now.Add(p.idlePause(q))
	}
	q.told(now, hearsYou)
	p.choose(now)
}

// Tick does what is due: probes, ends, changes of path.
func (p *Paths) Tick(now time.Time) {
	now = p.enter(now)
	for _, q := range p.paths {
		q.asked = slices.DeleteFunc(q.asked, func(a asked) bool {
			lost := now.Sub(a.sent) >= max(forgetAfter, q.answerTime())
			switch {
			case lost && q.up:
				q.lose(a)
			case lost:
				q.answers = 0
			}
			return lost
		})
	}
	p.expire(now)
	p.choose(now)
	for _, q := range p.order() {
		if p.probeDue(now, q) {
			p.probe(now, q)
		}
		p.tickSize(now, q)
		p.tickTrain(now, q)
	}
	p.tickReports(now)
	p.leave(now)
}

// expire ends what has been asked often enough.
func (p *Paths) expire(now time.Time) {
	ended := false
	for _, q := range p.paths {
		if at, ok := p.endAt(q); ok && !at.After(now) {
			ended = ended || q == p.best
			p.fail(now, q)
		}
	}
	if ended {
		// The others were asked as soon as the best was late: who has left two
		// probes unanswered is as dead.
		for _, q := range p.paths {
			if q.up && q.overdue(now) >= 2 {
				p.fail(now, q)
			}
		}
	}
	p.purge(now)
}

// purge forgets unknown addresses that did not answer, and what is no longer told
// and has failed.
func (p *Paths) purge(now time.Time) {
	p.paths = slices.DeleteFunc(p.paths, func(q *path) bool {
		return q.Kind == PathDirect && !q.listed && !q.up && (q.failed || q.tries >= firstTries && now.Sub(q.probed) >= time.Second)
	})
}

func (p *Paths) fail(now time.Time, q *path) {
	q.fail(now)
	q.retryAt = now.Add(p.jitter(p.cfg.ProbeIdle))
}

// Next is when Tick is due at the latest; the zero time: not before another call.
func (p *Paths) Next() time.Time { return p.due }

// Probes hands over the probes that are due. They are not kept.
func (p *Paths) Probes() []ProbeOut {
	out := p.out
	p.out = nil
	return out
}

// Best is the path in use.
func (p *Paths) Best() (Path, bool) {
	if p.best == nil {
		return Path{}, false
	}
	return p.best.Path, true
}

// Up reports whether the link is up: the path in use works both ways.
func (p *Paths) Up() bool { return p.best != nil && p.best.twoWay(p.clock) }

// Hears reports whether the peer is heard on a path: what answers and probes tell it
// in HearsYou.
func (p *Paths) Hears(on Path) bool {
	q := p.find(on)
	return q != nil && q.hears(p.clock)
}

// hears reports whether the peer answers on the path.
func (p *path) hears(now time.Time) bool { return p.up && p.overdue(now) == 0 }

// Cost is the shortest of the last round trips of the path in use, with the TCP penalty,
// and its loss.
func (p *Paths) Cost() (rtt time.Duration, loss float64) {
	if p.best == nil {
		return 0, 0
	}
	rtt = p.best.shortest()
	if p.best.Kind == PathTCP {
		rtt += p.cfg.TCPPenalty
	}
	return rtt, p.best.loss()
}

// Status lists all paths in the order they came.
func (p *Paths) Status() []PathStatus {
	list := make([]PathStatus, 0, len(p.paths))
	for _, q := range p.paths {
		list = append(list, PathStatus{Path: q.Path, RTT: q.rtt, Loss: q.loss(), Up: q.up, Best: q == p.best, LastHeard: q.heard,
			Limit: q.limit(), Train: trainLevels[q.train.level]})
	}
	return list
}

// enter begins every call: time never runs back, and a call that comes much later
// than was due begins all deadlines again.
func (p *Paths) enter(now time.Time) time.Time {
	now = later(now, p.clock)
	if !p.due.IsZero() && now.Sub(p.due) > lateTick {
		for _, q := range p.paths {
			q.renew(now)
		}
		p.challenger = nil
	}
	p.clock = now
	return now
}

// leave ends every call with the time of the next.
func (p *Paths) leave(now time.Time) {
	p.due = time.Time{}
	for _, q := range p.paths {
		if at, ok := p.probeAt(q); ok {
			p.dueAt(at)
		}
		if at, ok := p.endAt(q); ok {
			p.dueAt(at)
		}
		if at, ok := p.sizeAt(q); ok {
			p.dueAt(at)
		}
		if at, ok := p.trainAt(q); ok {
			p.dueAt(at)
		}
		for _, a := range q.asked {
			if at := a.sent.Add(q.answerTime()); q.up && a.series && at.After(now) {
				p.dueAt(at)
			}
		}
	}
	for _, t := range p.incoming {
		p.dueAt(t.due)
	}
	if p.challenger != nil {
		if at := p.since.Add(betterFor); at.After(now) { // later an answer decides
			p.dueAt(at)
		}
	}
	if p.best != nil && p.best.up && !p.best.deaf.IsZero() {
		if at := p.best.deaf.Add(deafFor); at.After(now) {
			p.dueAt(at)
		}
	}
	if !p.due.IsZero() {
		p.due = later(p.due, now)
	}
}

func (p *Paths) dueAt(at time.Time) {
	if p.due.IsZero() || at.Before(p.due) {
		p.due = at
	}
}

func (p *Paths) find(to Path) *path {
	if to.Kind == PathDirect {
		to = DirectPath(to.Remote)
	}
	for _, q := range p.paths {
		if q.Path == to {
			return q
		}
	}
	return nil
}

// meet finds the path that something was heard on, or makes it a candidate.
func (p *Paths) meet(now time.Time, on Path) *path {
	if on.Kind == PathDirect {
		on = DirectPath(on.Remote)
	}
	q := p.find(on)
	if q != nil || on.Kind != PathDirect || !on.Remote.IsValid() || on.Remote.Port() == 0 {
		return q
	}
	if !p.learnt.IsZero() && now.Sub(p.learnt) < learnPause {
		return nil
	}
	p.purge(now)
	unknown := 0
	for _, o := range p.paths {
		if o.Kind == PathDirect && !o.listed && !o.up {
			unknown++
		}
	}
	if unknown >= maxLearnt {
		return nil
	}
	if q = p.add(on); q == nil {
		return nil
	}
	p.learnt = now
	if p.best != nil {
		p.best.soon = true // the peer may have moved
	}
	return q
}

// add makes a direct path, in the place of a dead one if there are too many; nil
// when all are up.
func (p *Paths) add(to Path) *path {
	direct := 0
	for _, q := range p.paths {
		if q.Kind == PathDirect {
			direct++
		}
	}
	if direct >= maxCandidates {
		i := slices.IndexFunc(p.paths, func(q *path) bool { return q.Kind == PathDirect && !q.up && !q.listed })
		if i < 0 {
			i = slices.IndexFunc(p.paths, func(q *path) bool { return q.Kind == PathDirect && !q.up })
		}
		if i < 0 {
			return nil
		}
		p.paths = slices.Delete(p.paths, i, i+1)
	}
	q := &path{Path: to, base: p.clock}
	p.paths = append(p.paths, q)
	return q
}
