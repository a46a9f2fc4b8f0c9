package integration

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ripstop/integration/lab"
	"ripstop/mesh/api"
)

// TestLastAddress: a small range is given out to its last address over three hosts,
// no address twice; the next request ends in time and says why. What is released can
// be given again after its rest only.
func TestLastAddress(t *testing.T) {
	names := []string{"a", "b", "c"}
	s := tell(t, lab.Config{Hosts: names, Links: []lab.LinkConfig{{Hosts: names}}})
	s.upAll("--ipalloc-range", "10.40.0.0/28")
	s.reach(names...)
	who := make(map[netip.Addr]string)
	var slowest time.Duration
	for i := range 14 {
		name := fmt.Sprintf("vm%d", i)
		start := time.Now()
		a, err := s.allocate(names[i%3], name)
		if err != nil {
			t.Fatalf("address %d of 14: %v", i+1, err)
		}
		slowest = max(slowest, time.Since(start))
		if who[a] != "" {
			t.Errorf("%v is given to %s and to %s", a, who[a], name)
		}
		who[a] = name
	}
	for _, h := range names {
		start := time.Now()
		_, err := s.allocate(h, "more")
		took := time.Since(start)
		if err == nil || !strings.Contains(err.Error(), "no address of 10.40.0.0/28 is free") || took > 11*time.Second {
			t.Errorf("%s, full: after %v: %v", h, took, err)
		}
		t.Logf("%s says after %v: %v", h, took.Round(10*time.Millisecond), err)
	}
	t.Logf("14 addresses, the slowest after %v", slowest.Round(time.Millisecond))
}

// TestDonation: a host that joins late lives on its share, and then on what others
// donate; each of its addresses comes soon.
func TestDonation(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a", "b"}, Links: []lab.LinkConfig{{Hosts: []string{"a", "b"}}}})
	s.up("a", lab.StartConfig{Args: []string{"--ipalloc-range", "10.40.0.0/25"}})
	if _, err := s.allocate("a", "first"); err != nil {
		t.Fatal(err)
	}
	s.up("b", lab.StartConfig{Args: []string{"--ipalloc-range", "10.40.0.0/25"}, Peers: []string{"a"}})
	s.reach("a", "b")
	client := api.NewClient(s.Host("b").Socket())
	defer client.Close()
	var slowest time.Duration
	for i := range 125 {
		start := time.Now()
		if _, err := client.Allocate(s.ctx, api.AllocateRequest{For: fmt.Sprint("vm", i)}); err != nil {
			t.Fatalf("address %d: %v", i+1, err)
		}
		slowest = max(slowest, time.Since(start))
	}
	t.Logf("125 addresses of 126, the slowest after %v", slowest.Round(time.Millisecond))
	if slowest > time.Second && !raced() {
		t.Errorf("one took %v, want 1s", slowest)
	}
}

// atWrite is closed at the n-th write into a directory from now on: a file that is
// made, written or renamed. Nobody has seen it more than a moment before.
func atWrite(t *testing.T, dir string, n int) <-chan struct{} {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	events := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_MODIFY|unix.IN_MOVED_TO|unix.IN_CLOSE_WRITE); err != nil {
		t.Fatal(err)
	}
	seen := make(chan struct{})
	go func() {
		defer close(seen)
		defer events.Close()
		b := make([]byte, 4096)
		for events.SetReadDeadline(time.Now().Add(3*time.Second)) == nil {
			k, err := events.Read(b)
			if err != nil {
				return
			}
			for at := 0; at < k; at += unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[at+12:])) {
				if n--; n == 0 {
					return
				}
			}
		}
	}()
	return seen
}

