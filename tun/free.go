package tun

import "sync"

// free keeps what one call needed for the next, for calls that may overlap: as
// many as ever ran at once. Unlike sync.Pool it forgets nothing, so a call after
// the first ones allocates nothing.
type free[T any] struct {
	make func() *T

	mu   sync.Mutex // guards idle
	idle []*T
}

func (f *free[T]) get() *T {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.idle); n > 0 {
		t := f.idle[n-1]
		f.idle = f.idle[:n-1]
		return t
	}
	return f.make()
}

func (f *free[T]) put(t *T) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.idle = append(f.idle, t)
}
