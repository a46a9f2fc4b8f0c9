// Package dns gives what is attached to the network its names, on every host.
//
//	gossip records ──(mesh)──▶ Change ──▶ Zone.Set ──▶ Zone (immutable snapshot)
//	                                                     │
//	container ──53/udp,tcp──▶ bridge ─┐                  ▼
//	host ─────53/udp,tcp──▶ loopback ─┴─▶ Server ──▶ Zone.Answer ─▶ answer, TTL 1 s
//	                                         │  not ours
//	                                         └─▶ upstream: the host's resolvers, in turn
//
// The names, for an endpoint attached as web on the host vm1, with the default domain:
//
//	web.ripstop.internal               A, AAAA of every endpoint of that name, whichever
//	                                   host has it, in changing order
//	web.vm1.ripstop.internal           of that host's alone: nobody else's record can say
//	                                   anything below the name of a host
//	vm1.ripstop.internal               the host itself, while it is exposed
//	_http._tcp.web.ripstop.internal    SRV, from `attach --service http:80/tcp`
//	1.0.32.10.in-addr.arpa             PTR
//
// Hosts with one nickname have 8 bytes of their names behind it, for as long as both are
// in reach: web.vm1-1f9a004c77d2e835.
//
// The domain is below .internal, which ICANN keeps for private networks and will never
// delegate (resolution 2024.07.29.06): not .local, which is multicast DNS's (RFC 6762),
// nor an invented top level, which may be sold one day. What is gossiped has no domain:
// each host appends its own.
//
// An answer holds for one second and is made from the present table, so an address
// that is gone is asked for again at once. Names of the domain are never asked of
// anybody else; all other names are, and only those. Nothing is cached: that is the
// upstream's work.
//
// Where it is served: containers have no address of their host in common, unless the
// host is exposed. So every bridge carries one link-local address, the same on every
// host (DefaultAddress), which is answered on the spot and never leaves the host; an
// attachment that uses it has a route to it. The sockets are bound to the bridge: a
// host that is not exposed has no route to its containers, and needs none this way, so
// no other service of the host answers there. An exposed host answers at its own
// addresses too. No socket takes every address: the host may have other servers.
//
// Pure are names, zone, table, query, answer and resolv. Server, forward and limit have
// sockets, goroutines and a clock. Nobody may register a name over DNS: names come from
// Zone.Set, which mesh calls with what the signed records of each host say.
//
// Read zone.go and answer.go first, then server.go and forward.go.
package dns

import "net/netip"

const (
	// DefaultDomain is below .internal, see above.
	DefaultDomain = "ripstop.internal"
	// Port is where it is served, UDP and TCP.
	Port = 53
	// TTL of every record, seconds, and how long it may be remembered that there is none.
	TTL = 1
)

// DefaultAddress is where containers find their host's server: link-local (RFC 3927),
// away from what clouds and Kubernetes use of that range (169.254.169.25x, 169.254.20.10).
var DefaultAddress = netip.AddrFrom4([4]byte{169, 254, 83, 53})
