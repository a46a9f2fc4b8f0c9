package attach

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ripstop/tun"
	"ripstop/tun/netns"
)

func TestAttachedNamespacesTalk(t *testing.T) {
	l := newLab(t)
	emptyHost := state(t, l.host)
	p1, ns1 := l.plan(1)
	p2, ns2 := l.plan(2)
	emptyInside := state(t, ns1)
	l.attach(p1)
	l.attach(p2)
	for i, a := range p1.Addresses {
		if err := talk(t, ns1, a.Addr(), ns2, p2.Addresses[i].Addr(), 1000); err != nil {
			t.Error(err)
		}
	}
	inside := state(t, ns1)
	for _, want := range []string{
		"link rip0 mtu 1500 mac 02:00:00:00:00:01 alias \"\" master 0 flags up|broadcast|multicast",
		"addr rip0 10.32.0.1/24", "addr rip0 fd00::1/64", "addr rip0 fe80::ff:fe00:1/64 flags 80\n",
		"route 10.40.0.0/16 link", "route fd40::/64 link",
	} {
		if !strings.Contains(inside, want) {
			t.Errorf("inside there is no %q:\n%s", want, inside)
		}
	}
	// A router advertisement from the overlay must not give the container a route.
	if err := ns1.Do(func() error {
		ra, err := os.ReadFile("/proc/sys/net/ipv6/conf/rip0/accept_ra")
		if strings.TrimSpace(string(ra)) != "0" {
			t.Errorf("accept_ra is %q", ra)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	host := state(t, l.host)
	for _, want := range []string{
		fmt.Sprintf("link ripv01 mtu %d mac fe:00:00:00:00:01 alias \"ripstop\" master 2 flags up", tun.MaxMTU),
		"fdb ripv01 02:00:00:00:00:01 flags 40",
	} {
		if !strings.Contains(host, want) {
			t.Errorf("on the host there is no %q:\n%s", want, host)
		}
	}
	if strings.Contains(host, "addr ripv01") {
		t.Errorf("the host end speaks IPv6:\n%s", host)
	}
	l.do(func() error {
		drops, err := l.fw.Counters()
		for cause, n := range drops {
			if n != 0 {
				t.Errorf("the rules dropped %d frames of an honest container: %s", n, cause)
			}
		}
		return err
	})
	// Everything once more changes nothing, and loses nothing.
	l.attach(p1)
	if again := state(t, ns1); again != inside {
		t.Errorf("a second time changed the inside from\n%s\nto\n%s", inside, again)
	}
	if again := state(t, l.host); again != host {
		t.Errorf("a second time changed the host from\n%s\nto\n%s", host, again)
	}
	// A frame from elsewhere does not move a fixed MAC, even without rules.
	l.do(l.fw.Delete)
	if err := ns2.Do(func() error { return announce(Plan{Interface: "rip0", MAC: p1.MAC, Addresses: p1.Addresses}) }); err != nil {
		t.Fatal(err)
	}
	if again := state(t, l.host); again != host {
		t.Errorf("a forged frame changed the host from\n%s\nto\n%s", host, again)
	}
	l.do(l.fw.Ensure)
	for range 2 {
		for _, p := range []Plan{p1, p2} {
			l.do(func() error { return ReleasePort(bridgeName, p.HostInterface, l.fw) })
			l.do(func() error { return Unplug(p) })
		}
	}
	if left := state(t, l.host); left != emptyHost {
		t.Errorf("left on the host:\n%s", left)
	}
	if left := state(t, ns1); left != emptyInside {
		t.Errorf("left inside:\n%s", left)
	}
	if ports := l.fw.Ports(); len(ports) != 0 {
		t.Errorf("rules left: %q", ports)
	}
}

var errInjected = errors.New("injected")

// failAt makes the step called name fail; with "" it takes the names down.
func failAt(name string, names *[]string) func(string) error {
	return func(step string) error {
		*names = append(*names, step)
		if step == name {
			return errInjected
		}
		return nil
	}
}

func TestPlugIsUndone(t *testing.T) {
	l := newLab(t)
	p, ns := l.plan(1)
	host, inside := state(t, l.host), state(t, ns)
	var steps []string
	l.do(func() error { return plug(context.Background(), p, failAt("", &steps)) })
	l.do(func() error { return Unplug(p) })
	if len(steps) < 9 {
		t.Fatalf("steps %q", steps)
	}
	for _, step := range steps {
		var seen []string
		err := l.try(func() error { return plug(context.Background(), p, failAt(step, &seen)) })
		if !errors.Is(err, errInjected) || !strings.Contains(err.Error(), step) {
			t.Errorf("%s: %v", step, err)
		}
		if left := state(t, l.host); left != host {
			t.Errorf("%s: left on the host:\n%s", step, left)
		}
		if left := state(t, ns); left != inside {
			t.Errorf("%s: left inside:\n%s", step, left)
		}
	}
	// The same when it is given up in the middle.
	for n := range steps {
		ctx, cancel := context.WithCancel(context.Background())
		count := 0
		err := l.try(func() error {
			return plug(ctx, p, func(string) error {
				if count++; count == n+1 {
					cancel()
				}
				return nil
			})
		})
		cancel()
		if n < len(steps)-1 && !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled in step %d: %v", n, err)
		}
		if n == len(steps)-1 {
			l.do(func() error { return Unplug(p) })
		}
		if left := state(t, l.host); left != host {
			t.Errorf("cancelled in step %d: left on the host:\n%s", n, left)
		}
	}
	// What stood before stays when putting it right fails.
	l.do(func() error { return Plug(context.Background(), p) })
	host, inside = state(t, l.host), state(t, ns)
	for _, step := range steps {
		var seen []string
		if err := l.try(func() error { return plug(context.Background(), p, failAt(step, &seen)) }); !errors.Is(err, errInjected) {
			t.Errorf("%s, repeated: %v", step, err)
		}
		if now := state(t, l.host); now != host {
			t.Errorf("%s, repeated: the host is\n%s", step, now)
		}
		if now := state(t, ns); now != inside {
			t.Errorf("%s, repeated: inside is\n%s", step, now)
		}
	}
}

func TestEnslaveIsUndone(t *testing.T) {
	l := newLab(t)
	p, _ := l.plan(1)
	l.do(func() error { return Plug(context.Background(), p) })
	// As a release leaves it.
	l.do(func() error { return EnslavePort(bridgeName, p.HostInterface, p.MAC, l.fw, p.rule()) })
	l.do(func() error { return ReleasePort(bridgeName, p.HostInterface, l.fw) })
	host := state(t, l.host)
	if strings.Contains(host, "fdb ripv01") {
		t.Fatalf("a released port has a fixed MAC:\n%s", host)
	}
	var steps []string
	enslave1 := func(hook func(string) error) error {
		return l.try(func() error { return enslave(bridgeName, p.HostInterface, p.MAC, l.fw, p.rule(), hook) })
	}
	if err := enslave1(failAt("", &steps)); err != nil || len(steps) < 6 {
		t.Fatalf("steps %q: %v", steps, err)
	}
	serving := state(t, l.host)
	for _, step := range steps {
		var seen []string
		if err := enslave1(failAt(step, &seen)); !errors.Is(err, errInjected) {
			t.Errorf("%s, repeated: %v", step, err)
		}
		if now := state(t, l.host); now != serving {
			t.Errorf("%s, repeated: the host is\n%s", step, now)
		}
	}
	l.do(func() error { return ReleasePort(bridgeName, p.HostInterface, l.fw) })
	for _, step := range steps {
		var seen []string
		if err := enslave1(failAt(step, &seen)); !errors.Is(err, errInjected) {
			t.Errorf("%s: %v", step, err)
		}
		if now := state(t, l.host); now != host {
			t.Errorf("%s: the host is\n%s", step, now)
		}
		if ports := l.fw.Ports(); len(ports) != 0 {
			t.Errorf("%s: rules left: %q", step, ports)
		}
	}
}

func TestFixedMACsFollowTheRule(t *testing.T) {
	l := newLab(t)
	p, _ := l.plan(1)
	l.do(func() error { return Plug(context.Background(), p) })
	for _, allowed := range [][][6]byte{nil, {{2, 7, 7, 7, 7, 7}, {2, 8, 8, 8, 8, 8}}, {{2, 8, 8, 8, 8, 8}}, nil} {
		r := p.rule()
		r.AllowMACs = allowed
		l.do(func() error { return EnslavePort(bridgeName, p.HostInterface, p.MAC, l.fw, r) })
		if n := strings.Count(state(t, l.host), "fdb ripv01"); n != 1+len(allowed) {
			t.Errorf("%d fixed MACs, want %d", n, 1+len(allowed))
		}
	}
}

func TestRefusals(t *testing.T) {
	l := newLab(t)
	p, ns := l.plan(1)
	other, _ := l.plan(2)
	dummy := func(name string) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name + "p"})
	}
	foreign := HostPrefix + "foreign"
	l.do(func() error {
		if err := dummy(foreign); err != nil {
			return err
		}
		link, err := find(foreign)
		if err != nil {
			return err
		}
		return netlink.LinkSetAlias(link, "somebody's")
	})
	if err := ns.Do(func() error { return dummy("eth0") }); err != nil {
		t.Fatal(err)
	}
	host, inside := state(t, l.host), state(t, ns)
	for _, c := range []struct {
		name   string
		change func(*Plan)
		want   string
	}{
		{"own namespace", func(p *Plan) { p.Netns, p.NetnsInode = "/proc/thread-self/ns/net", 0 }, "own network namespace"},
		{"no namespace", func(p *Plan) { p.Netns = "/no/such" }, "no such file"},
		{"other namespace", func(p *Plan) { p.NetnsInode++ }, "another namespace"},
		{"taken", func(p *Plan) { p.Interface = "eth0" }, "--interface"},
		{"foreign host end", func(p *Plan) { p.HostInterface = foreign }, "not ripstop's"},
		{"host end's name", func(p *Plan) { p.HostInterface = "eth7" }, "begins with"},
		{"name", func(p *Plan) { p.Interface = "sixteen-letters-" }, "not an interface name"},
		{"path in name", func(p *Plan) { p.Interface = "../all" }, "not an interface name"},
		{"multicast MAC", func(p *Plan) { p.MAC[0] = 1 }, "unicast"},
		{"no MAC", func(p *Plan) { p.MAC = [6]byte{} }, "unicast"},
		{"MTU", func(p *Plan) { p.MTU = 67 }, "MTU 67"},
		{"host MTU", func(p *Plan) { p.HostMTU = 70000 }, "MTU 70000"},
		{"IPv6 with a small MTU", func(p *Plan) { p.MTU = 1279 }, "at least 1280"},
		{"multicast address", func(p *Plan) { p.Addresses = []netip.Prefix{netip.MustParsePrefix("224.0.0.1/24")} }, "not an address"},
		{"no address", func(p *Plan) { p.Addresses = []netip.Prefix{{}} }, "not an address"},
		{"no route", func(p *Plan) { p.Routes = []netip.Prefix{{}} }, "not a network"},
	} {
		q := p
		c.change(&q)
		err := l.try(func() error { return Plug(context.Background(), q) })
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if c.name == "own namespace" && !errors.Is(err, netns.ErrOwn) || c.name == "taken" && !errors.Is(err, ErrInterfaceTaken) {
			t.Errorf("%s: %v is not the sentinel", c.name, err)
		}
		if now := state(t, l.host); now != host {
			t.Errorf("%s: left on the host:\n%s", c.name, now)
		}
		if now := state(t, ns); now != inside {
			t.Errorf("%s: left inside:\n%s", c.name, now)
		}
	}
	if err := l.try(func() error { return Unplug(Plan{HostInterface: foreign}) }); err == nil {
		t.Error("somebody's interface was removed")
	}
	if err := l.try(func() error { return Unplug(Plan{HostInterface: "eth7"}) }); err == nil {
		t.Error("an interface without our prefix was removed")
	}
	for name, enslave := range map[string]func() error{
		"foreign":      func() error { return EnslavePort(bridgeName, foreign, p.MAC, l.fw, p.rule()) },
		"no port":      func() error { return EnslavePort(bridgeName, p.HostInterface, p.MAC, l.fw, p.rule()) },
		"not a bridge": func() error { return EnslavePort("lo", p.HostInterface, p.MAC, l.fw, p.rule()) },
	} {
		if err := l.try(enslave); err == nil {
			t.Errorf("enslave, %s: no error", name)
		}
	}
	// One namespace has one interface of a name, whichever attachment it is of.
	l.do(func() error { return Plug(context.Background(), p) })
	q := p
	q.HostInterface = other.HostInterface
	if err := l.try(func() error { return Plug(context.Background(), q) }); !errors.Is(err, ErrInterfaceTaken) {
		t.Errorf("by another attachment: %v", err)
	}
}

