package transport

import (
	"math/bits"
	"slices"
	"time"
)

// How many datagrams may leave by one call to the kernel (UDP_SEGMENT) is found out by
// numbered trains: kernels and network cards have cut such calls into damaged or
// reordered datagrams. Each end tries its own direction on the path in use.
//
//	1 ──▶ 8 ──▶ 32 ──▶ 64   up: a train of equal datagrams and one with a shorter last,
//	  ◀──   ◀──    ◀──            each whole at one of three tries
//	                         down: three tries failed; the lower figure is tried at once
//
// The figure is tried again every 3 min in which the path carries traffic. A train
// is whole when all of it came: damage that hits one datagram in a train must not pass
// for loss, while a path that loses datagrams gains little from trains. Where a train
// takes trainSlack longer than the shortest round trip, longer ones are not tried: they
// would gain nothing and hold up others.

const (
	trainEvery = 3 * time.Minute
	trainTries = 3
	trainWait  = 100 * time.Millisecond // after a datagram of a train, for the next
	trainSlack = 25 * time.Millisecond
	trainPause = 50 * time.Millisecond // between trains: what is queued may drain
	maxTrains  = 4                     // incoming, of which reports are due
	maxReports = 16                    // that wait for the caller
)

// trainLevels are the figures that are tried, in datagrams.
var trainLevels = [...]int{1, 8, 32, MaxTrainCount}

// TrainOut is a numbered train that is due: Count datagrams of Size bytes of UDP payload,
// the last one of Last, with a TrainPiece each, to be sent by one call.
type TrainOut struct {
	ID         uint64
	Path       Path
	Count      int
	Size, Last int
}

// ReportOut is the report of a train that is due.
type ReportOut struct {
	TrainReport
	Path Path
}

// pathTrain is what is known of the trains that a path carries.
type pathTrain struct {
	level  int       // proven, in trainLevels
	trying int       // likewise; 0: nothing is tried
	short  bool      // the train with the shorter last one
	tries  int       // that failed
	slow   int       // that came, but slowly
	fell   bool      // in this round: no step up
	at     time.Time // when the next train is due; zero: as soon as may be

	out      TrainOut // the one on its way
	sent     time.Time
	deadline time.Time
	doubted  bool
	limit    int // of the path, when it left
}

// trainIn is a train that comes in.
type trainIn struct {
	path   Path
	report TrainReport
	next   int // one above the latest place that came
	due    time.Time
}

// Train is how many datagrams may leave by one call on the path in use; at least 1.
func (p *Paths) Train() int {
	if p.best == nil {
		return 1
	}
	return trainLevels[p.best.train.level]
}

// Trains hands over the trains that are due. They are not kept.
func (p *Paths) Trains() []TrainOut {
	out := p.trains
	p.trains = nil
	return out
}

// Reports hands over the reports that are due. They are not kept.
func (p *Paths) Reports() []ReportOut {
	out := p.reports
	p.reports = nil
	return out
}

// TrainPiece notes a datagram of a train of the peer.
func (p *Paths) TrainPiece(now time.Time, on Path, piece TrainPiece) {
	now = p.enter(now)
	defer p.leave(now)
	q := p.find(on)
	if q == nil || piece.Count == 0 || piece.Count > MaxTrainCount || piece.Place >= piece.Count {
		return
	}
	q.alive(now)
	i := slices.IndexFunc(p.incoming, func(t trainIn) bool { return t.report.ID == piece.ID && t.path == q.Path })
	if i < 0 {
		if len(p.incoming) == maxTrains {
			p.incoming = slices.Delete(p.incoming, 0, 1)
		}
		i = len(p.incoming)
		p.incoming = append(p.incoming, trainIn{path: q.Path, report: TrainReport{ID: piece.ID, Count: piece.Count}})
	}
	t := &p.incoming[i]
	if bit := uint64(1) << piece.Place; piece.Count == t.report.Count && t.report.Arrived&bit == 0 {
		t.report.Arrived |= bit
		if int(piece.Place) < t.next {
			t.report.Late++
		}
		t.next = max(t.next, int(piece.Place)+1)
	}
	t.due = now.Add(trainWait)
	if bits.OnesCount64(t.report.Arrived) == int(t.report.Count) {
		p.report(i)
	}
}

// report makes the report of an incoming train, and forgets the train.
func (p *Paths) report(i int) {
	if len(p.reports) == maxReports {
		p.reports = slices.Delete(p.reports, 0, 1)
	}
	t := p.incoming[i]
	p.reports = append(p.reports, ReportOut{TrainReport: t.report, Path: t.path})
	p.incoming = slices.Delete(p.incoming, i, i+1)
}

