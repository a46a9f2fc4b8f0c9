package mesh

import (
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ripstop/crypto"
	"ripstop/mesh/api"
	"ripstop/mesh/dns"
	"ripstop/mesh/gossip"
	"ripstop/mesh/ipam"
	"ripstop/mesh/plane"
	"ripstop/route"
	"ripstop/transport"
	"ripstop/tun"
)

func TestParsePlace(t *testing.T) {
	for in, want := range map[string]string{
		"10.32.0.1": "address 10.32.0.1", "::ffff:10.32.0.1": "address 10.32.0.1", "fd00::1": "address fd00::1", "224.0.0.1": "address 224.0.0.1",
		"02:00:5e:00:53:01": "mac 02:00:5e:00:53:01", "02-00-5E-00-53-01": "mac 02:00:5e:00:53:01", "ff:ff:ff:ff:ff:ff": "mac ff:ff:ff:ff:ff:ff",
		"web": "name web", "web.ripstop.internal.": "name web.ripstop.internal.", "10.32.0": "name 10.32.0",
		"00112233445566778899aabbccddeeff": "name 00112233445566778899aabbccddeeff", strings.Repeat("x", 254): "name " + strings.Repeat("x", 254),
		"": "is missing", strings.Repeat("x", 255): "254 are the most", "10.32.0.1/12": "without a length: 10.32.0.1", "fe80::1%eth0": "not an address", "0.0.0.0": "not an address",
		"127.0.0.1": "not an address", "::1": "not an address", "00:00:00:00:00:00": "that nothing has",
	} {
		p, err := parsePlace(in)
		got := "name " + p.name
		switch {
		case err != nil:
			got = err.Error()
		case p.address.IsValid():
			got = "address " + p.address.String()
		case !p.mac.IsZero():
			got = "mac " + p.mac.String()
		}
		if known := strings.HasPrefix(want, "name ") || strings.HasPrefix(want, "address ") || strings.HasPrefix(want, "mac "); known && got != want || !known && (err == nil || !strings.Contains(got, want)) {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

// The hosts of a mapped network beside the one that is asked, by nickname.
var mapped = map[string]crypto.Name{"b": {0xb0, 1}, "c": {0xc0, 1}, "d": {0xd0, 1}, "e": {0xe0, 1}, "f": {0xf0, 1}}

// station is an endpoint on a host of the mapped network.
func station(host crypto.Name, name string, last byte) route.Endpoint {
	return route.Endpoint{MAC: route.MAC{2, 0, 0, 0, 0, last}, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 32, 0, last})}, Names: []string{name}, Host: host, Claim: 1}
}

