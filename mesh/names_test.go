package mesh

import (
	"crypto/rand"
	"maps"
	mathrand "math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ripstop/crypto"
	"ripstop/mesh/gossip"
)

// TestNamesOfARecord: what stands in a host's records is a name only where that host may
// have it, whatever the records say.
func TestNamesOfARecord(t *testing.T) {
	seed, err := crypto.NewSeed(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := crypto.NewIdentity(seed)
	if err != nil {
		t.Fatal(err)
	}
	self, now := identity.Name(), time.Unix(1000, 0)
	n := &node{identity: identity, cfg: Config{DNSDomain: DefaultDNSDomain}}
	n.gossip = gossip.New(gossip.Config{Identity: identity, UID: 1, Random: mathrand.New(mathrand.NewPCG(1, 2))}, now)
	n.names.dotted = make(map[nameSource]struct{})
	n.names.hosts = map[crypto.Name]nameHost{self: {label: "vm1", reachable: true}, {7}: {label: "vm2"}, {8}: {}}
	n.names.labels = ownLabels(n.names.hosts)
	some := []netip.Addr{netip.MustParseAddr("10.32.0.9")}
	deep := strings.Repeat("x.", 8) + "x"
	for _, c := range []struct {
		body   interface{ Append([]byte) ([]byte, error) }
		kind   gossip.Kind
		want   string
		dotted bool
	}{
		{gossip.EndpointBody{MAC: [6]byte{2}, Addresses: some, Names: []string{"web"}}, gossip.KindEndpoint, "web web.vm1", false},
		{gossip.EndpointBody{MAC: [6]byte{2}, Addresses: some, Names: []string{"vm1"}}, gossip.KindEndpoint, "vm1", false},
		{gossip.EndpointBody{MAC: [6]byte{2}, Addresses: some, Names: []string{"web.vm2", "vm2", "a.web.vm2", "in.web"}}, gossip.KindEndpoint, "vm2 vm2.vm1 in.web in.web.vm1", true},
		{gossip.EndpointBody{MAC: [6]byte{2}, Addresses: some, Names: []string{"-", "_x._tcp.web", deep}}, gossip.KindEndpoint, "", false},
		{gossip.NameBody{Name: "printer.vm1", Addresses: some}, gossip.KindName, "printer.vm1", true},
		{gossip.NameBody{Name: "printer.vm2", Addresses: some}, gossip.KindName, "", true},
		{gossip.NameBody{Name: "_http._tcp.printer", Addresses: some}, gossip.KindName, "", false},
		{gossip.NameBody{Name: "_http._tcp.web", Port: 80}, gossip.KindName, "_http._tcp.web>web.vm1 _http._tcp.web.vm1>web.vm1", false},
		{gossip.NameBody{Name: "_http._tcp.web.vm2", Port: 80}, gossip.KindName, "", true},
		{gossip.NameBody{Name: "_http._icmp.web", Port: 80}, gossip.KindName, "", false},
		{gossip.NameBody{Name: "_http._tcp.we_b", Port: 80}, gossip.KindName, "", false},
		{gossip.NameBody{Name: "_._.web", Port: 80}, gossip.KindName, "", false},
		{gossip.NameBody{Name: "_http._tcp." + deep, Port: 80}, gossip.KindName, "", false},
	} {
		body, err := c.body.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.gossip.Publish(now, c.kind, "k", body); err != nil {
			t.Fatal(err)
		}
		source := nameSource{self, c.kind, "k"}
		var got []string
		for _, r := range n.nameRecords(source) {
			if text := r.Name; r.Target != "" {
				got = append(got, text+">"+r.Target)
			} else {
				got = append(got, text)
			}
		}
		if _, dotted := n.names.dotted[source]; strings.Join(got, " ") != c.want || dotted != c.dotted {
			t.Errorf("%+v: %v, to be looked at with the hosts' labels: %v", c.body, got, dotted)
		}
	}
	n.names.hosts[self] = nameHost{label: "vm1"}
	if got := n.nameRecords(nameSource{self, gossip.KindEndpoint, "k"}); got != nil {
		t.Errorf("a host that cannot be reached has %v", got)
	}
}

// TestOwnLabels: hosts in reach that share a nickname have labels of their own, and what
// they share is nobody's; who is gone takes nobody's label.
func TestOwnLabels(t *testing.T) {
	long := strings.Repeat("y", 63)
	hosts := map[crypto.Name]nameHost{
		{1}: {label: "vm1", reachable: true}, {2}: {label: "vm1", reachable: true},
		{3}: {label: "vm3", reachable: true}, {4}: {label: "vm3"},
		{5}: {reachable: true}, {6}: {reachable: true},
		{7}: {label: long, reachable: true}, {8}: {label: long, reachable: true},
	}
	labels := ownLabels(hosts)
	got := slices.Sorted(maps.Keys(labels))
	want := []string{"vm1", "vm1-0100000000000000", "vm1-0200000000000000", "vm3", long, long[:46] + "-0700000000000000", long[:46] + "-0800000000000000"}
	slices.Sort(want)
	if !slices.Equal(got, want) || hosts[crypto.Name{1}].label == "vm1" || hosts[crypto.Name{3}].label != "vm3" || hosts[crypto.Name{5}].label != "" {
		t.Errorf("%v\n%v", got, hosts)
	}
	names := naming{hosts: hosts, labels: labels}
	for _, h := range []byte{1, 2, 3} {
		if names.mayName(crypto.Name{h}, "web.vm1") {
			t.Errorf("host %d has web.vm1, which two could mean", h)
		}
	}
	if one := hosts[crypto.Name{1}].label; !names.mayName(crypto.Name{1}, "web."+one) || names.mayName(crypto.Name{2}, "web."+one) {
		t.Errorf("web.%s is not host 1's alone", one)
	}
}

// TestClash: what two endpoints have in common is named, and nothing else.
func TestClash(t *testing.T) {
	mac, one, two := [6]byte{2, 0, 0, 0, 0, 1}, netip.MustParseAddr("10.32.0.1"), netip.MustParseAddr("10.32.0.2")
	for _, c := range []struct {
		others []netip.Addr
		want   string
	}{{[]netip.Addr{two}, "10.32.0.2"}, {nil, "the MAC 02:00:00:00:00:01"}} {
		if got := clash(mac, []netip.Addr{one, two}, c.others); got != c.want {
			t.Errorf("%v: %q, not %q", c.others, got, c.want)
		}
	}
}
