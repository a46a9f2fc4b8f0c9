package mesh

import (
	"context"
	"errors"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"ripstop/crypto"
	"ripstop/mesh/api"
	"ripstop/mesh/ipam"
	"ripstop/mesh/store"
	"ripstop/transport"
)

// addressing is the part of a node that gives out overlay addresses. What the machine
// promises is on the disk before anybody hears it: keepAddresses writes, outside the
// node's lock, and what was asked meanwhile goes with the next write.
//
//	API, peers, gossip, clock ──▶ machine ──Ready──▶ keepAddresses ── journal, synced
//	                                 ▲                      │
//	                                 └──────── Done ◀───────┴──▶ answers, messages, news
type addressing struct {
	numbering numbering          // constant once it runs
	journal   *store.Journal     // keepAddresses' own
	work      chan struct{}      // of capacity 1: keepAddresses has something to look at
	machine   *ipam.Machine      // node.mu guards this and all below
	tick      time.Time          // when machine.Tick is due
	waiting   map[uint64]*waiter // by number of the request
	answering map[string]crypto.Name
	looked    time.Time // when the targets were looked at last
	fenced    map[netip.Addr]bool
	happened  []api.IPAMEvent // the last ones
	saveError string          // why the last write failed; empty: it did not
	leaving   *leaving
}

// waiter is somebody who waits for an answer of the machine.
type waiter struct {
	id     string // what the address is for
	answer chan ipam.Answer
	gone   bool // and does not wait any more
}

const (
	// maxEvents is how many events are kept for status.
	maxEvents = 32
	// maxWaiting is how many requests may wait for the machine, which looks at each of
	// them at each tick. One whose caller has gone stays until its deadline.
	maxWaiting = 4096
)

func newAddressing() addressing {
	return addressing{
		work:      make(chan struct{}, 1),
		waiting:   make(map[uint64]*waiter),
		answering: make(map[string]crypto.Name),
		fenced:    make(map[netip.Addr]bool),
	}
}

// addressData is the machine as gossip sees it.
type addressData struct {
	*ipam.Machine
	n *node
}

// Merge takes what a neighbour sent; what it asks for goes out by keepAddresses.
func (d addressData) Merge(now time.Time, from crypto.Name, delta []byte) ([]byte, error) {
	defer d.n.addressWork()
	return d.Machine.Merge(now, from, delta)
}

// addressWork has keepAddresses look at the machine, and the loop come in time for
// its next tick. n.mu must be held.
func (n *node) addressWork() {
	if due := n.machine.Next(); due.Before(n.tick) {
		n.tick = due
		n.poke()
	}
	select {
	case n.work <- struct{}{}:
	default:
	}
}

// turnAddresses takes the machine to now. n.mu must be held.
func (n *node) turnAddresses(now time.Time) {
	n.followTargets(now)
	if now.Before(n.tick) {
		return
	}
	n.machine.Tick(now)
	n.tick = n.machine.Next()
	n.addressWork()
}

// targetsEvery is how often, at the most, the machine is told whom this host dials.
const targetsEvery = time.Second

// followTargets tells the machine whom this host was told to dial: by name, as they
// become known. n.mu must be held.
func (n *node) followTargets(now time.Time) {
	if now.Sub(n.looked) < targetsEvery {
		return
	}
	n.looked = now
	var names []crypto.Name
	var missing []string
	for _, t := range n.control.Targets() {
		if !t.Peer.IsZero() {
			n.answering[t.Target] = t.Peer
		}
		if name, known := n.answering[t.Target]; known {
			names = append(names, name)
		} else {
			missing = append(missing, t.Target)
		}
	}
	n.machine.Targets(now, names, missing)
	n.addressWork()
}

// followPeers tells the machine whose gossip there is and who can be reached. n.mu
// must be held.
func (n *node) followPeers(now time.Time) {
	var neighbours, reachable []crypto.Name
	for name, p := range n.peers {
		if p.conn != nil {
			neighbours = append(neighbours, name)
		}
		if n.table.Reachable(p.ID) {
			reachable = append(reachable, name)
		}
	}
	slices.SortFunc(neighbours, crypto.Name.Compare)
	n.machine.Peers(now, neighbours, reachable)
	n.addressWork()
}