// mappedNode is a host a in a row a–b–c, with which d has no session; a says that it has a
// link with e, which says nothing, and nobody knows of f but that it was there.
func mappedNode(t *testing.T) (*node, *plane.Snapshot) {
	t.Helper()
	identity, err := crypto.NewIdentity(new(crypto.Seed))
	if err != nil {
		t.Fatal(err)
	}
	now, self := time.Now(), identity.Name()
	random := mathrand.New(mathrand.NewPCG(1, 2))
	n := &node{identity: identity, network: new(crypto.Network), log: slog.New(slog.DiscardHandler), bridge: new(tun.Bridge), swtch: route.NewSwitch(route.SwitchConfig{}), port: 6783,
		cfg: Config{Bridge: "rs", Nickname: "a", DNSDomain: DefaultDNSDomain, DNSAddress: DefaultDNSAddress}}
	n.addressing = newAddressing()
	n.numbering, _ = numberingFor(numbering{}, &Config{Range: netip.MustParsePrefix("10.32.0.0/16"), Reserved: []netip.Prefix{netip.MustParsePrefix("10.32.9.0/24")}})
	if n.machine, err = ipam.New(ipam.Config{Identity: identity, UID: 1, Random: random, Range: n.numbering.Range}, now); err != nil {
		t.Fatal(err)
	}
	n.machine.Targets(now, nil, nil)
	n.machine.Listed(now, nil)
	n.machine.Allocate(now, ipam.Request{ID: "vm7", Addr: netip.MustParseAddr("10.32.7.7")})
	for r := n.machine.Ready(now); !r.Empty(); r = n.machine.Ready(now) {
		n.machine.Done(now, nil)
	}
	n.gossip = gossip.New(gossip.Config{Identity: identity, UID: 1, Random: random}, now)
	n.publish(now, gossip.KindLinks, "", gossip.LinksBody{Links: []gossip.LinkInfo{{Peer: mapped["b"]}, {Peer: mapped["e"]}}})

	a1, held := attachedTo("ripv1", 1), attachedTo("ripv2", 2)
	a1.Name, a1.Plan.MTU, a1.Plan.Netns, a1.AllowAddress = "a1", 1400, "pid:7", []string{"192.0.2.0/24"}
	held.Name = "a2"
	loser := attachedTo("ripv1", 3)
	loser.Name = "a3"
	n.attachments = []*attachment{&a1, &held, &loser}
	n.fenced[netip.MustParseAddr("10.32.0.2")] = true
	local := []route.Endpoint{station(self, "a1", 1), station(self, "a2", 2)}
	local[1].Addresses = nil

	rival := station(mapped["d"], "rival", 3)
	rival.Claim = 0
	endpoints := append(local, station(mapped["c"], "c1", 3), rival, station(mapped["d"], "d1", 4), station(mapped["e"], "e1", 5), station(mapped["f"], "f1", 6))
	endpoints[2].MTU = 1300
	n.names.server = new(dns.Server)
	n.names.zone = dns.NewZone(DefaultDNSDomain).Set(
		dns.Change{Source: "1", Records: []dns.Record{{Name: "c1", Addresses: endpoints[2].Addresses}}},
		dns.Change{Source: "2", Records: []dns.Record{{Name: "both", Addresses: []netip.Addr{netip.MustParseAddr("10.32.0.3"), netip.MustParseAddr("10.32.0.4")}}}},
		dns.Change{Source: "3", Records: []dns.Record{{Name: "_http._tcp.c1", Port: 80, Target: "c1"}, {Name: "_x._tcp.gone", Port: 81, Target: "gone"}}})

	both := func(a, b crypto.Name) []route.Link { return []route.Link{{A: a, B: b}, {A: b, B: a}} }
	links := slices.Concat(both(self, mapped["b"]), both(mapped["b"], mapped["c"]), both(mapped["b"], mapped["d"]))
	snapshot := &plane.Snapshot{Outlets: make([]*plane.Outlet, 8)}
	ids := make(map[crypto.Name]route.PeerID)
	n.peers = make(map[crypto.Name]*peer)
	for i, nick := range []string{"b", "c", "d", "e"} {
		p := &peer{Peer: plane.NewPeer(route.PeerID(i+1), mapped[nick]), exchange: transport.NewExchange(transport.ExchangeConfig{Identity: identity, Jitter: random})}
		n.peers[p.Name], ids[p.Name] = p, p.ID
		snapshot.Outlets[p.ID] = &plane.Outlet{Peer: p.Peer, Session: new(crypto.Session), RelayLimit: 1400}
	}
	b := n.peers[mapped["b"]]
	b.paths = transport.NewPaths(transport.PathsConfig{Random: random, Fragmenting: true})
	b.paths.SetCandidates(now, []netip.AddrPort{netip.MustParseAddrPort("198.51.100.2:6783")})
	b.paths.Tick(now)
	for _, probe := range b.paths.Probes() {
		b.paths.Answered(now.Add(2*time.Millisecond), probe.Path, probe.ID, true)
	}
	b.since = now
	o := snapshot.Outlets[b.ID]
	o.Path, _ = b.paths.Best()
	o.Limit, o.Train = 1472, 44
	n.peers[mapped["d"]].exchange.Want(now.Add(-12*time.Second), true)
	snapshot.Table = route.Build(route.TableConfig{Self: self, Peers: ids, Graph: route.BuildGraph(self, links), LinksUp: map[crypto.Name]bool{mapped["b"]: true}, Endpoints: endpoints})
	return n, snapshot
}

