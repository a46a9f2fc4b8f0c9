package attach

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"ripstop/tun/netns"
	"ripstop/tun/tuntest"
)

// TestGateway: a plan with a gateway gives a default route, and once more the same; a
// namespace that has another one is left as it was.
func TestGateway(t *testing.T) {
	l := newLab(t)
	p, ns := l.plan(1)
	p.Gateway = netip.MustParseAddr("10.32.0.254")
	for range 2 {
		l.attach(p)
		var inner Inner
		l.do(func() (err error) { inner, err = Look(p.Netns, p.Interface); return err })
		if inner.Gateway != p.Gateway {
			t.Fatalf("the gateway is %v, want %v", inner.Gateway, p.Gateway)
		}
	}
	before := state(t, ns)
	second := p
	second.Interface, second.HostInterface, second.MAC, second.Addresses = "rip1", HostPrefix+"77", [6]byte{2, 0, 0, 0, 0, 77}, []netip.Prefix{netip.MustParsePrefix("10.32.0.77/24")}
	plug := func(p Plan) error { return l.try(func() error { return Plug(context.Background(), p) }) }
	if err := plug(second); !errors.Is(err, ErrDefaultRoute) || !strings.Contains(err.Error(), "by 10.32.0.254 through rip0") {
		t.Errorf("a second default route: %v", err)
	}
	changed := p
	changed.Gateway = netip.MustParseAddr("10.32.0.253")
	if err := plug(changed); !errors.Is(err, ErrDefaultRoute) {
		t.Errorf("another gateway: %v", err)
	}
	if after := state(t, ns); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
	for _, bad := range []string{"10.33.0.1", "fd00::1"} {
		wrong := p
		wrong.Gateway = netip.MustParseAddr(bad)
		if err := plug(wrong); err == nil || !strings.Contains(err.Error(), "gateway "+bad) {
			t.Errorf("gateway %s: %v", bad, err)
		}
	}
}

// TestOnLinkDefaultRoute: a default route without a gateway is another one, too.
func TestOnLinkDefaultRoute(t *testing.T) {
	l := newLab(t)
	p, ns := l.plan(1)
	err := ns.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0"))})
	})
	if err != nil {
		t.Fatal(err)
	}
	before := state(t, ns)
	p.Gateway = netip.MustParseAddr("10.32.0.254")
	if err := l.try(func() error { return Plug(context.Background(), p) }); !errors.Is(err, ErrDefaultRoute) || !strings.Contains(err.Error(), "through lo") {
		t.Errorf("%v", err)
	}
	if after := state(t, ns); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
}

func TestForward(t *testing.T) {
	tuntest.NeedRoot(t)
	ns, err := netns.NewAnonymous()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	err = ns.Do(func() error {
		if err := os.WriteFile(forwardFile, []byte("0"), 0); err != nil {
			return err
		}
		for _, want := range []bool{true, false} {
			if turned, err := Forward(); err != nil || turned != want {
				t.Errorf("turned %v, want %v: %v", turned, want, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
