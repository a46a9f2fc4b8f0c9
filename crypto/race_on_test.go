//go:build race

package crypto

// raceEnabled: the race detector makes everything slow, so that some tests try less.
const raceEnabled = true
