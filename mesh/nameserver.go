package mesh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"ripstop/crypto"
	"ripstop/mesh/api"
	"ripstop/mesh/dns"
	"ripstop/mesh/gossip"
	"ripstop/mesh/store"
	"ripstop/tun/attach"
)

// overlayDevice is the interface by which questions come from the overlay.
func (n *node) overlayDevice() string {
	if n.bridge == nil {
		return n.deviceName
	}
	return n.cfg.Bridge
}

// openNames puts the address for names on the overlay's device and listens there and
// on the loopback. A host where that cannot be goes on without, and says so.
func (n *node) openNames() {
	if n.cfg.NoDNS {
		return
	}
	device := n.overlayDevice()
	err := attach.AddServiceAddress(device, n.cfg.DNSAddress)
	if err == nil {
		server := dns.NewServer(dns.ServerConfig{Resolver: n.cfg.ResolvConf, Own: n.answersAt, Log: n.log}, n.names.zone)
		if err = server.Listen(n.namePlaces(nil)...); err == nil {
			n.names.server = server
			return
		}
		server.Listen() // closes what was opened
	}
	if drop := attach.RemoveServiceAddress(device, n.cfg.DNSAddress); drop != nil {
		n.log.Warn("address for names not removed", "address", n.cfg.DNSAddress, "error", drop)
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		n.names.problem = fmt.Sprintf("another program has port 53 at every address, or another ripstop at %s: let it listen at its own addresses only, choose another by --dns-address, or do without by --no-dns (%v)", n.cfg.DNSAddress, err)
	case errors.Is(err, fs.ErrPermission):
		n.names.problem = fmt.Sprintf("port 53 needs CAP_NET_BIND_SERVICE, binding to a device CAP_NET_RAW: give them, or do without by --no-dns (%v)", err)
	default:
		n.names.problem = err.Error()
	}
	n.log.Warn("names are not resolved here", "error", err)
}

// namePlaces is where questions are answered: at the address for names, by the
// overlay's device and the loopback, and by the former at the host's own addresses.
func (n *node) namePlaces(exposed []netip.Addr) []dns.Place {
	device := n.overlayDevice()
	places := []dns.Place{{Device: device, Address: n.cfg.DNSAddress}, {Device: "lo", Address: n.cfg.DNSAddress}}
	for _, a := range exposed {
		places = append(places, dns.Place{Device: device, Address: a})
	}
	return places
}

// listenForNames answers at the host's own addresses too, and says once where that
// cannot be. n.mu must be held.
func (n *node) listenForNames(exposed []netip.Addr) {
	text := ""
	if err := n.names.server.Listen(n.namePlaces(exposed)...); err != nil {
		text = err.Error()
	}
	if text == n.names.refused {
		return
	}
	if n.names.refused = text; text != "" {
		n.log.Warn("names are resolved elsewhere than at the host's own address", "error", text)
	}
}

// answersAt reports whether this host's own server answers at that address.
func (n *node) answersAt(a netip.Addr) bool {
	if a == n.cfg.DNSAddress {
		return true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	e := n.exposed()
	return e != nil && slices.Contains(e.addrs(), a)
}

// serveNames answers until ctx ends.
func (n *node) serveNames(ctx context.Context) error {
	if n.names.server == nil {
		<-ctx.Done()
		return nil
	}
	var wg sync.WaitGroup
	wg.Go(func() { n.tellResolved(ctx) })
	defer wg.Wait()
	return n.names.server.Run(ctx)
}

// closeNames takes the address for names away.
func (n *node) closeNames() {
	if n.names.server == nil {
		return
	}
	if err := attach.RemoveServiceAddress(n.overlayDevice(), n.cfg.DNSAddress); err != nil {
		n.log.Warn("address for names not removed", "address", n.cfg.DNSAddress, "error", err)
	}
}

// Names tells everything about names.
func (b *backend) Names(context.Context) (api.Names, error) {
	n := (*node)(b)
	all := api.Names{Domain: n.cfg.DNSDomain}
	if server := n.names.server; server != nil {
		all.Address = &n.cfg.DNSAddress
		all.Search = server.Search()
		for _, u := range server.Upstreams() {
			all.Upstreams = append(all.Upstreams, api.Upstream(u))
		}
	} else {
		all.Problem = n.names.why()
	}
	n.mu.Lock()
	zone, nicknames, hosts := n.names.zone, n.nicknames(), n.names.hosts
	n.mu.Unlock()
	for source, records := range zone.All() {
		host := crypto.Name([]byte(source[:16]))
		for i, r := range records {
			if i > 0 && r.Name == records[i-1].Name+"."+hosts[host].label {
				continue // the same with the host's name behind it
			}
			e := api.Name{Name: r.Name, Kind: api.NameEndpoint, Addresses: r.Addresses, Port: r.Port, Target: r.Target, Host: host.String(), HostNickname: nicknames[host]}
			switch {
			case r.Port != 0:
				e.Kind = api.NameService
			case gossip.Kind(source[16]) == gossip.KindName:
				e.Kind = api.NameAdded
			}
			all.Names = append(all.Names, e)
		}
	}
	slices.SortFunc(all.Names, func(a, b api.Name) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.HostNickname, b.HostNickname), strings.Compare(a.Host, b.Host), cmp.Compare(a.Port, b.Port))
	})
	return all, nil
}

