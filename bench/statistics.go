package main

import (
	"math"
	"slices"
)

// summary is a series over the rounds, as it is shown.
type summary struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// summarise makes a summary of at least one value.
func summarise(values []float64) summary {
	s := slices.Sorted(slices.Values(values))
	return summary{Median: median(s), Min: s[0], Max: s[len(s)-1]}
}

// median is that of sorted values: of an even number the mean of the middle two.
func median(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// percentile is the value that a share p of the sorted values does not exceed
// (nearest rank); NaN of none.
func percentile(sorted []uint32, p float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	rank := int(math.Ceil(p * float64(len(sorted))))
	return float64(sorted[min(max(rank, 1), len(sorted))-1])
}

// paired combines two series round by round; rounds in which one is missing or the
// result is no number are left out.
func paired(a, b map[int]float64, combine func(a, b float64) float64) []float64 {
	var rounds []int
	for round := range a {
		if _, ok := b[round]; ok {
			rounds = append(rounds, round)
		}
	}
	slices.Sort(rounds)
	var values []float64
	for _, round := range rounds {
		v := combine(a[round], b[round])
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			values = append(values, v)
		}
	}
	return values
}