// TestStale: what a caller left who died at any point does not stand in the way.
func TestStale(t *testing.T) {
	l := newLab(t)
	p, _ := l.plan(1)
	other, otherNS := l.plan(2)
	// The host end leads to another namespace, marked or not.
	for _, marked := range []bool{false, true} {
		q := other
		q.HostInterface = p.HostInterface
		l.do(func() error { return Plug(context.Background(), q) })
		if !marked {
			l.do(func() error {
				link, err := find(p.HostInterface)
				if err != nil {
					return err
				}
				return netlink.LinkSetAlias(link, "")
			})
		}
		l.do(func() error { return Plug(context.Background(), p) })
		if strings.Contains(state(t, otherNS), "rip0") {
			t.Error("the stale pair is still there")
		}
		l.do(func() error { return Unplug(p) })
	}
}

func TestPortsAreFoundAgain(t *testing.T) {
	l := newLab(t)
	p1, _ := l.plan(1)
	p2, _ := l.plan(2)
	l.attach(p1)
	l.do(func() error { return Plug(context.Background(), p2) })
	var ports []Port
	l.do(func() (err error) { ports, err = Ports(bridgeName); return err })
	want := []Port{{Name: "ripv01", Enslaved: true, Up: true}, {Name: "ripv02"}}
	if !reflect.DeepEqual(ports, want) {
		t.Errorf("ports %+v, want %+v", ports, want)
	}
	// Seen from another bridge, the one that serves is elsewhere.
	l.do(func() (err error) { ports, err = Ports("nosuchbridge"); return err })
	want = []Port{{Name: "ripv01", Elsewhere: true, Up: true}, {Name: "ripv02"}}
	if !reflect.DeepEqual(ports, want) {
		t.Errorf("ports for another bridge %+v, want %+v", ports, want)
	}
	l.do(func() error {
		if !PortExists("ripv01") || !PortExists("ripv02") || PortExists("ripv03") || PortExists("lo") {
			t.Error("PortExists is wrong")
		}
		return nil
	})
	// The namespace ends, and its host end with it; releasing it is no error.
	if err := netns.Delete(l.dir, filepath.Base(p1.Netns)); err != nil {
		t.Fatal(err)
	}
}

