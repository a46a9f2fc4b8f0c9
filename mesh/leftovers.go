package mesh

import (
	"time"

	"ripstop/tun/attach"
)

// findLeftovers looks for host ends that belong to no attachment: of callers and
// daemons that died. One that is on this host's bridge is removed. One that is on no
// bridge may be what a living caller is making for another daemon of this host: it is
// noted for sweepLeftovers. Those on other bridges are other daemons'. n.mu must be held.
func (n *node) findLeftovers(now time.Time) {
	if n.bridge == nil {
		return
	}
	ports, err := attach.Ports(n.cfg.Bridge)
	if err != nil {
		n.log.Warn("leftovers cannot be looked for", "error", err)
		return
	}
	for _, p := range ports {
		switch {
		case n.inUse(p.Name) || p.Elsewhere:
		case p.Enslaved:
			n.removeLeftover(p.Name)
		default:
			n.leftovers = append(n.leftovers, p.Name)
		}
	}
	n.leftoversFound = now
}

// sweepLeftovers removes what callers left whose reservation has run out: this run's,
// and those noted by findLeftovers if they are on no bridge even now. n.mu must be held.
func (n *node) sweepLeftovers(now time.Time) {
	for id, r := range n.reservations {
		if now.After(r.expires) {
			n.endReservation(id)
		}
	}
	if len(n.leftovers) == 0 || now.Sub(n.leftoversFound) <= reservationLife {
		return
	}
	noted := make(map[string]bool)
	for _, name := range n.leftovers {
		noted[name] = true
	}
	n.leftovers = nil
	ports, err := attach.Ports(n.cfg.Bridge)
	if err != nil {
		n.log.Warn("leftovers cannot be looked for", "error", err)
		return
	}
	for _, p := range ports {
		if noted[p.Name] && !p.Enslaved && !p.Elsewhere && !n.inUse(p.Name) {
			n.removeLeftover(p.Name)
		}
	}
}

// endReservation forgets a reservation and removes what its caller may have made,
// unless another try has taken the same place meanwhile. n.mu must be held.
func (n *node) endReservation(id string) {
	r := n.reservations[id]
	if r == nil {
		return
	}
	delete(n.reservations, id)
	n.giveBack(&r.attachment)
	if name := r.Plan.HostInterface; !n.inUse(name) {
		n.removePort(&r.attachment)
		n.unplug(name)
	}
}

// inUse reports whether a host end belongs to an attachment or a reservation. n.mu
// must be held.
func (n *node) inUse(hostInterface string) bool {
	for _, a := range n.attachments {
		if a.Plan.HostInterface == hostInterface {
			return true
		}
	}
	for _, r := range n.reservations {
		if r.Plan.HostInterface == hostInterface {
			return true
		}
	}
	return false
}

// removeLeftover removes a host end that nobody needs.
func (n *node) removeLeftover(hostInterface string) {
	n.log.Info("removing an interface that a dead attach left", "interface", hostInterface)
	a := attachment{}
	a.Plan.HostInterface = hostInterface
	n.removePort(&a)
	n.unplug(hostInterface)
}

// unplug removes an attachment's pair, from the host's side.
func (n *node) unplug(hostInterface string) {
	if err := attach.Unplug(attach.Plan{HostInterface: hostInterface}); err != nil {
		n.log.Warn("attachment not removed", "interface", hostInterface, "error", err)
	}
}

// removeAll removes every attachment of this host, and every leftover that is not on
// another daemon's bridge. n.mu must be held.
func (n *node) removeAll() {
	for _, a := range n.attachments {
		n.removePort(a)
		if !a.Exposed {
			n.unplug(a.Plan.HostInterface)
		}
	}
	n.attachments, n.reservations = nil, nil
	ports, err := attach.Ports(n.cfg.Bridge)
	if err != nil {
		n.log.Warn("leftovers cannot be looked for", "error", err)
	}
	for _, p := range ports {
		if !p.Elsewhere {
			n.removeLeftover(p.Name)
		}
	}
}
