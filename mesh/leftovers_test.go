package mesh

import (
	"crypto/rand"
	"log/slog"
	mathrand "math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"ripstop/crypto"
	"ripstop/mesh/api"
	"ripstop/mesh/gossip"
	"ripstop/mesh/ipam"
	"ripstop/mesh/store"
	"ripstop/route"
	"ripstop/tun"
	"ripstop/tun/netns"
	"ripstop/tun/tuntest"
)

// host is a node with a bridge called rs in a namespace of its own, without daemon.
func host(t *testing.T) (*node, *netns.NS) {
	t.Helper()
	tuntest.NeedRoot(t)
	ns, err := netns.NewAnonymous()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	seed, err := crypto.NewSeed(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := crypto.NewIdentity(seed)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{identity: identity, log: slog.New(slog.DiscardHandler), bridge: new(tun.Bridge), cfg: Config{Bridge: "rs"}, wake: make(chan struct{}, 1)}
	if n.store, err = store.Open(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.store.Close() })
	if n.network, _, err = crypto.NewNetwork(rand.Reader, crypto.CipherAuto); err != nil {
		t.Fatal(err)
	}
	n.addressing = newAddressing()
	n.machine, err = ipam.New(ipam.Config{Identity: identity, Network: n.network.ID(), UID: 1, Random: mathrand.New(mathrand.NewPCG(1, 2))}, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	n.reservations = make(map[string]*reservation)
	n.gossip = gossip.New(gossip.Config{Identity: identity, UID: 1, Random: mathrand.New(mathrand.NewPCG(1, 2))}, time.Unix(0, 0))
	return n, ns
}

// makePorts makes pairs with their host ends on the named bridges, "" for none.
func makePorts(masters map[string]string) error {
	index := make(map[string]int)
	for _, name := range []string{"rs", "other"} {
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
		if err := netlink.LinkAdd(bridge); err != nil {
			return err
		}
		index[name] = bridge.Index
	}
	for name, master := range masters {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, MasterIndex: index[master]}, PeerName: "in" + name}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		if err := netlink.LinkSetAlias(veth, tun.Alias); err != nil {
			return err
		}
	}
	return nil
}

// left are the host ends that are there.
func left(t *testing.T, all map[string]string) (names []string) {
	t.Helper()
	for name := range all {
		if _, err := netlink.LinkByName(name); err == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func attachedTo(name string, last byte) attachment {
	return attachment{Claim: 1, Plan: api.AttachPlan{HostInterface: name, MAC: macOf(route.MAC{2, 0, 0, 0, 0, last}),
		Addresses: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 32, 0, last}), 12)}}}
}

