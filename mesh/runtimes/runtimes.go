// Package runtimes attaches namespaces for a daemon that never enters them: what the
// command line and the plug-ins of container runtimes have in common.
//
//	ripstop attach ──┐
//	cni, netavark ───┴─► Attach: api.Client reserves ─► attach.Plug in this process ─► commits ─► attach.Announce
//	docker ────────────► Lend:   api.Client reserves ─► attach.Lend in this process ─► commits
//	                     Detach: api.Client detaches ─► attach.Unplug
//	                     Release: the same, whatever is gone by then
//
// What fails half-way is undone. The process has to be in the daemon's own network
// namespace, and needs what package attach needs: root.
//
// The protocols of runtimes are the packages below; they know of each other nothing.
package runtimes

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"ripstop/mesh/api"
	"ripstop/tun/attach"
	"ripstop/tun/netns"
)

// cleanUpTimeout bounds what is undone after a failure, also one by Ctrl-C.
const cleanUpTimeout = 5 * time.Second

// Attachment is an interface on the network.
type Attachment struct {
	Plan     api.AttachPlan
	Endpoint api.Endpoint
	// Untold is why the neighbours were not told where it is: they will find out. nil:
	// they were, or it stood before.
	Untold error
}

// Attach gives the namespace q.Netns, as netns.Parse takes it, its interface on the
// network; the fields of q that only a look at the namespace can tell are filled in. An
// attachment that stands as q asks for is returned as it is.
func Attach(ctx context.Context, client *api.Client, q api.AttachRequest) (Attachment, error) {
	ns, err := netns.Parse(q.Netns)
	if err != nil {
		return Attachment{}, err
	}
	defer ns.Close()
	q.NetnsID.Dev, q.NetnsID.Inode = ns.ID()
	without, err := withoutIPv6(ns)
	if err != nil {
		return Attachment{}, err
	}
	q.NoIPv6 = q.NoIPv6 || without
	reserved, err := client.Reserve(ctx, q)
	if err != nil {
		return Attachment{}, err
	}
	if reserved.Existing {
		return existing(ctx, client, reserved)
	}
	plan, err := planOf(reserved)
	if err != nil {
		return Attachment{}, err
	}
	plan.Netns = q.Netns
	a := Attachment{Plan: reserved}
	if a.Endpoint, err = carryOut(ctx, client, reserved, plan, attach.Plug); err != nil {
		return Attachment{}, err
	}
	a.Untold = attach.Announce(plan)
	return a, nil
}

// Lend is Attach for an engine that moves the interface into its namespace by itself: the
// inner end, q.Interface, is left in the process's own. q needs no namespace, but an
// interface name that nothing else here has, and addresses. The neighbours hear of it when
// the container speaks.
func Lend(ctx context.Context, client *api.Client, q api.AttachRequest) (Attachment, error) {
	reserved, err := client.Reserve(ctx, q)
	if err != nil {
		return Attachment{}, err
	}
	if reserved.Existing {
		return existing(ctx, client, reserved)
	}
	plan, err := planOf(reserved)
	if err != nil {
		return Attachment{}, err
	}
	a := Attachment{Plan: reserved}
	a.Endpoint, err = carryOut(ctx, client, reserved, plan, attach.Lend)
	return a, err
}

// carryOut makes the interface of a reservation and commits it; after an error nothing
// of it is left.
func carryOut(ctx context.Context, client *api.Client, reserved api.AttachPlan, plan attach.Plan, plug func(context.Context, attach.Plan) error) (api.Endpoint, error) {
	giveBack := func() error {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
		defer cancel()
		return client.Cancel(late, api.CommitRequest{ID: reserved.ID})
	}
	if err := plug(ctx, plan); err != nil {
		return api.Endpoint{}, errors.Join(err, giveBack())
	}
	if r := reserved.Resolver; r != nil {
		if err := attach.WriteResolver(plan, attach.Resolver(*r)); err != nil {
			return api.Endpoint{}, errors.Join(err, attach.Unplug(plan), giveBack())
		}
	}
	endpoint, err := client.Commit(ctx, api.CommitRequest{ID: reserved.ID})
	if err != nil {
		err = errors.Join(err, attach.Unplug(plan), giveBack())
		if reserved.Resolver != nil {
			err = errors.Join(err, attach.RestoreResolver(plan))
		}
	}
	return endpoint, err
}

// existing is an attachment that stood before.
func existing(ctx context.Context, client *api.Client, plan api.AttachPlan) (Attachment, error) {
	status, err := client.Status(ctx)
	if err != nil {
		return Attachment{}, err
	}
	for _, e := range status.Endpoints {
		if e.HostPort == plan.HostInterface {
			e.Version = api.Version
			return Attachment{Plan: plan, Endpoint: e}, nil
		}
	}
	return Attachment{}, fmt.Errorf("%s was attached, but is so no more: try again", plan.Netns)
}

// Detach takes an attachment off the network, removes its interface, and puts the
// container's resolver file back if it was written.
func Detach(ctx context.Context, client *api.Client, q api.DetachRequest) error {
	detached, err := client.Detach(ctx, q)
	if err != nil {
		return err
	}
	plan, err := planOf(detached)
	if err != nil {
		return err
	}
	if err := attach.Unplug(plan); err != nil {
		return err
	}
	if detached.Resolver != nil {
		if err := attach.RestoreResolver(plan); err != nil {
			return fmt.Errorf("detached, but the old resolver file is not back: %w", err)
		}
	}
	return nil
}

// planOf is the plan as package attach takes it.
func planOf(p api.AttachPlan) (attach.Plan, error) {
	mac, err := net.ParseMAC(p.MAC)
	if err != nil || len(mac) != 6 {
		return attach.Plan{}, fmt.Errorf("the daemon chose %q, which is no MAC address", p.MAC)
	}
	return attach.Plan{
		Netns: p.Netns, NetnsDev: p.NetnsID.Dev, NetnsInode: p.NetnsID.Inode,
		Interface: p.Interface, HostInterface: p.HostInterface, MAC: [6]byte(mac),
		Addresses: p.Addresses, MTU: p.MTU, HostMTU: p.HostMTU, Routes: p.Routes, Gateway: p.Gateway,
	}, nil
}

// withoutIPv6 reports whether a namespace gives its interfaces no IPv6, as Docker's
// usually do.
func withoutIPv6(ns *netns.NS) (off bool, err error) {
	err = ns.Do(func() error {
		b, err := os.ReadFile("/proc/sys/net/ipv6/conf/default/disable_ipv6")
		off = err != nil || strings.TrimSpace(string(b)) != "0"
		return nil
	})
	return off, err
}
