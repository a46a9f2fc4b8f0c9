package mesh

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ripstop/mesh/api"
	"ripstop/mesh/ipam"
	"ripstop/mesh/store"
)

// TestNothingUnsavedIsAnswered: while the journal cannot be written no address is given
// out, and the caller is told why; what could be written is answered.
func TestNothingUnsavedIsAnswered(t *testing.T) {
	for _, broken := range []bool{false, true} {
		n, _ := host(t)
		var err error
		if n.journal, _, err = n.store.Journal(store.Addresses); err != nil {
			t.Fatal(err)
		}
		if broken { // something that no file can take the place of
			for _, name := range []string{"ipam.1.tmp", "ipam.2.tmp"} {
				if err := os.MkdirAll(filepath.Join(n.store.Dir(), name, "full"), 0o700); err != nil {
					t.Fatal(err)
				}
			}
		}
		n.machine.Targets(time.Now(), nil, nil)
		n.machine.Listed(time.Now(), nil)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { n.keepAddresses(ctx) })
		answer, err := n.askMachine(ctx, "vm", func(now time.Time) uint64 { return n.machine.Allocate(now, ipam.Request{ID: "vm"}) })
		cancel()
		wg.Wait()
		used := n.machine.Status().Used
		switch {
		case broken && (!api.IsCode(err, api.CodeInternal) || !strings.Contains(err.Error(), "could not be saved") || used != 0 || n.saveError == ""):
			t.Errorf("an address that is not on the disk: %v, %v; %d in use, said to be %q", answer.Addr, err, used, n.saveError)
		case !broken && (err != nil || used != 1 || n.saveError != ""):
			t.Errorf("an address: %v, %v; %d in use, %q", answer.Addr, err, used, n.saveError)
		}
	}
}

// TestCallerGone: an address for an attachment whose caller has hung up goes back, one
// for an operator's name stays: asked again, it is the answer.
func TestCallerGone(t *testing.T) {
	for id, want := range map[string]int{"web@ripv1": 0, "vm": 1} {
		n, _ := host(t)
		n.machine.Targets(time.Now(), nil, nil)
		n.machine.Listed(time.Now(), nil)
		ctx, hangUp := context.WithCancel(t.Context())
		hangUp()
		_, err := n.askMachine(ctx, id, func(now time.Time) uint64 { return n.machine.Allocate(now, ipam.Request{ID: id}) })
		if !api.IsCode(err, api.CodeUnavailable) {
			t.Errorf("%s: %v", id, err)
		}
		for request := range n.waiting {
			n.answer([]ipam.Answer{{Request: request, Addr: n.machine.Uses()[0].Addr}})
		}
		if used := n.machine.Status().Used; used != want || len(n.waiting) != 0 {
			t.Errorf("%s: %d in use, %d waiting", id, used, len(n.waiting))
		}
	}
}
