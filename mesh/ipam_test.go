package mesh

import (
	"context"
	"encoding/json"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"ripstop/crypto"
	"ripstop/mesh/api"
	"ripstop/mesh/ipam"
	"ripstop/mesh/store"
	"ripstop/mesh/store/storetest"
	"ripstop/route"
)

// numbered is a host whose machine gives out addresses, writes them and is told the time.
func numbered(t *testing.T) *node {
	t.Helper()
	n, _ := host(t)
	var err error
	if n.journal, _, err = n.store.Journal(store.Addresses); err != nil {
		t.Fatal(err)
	}
	n.numbering, _ = numberingFor(numbering{}, &n.cfg)
	n.table = route.Build(route.TableConfig{Self: n.identity.Name()})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{}, 2)
	go func() {
		n.keepAddresses(ctx)
		ended <- struct{}{}
	}()
	go func() {
		clock := time.NewTicker(5 * time.Millisecond)
		defer clock.Stop()
		for ctx.Err() == nil {
			now := <-clock.C
			n.mu.Lock()
			n.machine.Tick(now)
			n.addressWork()
			n.mu.Unlock()
		}
		ended <- struct{}{}
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		<-ended
	})
	return n
}

// begin lets n make an address map when it is asked for an address.
func begin(n *node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.machine.Targets(time.Now(), nil, nil)
	n.machine.Listed(time.Now(), nil)
}

// TestLeaseIDs: whatever a namespace is called, its lease has a name that the table takes.
func TestLeaseIDs(t *testing.T) {
	for _, netns := range []string{"/run/netns/web", strings.Repeat("x", 63) + "ü", strings.Repeat("網", 100), "a\x00b\xff"} {
		a := attachment{Plan: api.AttachPlan{Netns: netns, HostInterface: "ripv0123456789"}}
		id := a.leaseID()
		if !utf8.ValidString(id) || len(id) > ipam.MaxID || !isOurs(id) || !strings.HasSuffix(id, a.Plan.HostInterface) {
			t.Errorf("%q has the lease %q", netns, id)
		}
	}
}

// TestReleaseByTwin: of the two addresses that were given together the second, too, gives both back.
func TestReleaseByTwin(t *testing.T) {
	n := numbered(t)
	begin(n)
	given, err := (*backend)(n).Allocate(t.Context(), api.AllocateRequest{For: "vm"})
	if err != nil || len(given.Addresses) != 2 {
		t.Fatal(given, err)
	}
	twin := given.Addresses[1].Addr()
	if moved, err := (*backend)(n).Release(t.Context(), api.ReleaseRequest{For: "vm", Address: twin}); err != nil || moved.Count != 1 {
		t.Errorf("%v: %+v, %v", twin, moved, err)
	}
}

// TestMovedTwin: an IPv6 address alone that moves without a word of its old host is
// noted with a length, so that status can tell it.
func TestMovedTwin(t *testing.T) {
	n := numbered(t)
	twin := ipam.Twin(n.network.ID(), netip.MustParseAddr("10.32.0.9"))
	a := attachment{Name: "web", Plan: api.AttachPlan{HostInterface: "ripv1", Addresses: []netip.Prefix{twin}}}
	w := wish{wait: time.Millisecond, move: true}
	wanted, err := n.wants(&a, w)
	if err != nil || len(wanted) != 1 {
		t.Fatal(wanted, err)
	}
	// There is no map, so nobody can be asked.
	if _, err := n.leaseOne(t.Context(), &a, wanted[0], w); err != nil {
		t.Fatal(err)
	}
	all, err := (*backend)(n).IPAM(t.Context())
	if err != nil || len(all.Uses) != 1 {
		t.Fatal(all.Uses, err)
	}
	text, err := json.Marshal(all.Uses)
	if err == nil {
		err = json.Unmarshal(text, &all.Uses)
	}
	if err != nil || all.Uses[0].Address != netip.MustParsePrefix("10.32.0.9/32") {
		t.Errorf("%s: %v", text, err)
	}
}

// TestWaitingIsBounded: callers that hang up leave only so many requests behind.
func TestWaitingIsBounded(t *testing.T) {
	n, _ := host(t)
	ctx, hangUp := context.WithCancel(t.Context())
	hangUp()
	ask := func() error {
		_, err := n.askMachine(ctx, "vm", func(now time.Time) uint64 { return n.machine.Allocate(now, ipam.Request{ID: "vm"}) })
		return err
	}
	for i := range maxWaiting {
		if err := ask(); !api.IsCode(err, api.CodeUnavailable) {
			t.Fatalf("request %d: %v", i, err)
		}
	}
	if err := ask(); !api.IsCode(err, api.CodeConflict) || len(n.waiting) != maxWaiting {
		t.Errorf("one more: %v; %d wait", err, len(n.waiting))
	}
}

