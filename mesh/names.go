package mesh

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"ripstop/crypto"
	"ripstop/mesh/api"
	"ripstop/mesh/dns"
	"ripstop/mesh/gossip"
	"ripstop/mesh/store"
	"ripstop/route"
)

const (
	maxServices   = 8   // of one attachment
	maxAddedNames = 512 // by `dns add` on one host
)

// naming keeps the zone in step with the records. n.mu guards it, but for server,
// which is constant once the node runs.
//
//	gossip.Change ─▶ touched ─┐
//	table, members ─▶ hosts ──┴─▶ followNames ─▶ zone ─▶ server
type naming struct {
	server  *dns.Server // nil: nothing is answered
	problem string      // why, when it should be
	refused string      // what listening at the host's own addresses ended with, for the log
	zone    *dns.Zone
	touched map[nameSource]struct{} // records to be looked at again
	hosts   map[crypto.Name]nameHost
	labels  map[string]bool         // of all hosts: what stands below one is that host's alone
	dotted  map[nameSource]struct{} // records whose names could stand below a label
	stale   bool                    // hosts is to be made again
	added   map[string][]netip.Addr // by `dns add` here
}

// nameSource is a record that names come from.
type nameSource struct {
	origin crypto.Name
	kind   gossip.Kind
	key    string
}

// text is the source as the zone has it; the origin stands first.
func (s nameSource) text() string { return string(s.origin[:]) + string(byte(s.kind)) + s.key }

// nameHost is what a host's names depend on.
type nameHost struct {
	label     string // its own name, below which only it has names; may be empty
	reachable bool
	fenced    string // the MACs of its endpoints that lost their claim
}

// Defaults of Config.
const DefaultDNSDomain = dns.DefaultDomain

// DefaultDNSAddress is where containers ask for names.
var DefaultDNSAddress = dns.DefaultAddress

// CheckService refuses what is no service of `attach --service`.
func CheckService(text string) error {
	_, err := dns.ParseService(text)
	return err
}

// addedKey is what an added name is gossiped under.
func addedKey(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:16])
}

// checkDNS fills in defaults and refuses what cannot be.
func (c *Config) checkDNS() (err error) {
	if c.DNSDomain == "" {
		c.DNSDomain = dns.DefaultDomain
	}
	if c.DNSDomain, err = dns.CanonicalDomain(c.DNSDomain); err != nil {
		return fmt.Errorf("--dns-domain: %w", err)
	}
	if !c.DNSAddress.IsValid() {
		c.DNSAddress = dns.DefaultAddress
	}
	if a := c.DNSAddress; !a.Is4() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return fmt.Errorf("--dns-address %s: an IPv4 address that nothing else has, such as %s", a, dns.DefaultAddress)
	}
	return nil
}

// loadNames reads what was added by hand.
func (n *node) loadNames() (err error) {
	n.names.zone = dns.NewZone(n.cfg.DNSDomain)
	n.names.touched = make(map[nameSource]struct{})
	n.names.dotted = make(map[nameSource]struct{})
	if n.names.added, err = store.Load[map[string][]netip.Addr](n.store, store.Names); n.names.added == nil {
		n.names.added = make(map[string][]netip.Addr)
	}
	return err
}

// publishNames tells the network what was added here. n.mu must be held.
func (n *node) publishNames(now time.Time) {
	for name, addresses := range n.names.added {
		n.publish(now, gossip.KindName, addedKey(name), gossip.NameBody{Name: name, Addresses: addresses})
	}
}

// nameOf is the name of an attachment in the zone; empty when it has none.
func (n *node) nameOf(a *attachment) string {
	if a.Exposed {
		return dns.HostLabel(n.cfg.Nickname)
	}
	return strings.ToLower(a.Name)
}

// nameServices takes up the services that an attachment is to offer.
func (n *node) nameServices(a *attachment, q api.AttachRequest) error {
	if len(q.Services) > maxServices {
		return api.Errorf(api.CodeInvalid, "%d services, %d are the most for one interface", len(q.Services), maxServices)
	}
	if len(q.Services) > 0 && q.Name == "" {
		return api.Errorf(api.CodeInvalid, "--service needs the --name under which it is found")
	}
	for _, text := range q.Services {
		s, err := dns.ParseService(text)
		if err != nil {
			return api.Errorf(api.CodeInvalid, "--service: %v", err)
		}
		if !slices.Contains(a.Services, s.String()) {
			a.Services = append(a.Services, s.String())
		}
	}
	a.DNS = q.DNS
	return nil
}

