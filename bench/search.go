package main

import "math"

// trial is what came of sending at some rate.
type trial struct {
	Offered  float64 // a second, as really sent
	Received float64 // a second
}

// loss is the share that did not arrive.
func (t trial) loss() float64 {
	if t.Offered == 0 {
		return 0
	}
	return 1 - t.Received/t.Offered
}

// The search ends when the rate is known this closely, or after so many trials.
const (
	searchCloseness = 1.05
	maxTrials       = 20
	maxShrink       = 16  // to which part the rate falls at most from one trial to the next
	minRate         = 100 // datagrams a second; below it nothing is looked for
	maxLoss         = 0.01
	saturated       = 0.9 // a sender that offers less than this share of what it was asked for is at its end
)

// found is the result of a search: the best good trial; zero if there was none.
type found struct {
	trial
	Limited bool // the generator offered no more
	Trials  int
}

// search looks for the highest rate at which under maxLoss is lost. It grows or shrinks
// the rate from where it begins, by factor, until it has a good one and a bad one, then
// halves what is between them (in the logarithm).
//
//	start ──good──▶ ×factor ──good──▶ ×factor ──bad──▶ again ──bad──▶ between the last two …
//
// One stall of the machine must not decide: a rate is bad, and the generator at its
// end, only when that was seen twice in succession.
func search(start, factor float64, try func(rate float64) (trial, error)) (found, error) {
	good, bad := 0.0, math.Inf(1)
	var best found
	doubted := false // the last trial was at this rate, and said that it is too much
	for rate := start; best.Trials < maxTrials; {
		t, err := try(rate)
		if err != nil {
			return found{}, err
		}
		best.Trials++
		isBad, isEnd := t.loss() >= maxLoss, t.Offered < saturated*rate
		if !isBad && t.Received > best.Received {
			best.trial = t
		}
		if (isBad || isEnd) && !doubted {
			doubted = true
			continue
		}
		doubted = false
		switch {
		case isBad:
			bad = rate
		case isEnd:
			best.Limited = true
			return best, nil
		default:
			good = rate
		}
		switch {
		case bad <= good*searchCloseness:
			return best, nil
		case good == 0:
			// What came through is a guess, unless the path breaks down under too much.
			rate = min(bad/factor, max(t.Received, bad/maxShrink))
		case math.IsInf(bad, 1):
			rate = good * factor
		default:
			rate = math.Sqrt(good * bad)
		}
		if rate < minRate || rate > maxRate {
			return best, nil
		}
	}
	return best, nil
}