// askMapped has the mapped node explain, and shows what it says as text.
func askMapped(n *node, snapshot *plane.Snapshot, from, to string) (string, api.Explanation, error) {
	x := n.explainer(snapshot, 0)
	x.offloads = []api.Offload{{Name: "tso", Used: true}, {Name: "gso", Why: "switched off"}}
	x.portThere = func(name string) bool { return name == "ripv1" }
	for nick, name := range mapped {
		x.nicknames[name] = nick
		x.members[name] = gossip.Member{Name: name, Alive: nick < "e", Gone: x.now.Add(-time.Minute), Peer: gossip.PeerBody{Nickname: nick, Addresses: []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, name[0]}), 6783)}}}
	}
	e, err := x.explain(api.ExplainRequest{From: from, To: to})
	nick := map[string]string{n.identity.Name().String(): "a"}
	for name, host := range mapped {
		nick[host.String()] = name
	}
	var b strings.Builder
	for _, s := range e.Steps {
		fmt.Fprintf(&b, "%s %s: %s\n", s.What, s.State, s.Text)
	}
	for _, host := range e.Way {
		fmt.Fprint(&b, nick[host], " ")
	}
	fmt.Fprintf(&b, "%v: %s", e.Arrives, e.Verdict)
	return b.String(), e, err
}

// TestExplainSteps: each kind of place, with what is said of it.
func TestExplainSteps(t *testing.T) {
	n, snapshot := mappedNode(t)
	n.swtch.Learned().Learn(0, vni, route.MAC{2, 0, 0, 0, 9, 1}, n.peers[mapped["c"]].ID)
	n.swtch.Learned().Learn(0, vni, route.MAC{2, 0, 0, 0, 9, 2}, 0)
	self := n.identity.Name().String()
	for _, c := range []struct {
		from, to string
		want     []string // the last is the end
	}{
		{"", "10.32.0.3", []string{"from ok: this host, a", "endpoint warn: c1, 02:00:00:00:00:03 with 10.32.0.3, on c; claim 1; the same is claimed by 02:00:00:00:00:03 on d (claim 0), which is fenced",
			"host ok: c, ", "way ok: a–b–c: 2 links, cost 4.00 ms; there is no other", "link ok: with b: udp 198.51.100.2:6783, RTT 2.00 ms, loss 0 %, datagrams of 1472 bytes, 44 in one call, up for 0s, heard 0s ago",
			"session warn: none with c: the first frame asks for one, and is lost", "mtu ok: every IP packet goes in one datagram: 1342 bytes would, 1300 are the most that is taken at the other end",
			"offloads ok: TCP as super-frames, cut here: tso, no gso (switched off)", "a b c true: it gets there over b, 2 links away"}},
		{"a1", "c1", []string{"from ok: a1 here, port ripv1: may send as 02:00:00:00:00:01 with 10.32.0.1/12; allowed too: 192.0.2.0/24", "name ok: c1.ripstop.internal is 10.32.0.3", "a b c true: "}},
		{"10.32.0.1", "_http._tcp.C1.ripstop.internal.", []string{"name ok: _http._tcp.c1.ripstop.internal is 10.32.0.3", "a b c true: "}},
		{"", "_x._tcp.gone", []string{"name fail: _x._tcp.gone.ripstop.internal is a service whose hosts have no address now"}},
		{"a1.a", "both", []string{"name ok: both.ripstop.internal is 10.32.0.3, 10.32.0.4; this is about 10.32.0.3", "a b c true: "}},
		{"pid:7", "10.32.0.4", []string{"mtu ok: an IP packet of up to 1342 bytes goes in one datagram of 1400, a longer one in pieces, up to the 1400 bytes that are sent", "session fail: none with d, wanted for 12s", "false: it does not get there: none with d"}},
		{"02:00:00:00:00:01", "192.0.2.4", []string{"from warn: a1 has no address and no route by which 192.0.2.4 is on its network", "address ok: 192.0.2.4 is outside the range 10.32.0.0/16", "address fail: nobody is known to have 192.0.2.4: questions for it (ARP, ND) go as copies to 3 hosts (b, c, d)", "false: it gets there only if something answers"}},
		{"a2", "10.32.0.1", []string{"from fail: a2: its port ripv2 is gone", "false: it does not get there: a2: its port"}},
		{"a3", "10.32.0.99", []string{"address fail: nobody is known to have 10.32.0.99", "false: it does not get there: a3 is fenced"}},
		{"a3", "10.32.0.1", []string{"from fail: a3 is fenced: another host's claim", "false: it does not get there: a3 is fenced"}},
		{"a1", "a1", []string{"endpoint ok: a1, ", "a true: it is the sender itself"}},
		{"", "A1", []string{"endpoint ok: a1, ", "way ok: the bridge rs carries it from port to port", "a true: a1 is on this host: the bridge carries the frame, without ripstop"}},
		{"", "10.32.0.2", []string{"address fail: 10.32.0.2 of a2 here is fenced", "false: it does not get there: 10.32.0.2 of a2"}},
		{"", "02:00:00:00:00:02", []string{"endpoint fail: its port ripv2 is gone", "false: it does not get there: its port"}},
		{"", "rival", []string{"name warn: rival.ripstop.internal is not resolved now", "endpoint fail: fenced: rival, ", "false: "}},
		{"", "e1", []string{"host warn: e, e2:01:00:00:00:00: no host has a link with it, for 1m0s", "way fail: there is no way from a to e: the link a–e is missing", "missing fail: link a–e: the record of a tells of it, that of e does not", "false: "}},
		{"", "f1.f", []string{"way fail: there is no way from a to f: no host's record tells of a link between the two sides", "false: "}},
		{"", mapped["c"].String(), []string{"mac ok: " + mapped["c"].String() + " is the name of the host c", "endpoint ok: c itself has no address on the network", "a b c true: "}},
		{"", "a", []string{"name ok: a is a host", "a true: "}},
		{"", self, []string{"mac ok: " + self + " is the name of the host a", "a true: "}},
		{"", "02:00:00:00:09:01", []string{"mac ok: 02:00:00:00:09:01 is in no record: learned from frames of host c", "a b c true: "}},
		{"", "02:00:00:00:09:02", []string{"mac ok: 02:00:00:00:09:02 is in no record: learned from frames of a port of this host", "a true: "}},
		{"", "02:00:00:00:09:03", []string{"mac fail: nobody is known to have 02:00:00:00:09:03: frames for it go as copies to 3 hosts", "false: it gets there only if"}},
		{"", "01:80:c2:00:00:0e", []string{"mac fail: 01:80:c2:00:00:0e concerns one cable", "false: "}},
		{"", "33:33:00:00:00:01", []string{"mac ok: 33:33:00:00:00:01 is for everybody: a copy goes to each host that can be reached, 3 of them: b, c, d", "true: it gets to the bridge here, and as copies to 3 hosts"}},
		{"", "224.0.0.251", []string{"address ok: 224.0.0.251 is for everybody", "true: "}},
		{"", "169.254.83.53", []string{"address ok: 169.254.83.53 is where every host answers", "a true: "}},
		{"", "198.51.100.192", []string{"address fail: 198.51.100.192 is an address of the host c outside this network", "false: "}},
		{"", "10.32.8.8", []string{"address ok: 10.32.8.8 is free: in a block of this host, which has given it to nobody", "false: "}},
		{"", "10.32.9.8", []string{"address ok: 10.32.9.8 is free, in a block of this host, and reserved", "false: "}},
		{"", "10.32.7.7", []string{"address ok: 10.32.7.7 is given to vm7 by this host, which has no endpoint with it", "false: "}},
		{"", "nobody", []string{"name fail: no name, endpoint or host on this network is called nobody", "false: "}},
	} {
		got, e, err := askMapped(n, snapshot, c.from, c.to)
		if err != nil {
			t.Errorf("%s to %s: %v", c.from, c.to, err)
			continue
		}
		for i, want := range c.want {
			if !strings.Contains("\n"+got, "\n"+want) {
				t.Errorf("%s to %s: %d is not %q:\n%s", c.from, c.to, i, want, got)
			}
		}
		if !e.Arrives && e.Verdict == "" || e.Arrives && e.Advice != "" || e.To != c.to {
			t.Errorf("%s to %s: %+v", c.from, c.to, e)
		}
	}
}

