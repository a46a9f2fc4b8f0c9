package mesh

import (
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"testing"
	"time"

	"ripstop/crypto"
	"ripstop/mesh/api"
	"ripstop/mesh/gossip"
	"ripstop/route"
	"ripstop/transport"
)

// TestTopology: in a row a–b–c, with whose c d says nothing of its link, and e and f which
// nobody reaches, each link is told once, as both its ends have it.
func TestTopology(t *testing.T) {
	now := time.Unix(1000, 0)
	nicks := []string{"a", "b", "c", "d", "e", "f"}
	name, nick := make(map[string]crypto.Name), make(map[string]string)
	var identities []*crypto.Identity
	var states []*gossip.State
	for i, nickname := range nicks {
		seed, err := crypto.NewSeed(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		identity, err := crypto.NewIdentity(seed)
		if err != nil {
			t.Fatal(err)
		}
		identities = append(identities, identity)
		name[nickname], nick[identity.Name().String()] = identity.Name(), nickname
		states = append(states, gossip.New(gossip.Config{Identity: identity, UID: 1, Random: mathrand.New(mathrand.NewPCG(1, uint64(i)))}, now))
	}
	link := func(to string, ms int, loss uint8, path transport.PathKind) gossip.LinkInfo {
		return gossip.LinkInfo{Peer: name[to], RTT: time.Duration(ms) * time.Millisecond, Loss: loss, Path: uint8(path)}
	}
	direct, tcp := transport.PathDirect, transport.PathTCP
	told := map[string][]gossip.LinkInfo{
		"a": {link("b", 1, 0, direct)},
		"b": {link("a", 3, 0, direct), link("c", 5, 0, direct)},
		"c": {link("b", 1, 2, tcp), link("d", 1, 0, 99)},
		"e": {link("f", 1, 0, direct)},
		"f": {link("e", 1, 0, direct)},
	}
	for i, s := range states {
		for kind, body := range map[gossip.Kind]interface{ Append([]byte) ([]byte, error) }{
			gossip.KindPeer:  gossip.PeerBody{Nickname: nicks[i], UID: 1, Keys: identities[i].Public()},
			gossip.KindLinks: gossip.LinksBody{Links: told[nicks[i]]},
		} {
			b, err := body.Append(nil)
			if err == nil {
				err = s.Publish(now, kind, "", b)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if i > 0 {
			s.NeighbourUp(now, name["a"], identities[0].Public())
			states[0].NeighbourUp(now, name[nicks[i]], identities[i].Public())
		}
	}
	for range 20 {
		now = now.Add(time.Second)
		for i, s := range states {
			s.Tick(now)
			for _, m := range s.Ready().Messages {
				to := slices.IndexFunc(identities, func(id *crypto.Identity) bool { return id.Name() == m.To })
				if err := states[to].Step(now, name[nicks[i]], m.Bytes); err != nil {
					t.Fatal(err)
				}
				s.Sent(m.To)
			}
		}
	}
	for _, gone := range nicks[2:] {
		states[0].NeighbourDown(now, name[gone])
	}
	n := &node{identity: identities[0], cfg: Config{Nickname: "a"}}
	n.gossip = states[0]
	n.table = route.Build(route.TableConfig{Self: name["a"], Peers: map[crypto.Name]route.PeerID{name["b"]: 1, name["c"]: 2}, LinksUp: map[crypto.Name]bool{name["b"]: true},
		Graph: route.BuildGraph(name["a"], n.publishedLinks())})

	got := n.topology()
	hosts := make(map[string]string)
	for _, h := range got.Hosts {
		hosts[h.Nickname] = fmt.Sprint(nick[h.Name], " ", h.Alive, " ", h.Reachable)
	}
	for nickname, want := range map[string]string{"a": "a true true", "b": "b true true", "c": "c true true", "d": "d true false", "e": "e false false", "f": "f false false"} {
		if hosts[nickname] != want {
			t.Errorf("host %s is %q, want %s", nickname, hosts[nickname], want)
		}
	}
	lower := func(x, y string) string {
		if name[y].Compare(name[x]) < 0 {
			return y + x
		}
		return x + y
	}
	want := map[string]string{
		lower("a", "b"): "up udp 5000 3000 0", lower("b", "c"): "up tcp 23000 5000 0.02", "cd": "half  3000 1000 0", lower("e", "f"): "old udp 3000 1000 0",
	}
	for _, l := range got.Links {
		ends := nick[l.From] + nick[l.To]
		if text := fmt.Sprint(l.State, " ", l.Path, " ", l.CostMicro, " ", l.RTTMicro, " ", l.Loss); want[ends] != text {
			t.Errorf("link %s is %s, want %q", ends, text, want[ends])
		}
		delete(want, ends)
	}
	if len(want) > 0 || got.LeftOut != 0 {
		t.Errorf("not told: %v, left out: %d", want, got.LeftOut)
	}
	sorted := slices.IsSortedFunc(got.Links, func(x, y api.TopologyLink) int { return slices.Compare([]string{x.From, x.To}, []string{y.From, y.To}) })
	if !sorted || !slices.IsSortedFunc(got.Hosts, func(x, y api.TopologyHost) int { return slices.Compare([]string{x.Name}, []string{y.Name}) }) {
		t.Errorf("not in order: %+v", got)
	}
}
