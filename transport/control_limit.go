package transport

import (
	"net/netip"
	"time"
)

// Limits of what strangers can make a host hold before they have proved anything.
const (
	maxPending       = 256 // unauthenticated accepted connections
	maxPendingPrefix = 16  // of them from one IPv4 address or IPv6 /64
	crowded          = 64  // from so many on, each prefix is also limited in rate
	admissionRate    = 20  // connections a second and prefix when crowded
	admissionBurst   = 40
	maxPrefixes      = 4096 // remembered

	evictAge           = 200 * time.Millisecond // when all places are taken, older ones give way
	firstFlightTimeout = 3 * time.Second        // until the first flight is whole
	handshakeTimeout   = 5 * time.Second        // for the whole handshake, at both ends
)

// refusal says why a connection is closed at once; 0: it is not.
type refusal uint8

const (
	refusedTotal refusal = iota + 1
	refusedPrefix
	refusedRate
)

// admission counts unauthenticated connections by prefix. It is pure.
type admission struct {
	total    int
	prefixes map[netip.Prefix]*prefixState
}

type prefixState struct {
	pending int
	tokens  float64   // of the bucket, at the time at
	at      time.Time // zero: the bucket is full
}

// prefixOf is what counts as one stranger: an IPv4 address or an IPv6 /64.
func prefixOf(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap()
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	p, err := addr.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// admit takes a place for a connection from addr, or says why not.
func (a *admission) admit(now time.Time, addr netip.Addr) refusal {
	if a.total >= maxPending {
		return refusedTotal
	}
	key := prefixOf(addr)
	p := a.prefixes[key]
	if p == nil {
		if len(a.prefixes) >= maxPrefixes {
			a.sweep(now)
		}
		if len(a.prefixes) >= maxPrefixes {
			return refusedRate
		}
		if a.prefixes == nil {
			a.prefixes = make(map[netip.Prefix]*prefixState)
		}
		p = new(prefixState)
		a.prefixes[key] = p
	}
	if p.pending >= maxPendingPrefix {
		return refusedPrefix
	}
	if a.total >= crowded {
		p.refill(now)
		if p.tokens < 1 {
			return refusedRate
		}
		p.tokens--
	}
	p.pending++
	a.total++
	return 0
}

// release gives the place of a connection from addr back.
func (a *admission) release(addr netip.Addr) {
	a.total--
	key := prefixOf(addr)
	p := a.prefixes[key]
	p.pending--
	if p.pending == 0 && p.at.IsZero() {
		delete(a.prefixes, key)
	}
}

func (p *prefixState) refill(now time.Time) {
	if p.at.IsZero() {
		p.tokens = admissionBurst
	} else if d := now.Sub(p.at); d > 0 {
		p.tokens = min(admissionBurst, p.tokens+admissionRate*d.Seconds())
	}
	p.at = now
}

// sweep forgets prefixes without connections whose bucket is full again.
func (a *admission) sweep(now time.Time) {
	for key, p := range a.prefixes {
		if p.pending > 0 {
			continue
		}
		if p.refill(now); p.tokens >= admissionBurst {
			delete(a.prefixes, key)
		}
	}
}
