package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ripstop/mesh/store"
)

// call is a request of one of several callers.
type call struct {
	id    string
	reply chan Answer
}

// durable owns a machine and its journal on a disk, as a daemon does: while a write
// is under way requests gather, and the next write saves them all.
type durable struct {
	s       *store.Store
	m       *Machine
	log     *store.Journal
	calls   chan call
	written chan error
	waiting map[uint64]chan Answer
	late    []Answer // of the write under way
	groups  int
}

func openDurable(t testing.TB, dir string) *durable {
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	log, journals, err := s.Journal(store.Addresses)
	if err != nil {
		t.Fatal(err)
	}
	cfg, now := realConfig(0, "10.32.0.0/12"), time.Now()
	var m *Machine
	if len(journals) == 0 {
		m, err = New(cfg, now)
	} else {
		m, err = Restore(cfg, now, journals...)
	}
	if err != nil {
		t.Fatal(err)
	}
	d := &durable{s: s, m: m, log: log, calls: make(chan call, 64), written: make(chan error, 1), waiting: make(map[uint64]chan Answer)}
	m.Targets(now, nil, nil)
	m.Listed(now, nil)
	return d
}

// run serves until calls is closed.
func (d *durable) run() {
	writing := false
	for {
		for !writing {
			r := d.m.Ready(time.Now())
			if r.Empty() {
				break
			}
			d.answer(r.Refusals)
			if r.Save == nil && r.Snapshot == nil {
				d.answer(r.Answers)
				continue
			}
			writing, d.late = true, r.Answers
			d.groups++
			go func() {
				if r.Snapshot != nil {
					d.written <- d.log.Rotate(r.Snapshot)
				} else if err := d.log.Append(r.Save); err != nil {
					d.written <- err
				} else {
					d.written <- d.log.Sync()
				}
			}()
		}
		select {
		case c, ok := <-d.calls:
			if !ok {
				return
			}
			d.waiting[d.m.Allocate(time.Now(), Request{ID: c.id})] = c.reply
		case err := <-d.written:
			writing = false
			d.m.Done(time.Now(), err)
			if err == nil {
				d.answer(d.late)
			}
		}
	}
}

func (d *durable) answer(list []Answer) {
	for _, a := range list {
		d.waiting[a.Request] <- a
		delete(d.waiting, a.Request)
	}
}

// allocateDurably lets 16 callers ask n times in all, and returns how long each
// request took, in order, and who has which address.
func (d *durable) allocateDurably(t testing.TB, n int) ([]time.Duration, map[string]netip.Prefix) {
	var mu sync.Mutex // guards the two below
	took, has := make([]time.Duration, 0, n), make(map[string]netip.Prefix)
	var next atomic.Int64
	var callers, owner sync.WaitGroup
	owner.Go(d.run)
	for range 16 {
		callers.Go(func() {
			reply := make(chan Answer, 1)
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				c := call{fmt.Sprint("container-", i), reply}
				begin := time.Now()
				d.calls <- c
				a := <-reply
				mu.Lock()
				took, has[c.id] = append(took, time.Since(begin)), a.Addr
				if a.Err != nil {
					t.Error(a.Err)
				}
				mu.Unlock()
			}
		})
	}
	callers.Wait()
	close(d.calls)
	owner.Wait()
	slices.Sort(took)
	return took, has
}

// BenchmarkDurable is one host's allocation with 16 callers and a real fsync before
// each answer. TMPDIR says on which disk.
func BenchmarkDurable(b *testing.B) {
	d := openDurable(b, b.TempDir())
	b.ResetTimer()
	took, _ := d.allocateDurably(b, b.N)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "addresses/s")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(b.N)/float64(d.groups), "addresses/fsync")
}

// TestDurable: what was answered is there after the directory is opened again, and
// many answers share a write.
func TestDurable(t *testing.T) {
	dir := t.TempDir()
	d := openDurable(t, dir)
	const n = 400
	_, has := d.allocateDurably(t, n)
	if len(has) != n || d.groups > n/2 {
		t.Errorf("%d addresses in %d writes", len(has), d.groups)
	}
	d.s.Close()
	again := openDurable(t, dir)
	for id, a := range has {
		if e := again.m.entries[a.Addr()]; e == nil || e.id != id {
			t.Errorf("%s had %v: %+v", id, a, e)
		}
	}
}
