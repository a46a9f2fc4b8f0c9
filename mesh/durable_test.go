package mesh

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ripstop/mesh/api"
	"ripstop/mesh/ipam"
	"ripstop/mesh/store"
	"ripstop/mesh/store/storetest"
)

// onDisk has a host's address table on a disk that loses what was not synced, and
// keeps it there until the test ends.
func onDisk(t *testing.T, n *node) *storetest.Disk {
	t.Helper()
	disk := storetest.NewDisk()
	var err error
	if n.journal, _, err = store.OpenJournal(disk, store.Addresses); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { n.keepAddresses(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return disk
}

// kept is the address table that a host finds after its power was cut.
func kept(t *testing.T, n *node, disk *storetest.Disk, random *rand.Rand) *ipam.Machine {
	t.Helper()
	d := disk.Copy()
	d.Crash(random)
	_, journals, err := store.OpenJournal(d, store.Addresses)
	if err != nil {
		t.Fatal(err)
	}
	cfg := ipam.Config{Identity: n.identity, Network: n.network.ID(), UID: 2, Random: random}
	if len(journals) == 0 {
		m, err := ipam.New(cfg, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	m, err := ipam.Restore(cfg, time.Now(), journals...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// meet has n hear of another address map, by which somebody has an address.
func meet(t *testing.T, n *node) {
	t.Helper()
	other, _ := host(t)
	now := time.Now()
	m, err := ipam.New(ipam.Config{Identity: other.identity, Network: n.network.ID(), UID: 3, Random: rand.New(rand.NewPCG(2, 2))}, now)
	if err != nil {
		t.Fatal(err)
	}
	m.Listed(now, nil)
	m.Start(now)
	m.Allocate(now, ipam.Request{ID: "vm"})
	for r := m.Ready(now); !r.Empty(); r = m.Ready(now) {
		for _, delta := range r.Announce {
			n.mu.Lock()
			_, err := n.machine.Merge(now, other.identity.Name(), delta)
			n.mu.Unlock()
			if err != nil {
				t.Fatal(err)
			}
		}
		m.Done(now, nil)
	}
}

// TestMapIsDurable: `ipam start` and `ipam adopt` are answered when the map is on the
// disk, and not while it is being written.
func TestMapIsDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := host(t)
		begin(n)
		disk := onDisk(t, n)
		random := rand.New(rand.NewPCG(1, 1))
		var maps []string
		durably := func(what string, do func(context.Context) error) {
			synctest.Wait()
			held := make(chan struct{})
			disk.Fail = func(string) error {
				<-held
				return nil
			}
			answered := make(chan error, 1)
			go func() { answered <- do(t.Context()) }()
			synctest.Wait()
			select {
			case err := <-answered:
				t.Errorf("%s is answered (%v) while it is being written", what, err)
				answered <- err
			default:
			}
			close(held)
			if err := <-answered; err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			synctest.Wait()
			disk.Fail = nil
			m := kept(t, n, disk, random).Status().Map
			if m == "" || slices.Contains(maps, m) {
				t.Errorf("after %s the disk has the map %q, before %q", what, m, maps)
			}
			maps = append(maps, m)
		}
		durably("start", (*backend)(n).Start)
		if _, err := (*backend)(n).Allocate(t.Context(), api.AllocateRequest{For: "vm"}); err != nil {
			t.Fatal(err)
		}
		meet(t, n)
		durably("adopt", (*backend)(n).Adopt)
	})
}
