package main

import (
	"math"
	"slices"
	"testing"
)

func TestSummarise(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   summary
	}{
		{[]float64{7}, summary{7, 7, 7}},
		{[]float64{3, 1}, summary{2, 1, 3}},
		{[]float64{9, 1, 4}, summary{4, 1, 9}},
		{[]float64{9, 1, 4, 6}, summary{5, 1, 9}},
	} {
		given := slices.Clone(c.values)
		if got := summarise(c.values); got != c.want {
			t.Errorf("%v: %+v, want %+v", c.values, got, c.want)
		}
		if !slices.Equal(given, c.values) {
			t.Errorf("the series was changed: %v → %v", given, c.values)
		}
	}
}

func TestPercentile(t *testing.T) {
	hundred := make([]uint32, 100)
	for i := range hundred {
		hundred[i] = uint32(i + 1)
	}
	for _, c := range []struct {
		sorted []uint32
		p      float64
		want   float64
	}{
		{hundred, 0.5, 50}, {hundred, 0.99, 99}, {hundred, 0.999, 100}, {hundred, 1, 100}, {hundred, 0, 1},
		{[]uint32{5}, 0.99, 5}, {[]uint32{1, 2, 3}, 0.5, 2},
	} {
		if got := percentile(c.sorted, c.p); got != c.want {
			t.Errorf("%d values, %g: %g, want %g", len(c.sorted), c.p, got, c.want)
		}
	}
	if got := percentile(nil, 0.5); !math.IsNaN(got) {
		t.Errorf("of none: %g", got)
	}
}

func TestPaired(t *testing.T) {
	divide := func(a, b float64) float64 { return a / b }
	a := map[int]float64{0: 6, 1: 8, 3: 10, 4: 1}
	b := map[int]float64{0: 2, 2: 9, 3: 5, 4: 0}
	// Round 1 lacks b, round 2 lacks a, round 4 is no number.
	if got := paired(a, b, divide); !slices.Equal(got, []float64{3, 2}) {
		t.Errorf("%v, want [3 2]", got)
	}
	if got := paired(a, nil, divide); got != nil {
		t.Errorf("without a partner: %v", got)
	}
}
