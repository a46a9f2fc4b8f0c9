package attach

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"ripstop/tun"
)

func TestExpose(t *testing.T) {
	l := newLab(t)
	host := state(t, l.host)
	addrs := []netip.Prefix{netip.MustParsePrefix("10.32.0.254/24"), netip.MustParsePrefix("fd00::254/64"), netip.MustParsePrefix("10.99.0.1/32")}
	var steps []string
	expose1 := func(hook func(string) error) error {
		return l.try(func() error { return expose(bridgeName, addrs, 0, hook) })
	}
	if err := expose1(failAt("", &steps)); err != nil {
		t.Fatal(err)
	}
	exposed := state(t, l.host)
	for _, want := range []string{
		"route 10.32.0.0/24 link 2 src 10.32.0.254 mtu 1500 proto 114", "route fd00::/64 link 2 src fd00::254 mtu 1500 proto 114",
		"addr br0 10.99.0.1/32", "addr br0 fe80::ff:fe00:bb/64", fmt.Sprintf("link br0 mtu %d", tun.MaxMTU),
	} {
		if !strings.Contains(exposed, want) {
			t.Errorf("there is no %q:\n%s", want, exposed)
		}
	}
	if strings.Count(exposed, "route 10.32.0.0/24") != 1 {
		t.Errorf("the kernel's own route, without an MTU, is there too:\n%s", exposed)
	}
	// The host and a container talk, and what the host sends is cut to the
	// container's MTU although the bridge would take more.
	p, ns := l.plan(1)
	l.attach(p)
	for i, a := range addrs[:2] {
		if err := talk(t, l.host, a.Addr(), ns, p.Addresses[i].Addr(), 3000); err != nil {
			t.Error(err)
		}
		if err := talk(t, ns, p.Addresses[i].Addr(), l.host, a.Addr(), 3000); err != nil {
			t.Error(err)
		}
	}
	l.do(func() error { return ReleasePort(bridgeName, p.HostInterface, l.fw) })
	l.do(func() error { return Unplug(p) })

	// Again, with another MTU, and again.
	l.do(func() error { return Expose(bridgeName, addrs, 1400) })
	if now := state(t, l.host); now != strings.ReplaceAll(exposed, "mtu 1500", "mtu 1400") {
		t.Errorf("another MTU: the host is\n%s", now)
	}
	for _, step := range steps {
		var seen []string
		if err := expose1(failAt(step, &seen)); !errors.Is(err, errInjected) {
			t.Errorf("%s, repeated: %v", step, err)
		}
	}
	l.do(func() error { return Expose(bridgeName, addrs, 0) })
	if now := state(t, l.host); now != exposed {
		t.Errorf("repeated: the host is\n%s\nwant\n%s", now, exposed)
	}
	// Taking one away leaves the other, with its link-local address.
	l.do(func() error { return Hide(bridgeName, addrs[:1]) })
	if now := state(t, l.host); strings.Contains(now, "10.32.0") || !strings.Contains(now, "fe80::ff:fe00:bb") {
		t.Errorf("one hidden: the host is\n%s", now)
	}
	for range 2 {
		l.do(func() error { return Hide(bridgeName, addrs) })
		if now := state(t, l.host); now != host {
			t.Errorf("hidden: the host is\n%s", now)
		}
	}
	for _, step := range steps {
		var seen []string
		if err := expose1(failAt(step, &seen)); !errors.Is(err, errInjected) {
			t.Errorf("%s: %v", step, err)
		}
		if now := state(t, l.host); now != host {
			t.Errorf("%s: the host is\n%s", step, now)
		}
	}
	// Two addresses of one network share a route, which stays with either.
	two := []netip.Prefix{addrs[0], netip.MustParsePrefix("10.32.0.253/24")}
	for i := range two {
		l.do(func() error { return Expose(bridgeName, two, 0) })
		l.do(func() error { return Hide(bridgeName, two[i:i+1]) })
		want := fmt.Sprintf("route 10.32.0.0/24 link 2 src %s mtu 1500 proto 114", two[1-i].Addr())
		if now := state(t, l.host); !strings.Contains(now, want) {
			t.Errorf("one of two hidden: there is no %q:\n%s", want, now)
		}
	}
	l.do(func() error { return Hide(bridgeName, two) })
	if now := state(t, l.host); now != host {
		t.Errorf("two hidden: the host is\n%s", now)
	}
	// A route that leads elsewhere is not hidden by ours.
	l.do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("10.32.0.0/24")), Scope: netlink.SCOPE_LINK})
	})
	host = state(t, l.host)
	err := l.try(func() error { return Expose(bridgeName, addrs, 0) })
	if err == nil || !strings.Contains(err.Error(), "through lo") {
		t.Errorf("with a foreign route: %v", err)
	}
	if now := state(t, l.host); now != host {
		t.Errorf("with a foreign route: the host is\n%s\nwant\n%s", now, host)
	}
	if err := l.try(func() error { return Hide("nobridge", addrs) }); err != nil {
		t.Errorf("no bridge: %v", err)
	}
	if err := l.try(func() error { return Expose("nobridge", addrs, 0) }); err == nil {
		t.Error("exposed on no bridge")
	}
}