// TestLeaveIsOver: what became of a hand-over is told to who asks in time; nobody is told
// of one long ago, nor is the host called leaving.
func TestLeaveIsOver(t *testing.T) {
	n, _ := host(t)
	gone, hangUp := context.WithCancel(t.Context())
	hangUp()
	leave := func() error {
		_, err := (*backend)(n).Leave(gone, api.LeaveRequest{})
		return err
	}
	shown := func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.statusIPAM(nil).Leaving
	}
	end := func() *leaving {
		n.mu.Lock()
		defer n.mu.Unlock()
		for request := range n.waiting {
			n.answer([]ipam.Answer{{Request: request, Err: &ipam.Error{Cause: ipam.CauseUnreachable, Text: "nobody takes it"}}})
		}
		return n.leaving
	}
	for _, stale := range []bool{false, true} {
		if err := leave(); err != nil || !shown() {
			t.Fatalf("begun: %v, leaving %t", err, shown())
		}
		first := end()
		if shown() {
			t.Error("it is over, and the host is still called leaving")
		}
		if !stale {
			if _, err := (*backend)(n).Leave(t.Context(), api.LeaveRequest{}); err == nil || !strings.Contains(err.Error(), "nobody takes it") {
				t.Errorf("who asks in time hears %v", err)
			}
			continue
		}
		first.watched = time.Now().Add(-leaveStale - time.Second)
		if err := leave(); err != nil || n.leaving == first {
			t.Errorf("who asks long after hears of the one before: %v", err)
		}
	}
}

// TestExposeCannotBeCancelled: the host's own reservation has a number that no caller knows.
func TestExposeCannotBeCancelled(t *testing.T) {
	n := numbered(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, err := n.expose(ctx, api.ExposeRequest{})
		ended <- err
	}()
	reserved := func() int {
		n.mu.Lock()
		defer n.mu.Unlock()
		return len(n.reservations)
	}
	for reserved() == 0 {
		runtime.Gosched()
	}
	(*backend)(n).Cancel(t.Context(), api.CommitRequest{ID: hostLease})
	if reserved() != 1 {
		t.Error("a caller has ended it")
	}
	cancel()
	if err := <-ended; !api.IsCode(err, api.CodeUnavailable) || reserved() != 0 {
		t.Errorf("%v; %d reservations are left", err, reserved())
	}
}

// busyDisk is a directory in which each write finds more to be written behind it.
type busyDisk struct {
	store.FS
	written func()
}

type busyFile struct {
	store.File
	written func()
}

func (d busyDisk) Create(name string) (store.File, error) {
	f, err := d.FS.Create(name)
	return busyFile{f, d.written}, err
}

func (f busyFile) Sync() error {
	f.written()
	return f.File.Sync()
}

