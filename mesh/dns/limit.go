package dns

import (
	"net/netip"
	"sync"
)

// limit bounds how much goes on at once, altogether and for each client.
type limit struct {
	all, each int // constant

	mu    sync.Mutex // guards the rest
	total int
	of    map[netip.Addr]int // never 0
}

func newLimit(all, each int) *limit {
	return &limit{all: all, each: each, of: make(map[netip.Addr]int)}
}

// take reports whether one more may begin; then done must follow.
func (l *limit) take(client netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= l.all || l.of[client] >= l.each {
		return false
	}
	l.total++
	l.of[client]++
	return true
}

func (l *limit) done(client netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.of[client]--; l.of[client] <= 0 {
		delete(l.of, client)
	}
}
