//go:build race

package crypto

// raceEnabled: sync.Pool drops at random under the race detector, so allocations mean nothing.
const raceEnabled = true
