package main

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"
)

// model is a path that carries so much, and a sender that offers so much at most.
func model(capacity, sender float64) func(float64) (trial, error) {
	return func(rate float64) (trial, error) {
		offered := min(rate, sender)
		return trial{Offered: offered, Received: min(offered, capacity)}, nil
	}
}

func TestSearchFindsTheCapacity(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		capacity := math.Exp(math.Log(500) + random.Float64()*math.Log(4000))
		start := math.Exp(math.Log(1000) + random.Float64()*math.Log(1000))
		got, err := search(start, 2, model(capacity, math.Inf(1)))
		if err != nil {
			t.Fatal(err)
		}
		// Up to 1 % above the capacity is still a good rate.
		if got.Received > capacity || got.Received < capacity/searchCloseness || got.Limited {
			t.Fatalf("capacity %.0f from %.0f: %+v", capacity, start, got)
		}
		if got.Trials > maxTrials {
			t.Fatalf("%d trials", got.Trials)
		}
	}
}

func TestSearchTellsTheGeneratorsEnd(t *testing.T) {
	got, err := search(50_000, 2, model(math.Inf(1), 300_000))
	if err != nil || !got.Limited || got.Received != 300_000 {
		t.Errorf("%+v, %v", got, err)
	}
	// A path that carries less than the sender can offer is the path's end.
	got, err = search(50_000, 2, model(200_000, 300_000))
	if err != nil || got.Limited || got.Received > 200_000 || got.Received < 200_000/searchCloseness {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestSearchForgivesAStall(t *testing.T) {
	path := model(100_000, math.Inf(1))
	for stalled := range 8 {
		n := 0
		got, err := search(20_000, 2, func(rate float64) (trial, error) {
			n++
			if n == stalled+1 {
				return trial{Offered: rate * 0.5, Received: rate * 0.4}, nil
			}
			return path(rate)
		})
		if err != nil || got.Limited || got.Received < 100_000/searchCloseness {
			t.Errorf("trial %d stalled: %+v, %v", stalled+1, got, err)
		}
	}
}

// TestSearchTakesNoLossyRate: what arrives beside a loss does not count, however much.
func TestSearchTakesNoLossyRate(t *testing.T) {
	got, err := search(20_000, 2, func(rate float64) (trial, error) {
		if rate > 100_000 {
			return trial{Offered: rate, Received: rate * 0.98}, nil
		}
		return trial{Offered: rate, Received: rate * 0.995}, nil
	})
	if err != nil || got.Received > 100_000 || got.Received < 0.99*100_000/searchCloseness {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestSearchEnds(t *testing.T) {
	got, err := search(50_000, 2, func(rate float64) (trial, error) { return trial{Offered: rate}, nil })
	if err != nil || got.Received != 0 || got.Trials > maxTrials {
		t.Errorf("where nothing arrives: %+v, %v", got, err)
	}
	got, err = search(50_000, 2, model(math.Inf(1), math.Inf(1)))
	if err != nil || got.Received <= maxRate/2 || got.Trials > maxTrials {
		t.Errorf("without a limit: %+v, %v", got, err)
	}
	random := rand.New(rand.NewPCG(3, 4))
	got, _ = search(50_000, 2, func(rate float64) (trial, error) {
		return trial{Offered: rate, Received: rate * (0.98 + random.Float64()*0.02)}, nil
	})
	if got.Trials > maxTrials {
		t.Errorf("with noise only: %+v", got)
	}
	broken := errors.New("broken")
	if _, err := search(50_000, 2, func(float64) (trial, error) { return trial{}, broken }); !errors.Is(err, broken) {
		t.Errorf("error: %v", err)
	}
}