// TestKeepingEnds: the end of the daemon waits for one write, not for all that comes behind it.
func TestKeepingEnds(t *testing.T) {
	n, _ := host(t)
	begin(n)
	ctx, cancel := context.WithCancel(t.Context())
	writes := 0
	disk := busyDisk{storetest.NewDisk(), func() {
		if writes++; writes == 3 {
			cancel()
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		if writes < 100 {
			n.machine.Allocate(time.Now(), ipam.Request{ID: strings.Repeat("vm", writes%50+1)})
		}
	}}
	var err error
	if n.journal, _, err = store.OpenJournal(disk, "ipam"); err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	n.addressWork()
	n.mu.Unlock()
	n.keepAddresses(ctx)
	if writes != 3 {
		t.Errorf("%d writes, the end came with the third", writes)
	}
}

// TestHolder: addresses that a name has are an attachment's while it stands, cannot be
// released meanwhile, and are the name's again afterwards.
func TestHolder(t *testing.T) {
	n := numbered(t)
	begin(n)
	b := (*backend)(n)
	given, err := b.Allocate(t.Context(), api.AllocateRequest{For: "docker:1"})
	if err != nil {
		t.Fatal(err)
	}
	q := api.AttachRequest{Netns: "docker-1", Interface: "ripi1", Owner: "docker:n/1", MTU: 1500, Addresses: given.Addresses[:1], AddressesFor: "docker:1"}
	release := func() (api.Moved, error) { return b.Release(t.Context(), api.ReleaseRequest{For: "docker:1"}) }
	plan, err := b.Reserve(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := release(); !api.IsCode(err, api.CodeConflict) || !strings.Contains(err.Error(), "ripstop detach") {
		t.Errorf("released while it was reserved: %v", err)
	}
	a := standing(n, plan)
	if _, err := release(); !api.IsCode(err, api.CodeConflict) {
		t.Errorf("released while it was attached: %v", err)
	}
	if _, err := b.Release(t.Context(), api.ReleaseRequest{For: "docker:1", Address: netip.MustParseAddr("10.47.0.1")}); api.IsCode(err, api.CodeConflict) {
		t.Errorf("another address: %v", err)
	}
	n.mu.Lock()
	n.attachments = nil
	n.giveBack(a)
	n.mu.Unlock()
	again, err := b.Allocate(t.Context(), api.AllocateRequest{For: "docker:1"})
	if err != nil || again.Addresses[0] != given.Addresses[0] {
		t.Errorf("after detach it has %v, %v", again.Addresses, err)
	}
	if moved, err := release(); err != nil || moved.Count != 1 {
		t.Errorf("%+v, %v", moved, err)
	}
	other := q
	other.AddressesFor = "docker:2"
	if _, err := b.Allocate(t.Context(), api.AllocateRequest{For: "docker:3", Address: q.Addresses[0].Addr(), Subnet: q.Addresses[0].Masked()}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Reserve(t.Context(), other); !api.IsCode(err, api.CodeConflict) {
		t.Errorf("an address of another name: %v", err)
	}
	for _, bad := range []func(*api.AttachRequest){
		func(q *api.AttachRequest) { q.AddressesFor = "web@ripv1" },
		func(q *api.AttachRequest) { q.Addresses = nil },
		func(q *api.AttachRequest) { q.Subnets = []netip.Prefix{n.numbering.Subnet} },
		func(q *api.AttachRequest) { q.Sticky, q.Name = true, "web" },
		func(q *api.AttachRequest) { q.Move = true },
	} {
		wrong := q
		bad(&wrong)
		if _, err := b.Reserve(t.Context(), wrong); !api.IsCode(err, api.CodeInvalid) {
			t.Errorf("%+v: %v", wrong, err)
		}
	}
}

// standing is a reservation of n made an attachment, as after its commit.
func standing(n *node, plan api.AttachPlan) *attachment {
	n.mu.Lock()
	defer n.mu.Unlock()
	a := n.reservations[plan.ID].attachment
	n.attachments = append(n.attachments, &a)
	delete(n.reservations, plan.ID)
	return &a
}

// TestHolderMoves: an address that a name has is free for the host to which its endpoint
// moved.
func TestHolderMoves(t *testing.T) {
	n := numbered(t)
	begin(n)
	b := (*backend)(n)
	given, err := b.Allocate(t.Context(), api.AllocateRequest{For: "docker:1"})
	if err != nil {
		t.Fatal(err)
	}
	plan, err := b.Reserve(t.Context(), api.AttachRequest{Netns: "docker-1", Interface: "ripi1", Owner: "docker:n/1", MTU: 1500, Addresses: given.Addresses[:1], AddressesFor: "docker:1"})
	if err != nil {
		t.Fatal(err)
	}
	a := standing(n, plan)
	n.mu.Lock()
	n.release(crypto.Name{9}, a.mac(), a.addrs())
	n.mu.Unlock()
	all, err := b.IPAM(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range all.Uses {
		if u.For == "docker:1" && u.State != "resting" {
			t.Errorf("%+v", u)
		}
	}
}

// TestStickyAgain: a container that was started again has its kept address, although nobody has
// noticed yet that the interface of before is gone.
func TestStickyAgain(t *testing.T) {
	n := numbered(t)
	begin(n)
	b := (*backend)(n)
	q := api.AttachRequest{Netns: "/run/netns/web1", NetnsID: api.NetnsID{Dev: 4, Inode: 1}, Interface: "eth0", MTU: 1500, Name: "web", Sticky: true}
	first, err := b.Reserve(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	standing(n, first)
	q.Netns, q.NetnsID.Inode = "/run/netns/web2", 2
	second, err := b.Reserve(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	if second.Addresses[0] != first.Addresses[0] {
		t.Errorf("it has %v, want %v", second.Addresses[0], first.Addresses[0])
	}
}
