package mesh

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"ripstop/mesh/api"
	"ripstop/tun"
	"ripstop/tun/attach"
)

// A host that is exposed and masquerades is the gateway of what is attached on it:
//
//	expose --masquerade    openGateway: the rules; then the host's addresses; then forward
//	attach --gateway       gatewayFor: which of the host's addresses is in the container's network
//	hide                   refused while gatewayUsers are there; closeGateway; the host goes on
//	                       forwarding, as others may want
//
// Rules that somebody flushed come back with the port rules (watchRules), and the next
// start opens it again. Rules are first, so that nothing is open in between: the host may
// forward already.

// openGateway makes the rules. When it fails, watchRules tries again.
func (n *node) openGateway() error { return n.firewall.SetGateway(n.numbering.Range, n.port) }

// forward has the host forward. It may do so already.
func (n *node) forward() error {
	turned, err := attach.Forward()
	if turned {
		n.log.Warn("this host forwards IPv4 now, and goes on after `ripstop hide`", "net.ipv4.ip_forward", 1)
	}
	return err
}

// closeGateway ends masquerading.
func (n *node) closeGateway() error { return n.firewall.SetGateway(netip.Prefix{}, 0) }

// masquerade makes an exposed host a gateway. n.mu must be held.
func (n *node) masquerade(a *attachment) error {
	was := a.Masquerade
	err := n.openGateway()
	if err == nil {
		err = n.forward()
	}
	if err == nil {
		a.Masquerade = true
		err = n.saveAttachments()
	}
	if err != nil && !was {
		a.Masquerade = false
		n.abandonGateway()
	}
	return err
}

// abandonGateway ends what was not to be.
func (n *node) abandonGateway() {
	if err := n.closeGateway(); err != nil {
		n.log.Warn("rules of a gateway not removed", "error", err)
	}
}

// adoptRules goes on with the rules of a gateway if the last run was one, before the host
// has its addresses. n.mu must be held.
func (n *node) adoptRules() {
	if n.bridge == nil || !n.isGateway() {
		return
	}
	if err := n.openGateway(); err != nil {
		n.log.Error("what is attached here does not reach the world; it is tried again", "error", err)
	}
}

// adoptGateway goes on with the rest, and takes away what a gateway left that is none any
// more. n.mu must be held.
func (n *node) adoptGateway() {
	if n.bridge == nil {
		return
	}
	if !n.isGateway() {
		n.abandonGateway()
	} else if err := n.forward(); err != nil {
		n.log.Error("what is attached here does not reach the world", "error", err)
	}
}

// isGateway reports whether this host masquerades. n.mu must be held.
func (n *node) isGateway() bool {
	e := n.exposed()
	return e != nil && e.Masquerade
}

// gatewayFor is the address of this host by which a, whose addresses are chosen, reaches
// the world. n.mu must be held.
func (n *node) gatewayFor(a *attachment) (netip.Addr, error) {
	if !n.isGateway() {
		return netip.Addr{}, api.Errorf(api.CodeUnavailable, "--gateway: this host is no gateway: run `ripstop expose --masquerade` first")
	}
	own := n.exposed()
	all := n.numbering.Range // only what is in it is masqueraded
	var outside netip.Addr
	for _, gateway := range own.Plan.Addresses {
		for _, p := range a.Plan.Addresses {
			// Both ways: the host has to find the container, too.
			near := p.Addr().Is4() && p.Masked().Contains(gateway.Addr()) && gateway.Masked().Contains(p.Addr())
			switch {
			case !near || n.isFenced(gateway.Addr()):
			case !all.Contains(gateway.Addr()):
				outside = gateway.Addr()
			case !all.Contains(p.Addr()):
				outside = p.Addr()
			default:
				return gateway.Addr(), nil
			}
		}
	}
	if outside.IsValid() {
		return netip.Addr{}, api.Errorf(api.CodeConflict, "--gateway: %v is outside the range %v, and only what is inside is masqueraded: give host and container addresses of the range", outside, all)
	}
	how := "run `ripstop expose --masquerade` with an address in the network of the container's"
	if i := slices.IndexFunc(a.Plan.Addresses, func(p netip.Prefix) bool { return p.Addr().Is4() }); i >= 0 {
		how = "run `ripstop hide` and `ripstop expose --masquerade --subnet " + a.Plan.Addresses[i].Masked().String() + "`"
	}
	return netip.Addr{}, api.Errorf(api.CodeConflict, "--gateway: the host has %s, and the container %s: no IPv4 network has both: %s",
		joinPrefixes(own.Plan.Addresses), joinPrefixes(a.Plan.Addresses), how)
}

// gatewayUsers are those attached, or about to be, of which an address of the exposed host
// is the gateway; empty: there are none. Without it they would go on sending to this host, which
// goes on forwarding, or to whom the address is given next. n.mu must be held.
func (n *node) gatewayUsers(own *attachment) string {
	const most = 4
	var labels []string
	look := func(a *attachment) {
		if a.Plan.Gateway.IsValid() && slices.Contains(own.addrs(), a.Plan.Gateway) {
			labels = append(labels, a.label())
		}
	}
	for _, a := range n.attachments {
		look(a)
	}
	for _, r := range n.reservations {
		look(&r.attachment)
	}
	if more := len(labels) - most; more > 0 {
		labels = append(labels[:most], fmt.Sprintf("%d more", more))
	}
	return strings.Join(labels, ", ")
}

// gatewayHazard is tun.RoutingHazard while this host is a gateway. n.mu must not be held.
func (n *node) gatewayHazard(bridge string) (string, bool) {
	n.mu.Lock()
	gateway, fault := n.isGateway(), n.rulesFault
	n.mu.Unlock()
	if !gateway {
		return "", false
	}
	if fault != "" {
		return "containers do not reach the world through this host, whose rules for that cannot be put in place: " + fault, true
	}
	return tun.RoutingHazard(bridge)
}
