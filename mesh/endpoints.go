package mesh

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"
	"time"

	"ripstop/mesh/api"
	"ripstop/mesh/gossip"
	"ripstop/mesh/store"
	"ripstop/route"
	"ripstop/tun/attach"
)

const (
	reservationLife = 30 * time.Second
	maxAttachments  = 4096
)

// loadAttachments reads what was attached when the daemon last ran.
func loadAttachments(s *store.Store) ([]*attachment, error) {
	return store.Load[[]*attachment](s, store.Endpoints)
}

// saveAttachments keeps what is attached. n.mu must be held.
func (n *node) saveAttachments() error {
	if n.bridge == nil {
		return nil // what a bridge had attached is kept for the next start in bridge mode
	}
	return store.Save(n.store, store.Endpoints, n.attachments)
}

// adopt takes up the attachments of the last run that are still there, and
// forgets the others.
func (n *node) adopt() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.bridge == nil {
		n.attachments = nil
		if len(n.cfg.Address) > 0 {
			a := n.ownAttachment(n.cfg.Address)
			n.attachments = []*attachment{&a}
		}
	}
	before := len(n.attachments)
	n.listFenced()
	n.adoptRules()
	n.attachments = slices.DeleteFunc(n.attachments, func(a *attachment) bool {
		err := n.install(a)
		if err != nil {
			n.log.Warn("attachment is gone", "endpoint", a.Name, "interface", a.Plan.HostInterface, "error", err)
			return true
		}
		n.log.Info("attachment adopted", "endpoint", a.Name, "mac", a.Plan.MAC, "interface", a.Plan.HostInterface)
		return false
	})
	n.adoptGateway()
	n.listAttached(time.Now())
	for _, a := range n.attachments {
		n.publishAttachment(a, time.Now())
	}
	n.findLeftovers(time.Now())
	if len(n.attachments) != before {
		if err := n.saveAttachments(); err != nil {
			n.log.Error("attachments cannot be saved", "error", err)
		}
	}
}

// install makes an attachment's host side what it has to be; it may be so already.
func (n *node) install(a *attachment) error {
	if a.Exposed {
		return n.installExposed(a)
	}
	rule := a.rule()
	rule.Addresses = n.usable(a)
	return attach.EnslavePort(n.cfg.Bridge, a.Plan.HostInterface, a.mac(), n.firewall, rule)
}

// installExposed puts the host's own addresses on the bridge, or knows that the
// routed device has them.
func (n *node) installExposed(a *attachment) error {
	if n.bridge == nil {
		return nil
	}
	usable := slices.DeleteFunc(slices.Clone(a.Plan.Addresses), func(p netip.Prefix) bool { return n.isFenced(p.Addr()) })
	return attach.Expose(n.cfg.Bridge, usable, a.Plan.MTU)
}

// publishAttachment tells the network. n.mu must be held.
func (n *node) publishAttachment(a *attachment, now time.Time) {
	body := gossip.EndpointBody{
		VNI:       uint16(vni),
		MAC:       a.mac(),
		Addresses: n.usable(a),
		Claim:     a.Claim,
	}
	if n.bridge != nil && !a.Exposed { // a bridge and a TUN take whatever comes
		body.MTU = uint16(a.Plan.MTU)
	}
	if name := n.nameOf(a); name != "" {
		body.Names = append([]string{name}, a.Aliases...)
	}
	n.publish(now, gossip.KindEndpoint, a.key(), body)
	n.publishServices(a, now)
	n.dirty, n.moved = true, true
}

// watchAttachments forgets attachments whose host end vanished, because their
// namespace ended, and puts back on the bridge what somebody took off it. ports are
// the bridge's. n.mu must be held.
func (n *node) watchAttachments(now time.Time, ports []string) {
	missing := func(a *attachment) bool { return !slices.Contains(ports, a.Plan.HostInterface) }
	for _, a := range n.attachments {
		if a.Exposed || !missing(a) || !attach.PortExists(a.Plan.HostInterface) {
			continue
		}
		n.log.Warn("port was taken off the bridge; putting it back", "interface", a.Plan.HostInterface)
		if err := n.install(a); err != nil {
			n.log.Error("port cannot be put back", "interface", a.Plan.HostInterface, "error", err)
		}
	}
	n.forgetEnded(now, missing)
	n.sweepLeftovers(now)
}