// TrainReport takes the peer's report of one of our trains.
func (p *Paths) TrainReport(now time.Time, on Path, report TrainReport) {
	now = p.enter(now)
	defer p.leave(now)
	q := p.find(on)
	if q == nil {
		return
	}
	q.alive(now)
	t := &q.train
	if t.out.Count == 0 || report.ID != t.out.ID || int(report.Count) != t.out.Count {
		return
	}
	if !report.Whole() {
		p.trainFailed(now, q)
		return
	}
	if now.Sub(t.sent) > q.shortest()+trainSlack && trainLevels[t.trying] < MaxTrainCount {
		if t.slow++; t.slow < trainTries {
			p.nextTrain(now, q)
			return
		}
	}
	t.tries = 0
	switch {
	case !t.short:
		t.short = true
		t.slow = 0
		p.nextTrain(now, q)
	case t.slow >= trainTries || t.fell || t.trying+1 == len(trainLevels):
		t.level = t.trying
		p.endTrains(now, q)
	default:
		t.level = t.trying
		p.tryTrain(now, q, t.trying+1)
	}
}

// trainFailed takes a train that did not come whole, or of which nothing was heard.
func (p *Paths) trainFailed(now time.Time, q *path) {
	t := &q.train
	// What was lost for its size, or because the path ended, says nothing about trains.
	if q.limit() == t.limit && !q.heard.Before(t.sent) {
		t.tries++
	}
	switch {
	case t.tries < trainTries:
		p.nextTrain(now, q)
	case t.trying > t.level:
		p.endTrains(now, q)
	default:
		t.level--
		t.fell = true
		if t.level == 0 {
			p.endTrains(now, q)
		} else {
			p.tryTrain(now, q, t.level)
		}
	}
}

// tryTrain begins to try a level.
func (p *Paths) tryTrain(now time.Time, q *path, level int) {
	t := &q.train
	t.trying, t.short, t.tries, t.slow = level, false, 0, 0
	p.nextTrain(now, q)
}

// nextTrain waits for the next train of what is tried.
func (p *Paths) nextTrain(now time.Time, q *path) {
	q.train.out = TrainOut{}
	q.train.at = now.Add(trainPause)
}

// endTrains waits for the next time that trains are tried.
func (p *Paths) endTrains(now time.Time, q *path) {
	t := &q.train
	t.out = TrainOut{}
	t.trying, t.fell = 0, false
	t.at = now.Add(p.jitter(trainEvery))
}

// trainAt is when tickTrain is due; false: not before something happens.
func (p *Paths) trainAt(q *path) (time.Time, bool) {
	t := &q.train
	switch {
	case q != p.best || q.Kind != PathDirect || !q.twoWay(p.clock) || !q.size.known || q.size.searching:
		return time.Time{}, false
	case t.out.Count > 0:
		return t.deadline, true
	case t.trying == 0 && !t.at.IsZero() && (p.sent.IsZero() || p.clock.Sub(p.sent) >= activeFor):
		return time.Time{}, false
	}
	return later(t.at, p.clock), true
}

// tickTrain does what is due about q's trains.
func (p *Paths) tickTrain(now time.Time, q *path) {
	t := &q.train
	if at, ok := p.trainAt(q); !ok || at.After(now) {
		return
	}
	if t.out.Count > 0 {
		if !t.doubted && q.heard.Before(t.sent) {
			// Is the path silent, or is every train lost on it?
			t.doubted, q.soon = true, true
			t.deadline = now.Add(probeSpace + q.answerTime())
			return
		}
		p.trainFailed(now, q)
		return
	}
	if t.trying == 0 {
		p.tryTrain(now, q, max(t.level, 1))
	}
	t.limit, t.doubted = q.limit(), false
	count := trainLevels[t.trying]
	size := min(t.limit, MaxTrain/count)
	t.out = TrainOut{ID: p.cfg.Random.Uint64(), Path: q.Path, Count: count, Size: size, Last: size}
	if t.short {
		t.out.Last = max(size/2, HeaderLen+TrainPieceLen+TagLen)
	}
	t.sent = now
	t.deadline = now.Add(q.answerTime() + 2*trainWait)
	if len(p.trains) == maxTrains {
		p.trains = slices.Delete(p.trains, 0, 1)
	}
	p.trains = append(p.trains, t.out)
}

// tickReports makes the reports of trains of which nothing more comes.
func (p *Paths) tickReports(now time.Time) {
	for i := len(p.incoming) - 1; i >= 0; i-- {
		if !p.incoming[i].due.After(now) {
			p.report(i)
		}
	}
}

// renewTrain forgets the train on its way, after a pause of the caller.
func (q *path) renewTrain(now time.Time) {
	if q.train.out.Count > 0 {
		q.train.out = TrainOut{}
		q.train.at = now
	}
}
