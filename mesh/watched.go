package mesh

import (
	"context"
	"sync/atomic"
	"time"

	"ripstop/tun"
)

// relookEvery is how long what was looked at is believed though no change was told.
const relookEvery = time.Minute

// watched is something of the kernel's that is looked at again when it tells of a change.
//
//	tun.Changes ──▶ follow ──▶ stale ──▶ due ──▶ the look
type watched struct {
	followed atomic.Bool // the kernel tells
	stale    atomic.Bool // it has told
	looked   time.Time   // zero: what there is, is not known
}

// due reports whether to look: always, as long as the kernel does not tell. One goroutine
// at a time may call it.
func (w *watched) due(now time.Time) bool {
	stale := w.stale.Swap(false)
	return stale || !w.followed.Load() || w.looked.IsZero() || now.Sub(w.looked) >= relookEvery
}

// watchedList is what the kernel has listed.
type watchedList[T any] struct {
	watched
	last []T
}

// get is the list: the last one, where nothing has changed.
func (l *watchedList[T]) get(now time.Time, list func() ([]T, error)) ([]T, error) {
	if !l.due(now) {
		return l.last, nil
	}
	l.looked = time.Time{}
	all, err := list()
	if err == nil {
		l.last, l.looked = all, now
	}
	return all, err
}

// follow makes a part of the node that hears when what begin watches changes. Without it
// what it is about is looked at again and again.
func (n *node) follow(begin func() (*tun.Changes, error), all ...*watched) func(context.Context) error {
	told := func() {
		for _, w := range all {
			w.stale.Store(true)
		}
	}
	followed := func(yes bool) {
		for _, w := range all {
			w.followed.Store(yes)
		}
	}
	return func(ctx context.Context) error {
		changes, err := begin()
		if err == nil {
			defer changes.Close()
			told()
			followed(true)
			err = changes.Run(ctx, told)
			followed(false)
		}
		if err != nil {
			n.log.Info("the kernel does not tell of changes: they are looked for every "+restEvery.String(), "error", err)
		}
		return nil
	}
}
