package transporttest

import (
	"container/heap"
	"net"
	"net/netip"
	"syscall"
	"time"

	"ripstop/transport"
)

// Lengths of the headers in front of a UDP payload, and the longest payload.
const (
	overhead4  = 28
	overhead6  = 48
	maxPayload = 65507
)

// corrupted is how many bytes Link.Corrupt alters.
const corrupted = 8

// datagram is one on its way or in an inbox.
type datagram struct {
	data   []byte
	remote netip.AddrPort // the sender, as the receiver sees it
	local  netip.Addr     // the receiver's own address
}

// event is a datagram that arrives at a later time.
type event struct {
	at       time.Time
	seq      uint64 // order among those of one instant
	link     *linkState
	receiver *Socket
	datagram datagram
}

// eventHeap has the earliest event first (container/heap).
type eventHeap []event

func (h eventHeap) Len() int      { return len(h) }
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(e any)   { *h = append(*h, e.(event)) }
func (h eventHeap) Less(i, j int) bool {
	if !h[i].at.Equal(h[j].at) {
		return h[i].at.Before(h[j].at)
	}
	return h[i].seq < h[j].seq
}

func (h *eventHeap) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = event{}
	*h = (*h)[:last]
	return e
}

// sendLocked takes b, a datagram of m, from socket s, or says why not: the position-th
// of a train of equal lengths, 0 if it is in none. A datagram that is lost on the way is
// no error.
func (n *Network) sendLocked(s *Socket, m *transport.Message, b []byte, position int) error {
	if s.closed {
		return net.ErrClosed
	}
	remote := netip.AddrPortFrom(m.Remote.Addr().Unmap(), m.Remote.Port())
	from, err := s.sourceLocked(remote.Addr(), m.Local.Unmap())
	if err != nil {
		return err
	}
	size := len(b) + overhead4
	if from.Is6() {
		size = len(b) + overhead6
	}
	if len(b) > maxPayload || s.df && n.cfg.MTU != 0 && size > n.cfg.MTU {
		return syscall.EMSGSIZE
	}
	n.counts.Sent++
	seen, to, ok := n.translateLocked(netip.AddrPortFrom(from, s.port), remote, time.Now())
	if !ok {
		n.counts.NAT++
		return nil
	}
	receiver := n.sockets[to]
	if receiver == nil {
		n.counts.Unreachable++
		return nil
	}
	n.carryLocked(n.linkLocked(from, to.Addr()), receiver, s.df, size, position,
		datagram{data: b, remote: seen, local: to.Addr()})
	return nil
}

// carryLocked lets d meet what the link has for it. Every datagram draws the same
// number of times, so that one setting does not move what another decides.
func (n *Network) carryLocked(l *linkState, receiver *Socket, df bool, size, position int, d datagram) {
	link := l.link
	lost := l.random.Float64() < link.Loss
	duplicate := l.random.Float64() < link.Duplicate
	reorder := l.random.Float64() < link.Reorder
	jitter := time.Duration(l.random.Float64() * float64(link.Jitter))
	switch {
	case link.Cut || n.groups[l.pair.from] != n.groups[l.pair.to]:
		n.counts.Cut++
		return
	case link.MTU != 0 && size > link.MTU && df:
		n.counts.TooBig++
		return
	case lost:
		n.counts.Lost++
		return
	}
	if link.MTU != 0 && size > link.MTU {
		n.counts.Fragmented++
	}
	corrupt := link.Corrupt != 0 && position == link.Corrupt
	if corrupt {
		n.counts.Corrupted++
	}
	copies := 1
	if duplicate {
		n.counts.Duplicated++
		copies = 2
	}
	now := time.Now()
	at := now.Add(link.Delay + jitter)
	if reorder {
		n.counts.Reordered++
		at = at.Add(link.ReorderBy)
	} else {
		if at.Before(l.last) {
			at = l.last
		}
		l.last = at
	}
	for range copies {
		own := d
		own.data = append(n.bufferLocked(), d.data...)
		if corrupt {
			invert(own.data)
		}
		if l.waiting == 0 && !at.After(now) {
			n.deliverLocked(receiver, own)
			continue
		}
		n.seq++
		l.waiting++
		heap.Push(&n.events, event{at: at, seq: n.seq, link: l, receiver: receiver, datagram: own})
		n.armLocked(now)
	}
}

// invert alters the last bytes of b.
func invert(b []byte) {
	for i := max(0, len(b)-corrupted); i < len(b); i++ {
		b[i] ^= 0xff
	}
}

// armLocked sets the timer to the earliest event.
func (n *Network) armLocked(now time.Time) {
	if len(n.events) == 0 || n.closed {
		return
	}
	wait := n.events[0].at.Sub(now)
	if n.timer == nil {
		n.timer = time.AfterFunc(wait, n.deliverDue)
		return
	}
	n.timer.Reset(wait)
}

// deliverDue delivers what has arrived by now.
func (n *Network) deliverDue() {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	for len(n.events) > 0 && !n.events[0].at.After(now) {
		e := heap.Pop(&n.events).(event)
		e.link.waiting--
		n.deliverLocked(e.receiver, e.datagram)
	}
	n.armLocked(now)
}

// deliverLocked puts d into the receiver's inbox, if it still has that address.
func (n *Network) deliverLocked(s *Socket, d datagram) {
	switch {
	case n.sockets[netip.AddrPortFrom(d.local, s.port)] != s:
		n.counts.Unreachable++
		n.releaseLocked(d.data)
	case len(s.inbox) >= n.cfg.Queue:
		n.counts.Overflow++
		s.stats.KernelDrops++
		n.releaseLocked(d.data)
	default:
		n.counts.Delivered++
		s.inbox = append(s.inbox, d)
		select {
		case s.arrived <- struct{}{}:
		default: // the receiver has been told
		}
	}
}

// maxFree bounds the buffers that are kept for later datagrams.
const maxFree = 4096

// bufferLocked is an empty buffer.
func (n *Network) bufferLocked() []byte {
	last := len(n.free) - 1
	if last < 0 {
		return make([]byte, 0, 2048)
	}
	b := n.free[last]
	n.free = n.free[:last]
	return b[:0]
}

// releaseLocked takes a buffer back.
func (n *Network) releaseLocked(b []byte) {
	if len(n.free) < maxFree {
		n.free = append(n.free, b)
	}
}