// TestExplainOtherWays: ways that are as good, one in reserve, a path without a link, and a
// link of which only this host's end is down.
func TestExplainOtherWays(t *testing.T) {
	n, snapshot := mappedNode(t)
	self, b, c, d := n.identity.Name(), mapped["b"], mapped["c"], mapped["d"]
	both := func(a, b crypto.Name, rtt time.Duration) []route.Link {
		return []route.Link{{A: a, B: b, RTT: rtt}, {A: b, B: a, RTT: rtt}}
	}
	for _, k := range []struct {
		rtt  time.Duration // of the link between a and d
		down bool
		want string
	}{
		{time.Millisecond, false, "way ok: a–b–c: 2 links, cost 4.00 ms; else a–d–c"},
		{0, false, "; as good: a–"},
		{0, true, "way fail: there is no way from a to c: the link a–b is missing"},
	} {
		up := map[crypto.Name]bool{b: !k.down, d: !k.down}
		snapshot.Outlets[3].Path, snapshot.Outlets[3].Limit = transport.Path{Kind: transport.PathTCP}, 1400
		snapshot.Table = route.Build(route.TableConfig{Self: self, Peers: map[crypto.Name]route.PeerID{b: 1, c: 2, d: 3}, LinksUp: up, Directory: snapshot.Table.Directory(),
			Graph: route.BuildGraph(self, slices.Concat(both(self, b, 0), both(b, c, 0), both(self, d, k.rtt), both(d, c, 0)))})
		if got, _, err := askMapped(n, snapshot, "", "c1"); err != nil || !strings.Contains(got, k.want) {
			t.Errorf("%v\n%s\nhas no %q", err, got, k.want)
		}
	}
	// Of two neighbours that are as good, only the flows of one get on.
	session := snapshot.Outlets[1].Session
	snapshot.Table = route.Build(route.TableConfig{Self: self, Peers: map[crypto.Name]route.PeerID{b: 1, c: 2, d: 3}, LinksUp: map[crypto.Name]bool{b: true, d: true}, Directory: snapshot.Table.Directory(),
		Graph: route.BuildGraph(self, slices.Concat(both(self, b, 0), both(b, c, 0), both(self, d, 0), both(d, c, 0)))})
	for with, without := range map[route.PeerID]route.PeerID{1: 3, 3: 1} {
		snapshot.Outlets[with].Session, snapshot.Outlets[without].Session = session, nil
		if got, _, err := askMapped(n, snapshot, "", "c1"); err != nil || strings.Contains(got, "way fail") || !strings.Contains(got, "way ok: a–") {
			t.Errorf("%d alone has a session: %v\n%s", with, err, got)
		}
	}
	snapshot.Outlets[1].Session = session
	o := snapshot.Outlets[2]
	o.Path, o.Direct = transport.DirectPath(netip.MustParseAddrPort("198.51.100.192:6783")), true
	if got, _, err := askMapped(n, snapshot, "", "c1"); err != nil || !strings.Contains(got, "way ok: a–c: directly") || !strings.HasSuffix(got, "a c true: it gets there directly") {
		t.Errorf("%v\n%s", err, got)
	}
}

