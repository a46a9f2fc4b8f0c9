package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/utils"

	"ripstop/mesh/api"
	"ripstop/mesh/runtimes"
	"ripstop/tun/attach"
	"ripstop/tun/netns"
)

// del takes a container off the network. What is gone already, its namespace or the
// daemon, is no failure.
func (c *call) del(ctx context.Context) error {
	err := runtimes.Detach(ctx, c.client, api.DetachRequest{Owner: c.owner()})
	switch {
	case api.IsCode(err, api.CodeNotFound):
		return nil
	case errors.Is(err, api.ErrUnreachable), api.IsCode(err, api.CodeStopping):
		return c.unplug()
	}
	return err
}

// unplug removes the interface while no daemon runs. The next one finds that it is gone,
// and gives the addresses back.
func (c *call) unplug() error {
	if c.netns == "" {
		return nil // what is left of it is found by GC
	}
	if utils.ValidateInterfaceName(c.inside()) != nil {
		return nil // nothing can be called so
	}
	inner, err := attach.Look(c.netns, c.inside())
	switch {
	case gone(err), errors.Is(err, netns.ErrNotNamespace), errors.Is(err, netns.ErrOwn): // ended; its name may be another's
		return nil
	case err != nil:
		return err
	case inner.HostInterface == "":
		return nil
	}
	return attach.Unplug(attach.Plan{HostInterface: inner.HostInterface})
}

// collect takes off the network what the runtime attached to it and has forgotten. Of a
// runtime that does not say what it has, nothing is known to be stale.
func (c *call) collect(ctx context.Context) error {
	if c.config.Valid == nil {
		c.note("GC of network %s: %s is missing, so nothing is collected", c.config.Name, keyValid)
		return nil
	}
	var list []types.GCAttachment
	if err := json.Unmarshal(c.config.Valid, &list); err != nil {
		return invalid("%s: %v", keyValid, err)
	}
	valid := make(map[string]bool)
	for _, a := range list {
		valid[c.ownerOf(a)] = true
	}
	status, err := c.client.Status(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range status.Endpoints {
		if !strings.HasPrefix(e.Owner, c.ownerPrefix()) || valid[e.Owner] {
			continue
		}
		err := runtimes.Detach(ctx, c.client, api.DetachRequest{Owner: e.Owner})
		if err != nil && !api.IsCode(err, api.CodeNotFound) {
			errs = append(errs, fmt.Errorf("%s: %w", e.Owner, err))
		}
	}
	return errors.Join(errs...)
}
