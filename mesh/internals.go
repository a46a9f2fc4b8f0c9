package mesh

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"runtime/metrics"
	"runtime/pprof"
	"strings"

	"ripstop/mesh/api"
	"ripstop/mesh/gossip"
)

// maxStacks bounds what is told of goroutines, bytes.
const maxStacks = 512 << 10

// Internals tells what a report of a fault has beside the status.
func (b *backend) Internals(_ context.Context, q api.InternalsRequest) (api.Internals, error) {
	n := (*node)(b)
	all := api.Internals{Sizes: n.sizes(), Settings: n.cfg.settings()}
	if n.cfg.LogTail != nil {
		all.Log, all.LogLost = n.cfg.LogTail.Lines()
	}
	if q.Stacks {
		all.Stacks = stacks()
	}
	return all, nil
}

// sizes are how many entries the tables of the node have, and what the program takes.
func (n *node) sizes() map[string]int {
	heap := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(heap)
	all := map[string]int{"goroutines": runtime.NumGoroutine(), "heap_bytes": int(heap[0].Value.Uint64())}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, kind := range []gossip.Kind{gossip.KindPeer, gossip.KindLinks, gossip.KindEndpoint, gossip.KindName, gossip.KindHint} {
		count := 0
		for range n.gossip.Records(kind) {
			count++
		}
		all["records_"+kind.String()] = count
	}
	learned, paths, connections, sessions := n.swtch.Learned().CountLocal(vni), 0, 0, 0
	for _, p := range n.peers {
		learned += n.swtch.Learned().Count(p.ID)
		if p.paths != nil {
			paths += len(p.paths.Status())
		}
		if p.conn != nil {
			connections++
		}
		if p.exchange.Sending() != nil {
			sessions++
		}
	}
	for name, size := range map[string]int{
		"members": len(n.gossip.Members()), "peers": len(n.peers), "connections": connections, "paths": paths,
		"sessions_sending": sessions, "sessions_receiving": len(n.receivers),
		"routes": len(n.table.Routes()), "endpoints": len(n.table.Endpoints()), "endpoints_fenced": len(n.table.Fenced()),
		"learned_macs": learned, "attachments": len(n.attachments), "reservations": len(n.reservations),
		"witnesses": len(n.observed.witnesses), "names_added": len(n.names.added),
		"address_requests_waiting": len(n.waiting), "requests_waiting": len(n.requests), "pings_waiting": len(n.pings),
		"events_queued": len(n.datagrams), "events_room": cap(n.datagrams),
	} {
		all[name] = size
	}
	if n.names.zone != nil {
		all["names"] = n.names.zone.Len()
	}
	return all
}

// settings are what the host was started with, as flags of `up`; secrets stay out, each of
// the others is named here.
func (c *Config) settings() map[string]string {
	return map[string]string{
		"bind": listed(texts(c.Bind)), "advertise": listed(texts(c.Advertise)), "peers": fmt.Sprint(len(c.Peers)),
		"peers-file": c.PeersFile, "no-discovery": fmt.Sprint(c.NoDiscovery), "mode": c.Mode, "bridge": c.Bridge, "device": c.Device,
		"mtu": fmt.Sprint(c.MTU), "strict-ports": fmt.Sprint(c.StrictPorts), "no-offload": strings.Join(c.NoOffload, ","), "nice": fmt.Sprint(c.Nice),
		"no-dns": fmt.Sprint(c.NoDNS), "dns-domain": c.DNSDomain, "resolv-conf": c.ResolvConf, "ipv6": c.IPv6,
	}
}

// stacks are what the goroutines do. The form without arguments is used: those of functions
// that take keys by value would be the keys.
func stacks() string {
	var b bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&b, 1); err != nil {
		return err.Error()
	}
	text := b.String()
	if len(text) > maxStacks {
		text = text[:maxStacks] + "\n…\n"
	}
	return text
}
