package gossip

import (
	"math"
	"slices"
	"time"

	"ripstop/crypto"
)

// Quantise rounds a measured figure to one of the values that are published:
// round trips to four steps an octave from 100 µs, loss to 0, 1, 2, 5, 10, 20,
// 50 or 100 percent.
func Quantise(k LinkInfo) LinkInfo {
	const (
		floor   = 100 * time.Microsecond
		maxStep = 100 // 56 minutes: what the body can carry
	)
	if k.RTT <= floor {
		k.RTT = floor
	} else {
		step := min(maxStep, math.Round(4*math.Log2(float64(k.RTT)/float64(floor))))
		k.RTT = time.Duration(float64(floor) * math.Exp2(step/4)).Round(time.Microsecond)
	}
	best := uint8(0)
	for _, l := range []uint8{1, 2, 5, 10, 20, 50, 100} {
		if 2*int(k.Loss) >= int(best)+int(l) {
			best = l
		}
	}
	k.Loss = best
	return k
}

// DampingConfig holds the times of Damping; zero values are the defaults.
type DampingConfig struct {
	Hold  time.Duration // a figure must differ for so long before it is published, and so long after the last publication; 10 s
	Young time.Duration // the same of a shorter round trip of a link first published less than Hold ago: first ones are long while hosts start; 1 s
	Added time.Duration // news of links that came wait at least so long after the last publication; 500 ms and 5 ms a link
	Lost  time.Duration // news of links that went wait at least so long after it; 50 ms
}

// Damping decides when the figures of a host's links are worth telling, so that
// jitter is not news: a link that came or went is told at once, or soon after
// the last telling; another MTU or path likewise; a round trip only if it left
// the published step by more than one step, or a loss its step, for Hold. Then the
// figures of all links are told together: every telling costs every host a signature
// to verify and a table to make, and on a busy machine, where they all move, that
// would move them further.
type Damping struct {
	cfg       DampingConfig
	published []LinkInfo // by name, quantised
	at        time.Time  // of the last publication
	since     map[crypto.Name]time.Time
	born      map[crypto.Name]time.Time // first publication of a link
	next      time.Time                 // when something that waits is due; zero: nothing waits
}

// NewDamping makes a Damping that has published nothing.
func NewDamping(cfg DampingConfig) *Damping {
	if cfg.Hold == 0 {
		cfg.Hold = 10 * time.Second
	}
	if cfg.Young == 0 {
		cfg.Young = time.Second
	}
	if cfg.Added == 0 {
		cfg.Added = 500 * time.Millisecond
	}
	if cfg.Lost == 0 {
		cfg.Lost = 50 * time.Millisecond
	}
	return &Damping{cfg: cfg, since: make(map[crypto.Name]time.Time), born: make(map[crypto.Name]time.Time)}
}

// Update takes the figures of all links that are up and returns what to publish
// and whether it differs from what was published before.
func (d *Damping) Update(now time.Time, links []LinkInfo) ([]LinkInfo, bool) {
	measured := slices.Clone(links)
	slices.SortFunc(measured, func(a, b LinkInfo) int { return a.Peer.Compare(b.Peer) })
	due := time.Time{}
	wait := func(t time.Time) {
		if due.IsZero() || t.Before(due) {
			due = t
		}
	}
	seen := make(map[crypto.Name]struct{}, len(measured))
	moved := make(map[int]LinkInfo) // figures that are far from what was published, by place in result
	ripe := time.Time{}             // when the first of them is to be told
	result := make([]LinkInfo, 0, len(measured))
	for _, k := range measured {
		seen[k.Peer] = struct{}{}
		k = Quantise(k)
		i, there := slices.BinarySearchFunc(d.published, k.Peer, func(p LinkInfo, n crypto.Name) int { return p.Peer.Compare(n) })
		if !there {
			wait(d.at.Add(d.cfg.Added + 5*time.Millisecond*time.Duration(len(measured))))
			result = append(result, k)
			continue
		}
		old := d.published[i]
		switch {
		case k.MTU != old.MTU || k.Path != old.Path:
			wait(d.at.Add(d.cfg.Added))
			result = append(result, k)
		case far(k, old):
			since, waiting := d.since[k.Peer]
			if !waiting {
				since = now
				d.since[k.Peer] = now
			}
			if t := d.ripe(k.Peer, since, k.RTT < old.RTT); ripe.IsZero() || t.Before(ripe) {
				ripe = t
			}
			moved[len(result)] = k
			result = append(result, old)
		default:
			delete(d.since, k.Peer)
			result = append(result, old)
		}
	}
	if len(moved) > 0 {
		wait(ripe)
		if !ripe.After(now) {
			for i, k := range moved {
				result[i] = k
			}
		}
	}
	for _, old := range d.published {
		if _, there := seen[old.Peer]; !there {
			delete(d.since, old.Peer)
			delete(d.born, old.Peer)
			wait(d.at.Add(d.cfg.Lost))
		}
	}
	if slices.Equal(result, d.published) || due.IsZero() || now.Before(due) {
		d.next = due
		return d.published, false
	}
	for _, k := range result {
		if _, there := d.born[k.Peer]; !there {
			d.born[k.Peer] = now
		}
		if i, there := slices.BinarySearchFunc(d.published, k.Peer, func(p LinkInfo, n crypto.Name) int { return p.Peer.Compare(n) }); there && d.published[i] != k {
			delete(d.since, k.Peer)
		}
	}
	d.published, d.at = result, now
	d.next = time.Time{}
	for name, since := range d.since {
		if t := d.ripe(name, since, true); d.next.IsZero() || t.Before(d.next) {
			d.next = t
		}
	}
	return result, true
}

// ripe is when a figure is told that has been far from the published one since a time;
// shorter: by a shorter round trip.
func (d *Damping) ripe(name crypto.Name, since time.Time, shorter bool) time.Time {
	if since.Before(d.at) {
		since = d.at
	}
	if shorter && since.Sub(d.born[name]) < d.cfg.Hold {
		return since.Add(d.cfg.Young)
	}
	return since.Add(d.cfg.Hold)
}

// Next is when Update should be called again although nothing happened; zero: not.
func (d *Damping) Next() time.Time { return d.next }

// nearby is by how much round trips may always differ: what a process takes to wake up,
// now and then. No route is better by it.
const nearby = time.Millisecond

// far reports whether k differs from old by more than a step of round trip and more than
// nearby, or at all in loss. Both are quantised.
func far(k, old LinkInfo) bool {
	if k.Loss != old.Loss {
		return true
	}
	if (k.RTT - old.RTT).Abs() <= nearby {
		return false
	}
	ratio := float64(k.RTT) / float64(old.RTT)
	return ratio > 1.3 || ratio < 1/1.3
}
