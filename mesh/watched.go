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

// follow hears of changes until ctx ends.
func (w *watched) follow(ctx context.Context, begin func() (*tun.Changes, error)) error {
	changes, err := begin()
	if err != nil {
		return err
	}
	defer changes.Close()
	w.stale.Store(true)
	w.followed.Store(true)
	defer w.followed.Store(false)
	return changes.Run(ctx, func() { w.stale.Store(true) })
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

// follow makes a part of the node that follows w. Without it what it is about is looked at
// again and again.
func (n *node) follow(w *watched, begin func() (*tun.Changes, error)) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := w.follow(ctx, begin); err != nil {
			n.log.Info("the kernel does not tell of changes: they are looked for every "+restEvery.String(), "error", err)
		}
		return nil
	}
}
