// Package route decides where a frame goes. It is pure: no clock, goroutine,
// socket or log; time and seeds are arguments, and what isn't forwarded is
// returned with the reason that the caller counts.
//
//	records (gossip)                       frames (plane)
//	  links      endpoints                   local port        peer
//	    |            |                           |               |
//	 BuildGraph   BuildDirectory  (Settle)   FromLocal       FromPeer
//	    |            |                           |               |
//	    +--- Build --+---> Table (immutable) --> Switch <--------+
//	                        |                     |  Learned: VNI, MAC -> peer
//	                  NextHop, Relay              |  copy limits
//	                        |                     v
//	                 next hop's PeerID      Decision: to a peer, copies to all,
//	                                        answer, deliver here, drop (why)
//
// What a frame from a local port meets, in this order:
//
//	runt, bad source, 01:80:c2:00:00:0x         dropped; the last stays on the local bridge
//	source MAC of an endpoint elsewhere, fenced  dropped (second wall behind the port rules)
//	source address, ARP sender, ND target or
//	link-layer option of an endpoint elsewhere   dropped
//	ARP request or neighbour solicitation for
//	an endpoint on a reachable host              answered
//	destination an endpoint                      to its host, or dropped if here or unreachable
//	destination learned                          to that host
//	group or unknown destination                 copies to every reachable host, capped
//
// A Table is built from values alone and read by any number of goroutines; a
// change of topology, endpoints or own links makes a new one. Everything is keyed
// by VNI. Given the same records each host computes the same distances and the same
// holders of claimed addresses. VLAN tags are carried through: MAC tables do not
// know them, and ARP and ND behind a tag with a VLAN ID are flooded, not answered,
// because an endpoint's address is one of the untagged network.
//
// The caller keeps PeerIDs stable while a Switch lives (Learned.Forget before one
// is given to another host), counts what is dropped, puts HopLimit into relay
// headers and decrements it.
//
// Read graph.go and paths.go for routes, claims.go and directory.go for
// endpoints, then table.go and switch.go.
package route

import (
	"encoding/binary"
	"fmt"
)

// MAC is an Ethernet address.
type MAC [6]byte

// VNI is the number of a virtual network: one Ethernet of several on the mesh.
type VNI uint16

// PeerID is a small number for a host, given by the caller and stable while the
// process runs. 0 is this host, or none.
type PeerID uint16

// Broadcast is the Ethernet broadcast address.
var Broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// String is the usual form, 6 hexadecimal bytes with colons.
func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// IsZero reports whether m is 00:00:00:00:00:00, which no station has.
func (m MAC) IsZero() bool { return m == MAC{} }

// IsGroup reports whether m is a multicast or the broadcast address.
func (m MAC) IsGroup() bool { return m[0]&1 != 0 }

// IsLinkLocal reports whether m is one of 01:80:c2:00:00:00 to 0f (IEEE 802.1D
// table 7-10), which concern one cable and never cross a bridge or the overlay.
func (m MAC) IsLinkLocal() bool {
	return m[0] == 0x01 && m[1] == 0x80 && m[2] == 0xc2 && m[3] == 0 && m[4] == 0 && m[5]&0xf0 == 0
}

// word is m as a number of 48 bits.
func (m MAC) word() uint64 {
	return uint64(binary.BigEndian.Uint16(m[:2]))<<32 | uint64(binary.BigEndian.Uint32(m[2:]))
}

// macKey is VNI and MAC in one number; 0 is nobody's.
func macKey(vni VNI, m MAC) uint64 { return uint64(vni)<<48 | m.word() }
