package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"ripstop/mesh/api"
	"ripstop/mesh/runtimes"
)

// del takes a container off the network. What is gone already, its namespace or the
// daemon, is no failure; what is left without a namespace is found by GC.
func (c *call) del(ctx context.Context) error {
	return runtimes.Release(ctx, c.client, c.owner(), c.netns, c.inside())
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