// TestPortWhoseNamespaceEnded: the kernel takes the pair away some time later.
func TestPortWhoseNamespaceEnded(t *testing.T) {
	l := newLab(t)
	p, _ := l.plan(1)
	l.attach(p)
	l.do(func() error { return Unplug(p) }) // what the namespace's end does as well
	l.do(func() error { return ReleasePort(bridgeName, p.HostInterface, l.fw) })
	if ports := l.fw.Ports(); len(ports) != 0 {
		t.Errorf("rules left: %q", ports)
	}
}

func TestDisabledIPv6(t *testing.T) {
	l := newLab(t)
	p, ns := l.plan(1)
	if err := ns.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0)
	}); err != nil {
		t.Fatal(err)
	}
	l.attach(p)
	if inside := state(t, ns); !strings.Contains(inside, "fd00::1/64") {
		t.Errorf("no IPv6 address:\n%s", inside)
	}
	l.do(func() error { return Unplug(p) })
	p.Addresses, p.Routes = p.Addresses[:1], p.Routes[:1]
	l.attach(p)
	if inside := state(t, ns); strings.Contains(inside, "fe80") {
		t.Errorf("IPv6 was switched on for nobody:\n%s", inside)
	}
}

func TestAnnouncements(t *testing.T) {
	mac := [6]byte{2, 0, 0, 0, 0, 1}
	arp := gratuitousARP(mac, netip.MustParseAddr("10.32.0.1"))
	want := "ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 0a200001 000000000000 0a200001"
	if got := fmt.Sprintf("%x", arp); got != strings.ReplaceAll(want, " ", "") {
		t.Errorf("ARP\n%s, want\n%s", got, want)
	}
	// The checksum was computed by another program.
	na := unsolicitedNA(mac, netip.MustParseAddr("fd00::1"))
	want = "333300000001 020000000001 86dd 60000000 0020 3a ff" +
		"fd000000000000000000000000000001 ff020000000000000000000000000001" +
		"88 00 5a9b 20000000 fd000000000000000000000000000001 02 01 020000000001"
	if got := fmt.Sprintf("%x", na); got != strings.ReplaceAll(want, " ", "") {
		t.Errorf("NA\n%s, want\n%s", got, want)
	}
}