// keepAddresses writes what the machine wants kept, and then does what waited for it,
// until ctx ends.
func (n *node) keepAddresses(ctx context.Context) error {
	defer n.journal.Close()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.work:
			for ctx.Err() == nil && n.keepOnce() {
			}
		}
	}
}

// keepOnce makes one write, and reports whether there may be more to do.
func (n *node) keepOnce() bool {
	n.mu.Lock()
	ready := n.machine.Ready(time.Now())
	n.noteAddressEvents(ready.Events)
	n.answer(ready.Refusals)
	n.mu.Unlock()
	if ready.Empty() {
		return false
	}
	err := n.writeJournal(ready)
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	if ready.Snapshot != nil || ready.Save != nil {
		n.noteSaved(err)
	}
	if err == nil {
		for _, m := range ready.Send {
			n.sendAddressMessage(now, m)
		}
		n.answer(ready.Answers)
		for _, news := range ready.Announce {
			if err := n.gossip.Announce(now, n.machine.Name(), news); err != nil {
				n.log.Error("news of addresses not announced", "error", err)
			}
		}
		if len(ready.Announce) > 0 {
			n.poke()
		}
	}
	n.machine.Done(now, err)
	if due := n.machine.Next(); due.Before(n.tick) {
		n.tick = due
		n.poke()
	}
	return true
}

// writeJournal makes a Ready durable.
func (n *node) writeJournal(ready ipam.Ready) error {
	if ready.Snapshot != nil {
		return n.journal.Rotate(ready.Snapshot)
	}
	if ready.Save == nil {
		return nil
	}
	if err := n.journal.Append(ready.Save); err != nil {
		return err
	}
	return n.journal.Sync()
}

// noteSaved tells once that writing fails, and once that it works again. n.mu must be held.
func (n *node) noteSaved(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text == n.saveError {
		return
	}
	n.saveError = text
	if err != nil {
		n.log.Error("addresses cannot be saved: none is given out meanwhile", "error", err)
	} else {
		n.log.Info("addresses are saved again")
	}
}

// answer hands answers to whoever waits for them. An address that nobody waits for
// any more goes back, unless it is somebody's by the same name. n.mu must be held.
func (n *node) answer(answers []ipam.Answer) {
	for _, a := range answers {
		w := n.waiting[a.Request]
		if w == nil {
			continue
		}
		delete(n.waiting, a.Request)
		if !w.gone {
			w.answer <- a
		} else if a.Err == nil && isOurs(w.id) && !n.leased(w.id, nil) {
			n.machine.Release(time.Now(), w.id, a.Addr.Addr())
		}
	}
}

// askMachine has the machine begin something, and waits for its answer. id is what
// an address is for, if it is about one. n.mu must not be held.
func (n *node) askMachine(ctx context.Context, id string, begin func(now time.Time) uint64) (ipam.Answer, error) {
	w := &waiter{id: id, answer: make(chan ipam.Answer, 1)}
	n.mu.Lock()
	if len(n.waiting) >= maxWaiting {
		n.mu.Unlock()
		return ipam.Answer{}, api.Errorf(api.CodeConflict, "%d requests wait for addresses on this host already, the most it takes: ask again when they have ended", maxWaiting)
	}
	n.waiting[begin(time.Now())] = w
	n.addressWork()
	n.mu.Unlock()
	var a ipam.Answer
	select {
	case a = <-w.answer:
	case <-ctx.Done():
		n.mu.Lock()
		select {
		case a = <-w.answer: // it came just now
			n.mu.Unlock()
		default:
			w.gone = true
			n.mu.Unlock()
			return a, api.Errorf(api.CodeUnavailable, "no answer before the caller's time was over (%v)", context.Cause(ctx))
		}
	}
	if a.Err != nil {
		return a, n.addressError(a.Err)
	}
	return a, nil
}