// TestLeftovers: what dead callers and daemons left goes; what lives, or is another
// daemon's, stays.
func TestLeftovers(t *testing.T) {
	n, ns := host(t)
	all := map[string]string{"ripvdead": "rs", "ripvused": "rs", "ripvother": "other", "ripvnew": "", "ripvlate": "", "ripvslow": "", "ripvagain": ""}
	start := time.Unix(1000, 0)
	want := func(when string, names ...string) {
		t.Helper()
		if got := left(t, all); !reflect.DeepEqual(got, names) {
			t.Errorf("%s: %v, want %v", when, got, names)
		}
	}
	err := ns.Do(func() error {
		if err := makePorts(all); err != nil {
			return err
		}
		used := attachedTo("ripvused", 1)
		n.attachments = []*attachment{&used}
		n.findLeftovers(start)
		want("at the start", "ripvagain", "ripvlate", "ripvnew", "ripvother", "ripvslow", "ripvused")

		// Two callers of this run; the first dies, and another try has its place.
		n.reservations["slow"] = &reservation{attachedTo("ripvslow", 2), start.Add(10 * time.Second)}
		n.reservations["first"] = &reservation{attachedTo("ripvagain", 3), start.Add(10 * time.Second)}
		n.reservations["second"] = &reservation{attachedTo("ripvagain", 3), start.Add(time.Hour)}
		n.sweepLeftovers(start.Add(9 * time.Second))
		want("while reservations hold", "ripvagain", "ripvlate", "ripvnew", "ripvother", "ripvslow", "ripvused")
		n.sweepLeftovers(start.Add(11 * time.Second))
		want("after one ran out", "ripvagain", "ripvlate", "ripvnew", "ripvother", "ripvused")

		// What another daemon's caller was making is on that daemon's bridge by now.
		other, err := netlink.LinkByName("other")
		if err != nil {
			return err
		}
		late, err := netlink.LinkByName("ripvlate")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetMaster(late, other); err != nil {
			return err
		}
		n.sweepLeftovers(start.Add(reservationLife + time.Second))
		want("after every reservation", "ripvagain", "ripvlate", "ripvother", "ripvused")

		n.removeAll()
		want("after reset", "ripvlate", "ripvother")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestForgetEnded: what holds an address whose host end is gone holds it no more, whatever
// became of the others.
func TestForgetEnded(t *testing.T) {
	n, ns := host(t)
	here, gone, other := attachedTo("ripvhere", 1), attachedTo("ripvgone", 2), attachedTo("ripvother", 3)
	n.attachments = []*attachment{&here, &gone, &other}
	err := ns.Do(func() error {
		if err := makePorts(map[string]string{"ripvhere": "rs"}); err != nil {
			return err
		}
		for _, a := range []attachment{here, gone} {
			n.forgetEnded(time.Unix(1000, 0), func(b *attachment) bool { return b.holds(a.mac(), a.addrs()) })
		}
		return nil
	})
	if err != nil || !slices.Equal(n.attachments, []*attachment{&here, &other}) {
		t.Errorf("%d attachments are left, %v", len(n.attachments), err)
	}
	if err := n.free(&gone); err != nil {
		t.Error(err)
	}
}

// TestRelease: a peer may ask for all that moved to it, and gets the containers'
// endpoints with their interfaces, but not the host's own.
func TestRelease(t *testing.T) {
	for _, mode := range []string{modeBridge, modeRouted} {
		n, ns := host(t)
		all := map[string]string{"ripva": "rs", "ripvb": "rs", "ripvc": "rs"}
		own, a, b, c := attachedTo("rs", 1), attachedTo("ripva", 2), attachedTo("ripvb", 3), attachedTo("ripvc", 4)
		own.Exposed = true
		n.attachments = []*attachment{&own, &a, &b, &c}
		if mode == modeRouted {
			n.bridge, n.attachments = nil, []*attachment{&own}
		}
		err := ns.Do(func() error {
			if err := makePorts(all); err != nil {
				return err
			}
			n.release(crypto.Name{9}, a.mac(), []netip.Addr{own.addrs()[0], b.addrs()[0]})
			wantAttached, wantLeft := []*attachment{&own, &c}, []string{"ripvc"}
			if mode == modeRouted {
				wantAttached, wantLeft = []*attachment{&own}, []string{"ripva", "ripvb", "ripvc"}
			}
			if !slices.Equal(n.attachments, wantAttached) {
				t.Errorf("%s: attached: %+v", mode, n.attachments)
			}
			if got := left(t, all); !slices.Equal(got, wantLeft) {
				t.Errorf("%s: interfaces %v, want %v", mode, got, wantLeft)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzParseRelease(f *testing.F) {
	whole := appendRelease(nil, route.MAC{2, 0, 0, 0, 0, 1}, []netip.Addr{netip.MustParseAddr("10.32.0.1"), netip.MustParseAddr("fd00::1")})
	for i := range whole {
		f.Add(whole[:i])
	}
	f.Add(whole)
	f.Fuzz(func(t *testing.T, b []byte) {
		mac, addrs, ok := parseRelease(b)
		if !ok {
			return
		}
		if again := appendRelease(nil, mac, addrs); !slices.Equal(again, b) || len(addrs) > maxAddresses {
			t.Errorf("%x is read as %v %v, written as %x", b, mac, addrs, again)
		}
	})
}