// TestAnnounceReachesNeighbours: an address that moved is found at its new MAC at
// once.
func TestAnnounceReachesNeighbours(t *testing.T) {
	l := newLab(t)
	p1, ns1 := l.plan(1)
	p2, ns2 := l.plan(2)
	p3, _ := l.plan(3)
	l.attach(p1)
	l.attach(p2)
	for i := range p1.Addresses {
		if err := talk(t, ns2, p2.Addresses[i].Addr(), ns1, p1.Addresses[i].Addr(), 10); err != nil {
			t.Fatal(err)
		}
	}
	l.do(func() error { return ReleasePort(bridgeName, p1.HostInterface, l.fw) })
	l.do(func() error { return Unplug(p1) })
	p3.Addresses = p1.Addresses
	l.attach(p3)
	for _, a := range p1.Addresses {
		got := ""
		if err := ns2.Do(func() error {
			all, err := dump(func() ([]netlink.Neigh, error) { return netlink.NeighList(0, netlink.FAMILY_ALL) })
			for _, e := range all {
				if e.IP.String() == a.Addr().String() {
					got = e.HardwareAddr.String()
				}
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if got != "02:00:00:00:00:03" {
			t.Errorf("%s is known at %q", a.Addr(), got)
		}
	}
}

func TestInterruptedDumpsAreAskedAgain(t *testing.T) {
	n := 0
	all, err := dump(func() ([]int, error) {
		if n++; n < 4 {
			return []int{n}, fmt.Errorf("list: %w", netlink.ErrDumpInterrupted)
		}
		return []int{n}, nil
	})
	if err != nil || n != 4 || all[0] != 4 {
		t.Errorf("%d tries, %v, %v", n, all, err)
	}
	if _, err := dump(func() ([]int, error) { n++; return nil, netlink.ErrDumpInterrupted }); !errors.Is(err, netlink.ErrDumpInterrupted) || n != 4+dumpTries {
		t.Errorf("%d tries, %v", n, err)
	}
	if _, err := dump(func() ([]int, error) { return nil, unix.EPERM }); !errors.Is(err, unix.EPERM) {
		t.Errorf("%v", err)
	}
}

// TestAttachedTwice: of two interfaces of a namespace each has its routes, also where both
// have the same, whichever goes first.
func TestAttachedTwice(t *testing.T) {
	l := newLab(t)
	one, ns := l.plan(1)
	two, _ := l.plan(2)
	two.Netns, two.NetnsDev, two.NetnsInode, two.Interface = one.Netns, one.NetnsDev, one.NetnsInode, "rip1"
	want := func(when string, n int) {
		t.Helper()
		for _, r := range one.Routes {
			if got := strings.Count(state(t, ns), "route "+r.String()+" "); got != n {
				t.Errorf("%s: %d routes to %s, want %d:\n%s", when, got, r, n, state(t, ns))
			}
		}
	}
	l.attach(one)
	l.attach(two)
	l.attach(one)
	want("both attached", 2)
	l.do(func() error { return Unplug(two) })
	want("the second gone", 1)
	l.attach(two)
	l.do(func() error { return Unplug(one) })
	want("the first gone", 1)
}
