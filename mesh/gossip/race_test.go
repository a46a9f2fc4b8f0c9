//go:build race

package gossip

// raced makes the simulations small: the race detector takes ten times as long
// and a State is for one goroutine anyway.
const raced = true
