package plane

import (
	"strings"
	"sync/atomic"

	"ripstop/route"
)

// Count is something the plane counts: datagrams handled, or dropped for a reason
// that the switch does not know of.
type Count uint8

// What is counted. Drops start with drop.
const (
	datagramsOut Count = iota
	datagramsIn
	relayed
	relayedControl
	answered
	fragmented
	dropNoRoute
	dropNoSession
	dropTooBig
	dropOffload
	dropExhausted
	dropSend
	dropCarrier
	dropDevice
	dropShort
	dropUnknownType
	dropUnknownIndex
	dropReplay
	dropForged
	dropUnverified
	dropRecord
	dropIncomplete
	dropNetwork
	dropRelayTag
	dropRelayLoop
	dropHopLimit
	dropRequests
	dropEvents
	counts
)

// names are the counters' names as status and metrics show them.
var names = [counts]string{
	datagramsOut:     "datagrams_out",
	datagramsIn:      "datagrams_in",
	relayed:          "datagrams_relayed",
	relayedControl:   "control_relayed",
	fragmented:       "frames_fragmented",
	answered:         "frames_answered",
	dropNoRoute:      "drop_no_route",
	dropNoSession:    "drop_no_session",
	dropTooBig:       "drop_too_big",
	dropOffload:      "drop_offload_unknown",
	dropExhausted:    "drop_session_exhausted",
	dropSend:         "drop_send_error",
	dropCarrier:      "drop_tcp_queue_full",
	dropDevice:       "drop_device_write",
	dropShort:        "drop_datagram_short",
	dropUnknownType:  "drop_datagram_type",
	dropUnknownIndex: "drop_datagram_index",
	dropReplay:       "drop_datagram_replayed",
	dropForged:       "drop_datagram_forged",
	dropUnverified:   "drop_datagram_address",
	dropIncomplete:   "drop_fragments_incomplete",
	dropRecord:       "drop_record_malformed",
	dropNetwork:      "drop_record_network",
	dropRelayTag:     "drop_relay_forged",
	dropRelayLoop:    "drop_relay_loop",
	dropHopLimit:     "drop_relay_hop_limit",
	dropRequests:     "drop_session_requests",
	dropEvents:       "drop_control_queue_full",
}

// Counters count since the plane was made.
type Counters struct {
	plane  [counts]atomic.Uint64
	routed [route.NumDrops]atomic.Uint64 // by route.Drop
}

func (c *Counters) add(k Count, n int) { c.plane[k].Add(uint64(n)) }

// CountEvent counts something the plane told that its owner had no room for.
func (c *Counters) CountEvent() { c.add(dropEvents, 1) }

// CountRequest counts a session message that came sooner than it may.
func (c *Counters) CountRequest() { c.add(dropRequests, 1) }

func (c *Counters) drop(d route.Drop) { c.routed[d].Add(1) }

// All returns every counter that is not zero, by name: the plane's own, and the
// switch's drop reasons behind "drop_".
func (c *Counters) All() map[string]uint64 {
	all := make(map[string]uint64)
	for k := range counts {
		if v := c.plane[k].Load(); v != 0 {
			all[names[k]] = v
		}
	}
	for d := range c.routed {
		if v := c.routed[d].Load(); v != 0 {
			all["drop_"+strings.ReplaceAll(route.Drop(d).String(), "-", "_")] += v
		}
	}
	return all
}