// forgetEnded forgets those attachments of which their host ends vanished, because their
// namespaces ended. n.mu must be held.
func (n *node) forgetEnded(now time.Time, those func(*attachment) bool) {
	before := len(n.attachments)
	n.attachments = slices.DeleteFunc(n.attachments, func(a *attachment) bool {
		if a.Exposed || !those(a) || attach.PortExists(a.Plan.HostInterface) {
			return false
		}
		n.log.Info("attachment ended with its namespace", "endpoint", a.Name, "mac", a.Plan.MAC)
		n.forgetAttachment(a, now)
		return true
	})
	if len(n.attachments) == before {
		return
	}
	if err := n.saveAttachments(); err != nil {
		n.log.Error("attachments cannot be saved", "error", err)
	}
}

// forgetAttachment withdraws a's record and its port rules. n.mu must be held.
func (n *node) forgetAttachment(a *attachment, now time.Time) {
	n.gossip.Withdraw(now, gossip.KindEndpoint, a.key())
	n.withdrawServices(a, now)
	n.removePort(a)
	n.giveBack(a)
	n.dirty, n.moved = true, true
	n.poke()
}

// removePort takes a's host end off the bridge and its rules away.
func (n *node) removePort(a *attachment) {
	var err error
	switch {
	case n.bridge == nil:
	case a.Exposed:
		err = errors.Join(n.closeGateway(), attach.Hide(n.cfg.Bridge, a.Plan.Addresses))
	default:
		err = attach.ReleasePort(n.cfg.Bridge, a.Plan.HostInterface, n.firewall)
	}
	if err != nil {
		n.log.Warn("port cannot be released", "interface", a.Plan.HostInterface, "error", err)
	}
}