// TestKilledWhileSaving: a daemon is killed at its first write of state, at its second,
// and so on, while addresses are given out and released, and while it starts. What was
// acknowledged is there at the next start, as it was.
func TestKilledWhileSaving(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a"}})
	given := make(map[string]netip.Addr)
	var mu sync.Mutex
	const starts, kills = 10, 30
	names := 0
	for kill := range kills + starts {
		if at := kill - kills; at >= 0 {
			seen := atWrite(t, s.Host("a").State(), at+1)
			d, err := s.Host("a").Start(lab.StartConfig{NoWait: true})
			if err != nil {
				t.Fatal(err)
			}
			<-seen
			if err := d.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		s.up("a", lab.StartConfig{})
		seen := atWrite(t, s.Host("a").State(), kill+1)
		has := make(map[string]netip.Addr)
		owner := make(map[netip.Addr]string)
		for _, u := range s.ipam("a").Uses {
			if u.State == "used" {
				has[u.For] = u.Address.Addr()
				if owner[u.Address.Addr()] != "" {
					t.Errorf("%v is used twice", u.Address)
				}
				owner[u.Address.Addr()] = u.For
			}
		}
		for name, a := range given {
			if has[name] != a {
				t.Fatalf("after %d kills %s has %v, acknowledged was %v", kill, name, has[name], a)
			}
		}
		ctx, cancel := context.WithCancel(s.ctx)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				client := api.NewClient(s.Host("a").Socket())
				defer client.Close()
				for {
					mu.Lock()
					names++
					name := fmt.Sprint("vm", names)
					mu.Unlock()
					a, err := client.Allocate(ctx, api.AllocateRequest{For: name})
					if err != nil {
						return
					}
					mu.Lock()
					given[name] = a.Addresses[0].Addr()
					mu.Unlock()
					if names%3 == 0 { // from the moment it is asked for, either is true
						mu.Lock()
						delete(given, name)
						mu.Unlock()
						client.Release(ctx, api.ReleaseRequest{For: name})
					}
				}
			})
		}
		<-seen
		if err := s.Host("a").Daemon().Kill(); err != nil {
			t.Fatal(err)
		}
		cancel()
		wg.Wait()
	}
	t.Logf("%d kills, %d of them while it started; %d addresses acknowledged and kept", kills+2*starts, starts, len(given))
	if len(given) < kills {
		t.Errorf("only %d addresses were given", len(given))
	}
}

