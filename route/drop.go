package route

// Drop is why a frame or datagram was not forwarded. The caller counts them; a
// Drop indexes an array of NumDrops counters. Numbers may change between versions,
// names do not.
type Drop uint8

// The reasons. The last two are for the caller's relaying; the Switch never gives them.
const (
	DropNone          Drop = iota // not dropped
	DropRunt                      // too short for an Ethernet header
	DropSource                    // source MAC is a group address or zero
	DropLinkLocal                 // destination 01:80:c2:00:00:0x
	DropForgedMAC                 // source MAC is that of an endpoint somewhere else
	DropForgedAddress             // IP, ARP or ND address, or hardware address inside, is that of an endpoint somewhere else
	DropFenced                    // from or to an endpoint that lost its claim
	DropUnmanaged                 // strict ports: source MAC is no endpoint's
	DropHere                      // the destination is on this host: the bridge has delivered it
	DropUnreachable               // the destination's host cannot be reached now
	DropAlone                     // to be copied, but no other host is reachable
	DropSourceCap                 // copies: this source sends too many
	DropHostCap                   // copies: this host sends too many
	DropReplyRoom                 // the caller's reply buffer is shorter than ReplySize
	DropUnknownPeer               // FromPeer without a peer
	DropElsewhere                 // from a peer to an endpoint that is not here
	DropTooLong                   // the destination's interface takes no such packet, and an answer is not due
	DropNoRoute                   // relaying: no next hop but the one it came from
	DropHopLimit                  // relaying: the hop limit is used up
	NumDrops          int  = iota // how many reasons there are
)

var dropNames = [NumDrops]string{
	DropNone:          "none",
	DropRunt:          "runt",
	DropSource:        "bad-source",
	DropLinkLocal:     "link-local-group",
	DropForgedMAC:     "forged-mac",
	DropForgedAddress: "forged-address",
	DropFenced:        "fenced",
	DropUnmanaged:     "unmanaged-port",
	DropHere:          "destination-here",
	DropUnreachable:   "unreachable",
	DropAlone:         "no-other-host",
	DropSourceCap:     "source-copy-cap",
	DropHostCap:       "host-copy-cap",
	DropReplyRoom:     "reply-room",
	DropUnknownPeer:   "unknown-peer",
	DropElsewhere:     "destination-elsewhere",
	DropTooLong:       "longer-than-receiver",
	DropNoRoute:       "no-route",
	DropHopLimit:      "hop-limit",
}

// String is the name under which the reason is counted.
func (d Drop) String() string {
	if int(d) < len(dropNames) {
		return dropNames[d]
	}
	return "unknown"
}
