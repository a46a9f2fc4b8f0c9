package ipam

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"ripstop/crypto"
	"ripstop/mesh/gossip"
)

// newGossip begins a host's gossip, with the machine as its data set and what is
// attached as its endpoints.
func (h *simHost) newGossip() {
	h.near, h.where = make(map[*simHost]int), make(map[netip.Addr][]crypto.Name)
	h.g = gossip.New(gossip.Config{
		Identity: h.id, UID: h.m.cfg.UID, Random: rand.New(rand.NewPCG(h.w.rng.Uint64(), 2)),
		Datasets: []gossip.Dataset{watched{h.m, h}}, Cache: h.w.cache,
	}, h.w.now)
	h.publish()
}

// watched is a machine as gossip sees it, under the eyes of the simulator.
type watched struct {
	*Machine
	h *simHost
}

// Merge notes what tells a host that its disk is old.
func (d watched) Merge(now time.Time, from crypto.Name, delta []byte) ([]byte, error) {
	h := d.h
	r := &reader{b: delta}
	for r.u8(); len(r.b) > 0 && r.u8() == sectionHint; {
		x := r.hint()
		later := x.boot > h.m.diskBoot || x.boot == h.m.diskBoot && x.seq > h.m.diskSeq
		if r.err == nil && x.origin == h.name && x.uid != h.m.cfg.UID && later && h.restoredOld && h.told.IsZero() {
			h.told = now
		}
	}
	news, err := d.Machine.Merge(now, from, delta)
	if err != nil {
		h.w.fail(12, "merge: %v", err)
	}
	return news, err
}

// Delta bounds what is said at once.
func (d watched) Delta(digest []byte) []byte {
	b := d.Machine.Delta(digest)
	if len(b) > maxDelta {
		d.h.w.fail(13, "delta of %d bytes", len(b))
	}
	return b
}

// meet makes those hosts gossip's neighbours that can be talked with.
func (h *simHost) meet() {
	now := h.w.now
	peers := h.peers()
	for _, o := range h.w.hosts {
		if run, ok := h.near[o]; ok && (run != o.run || !slices.Contains(peers, o)) {
			delete(h.near, o)
			h.g.NeighbourDown(now, o.name)
		}
	}
	for _, o := range peers {
		if h.neighbour(o.name) == nil {
			h.near[o] = o.run
			h.g.NeighbourUp(now, o.name, o.id.Public())
		}
	}
}

func (h *simHost) neighbour(n crypto.Name) *simHost {
	for _, o := range h.w.byName[n] {
		if _, ok := h.near[o]; ok {
			return o
		}
	}
	return nil
}

// chat lets gossip say what it has to say, and hears what is new in the endpoint map.
func (h *simHost) chat() {
	for {
		r := h.g.Ready()
		for _, c := range r.Changed {
			if c.Kind == gossip.KindEndpoint && c.Origin != h.name {
				h.locate(c)
			}
		}
		if len(r.Messages) == 0 {
			return
		}
		for _, s := range r.Messages {
			h.w.trace.Write(s.Bytes)
			o := h.neighbour(s.To)
			h.transmit(o, func() {
				if _, ok := o.near[h]; ok {
					if err := o.g.Step(h.w.now, h.name, s.Bytes); err != nil {
						h.w.fail(12, "gossip: %v", err)
					}
				}
			})
			h.g.Sent(s.To)
		}
	}
}

// locate follows one record of the endpoint map; its key is the address.
func (h *simHost) locate(c gossip.Change) {
	a, ok := netip.AddrFromSlice([]byte(c.Key))
	if !ok {
		h.w.fail(12, "endpoint %q", c.Key)
	}
	list := slices.DeleteFunc(h.where[a], func(n crypto.Name) bool { return n == c.Origin })
	if !c.Deleted {
		list = append(list, c.Origin)
		slices.SortFunc(list, crypto.Name.Compare)
	}
	if h.where[a] = list; len(list) == 0 {
		delete(h.where, a)
	}
}

func (h *simHost) elsewhere(a netip.Addr) (crypto.Name, bool) {
	if list := h.where[a]; len(list) > 0 {
		return list[0], true
	}
	return crypto.Name{}, false
}

// publish states what is attached here.
func (h *simHost) publish() {
	if h.g == nil {
		return
	}
	var there []string
	for r := range h.g.Records(gossip.KindEndpoint) {
		if r.Origin == h.name {
			there = append(there, r.Key)
		}
	}
	for _, key := range there {
		a, _ := netip.AddrFromSlice([]byte(key))
		if k := h.work[a]; k == nil || k.fenced {
			h.g.Withdraw(h.w.now, gossip.KindEndpoint, key)
		}
	}
	for _, a := range sortedAddrs(h.work) {
		if h.work[a].fenced || slices.Contains(there, string(a.AsSlice())) {
			continue
		}
		mac := [6]byte{2, byte(h.i)}
		copy(mac[2:], a.AsSlice())
		body, err := gossip.EndpointBody{MAC: mac, Addresses: []netip.Addr{a}, Claim: 1}.Append(nil)
		if err == nil {
			err = h.g.Publish(h.w.now, gossip.KindEndpoint, string(a.AsSlice()), body)
		}
		if err != nil {
			h.w.fail(12, "endpoint %v: %v", a, err)
		}
	}
}