// resolverFor adds to an attachment's plan where it finds names, if it asked.
func (n *node) resolverFor(a *attachment) error {
	if !a.DNS {
		return nil
	}
	server := n.names.server
	if server == nil {
		return api.Errorf(api.CodeUnsupported, "--dns: this host answers no questions for names: %s", n.names.why())
	}
	if len(a.Plan.Addresses) > 0 && !slices.ContainsFunc(a.Plan.Addresses, func(p netip.Prefix) bool { return p.Addr().Is4() }) {
		return api.Errorf(api.CodeInvalid, "--dns: names are resolved over IPv4, at %s: give the interface an IPv4 address too", n.cfg.DNSAddress)
	}
	a.Plan.Resolver = &api.Resolver{Servers: []netip.Addr{n.cfg.DNSAddress}, Search: append([]string{n.cfg.DNSDomain}, server.Search()...)}
	a.Plan.Routes = append(slices.Clone(a.Plan.Routes), netip.PrefixFrom(n.cfg.DNSAddress, 32))
	return nil
}

// serviceKey is what the i-th service of an attachment is gossiped under.
func (a *attachment) serviceKey(i int) string { return a.key() + "/" + strconv.Itoa(i) }

// publishServices tells the network what an attachment offers. n.mu must be held.
func (n *node) publishServices(a *attachment, now time.Time) {
	for i, text := range a.Services {
		if s, err := dns.ParseService(text); err == nil {
			n.publish(now, gossip.KindName, a.serviceKey(i), gossip.NameBody{Name: s.Of(n.nameOf(a)), Port: s.Port})
		}
	}
}

// withdrawServices takes it back. n.mu must be held.
func (n *node) withdrawServices(a *attachment, now time.Time) {
	for i := range a.Services {
		n.gossip.Withdraw(now, gossip.KindName, a.serviceKey(i))
	}
}

// touchName notes that a record is to be looked at again. n.mu must be held.
func (n *node) touchName(c gossip.Change) {
	n.names.touched[nameSource{c.Origin, c.Kind, c.Key}] = struct{}{}
}

// followNames brings the zone to what the records say of hosts that can be reached.
// n.mu must be held.
func (n *node) followNames() {
	if n.names.stale {
		n.names.stale = false
		n.followHosts()
	}
	if len(n.names.touched) == 0 {
		return
	}
	changes := make([]dns.Change, 0, len(n.names.touched))
	for source := range n.names.touched {
		changes = append(changes, dns.Change{Source: source.text(), Records: n.nameRecords(source)})
	}
	clear(n.names.touched)
	n.names.zone = n.names.zone.Set(changes...)
	if n.names.server != nil {
		n.names.server.SetZone(n.names.zone)
	}
}

// followHosts touches the records of every host about which something has changed.
func (n *node) followHosts() {
	self := n.identity.Name()
	fenced := make(map[crypto.Name]string)
	for _, e := range n.table.Fenced() {
		fenced[e.Host] += string(e.MAC[:])
	}
	hosts := map[crypto.Name]nameHost{self: {label: dns.HostLabel(n.cfg.Nickname), reachable: true, fenced: fenced[self]}}
	for _, m := range n.gossip.Members() {
		if p := n.peers[m.Name]; p != nil {
			hosts[m.Name] = nameHost{dns.HostLabel(m.Peer.Nickname), n.table.Reachable(p.ID), fenced[m.Name]}
		}
	}
	labels := ownLabels(hosts)
	if !maps.Equal(labels, n.names.labels) {
		n.names.labels = labels
		maps.Copy(n.names.touched, n.names.dotted)
	}
	changed := make(map[crypto.Name]bool)
	for name, h := range hosts {
		if h != n.names.hosts[name] {
			changed[name] = true
		}
	}
	for name := range n.names.hosts {
		if _, there := hosts[name]; !there {
			changed[name] = true
		}
	}
	n.names.hosts = hosts
	if len(changed) == 0 {
		return
	}
	for _, kind := range []gossip.Kind{gossip.KindEndpoint, gossip.KindName} {
		for r := range n.gossip.Records(kind) {
			if changed[r.Origin] {
				n.names.touched[nameSource{r.Origin, kind, r.Key}] = struct{}{}
			}
		}
	}
}

