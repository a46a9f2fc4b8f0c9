package transport

import "time"

// MaxProbes is how many probes of life the Paths that share a ProbeBudget send in any
// second.
const MaxProbes = 500

// What a ProbeBudget gives out.
const (
	budgetBurst = 100                     // probes at once
	budgetRate  = MaxProbes - budgetBurst // and a second
	idleSlot    = time.Second / 250       // between probes with which nothing is the matter, in the mean
	idleBurst   = 16                      // of them at once: they leave together so that the host wakes up rarely
)

// ProbeBudget bounds the probes that all Paths of one host send together, with what their
// caller sends of that kind itself. It is as pure as they are, and for the same caller.
// Probes of sizes and trains, a few for each path in minutes, do not count.
//
//	nothing is the matter ──▶ a slot, 250 a second ─┐
//	an answer is missing, a new address ────────────┴─▶ a token, of 100 and 400 a second
//
// So with many paths the time between probes of each idle one grows, while one that
// looks dead is asked at once.
type ProbeBudget struct {
	tokens float64
	at     time.Time // of tokens
	free   time.Time // the first slot that nobody has, were there no bursts
}

// slot is the next time at which an idle probe may leave.
func (b *ProbeBudget) slot(now time.Time) time.Time {
	b.free = later(now, b.free).Add(idleSlot)
	return later(now, b.free.Add(-idleBurst*idleSlot))
}

// Take reports whether a probe may leave now, and counts it.
func (b *ProbeBudget) Take(now time.Time) bool {
	if b.at.IsZero() {
		b.tokens = budgetBurst
	} else {
		b.tokens = min(budgetBurst, b.tokens+budgetRate*max(0, now.Sub(b.at).Seconds()))
	}
	b.at = later(b.at, now)
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
