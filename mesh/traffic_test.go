package mesh

import (
	"math/rand/v2"
	"testing"
	"time"

	"ripstop/crypto"
	"ripstop/mesh/gossip"
	"ripstop/mesh/plane"
	"ripstop/route"
)

// TestTotalsOutliveAPeer: what was exchanged with a peer stays in the totals when the
// peer is forgotten, and is not counted twice when it comes back.
func TestTotalsOutliveAPeer(t *testing.T) {
	identity, err := crypto.NewIdentity(new(crypto.Seed))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1000, 0)
	n := &node{identity: identity, swtch: route.NewSwitch(route.SwitchConfig{})}
	n.peers = make(map[crypto.Name]*peer)
	n.gossip = gossip.New(gossip.Config{Identity: identity, UID: 1, Random: rand.New(rand.NewPCG(1, 2))}, now)
	meet := func(id route.PeerID, out, in uint64) {
		p := plane.NewPeer(id, crypto.Name{byte(id)})
		p.FramesOut.Store(out)
		p.BytesOut.Store(100 * out)
		p.FramesIn.Store(in)
		p.BytesIn.Store(100 * in)
		n.peers[p.Name] = &peer{Peer: p}
	}
	want := func(what string, out, in uint64) {
		t.Helper()
		got := n.peerCounters()
		for name, count := range map[string]uint64{"frames_out": out, "bytes_out": 100 * out, "frames_in": in, "bytes_in": 100 * in} {
			if got[name] != count {
				t.Errorf("%s: %s is %d, want %d", what, name, got[name], count)
			}
		}
	}
	meet(1, 7, 5)
	meet(2, 30, 20)
	want("two peers", 37, 25)
	n.forgetPeers(now)
	if len(n.peers) != 0 {
		t.Fatalf("%d peers are left", len(n.peers))
	}
	want("forgotten", 37, 25)
	meet(1, 1, 2)
	want("one came back", 38, 27)
}
