package page

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"ripstop/mesh/api"
)

// TestView: hosts are put together of what topology and status tell, and this host's own
// links are as it sees them itself.
func TestView(t *testing.T) {
	s := api.Status{
		Name: "a", Nickname: "alpha", Network: "n", Cipher: "auto", Warnings: []string{"w"}, SecretFile: "/secret", StateDir: "/state", Mode: "bridge", Bridge: "ripstop", Software: "1.0",
		Peers: []api.Peer{
			{Name: "b", Nickname: "beta", Alive: true, Reachable: true, Hops: 1, Path: "udp", Session: "aes", Addresses: []string{"192.0.2.1:6783"}, FramesIn: 3},
			{Name: "c", Nickname: "gamma", Alive: true, Reachable: true, Hops: 2, Path: "relay", Via: "beta"},
			{Name: "d", Nickname: "delta", Alive: true, Reachable: true, Hops: 1, Path: "udp"},
		},
		Routes:    []api.Route{{Peer: "b", Next: "b", CostMicro: 7}, {Peer: "c", Next: "b", CostMicro: 9}, {Peer: "d", Next: "b"}},
		Links:     []api.Link{{Peer: "b", State: api.LinkUp, Path: "tcp", RTTMicro: 5, Loss: 0.5}, {Peer: "f", State: api.LinkConnecting}},
		Endpoints: []api.Endpoint{{Name: "web", MAC: "m", Host: "a", State: api.EndpointHere, Netns: "/run/netns/web", Owner: "owner", Addresses: []netip.Prefix{netip.MustParsePrefix("10.32.0.1/12")}}},
		IPAM:      &api.IPAM{Range: netip.MustParsePrefix("10.32.0.0/12"), Used: 2, Hosts: []api.IPAMHost{{Host: "a", Addresses: 8, Free: 6}}},
	}
	topology := api.Topology{
		Hosts: []api.TopologyHost{{Name: "a", Nickname: "alpha"}, {Name: "b", Nickname: "beta", Alive: true, Reachable: true}, {Name: "c", Nickname: "gamma", Alive: true, Reachable: true},
			{Name: "d", Nickname: "delta", Alive: true, Reachable: true}, {Name: "e", Nickname: "epsilon"}, {Name: "f", Nickname: "phi"}},
		Links: []api.TopologyLink{{From: "a", To: "b", State: api.TopologyUp, Path: "udp", RTTMicro: 100}, {From: "b", To: "c", State: api.TopologyUp, Path: "udp", RTTMicro: 50},
			{From: "b", To: "gone", State: api.TopologyHalf}, {From: "a", To: "e", State: api.TopologyUp}, {From: "c", To: "e", State: api.TopologyOld}},
		LeftOut: 3,
	}
	v := newView(s, topology, api.Names{Domain: "d", Names: []api.Name{{Name: "web", Addresses: []netip.Addr{}}}})
	var hosts, links []string
	for _, h := range v.Hosts {
		hosts = append(hosts, strings.TrimSpace(fmt.Sprint(h.Name, " ", h.Nickname, " ", h.Self, h.Alive, h.Reachable, " ", h.Hops, h.Via, h.Path, h.Session, h.CostMicro)))
	}
	for _, l := range v.Links {
		links = append(links, fmt.Sprint(l.From, l.To, " ", l.State, " ", l.Path, " ", l.Own, " ", l.RTTMicro, " ", l.Loss))
	}
	if want := []string{"a alpha truetruetrue 00", "b beta falsetruetrue 1udpaes7", "c gamma falsetruetrue 2brelay9", "d delta falsetruetrue 1udp0", "e epsilon falsefalsefalse 00", "f phi falsefalsefalse 00"}; !slices.EqualFunc(hosts, want, func(x, y string) bool { return strings.ReplaceAll(x, " ", "") == strings.ReplaceAll(y, " ", "") }) {
		t.Errorf("hosts %q\nwant  %q", hosts, want)
	}
	if want := []string{"ab up tcp true 5 0.5", "bc up udp false 50 0", "ae down  false 0 0", "ce old  false 0 0", "af connecting  true 0 0", "ad direct udp false 0 0"}; !slices.Equal(links, want) {
		t.Errorf("links %q\nwant  %q", links, want)
	}
	if v.LeftOut["links"] != 3 || v.IPAM.Size != 1<<20 || len(v.DNS.Names) != 1 || v.Hosts[0].Bridge != "ripstop" || v.Hosts[1].FramesIn != 3 {
		t.Errorf("%+v", v)
	}
	body, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"/secret", "/state", "netns", "owner", "null"} {
		if strings.Contains(string(body), word) {
			t.Errorf("the view has %q in it: %s", word, body)
		}
	}
	if body, _ := json.Marshal(newView(api.Status{}, api.Topology{}, api.Names{})); strings.Contains(string(body), "null") {
		t.Errorf("an empty one: %s", body)
	}
}

// TestViewIsBounded: of a network larger than a page can show, what is left out is counted,
// and this host and its neighbours are not among it.
func TestViewIsBounded(t *testing.T) {
	const n = maxHosts + 50
	s := api.Status{Name: "zz", Warnings: make([]string, maxWarnings+1), Endpoints: make([]api.Endpoint, maxEndpoints+2), IPAM: &api.IPAM{Hosts: make([]api.IPAMHost, maxHosts+3)}}
	var topology api.Topology
	for i := range n {
		name := fmt.Sprintf("h%05d", i)
		topology.Hosts = append(topology.Hosts, api.TopologyHost{Name: name, Reachable: i%2 == 0, Alive: true})
		s.Peers = append(s.Peers, api.Peer{Name: name, Hops: 2})
		for k := range 5 {
			topology.Links = append(topology.Links, api.TopologyLink{From: name, To: fmt.Sprintf("h%05d", (i+k+1)%n), State: api.TopologyUp})
		}
	}
	s.Peers[n-1].Hops = 1
	v := newView(s, topology, api.Names{Names: make([]api.Name, maxNames+4)})
	if len(v.Hosts) != maxHosts || len(v.Links) != maxLinks || len(v.Endpoints) != maxEndpoints || len(v.Warnings) != maxWarnings || len(v.DNS.Names) != maxNames || len(v.IPAM.Hosts) != maxHosts {
		t.Errorf("%d hosts, %d links, %d endpoints, %d warnings, %d names, %d shares", len(v.Hosts), len(v.Links), len(v.Endpoints), len(v.Warnings), len(v.DNS.Names), len(v.IPAM.Hosts))
	}
	if v.LeftOut["hosts"] != n+1-maxHosts || v.LeftOut["endpoints"] != 2 || v.LeftOut["warnings"] != 1 || v.LeftOut["names"] != 4 || v.LeftOut["shares"] != 3 || v.LeftOut["links"] == 0 {
		t.Errorf("left out: %v", v.LeftOut)
	}
	shown := make(map[string]bool)
	for _, h := range v.Hosts {
		shown[h.Name] = true
	}
	if !shown["zz"] || !shown[s.Peers[n-1].Name] || !shown["h00000"] {
		t.Error("this host, a neighbour or a host that can be reached is left out")
	}
	for _, l := range v.Links {
		if !shown[l.From] || !shown[l.To] {
			t.Errorf("a link to nowhere: %+v", l)
		}
	}
}
