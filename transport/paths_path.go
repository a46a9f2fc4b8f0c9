package transport

import (
	"math/bits"
	"slices"
	"time"
)

// path is one of a peer's paths.
type path struct {
	Path
	listed bool // told by SetCandidates

	up       bool      // answered, not given up since
	both     bool      // the peer has said that it hears us
	deaf     time.Time // since when it says that it does not; zero: it does
	verify   bool      // only an answer counts as life, since the peer does not hear us
	failed   bool      // was up once and ended
	answers  int       // in a row
	samples  int
	rtt      time.Duration
	variance time.Duration
	recent   [8]time.Duration // the last round trips, oldest overwritten

	heard    time.Time // last life
	base     time.Time // silence is counted from here at the earliest
	probed   time.Time // last probe
	asked    []asked
	answered time.Time // last answer
	unheard  int       // probes sent since the last life
	tries    int       // probes without any answer while not up
	eager    int       // quick probes sent while up but not both
	burst    int       // probes of a burst still to come
	soon     bool      // a probe is wanted at once
	idleAt   time.Time // next probe while nothing is the matter
	retryAt  time.Time // next probe while down
	retry    time.Duration
	heldTo   time.Time // no probe before: a rate was used up
	slotAt   time.Time // no probe before while nothing is the matter; zero: it has no slot

	outcomes uint32 // of the last 32 probes, the last one lowest; 1: lost
	counted  int
	lost     []lostProbe // the last of them

	size  pathSize
	train pathTrain
}

// asked is a probe that waits for its answer.
type asked struct {
	id     uint64
	sent   time.Time
	series bool // nothing was heard since it left
}

// lostProbe is a probe that was counted as lost; its answer may still come.
type lostProbe struct {
	id   uint64
	sent time.Time
	ago  int // outcomes that were counted since
}

// answerTime is how long an answer may take.
func (p *path) answerTime() time.Duration {
	least := answerTimeMin
	if p.Kind == PathTCP {
		least = answerTimeMinTCP
	}
	return min(max(least, p.rtt+4*p.variance+10*time.Millisecond), answerTimeMax)
}

// fewSamples is how many round trips are too few for a mean, and for a loss.
const fewSamples = 8

// sample takes one round trip into the smoothed figures (RFC 6298 section 2). The
// first answers of a path may be late by what a host does while it starts: among
// few, and against one less than half the mean, the shortest is believed, for an
// idle path is sampled only every few seconds.
func (p *path) sample(rtt time.Duration) {
	rtt = max(rtt, time.Microsecond)
	switch {
	case p.samples == 0:
		p.rtt, p.variance = rtt, rtt/2
	case p.samples < fewSamples && rtt < p.rtt, rtt < p.rtt/2:
		p.rtt, p.variance = rtt, rtt/2
	default:
		p.variance += ((p.rtt - rtt).Abs() - p.variance) / 4
		p.rtt += (rtt - p.rtt) / 8
	}
	p.recent[p.samples%len(p.recent)] = rtt
	p.samples++
}

// shortest is the shortest of the last round trips; 0 before the first. It is what the
// path itself takes: what is above it is what hosts take to wake up, or queues, which
// differ from one probe to the next and are no news.
func (p *path) shortest() time.Duration {
	if p.samples == 0 {
		return 0
	}
	return slices.Min(p.recent[:min(p.samples, len(p.recent))])
}

// count notes a probe's outcome.
func (p *path) count(lost bool) {
	p.outcomes <<= 1
	if lost {
		p.outcomes |= 1
	}
	p.counted = min(p.counted+1, 32)
	for i := range p.lost {
		p.lost[i].ago++
	}
}

// lose counts a probe as lost. Of the first ones it does not say how good the path is: the
// other end may have no session yet, or another one, and not answer.
func (p *path) lose(a asked) {
	if p.samples < fewSamples {
		return
	}
	p.count(true)
	if len(p.lost) == maxLost {
		p.lost = slices.Delete(p.lost, 0, 1)
	}
	p.lost = append(p.lost, lostProbe{id: a.id, sent: a.sent})
}

// late takes an answer to a probe that was counted as lost, if it is one: the path has
// lost nothing, it is slow, or an end had no time.
func (p *path) late(now time.Time, id uint64) {
	if i := slices.IndexFunc(p.lost, func(l lostProbe) bool { return l.id == id }); i >= 0 {
		p.sample(now.Sub(p.lost[i].sent))
		p.outcomes &^= 1 << p.lost[i].ago // none is left of what is over 31
		p.lost = slices.Delete(p.lost, i, i+1)
	}
}

// loss is the share of the last probes that were lost.
func (p *path) loss() float64 {
	if p.counted == 0 {
		return 0
	}
	return float64(bits.OnesCount32(p.outcomes&(1<<p.counted-1))) / float64(p.counted)
}

// overdue counts the probes since the last life whose answer should be here.
func (p *path) overdue(now time.Time) int {
	n := 0
	for _, a := range p.asked {
		if a.series && now.Sub(a.sent) >= p.answerTime() {
			n++
		}
	}
	return n
}

// seriesStart is when the first probe of those left that nothing was heard after.
func (p *path) seriesStart() time.Time {
	for _, a := range p.asked {
		if a.series {
			return a.sent
		}
	}
	return time.Time{}
}

// alive notes life.
func (p *path) alive(now time.Time) {
	p.heard = later(p.heard, now)
	if !p.verify {
		p.calm()
	}
}

// calm ends a series of unanswered probes.
func (p *path) calm() {
	p.unheard = 0
	for i := range p.asked {
		p.asked[i].series = false
	}
}

// told takes the peer's word on whether it hears us on this path.
func (p *path) told(now time.Time, hears bool) {
	if hears {
		p.both, p.deaf, p.verify, p.eager = true, time.Time{}, false, 0
		p.calm()
		return
	}
	if p.up && p.both {
		if p.deaf.IsZero() {
			p.deaf = now
		}
		if !p.verify {
			p.verify = true
			p.calm()
		}
	}
}

// twoWay reports whether the path works in both directions.
func (p *path) twoWay(now time.Time) bool {
	return p.up && p.both && (p.deaf.IsZero() || now.Sub(p.deaf) < deafFor)
}

// renew begins all deadlines of the path again.
func (p *path) renew(now time.Time) {
	p.asked = p.asked[:0]
	p.unheard, p.burst, p.verify = 0, 0, false
	p.base = now
	if !p.deaf.IsZero() {
		p.deaf = now
	}
	if p.up {
		p.soon = true
	}
	p.renewSize(now)
	p.renewTrain(now)
}

// fail ends the path. What it took says nothing of what it takes when it comes back.
func (p *path) fail(now time.Time) {
	p.up, p.both, p.verify, p.failed = false, false, false, true
	p.deaf = time.Time{}
	p.asked = p.asked[:0]
	p.unheard, p.burst, p.answers, p.eager = 0, 0, 0, 0
	p.tries = firstTries
	p.retry, p.samples = 0, 0
	p.soon, p.slotAt = false, time.Time{}
	p.size, p.train = pathSize{}, pathTrain{}
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