// reserve checks a request against everything that is attached anywhere.
func (n *node) reserve(ctx context.Context, q api.AttachRequest) (api.AttachPlan, error) {
	if n.bridge == nil {
		return api.AttachPlan{}, api.Errorf(api.CodeUnsupported, "this host runs in routed mode: it has no bridge to attach to; run `ripstop up --mode bridge`")
	}
	a, err := n.attachmentFor(q)
	if err != nil {
		return api.AttachPlan{}, err
	}
	w := wish{subnets: q.Subnets, holder: q.AddressesFor, sticky: q.Sticky, noIPv6: q.NoIPv6, wait: q.Deadline.Duration(), move: q.Move}
	wanted, err := n.wants(&a, w)
	if err != nil {
		return api.AttachPlan{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if old := n.attachedAs(q.NetnsID, a.Plan.Interface); old != nil {
		same := old.satisfies(q, &a)
		if same && q.Gateway {
			gateway, err := n.gatewayFor(old)
			if err != nil {
				return api.AttachPlan{}, err
			}
			same = gateway == old.Plan.Gateway
		}
		if !same {
			return api.AttachPlan{}, api.Errorf(api.CodeConflict, "%s of that namespace is attached otherwise, with %s as %s: run `ripstop detach` first, or choose another interface by --interface",
				old.Plan.Interface, old.Plan.MAC, joinPrefixes(old.Plan.Addresses))
		}
		plan := old.Plan
		plan.Existing = true
		return plan, nil
	}
	if len(n.attachments)+len(n.reservations) >= maxAttachments {
		return api.AttachPlan{}, api.Errorf(api.CodeConflict, "this host has %d attachments, the most it takes", maxAttachments)
	}
	for _, name := range append([]string{n.nameOf(&a)}, a.Aliases...) {
		if err := n.ownName(name); err != nil {
			return api.AttachPlan{}, err
		}
	}
	if err := n.claim(ctx, &a, q.Move); err != nil {
		return api.AttachPlan{}, err
	}
	a.Plan.ID = reservationID()
	// Noted before its addresses are there, so that nobody else takes its place meanwhile.
	r := &reservation{attachment: a, expires: time.Now().Add(reservationLife)}
	n.reservations[a.Plan.ID] = r
	n.mu.Unlock()
	err = n.lease(ctx, &r.attachment, wanted, w)
	n.mu.Lock()
	if err == nil && q.Gateway {
		r.Plan.Gateway, err = n.gatewayFor(&r.attachment)
	}
	if err != nil {
		n.endReservation(a.Plan.ID)
		return api.AttachPlan{}, err
	}
	r.expires = time.Now().Add(reservationLife)
	r.Claim = route.NextClaim(n.endpoints(), vni, r.mac(), r.addrs())
	plan := r.Plan
	plan.Expires = r.expires
	return plan, nil
}

// reservationID is a number that nobody can guess.
func reservationID() string {
	var id [16]byte
	rand.Read(id[:])
	return hex.EncodeToString(id[:])
}

// satisfies reports whether a is what q asks for; b is what would be made of q. Chosen
// addresses are as good as any others of the same subnets.
func (a *attachment) satisfies(q api.AttachRequest, b *attachment) bool {
	if q.MAC != "" && a.Plan.MAC != b.Plan.MAC || a.Name != b.Name || !slices.Equal(a.Aliases, b.Aliases) || a.Owner != b.Owner ||
		!slices.Equal(a.Services, b.Services) || a.DNS != b.DNS || a.Plan.Gateway.IsValid() != q.Gateway ||
		!slices.Equal(a.AllowMAC, b.AllowMAC) || !slices.Equal(a.AllowAddress, b.AllowAddress) {
		return false
	}
	if len(q.Subnets) == 0 && len(q.Addresses) > 0 {
		return slices.Equal(a.Plan.Addresses, q.Addresses)
	}
	for _, p := range q.Addresses {
		if !slices.Contains(a.Plan.Addresses, p) {
			return false
		}
	}
	for _, s := range q.Subnets {
		if !slices.ContainsFunc(a.Plan.Addresses, func(p netip.Prefix) bool { return p.Masked() == s }) {
			return false
		}
	}
	return true
}

// attachedAs finds the attachment of a namespace's interface. n.mu must be held.
func (n *node) attachedAs(netns api.NetnsID, iface string) *attachment {
	for _, a := range n.attachments {
		if !a.Exposed && a.Plan.NetnsID == netns && a.Plan.Interface == iface && attach.PortExists(a.Plan.HostInterface) {
			return a
		}
	}
	return nil
}

// commit puts a reserved attachment's host end on the bridge.
func (n *node) commit(id string) (*attachment, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.reservations[id]
	if r == nil {
		return nil, api.Errorf(api.CodeNotFound, "no such reservation: it is valid for %v; attach again", reservationLife)
	}
	a := &r.attachment
	if !attach.PortExists(a.Plan.HostInterface) {
		return nil, api.Errorf(api.CodeInvalid, "the daemon does not see %s: run `ripstop attach`, or as root the container runtime, in the daemon's own network namespace", a.Plan.HostInterface)
	}
	if err := n.install(a); err != nil {
		return nil, err
	}
	delete(n.reservations, id)
	n.attachments = append(n.attachments, a)
	if err := n.saveAttachments(); err != nil {
		n.attachments = n.attachments[:len(n.attachments)-1]
		n.removePort(a)
		n.giveBack(a)
		return nil, err
	}
	n.publishAttachment(a, time.Now())
	n.log.Info("attached", "endpoint", a.Name, "mac", a.Plan.MAC, "interface", a.Plan.HostInterface)
	n.poke()
	return a, nil
}

// drop ends an attachment: record, rules, port, state. n.mu must be held.
func (n *node) drop(a *attachment) error {
	n.attachments = slices.DeleteFunc(n.attachments, func(b *attachment) bool { return a == b })
	n.forgetAttachment(a, time.Now())
	n.log.Info("detached", "endpoint", a.Name, "mac", a.Plan.MAC)
	return n.saveAttachments()
}