// AddName gives a name addresses.
func (b *backend) AddName(_ context.Context, q api.NameRequest) error {
	n := (*node)(b)
	name, err := dns.Canonical(q.Name, n.cfg.DNSDomain)
	if err != nil {
		return api.Errorf(api.CodeInvalid, "%v", err)
	}
	if len(q.Addresses) == 0 {
		return api.Errorf(api.CodeInvalid, "no address for %s", name)
	}
	for _, a := range q.Addresses {
		if a = a.Unmap(); !a.IsValid() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
			return api.Errorf(api.CodeInvalid, "%s: not an address that anything on the network can have", a)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.ownName(name); err != nil {
		return err
	}
	addresses := slices.Clone(n.names.added[name])
	for _, a := range q.Addresses {
		if a = a.Unmap(); !slices.Contains(addresses, a) {
			addresses = append(addresses, a)
		}
	}
	if len(addresses) > gossip.MaxEndpointAddresses {
		return api.Errorf(api.CodeInvalid, "%s would have %d addresses from this host, %d are the most", name, len(addresses), gossip.MaxEndpointAddresses)
	}
	if len(n.names.added) >= maxAddedNames && n.names.added[name] == nil {
		return api.Errorf(api.CodeConflict, "%d names were added on this host, the most it takes: remove some by `ripstop dns remove`", maxAddedNames)
	}
	return n.setAdded(name, addresses)
}

// RemoveName takes back what AddName gave.
func (b *backend) RemoveName(_ context.Context, q api.NameRequest) error {
	n := (*node)(b)
	name, err := dns.Canonical(q.Name, n.cfg.DNSDomain)
	if err != nil {
		return api.Errorf(api.CodeInvalid, "%v", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	have := n.names.added[name]
	if have == nil {
		return api.Errorf(api.CodeNotFound, "%s was not added on this host: `ripstop status dns` says who has it; an attached name goes with `ripstop detach`", name)
	}
	var rest []netip.Addr
	for _, a := range q.Addresses {
		if !slices.Contains(have, a.Unmap()) {
			return api.Errorf(api.CodeNotFound, "%s was not given %s on this host", name, a)
		}
	}
	if len(q.Addresses) > 0 {
		rest = slices.DeleteFunc(slices.Clone(have), func(a netip.Addr) bool { return slices.Contains(q.Addresses, a) })
	}
	return n.setAdded(name, rest)
}

// setAdded stores and publishes what was added for a name; no address = nothing. n.mu
// must be held.
func (n *node) setAdded(name string, addresses []netip.Addr) error {
	added := maps.Clone(n.names.added)
	if added[name] = addresses; len(addresses) == 0 {
		delete(added, name)
	}
	if err := store.Save(n.store, store.Names, added); err != nil {
		return err
	}
	n.names.added = added
	if len(addresses) == 0 {
		n.gossip.Withdraw(time.Now(), gossip.KindName, addedKey(name))
	} else {
		n.publish(time.Now(), gossip.KindName, addedKey(name), gossip.NameBody{Name: name, Addresses: addresses})
	}
	n.poke()
	return nil
}

// Lookup answers from the zone as the server does.
func (b *backend) Lookup(_ context.Context, q api.LookupRequest) (api.LookupAnswer, error) {
	n := (*node)(b)
	n.mu.Lock()
	zone := n.names.zone
	n.mu.Unlock()
	if a, err := netip.ParseAddr(q.Name); err == nil {
		answer := api.LookupAnswer{Name: a.Unmap().String()}
		for _, name := range zone.Reverse(a.Unmap()) {
			answer.Names = append(answer.Names, zone.Full(name))
		}
		if len(answer.Names) == 0 {
			return answer, api.Errorf(api.CodeNotFound, "%s has no name on this network", a)
		}
		return answer, nil
	}
	name := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(q.Name), "."), "."+n.cfg.DNSDomain)
	records := zone.Lookup(name)
	if len(records) == 0 {
		return api.LookupAnswer{}, api.Errorf(api.CodeNotFound, "there is no %s now: `ripstop status dns` lists the names", zone.Full(name))
	}
	answer := api.LookupAnswer{Name: zone.Full(name)}
	for _, r := range records {
		answer.Addresses = append(answer.Addresses, r.Addresses...)
		if r.Port != 0 {
			answer.Services = append(answer.Services, api.NameTarget{Target: zone.Full(r.Target), Port: r.Port})
		}
	}
	slices.SortFunc(answer.Addresses, netip.Addr.Compare)
	answer.Addresses = slices.Compact(answer.Addresses)
	return answer, nil
}
