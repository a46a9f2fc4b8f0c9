package mesh

import (
	"cmp"
	"context"
	"net"
	"slices"
	"time"

	"ripstop/mesh/api"
	"ripstop/route"
	"ripstop/transport"
	"ripstop/tun/attach"
)

// backend is the node as the local API sees it.
type backend node

var _ api.Backend = (*backend)(nil)

// Status tells everything.
func (b *backend) Status(context.Context) (api.Status, error) { return (*node)(b).status(), nil }

// Connect adds targets, or replaces them.
func (b *backend) Connect(_ context.Context, q api.ConnectRequest) error {
	n := (*node)(b)
	if len(q.Peers) == 0 && !q.Replace {
		return api.Errorf(api.CodeInvalid, "no peer to connect to")
	}
	for _, p := range q.Peers {
		if _, err := transport.ParseTarget(p); err != nil {
			return api.Errorf(api.CodeInvalid, "%v", err)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	targets := slices.Clone(n.targets)
	if q.Replace {
		targets = nil
	}
	if targets = union(targets, q.Peers); len(targets) > maxTargets {
		return api.Errorf(api.CodeInvalid, "%d targets, %d are the most", len(targets), maxTargets)
	}
	return n.setTargets(targets)
}

// Forget takes targets off the dial list.
func (b *backend) Forget(_ context.Context, q api.ForgetRequest) error {
	n := (*node)(b)
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range q.Peers {
		switch {
		case slices.Contains(n.targets, p):
		case slices.Contains(n.filePeers, p):
			return api.Errorf(api.CodeInvalid, "%s is in the peers file %s: take it out there, and have the file read again by SIGHUP", p, n.cfg.PeersFile)
		default:
			return api.Errorf(api.CodeNotFound, "%s is not a target: `ripstop status links` lists them", p)
		}
	}
	return n.setTargets(slices.DeleteFunc(slices.Clone(n.targets), func(t string) bool { return slices.Contains(q.Peers, t) }))
}

// Reserve holds what an attachment needs.
func (b *backend) Reserve(ctx context.Context, q api.AttachRequest) (api.AttachPlan, error) {
	return (*node)(b).reserve(ctx, q)
}

// Commit finishes an attachment whose interface the caller has made.
func (b *backend) Commit(_ context.Context, q api.CommitRequest) (api.Endpoint, error) {
	n := (*node)(b)
	a, err := n.commit(q.ID)
	if err != nil {
		return api.Endpoint{}, err
	}
	return n.localEndpoint(a), nil
}

// Cancel gives a reservation back.
func (b *backend) Cancel(_ context.Context, q api.CommitRequest) error {
	n := (*node)(b)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.endReservation(q.ID)
	return nil
}

// Detach takes an attachment off the network.
func (b *backend) Detach(_ context.Context, q api.DetachRequest) (api.AttachPlan, error) {
	n := (*node)(b)
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range n.attachments {
		if a.Exposed || q.Interface != "" && a.Plan.Interface != q.Interface {
			continue
		}
		if (q.NetnsID != api.NetnsID{}) && a.Plan.NetnsID == q.NetnsID || q.Netns != "" && a.Plan.Netns == q.Netns || q.Name != "" && a.Name == q.Name || q.Owner != "" && a.Owner == q.Owner {
			return a.Plan, n.drop(a)
		}
	}
	return api.AttachPlan{}, api.Errorf(api.CodeNotFound, "%s is not attached: `ripstop status endpoints` lists what is", cmp.Or(q.Name, q.Netns, q.Owner, "that namespace"))
}

// Expose gives the host itself addresses on the overlay.
func (b *backend) Expose(ctx context.Context, q api.ExposeRequest) (api.Endpoint, error) {
	n := (*node)(b)
	if n.bridge == nil {
		return api.Endpoint{}, api.Errorf(api.CodeUnsupported, "a routed host has its own address by `ripstop up --address`")
	}
	if len(q.Addresses) > maxAddresses {
		return api.Endpoint{}, api.Errorf(api.CodeInvalid, "%d addresses, %d are the most", len(q.Addresses), maxAddresses)
	}
	for _, p := range q.Addresses {
		if err := checkAddress(p); err != nil {
			return api.Endpoint{}, err
		}
	}
	select { // of two that ask at once the second finds what the first has made
	case n.exposing <- struct{}{}:
		defer func() { <-n.exposing }()
	case <-ctx.Done():
		return api.Endpoint{}, ctx.Err()
	}
	a, err := n.expose(ctx, q)
	if err != nil {
		return api.Endpoint{}, err
	}
	n.poke()
	return n.localEndpoint(a), nil
}

// expose attaches the host itself. What stands stays, and may become a gateway.
func (n *node) expose(ctx context.Context, q api.ExposeRequest) (*attachment, error) {
	own := n.ownAttachment(slices.Clone(q.Addresses))
	w := wish{subnets: q.Subnets, noIPv6: !n.ownIPv6(), wait: q.Deadline.Duration()}
	wanted, err := n.wants(&own, w)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if old := n.exposed(); old != nil {
		if old.satisfies(api.AttachRequest{Addresses: q.Addresses, Subnets: q.Subnets}, &own) {
			if q.Masquerade {
				return old, n.masquerade(old)
			}
			return old, nil
		}
		return nil, api.Errorf(api.CodeConflict, "the host is exposed with %s already: run `ripstop hide` first", joinPrefixes(old.Plan.Addresses))
	}
	if err := n.claim(ctx, &own, false); err != nil {
		return nil, err
	}
	// A reservation that no caller has the number of, and that does not run out.
	r := &reservation{attachment: own, expires: time.Now().Add(time.Hour)}
	a, id := &r.attachment, reservationID()
	n.reservations[id] = r
	n.mu.Unlock()
	err = n.lease(ctx, a, wanted, w)
	n.mu.Lock()
	delete(n.reservations, id)
	if err != nil {
		n.giveBack(a)
		return nil, err
	}
	a.Claim = route.NextClaim(n.endpoints(), vni, a.mac(), a.addrs())
	if a.Masquerade = q.Masquerade; a.Masquerade {
		err = n.openGateway()
	}
	if err == nil {
		err = n.install(a)
	}
	if err != nil {
		n.abandonGateway()
		n.giveBack(a)
		return nil, err
	}
	if a.Masquerade {
		if err := n.forward(); err != nil {
			n.removePort(a)
			n.giveBack(a)
			return nil, err
		}
	}
	n.attachments = append(n.attachments, a)
	if err := n.saveAttachments(); err != nil {
		n.attachments = n.attachments[:len(n.attachments)-1]
		n.removePort(a)
		n.giveBack(a)
		return nil, err
	}
	n.publishAttachment(a, time.Now())
	return a, nil
}

// exposed is the attachment of the host itself, nil when there is none. n.mu must be held.
func (n *node) exposed() *attachment {
	for _, a := range n.attachments {
		if a.Exposed {
			return a
		}
	}
	return nil
}

// Hide takes the host itself off the overlay. A host that is not exposed stays so.
func (b *backend) Hide(context.Context) error {
	n := (*node)(b)
	if n.bridge == nil {
		return api.Errorf(api.CodeUnsupported, "a routed host is on the overlay as long as it runs")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	a := n.exposed()
	if a == nil {
		return nil
	}
	if users := n.gatewayUsers(a); users != "" {
		return api.Errorf(api.CodeConflict, "this host's address is the gateway of %s: run `ripstop detach` for each first", users)
	}
	return n.drop(a)
}

// Stop ends the node.
func (b *backend) Stop(context.Context) error {
	(*node)(b).stop(errStop)
	return nil
}

// Reset ends the node and removes everything it made.
func (b *backend) Reset(context.Context) error {
	(*node)(b).stop(errReset)
	return nil
}

// localEndpoint is an attachment of this host as the API shows it, with a look at its port.
func (n *node) localEndpoint(a *attachment) api.Endpoint {
	e := n.endpointOf(a)
	if !a.Exposed && !attach.PortExists(a.Plan.HostInterface) {
		e.State = api.EndpointOrphan
	}
	return e
}

// endpointOf is an attachment of this host as the API shows it while its port is there.
func (n *node) endpointOf(a *attachment) api.Endpoint {
	name := a.Name
	if a.Exposed {
		name = n.nameOf(a)
	}
	return api.Endpoint{
		Name: name, Aliases: a.Aliases, MAC: a.Plan.MAC, Addresses: a.Plan.Addresses,
		Host: n.identity.Name().String(), HostNickname: n.cfg.Nickname,
		State: api.EndpointHere, Claim: a.Claim,
		Interface: a.Plan.Interface, HostPort: a.Plan.HostInterface, Netns: a.Plan.Netns, Owner: a.Owner, Routes: a.Plan.Routes, Gateway: a.Plan.Gateway, Masquerade: a.Masquerade, DNS: a.DNS,
		AllowMAC: a.AllowMAC, AllowAddress: a.AllowAddress,
	}
}

// macOf is the text form of a MAC.
func macOf(m route.MAC) string { return net.HardwareAddr(m[:]).String() }