// addressError is an error of the machine as the API tells it. n.mu must not be held.
func (n *node) addressError(err error) error {
	var e *ipam.Error
	if !errors.As(err, &e) {
		return err
	}
	code := api.CodeUnavailable
	switch e.Cause {
	case ipam.CauseInUse, ipam.CauseClone, ipam.CauseLeft, ipam.CauseRefused:
		code = api.CodeConflict
	case ipam.CauseInvalid:
		code = api.CodeInvalid
	case ipam.CauseUnknown:
		code = api.CodeNotFound
	case ipam.CauseDisk:
		code = api.CodeInternal
	}
	n.mu.Lock()
	text := n.forPeople(e.Text)
	n.mu.Unlock()
	if e.Cause == ipam.CauseFull {
		text += ": detach or release something, or give an address outside the range by --address"
	}
	return api.Errorf(code, "%s", text)
}

// forPeople is a text of the machine with hosts and attachments called as people call
// them. n.mu must be held.
func (n *node) forPeople(text string) string {
	var pairs []string
	for name, nickname := range n.nicknames() {
		pairs = append(pairs, name.String(), nickname)
	}
	return leasePlace.ReplaceAllString(strings.NewReplacer(pairs...).Replace(text), `"`)
}

// leasePlace is what the name of a lease has behind what people know it by.
var leasePlace = regexp.MustCompile(leaseMark + `[^"]*"`)

// noteAddressEvents logs what happened and keeps it for status. n.mu must be held.
func (n *node) noteAddressEvents(events []ipam.Event) {
	for _, e := range events {
		text := n.forPeople(e.Text)
		kind, bad := eventKinds[e.Kind].name, eventKinds[e.Kind].bad
		n.happened = append(n.happened, api.IPAMEvent{Time: time.Now(), Kind: kind, Host: nameOrNone(e.Host), Address: e.Addr, Text: text})
		if len(n.happened) > maxEvents {
			n.happened = slices.Clone(n.happened[len(n.happened)-maxEvents:])
		}
		if bad {
			n.log.Warn("addresses: "+text, "event", kind)
		} else {
			n.log.Info("addresses: "+text, "event", kind)
		}
		switch e.Kind {
		case ipam.EventFenced:
			n.fence(e.Addr, true)
		case ipam.EventUnfenced:
			n.fence(e.Addr, false)
		}
	}
}

// eventKinds are the names of the machine's events, and whether somebody should look.
var eventKinds = [...]struct {
	name string
	bad  bool
}{
	ipam.EventFenced:   {"fenced", true},
	ipam.EventUnfenced: {"unfenced", false},
	ipam.EventLost:     {"lost", true},
	ipam.EventConflict: {"conflict", true},
	ipam.EventRecovery: {"recovery", true},
	ipam.EventClone:    {"clone", true},
	ipam.EventMeeting:  {"meeting", true},
	ipam.EventJoined:   {"joined", false},
	ipam.EventTaken:    {"taken", false},
	ipam.EventRange:    {"range", true},
}

// sendAddressMessage sends a message of the machine in pieces; one that is lost the
// machine repeats. n.mu must be held.
func (n *node) sendAddressMessage(now time.Time, m ipam.Message) {
	if p := n.peers[m.To]; p != nil && p.exchange.Sending() == nil {
		p.exchange.Want(now, true)
		return
	}
	for _, piece := range cutMessage(uint32(n.random.Uint64()), m.Bytes) {
		body, err := transport.Request{ID: n.random.Uint64(), Kind: requestAddresses, Body: piece}.Append(nil)
		if err != nil {
			n.log.Error("message about addresses not sent", "peer", m.To, "error", err)
			return
		}
		n.plane.SendRequest(m.To, body)
	}
}

// addressMessage takes a piece of another host's message. n.mu must be held.
func (n *node) addressMessage(p *peer, now time.Time, piece []byte) {
	message, err := p.pieces.add(piece)
	if message != nil {
		err = n.machine.Step(now, p.Name, message)
		n.addressWork()
	}
	if err != nil {
		n.log.Debug("message about addresses refused", "peer", p.Name, "error", err)
	}
}