// TestExplainSilent: where no names are answered, nothing is at the address for it.
func TestExplainSilent(t *testing.T) {
	n, snapshot := mappedNode(t)
	n.names.server = nil
	got, e, err := askMapped(n, snapshot, "", DefaultDNSAddress.String())
	if err != nil || e.Arrives || !strings.Contains(got, "and this one does not: it was started with --no-dns") {
		t.Errorf("%v\n%s", err, got)
	}
}

// TestExplainRefuses: what makes no sense is no explanation.
func TestExplainRefuses(t *testing.T) {
	n, snapshot := mappedNode(t)
	for _, c := range []struct {
		from, to string
		code     api.Code
		text     string
	}{
		{"", "10.32.0.3/12", api.CodeInvalid, "without a length"},
		{"10.32.0.1/12", "c1", api.CodeInvalid, "without a length"},
		{"", "", api.CodeInvalid, "is missing"},
		{"c1", "a1", api.CodeNotFound, "c1 is not attached to this host: `ripstop status endpoints`"},
		{"a", "c1", api.CodeNotFound, "a is not attached"},
	} {
		if _, _, err := askMapped(n, snapshot, c.from, c.to); !api.IsCode(err, c.code) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%q to %q: %v", c.from, c.to, err)
		}
	}
}

// TestToldByOne: of the links of which one end tells, those count that would join both
// sides, or the other side with a third; what this side lacks stands first.
func TestToldByOne(t *testing.T) {
	self, b, c, d, e, f := crypto.Name{0xf9}, crypto.Name{0xb}, crypto.Name{0xc}, crypto.Name{0xd}, crypto.Name{0xe}, crypto.Name{0xf}
	links := []route.Link{{A: self, B: b}, {A: b, B: self}, {A: c, B: d}, {A: d, B: c}, // two sides
		{A: b, B: e}, {A: c, B: f}, {A: d, B: b}, {A: self, B: c}, {A: e, B: f}}
	got := toldByOne(route.BuildGraph(self, links), d, slices.Clone(links))
	if want := []route.Link{{A: d, B: b}, {A: self, B: c}, {A: c, B: f}}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := toldByOne(route.BuildGraph(self, nil), d, nil); len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
}