// TestAllocationSpeed prints how fast addresses come from a host's own blocks, each
// on the disk before its answer.
func TestAllocationSpeed(t *testing.T) {
	const callers, lasts = 16, 3 * time.Second
	s := tell(t, lab.Config{Hosts: []string{"a"}})
	s.up("a", lab.StartConfig{})
	if _, err := s.allocate("a", "first"); err != nil {
		t.Fatal(err)
	}
	times := make([][]time.Duration, callers)
	errs := make([]error, callers)
	var wg sync.WaitGroup
	begin := time.Now()
	for i := range callers {
		wg.Go(func() {
			client := api.NewClient(s.Host("a").Socket())
			defer client.Close()
			for n := 0; time.Since(begin) < lasts && errs[i] == nil; n++ {
				start := time.Now()
				_, errs[i] = client.Allocate(s.ctx, api.AllocateRequest{For: fmt.Sprintf("vm%d.%d", i, n)})
				times[i] = append(times[i], time.Since(start))
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	all := slices.Sorted(slices.Values(slices.Concat(times...)))
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	rate := float64(len(all)) / took.Seconds()
	t.Logf("%d callers: %.0f addresses/s, half of them in %v, p99 %v, the slowest %v", callers, rate, all[len(all)/2], all[len(all)*99/100], all[len(all)-1])
	if rate < 500 && !raced() {
		t.Errorf("%.0f addresses/s", rate)
	}
}

// TestAddressMisuse: what cannot be is refused with a sentence that says what is wrong.
func TestAddressMisuse(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a"}, Containers: 2})
	host := s.Host("a")
	for _, args := range [][]string{
		{"link", "add", "uplink", "type", "veth", "peer", "name", "uppeer"}, {"link", "set", "uplink", "up"}, {"link", "set", "uppeer", "up"},
		{"address", "add", "10.50.1.1/24", "dev", "uplink"},
	} {
		if r, err := host.Exec(s.ctx, "ip", args...); err != nil || r.Code != 0 {
			t.Fatalf("ip %v: %+v, %v", args, r, err)
		}
	}
	secret := filepath.Join(s.Dir(), "secret")
	if err := os.WriteFile(secret, []byte(s.token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		flags []string
		says  string
	}{
		{[]string{"--ipalloc-range", "10.50.0.0/16"}, "route to 10.50.1.0/24 on uplink"},
		{[]string{"--ipalloc-range", "10.50.1.128/25"}, "route to 10.50.1.0/24 on uplink"},
		{[]string{"--ipalloc-range", "10.51.0.0/16", "10.51.0.7"}, "overlaps with the peer 10.51.0.7"},
		{[]string{"--ipalloc-range", "10.51.0.0/31"}, "must have 4 to"},
	} {
		r, err := host.Exec(s.ctx, program, append([]string{"up", "--secret-file", secret, "--state", host.State(), "--socket", host.Socket()}, c.flags...)...)
		if err != nil || r.Code == 0 || !strings.Contains(r.Err, c.says) {
			t.Errorf("up %v: %+v, %v", c.flags, r, err)
		}
	}
	s.up("a", lab.StartConfig{Args: []string{"--ipalloc-range", "10.51.0.0/16", "--ipalloc-default-subnet", "10.51.1.0/24", "--ipalloc-reserve", "10.51.1.0/28", "--ipv6", "off"}})
	first := s.joinWith("a1")
	if len(first) != 1 || first[0] != netip.MustParseAddr("10.51.1.16") {
		t.Errorf("the first address is %v, want 10.51.1.16", first)
	}
	if err := host.Daemon().Stop(); err != nil {
		t.Fatal(err)
	}
	s.up("a", lab.StartConfig{})
	for _, c := range []struct{ args, says string }{
		{"attach " + s.Container("a2").Netns() + " --address 10.51.1.16/16", "in use"},
		{"attach " + s.Container("a2").Netns() + " --subnet 10.52.0.0/16", "no address of the range 10.51.0.0/16"},
		{"attach " + s.Container("a2").Netns() + " --deadline 1m", "at most 25s"},
		{"ipam claim gw 10.51.1.16", "by \"a1\""},
		{"ipam claim gw 10.52.0.1", "outside the range"},
		{"ipam claim gw 10.51.255.255/16", "broadcast"},
		{"ipam allocate a1@rip", "names with @"},
		{"ipam release nobody", "was given no such address"},
		{"ipam start", "there is an address map already"},
		{"ipam adopt", "no other address map was met"},
		{"rmpeer nobody --yes", "no host nobody is known"},
		{"rmpeer a --yes", "ripstop leave"},
	} {
		r, err := host.Ripstop(s.ctx, strings.Fields(c.args)...)
		if err != nil || r.Code != 1 || !strings.Contains(r.Err, c.says) {
			t.Errorf("%s: %+v, %v", c.args, r, err)
		}
	}
	if i := s.ipam("a"); i.Range.String() != "10.51.0.0/16" || i.Subnet.String() != "10.51.1.0/24" || i.Range6.IsValid() || i.Used != 1 {
		t.Errorf("after the restart: %+v", i)
	}
	if err := host.Daemon().Stop(); err != nil {
		t.Fatal(err)
	}
	r, err := host.Exec(s.ctx, program, "up", "--state", host.State(), "--socket", host.Socket(), "--ipalloc-range", "10.53.0.0/16")
	if err != nil || r.Code != 1 || !strings.Contains(r.Err, "ripstop reset") {
		t.Errorf("another range: %+v, %v", r, err)
	}
	s.up("a", lab.StartConfig{})
}