// ownLabels are the labels of all hosts. Hosts in reach that share one get one each, with
// 8 bytes of the name behind it, which no two members have in common, and what they shared is nobody's.
func ownLabels(hosts map[crypto.Name]nameHost) map[string]bool {
	labels, times := make(map[string]bool), make(map[string]int)
	for _, h := range hosts {
		if labels[h.label] = true; h.reachable {
			times[h.label]++
		}
	}
	for name, h := range hosts {
		if h.reachable && h.label != "" && times[h.label] > 1 {
			h.label = strings.TrimRight(h.label[:min(len(h.label), 46)], "-") + "-" + hex.EncodeToString(name[:8])
			hosts[name], labels[h.label] = h, true
		}
	}
	delete(labels, "")
	return labels
}

// mayName reports whether that host may have a name: not below the label of another.
func (s *naming) mayName(host crypto.Name, name string) bool {
	label := name[strings.LastIndexByte(name, '.')+1:]
	return label == name || !s.labels[label] || label == s.hosts[host].label
}

// ownName refuses a name that stands below another host's label. n.mu must be held.
func (n *node) ownName(name string) error {
	if n.names.mayName(n.identity.Name(), name) {
		return nil
	}
	label := name[strings.LastIndexByte(name, '.')+1:]
	return api.Errorf(api.CodeConflict, "%s: names that end in .%s are those of the host %s: give it there, or choose another", name, label, label)
}

// nameRecords is what a record says of names now: nothing when it is gone, or its host
// cannot be reached.
func (n *node) nameRecords(s nameSource) (records []dns.Record) {
	delete(n.names.dotted, s)
	host := n.names.hosts[s.origin]
	r, ok := n.gossip.Get(s.origin, s.kind, s.key)
	if !ok {
		return nil
	}
	// own takes a name that the host may have.
	own := func(text string) (string, bool) {
		name, err := dns.Canonical(text, n.cfg.DNSDomain)
		if err == nil && strings.Contains(name, ".") {
			n.names.dotted[s] = struct{}{}
		}
		return name, err == nil && host.reachable && n.names.mayName(s.origin, name)
	}
	// byHost adds the name that only this host can have.
	byHost := func(r dns.Record) {
		records = append(records, r)
		if host.label != "" && r.Name != host.label {
			r.Name += "." + host.label
			r.Reverse = false
			records = append(records, r)
		}
	}
	if s.kind == gossip.KindEndpoint {
		body, err := gossip.ParseEndpointBody(r.Body)
		if err != nil || route.VNI(body.VNI) != vni || holdsMAC(host.fenced, body.MAC) {
			return nil
		}
		for i, text := range body.Names {
			if name, ok := own(text); ok {
				byHost(dns.Record{Name: name, Addresses: body.Addresses, Reverse: i == 0})
			}
		}
		return records
	}
	body, err := gossip.ParseNameBody(r.Body)
	if err != nil {
		return nil
	}
	if body.Port == 0 {
		if name, ok := own(body.Name); ok {
			records = append(records, dns.Record{Name: name, Addresses: body.Addresses, Reverse: true})
		}
		return records
	}
	service, of, err := dns.SplitService(body.Name, body.Port)
	if err != nil {
		return nil
	}
	name, ok := own(of)
	if !ok {
		return nil
	}
	target := name
	if host.label != "" {
		target += "." + host.label
	}
	byHost(dns.Record{Name: service.Of(name), Port: body.Port, Target: target})
	return records
}

// holdsMAC reports whether mac is among MACs written one behind the other.
func holdsMAC(macs string, mac [6]byte) bool {
	for ; len(macs) >= len(mac); macs = macs[len(mac):] {
		if macs[:len(mac)] == string(mac[:]) {
			return true
		}
	}
	return false
}

// why says why nothing is answered.
func (s *naming) why() string {
	if s.problem != "" {
		return s.problem
	}
	return "it was started with --no-dns"
}

// warnings is what people should know of it.
func (s *naming) warnings() []string {
	if s.problem == "" {
		return nil
	}
	return []string{NamesWarning + s.problem}
}

// NamesWarning begins the warning that names are not resolved, which what
// api.Names.Problem says follows.
const NamesWarning = "names are not resolved here: "
