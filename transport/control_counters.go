package transport

import "sync/atomic"

// counter names an event of the control connections that is counted.
type counter int

const (
	countAccepted         counter = iota
	countRefusedOverlay           // from an address that Refuse excludes
	countRefusedTotal             // too many unauthenticated connections in all
	countRefusedPrefix            // too many from one prefix
	countRefusedRate              // too fast from one prefix
	countEvicted                  // gave way to newer ones
	countForeign                  // first flight of another network or program
	countSaidNothing              // closed or silent without a byte
	countHandshakeFailed          // everything else that ended a handshake
	countAcceptErrors             // the kernel gave no connection (descriptors, memory)
	countUnknownKind              // message of a kind that this version does not know
	countMalformed                // message whose body could not be read
	countDatagramOverflow         // oldest datagram dropped for a newer one
	countQueueFull                // message refused to the caller
	countCrossed                  // connection replaced by the one that counts
	countDuplicate                // connection closed because another one counts
	numCounters
)

// String is the name in Control.Counters.
func (c counter) String() string {
	return [...]string{
		"control_accepted", "control_refused_overlay", "control_refused_total", "control_refused_prefix",
		"control_refused_rate", "control_evicted", "control_foreign", "control_said_nothing", "control_handshake_failed",
		"control_accept_errors", "control_unknown_kind", "control_malformed", "control_datagram_overflow",
		"control_queue_full", "control_crossed", "control_duplicate",
	}[c]
}

type counters [numCounters]atomic.Uint64

func (c *counters) add(which counter) { c[which].Add(1) }

func (c *counters) read() map[string]uint64 {
	m := make(map[string]uint64, numCounters)
	for i := range c {
		m[counter(i).String()] = c[i].Load()
	}
	return m
}
