package runtimes

import (
	"context"
	"errors"
	"io/fs"

	"ripstop/mesh/api"
	"ripstop/tun/attach"
	"ripstop/tun/netns"
)

// Release is Detach for a runtime, which has to get rid of a container whatever became of
// it: what is gone already, the attachment, its namespace or the daemon, is no failure.
// Where no daemon answers, the interface iface of the namespace ns, as netns.Parse
// takes it, is removed; either may be empty. The next daemon finds that it is gone, and
// gives the addresses back.
func Release(ctx context.Context, client *api.Client, owner, ns, iface string) error {
	err := Detach(ctx, client, api.DetachRequest{Owner: owner})
	switch {
	case api.IsCode(err, api.CodeNotFound):
		return nil
	case errors.Is(err, api.ErrUnreachable), api.IsCode(err, api.CodeStopping):
		return unplug(ns, iface)
	}
	return err
}

// unplug removes an interface without a daemon.
func unplug(ns, iface string) error {
	if ns == "" || !attach.ValidName(iface) {
		return nil // nothing is there, or can be called so
	}
	inner, err := attach.Look(ns, iface)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, netns.ErrNotNamespace), errors.Is(err, netns.ErrOwn): // ended; its name may be another's
		return nil
	case err != nil:
		return err
	case inner.HostInterface == "":
		return nil
	}
	return attach.Unplug(attach.Plan{HostInterface: inner.HostInterface})
}
