package netavark

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"

	"ripstop/mesh/api"
	"ripstop/mesh/runtimes"
)

// create checks a network that Podman is about to make, and says who does what for it.
// What ripstop does not know of it stays as it is.
func (c *call) create(ctx context.Context) error {
	b, err := c.ReadAll(ctx, maxInput)
	if err != nil {
		return err
	}
	var fields map[string]json.RawMessage
	var n network
	if err = json.Unmarshal(b, &fields); err == nil {
		err = json.Unmarshal(b, &n)
	}
	if err != nil {
		return fmt.Errorf("this is no network of Podman's: %.200v", err)
	}
	s, err := n.settings()
	if err != nil {
		return err
	}
	if err := c.checkRange(ctx, s); err != nil {
		return err
	}
	maps.Copy(fields, map[string]json.RawMessage{
		"ipam_options": json.RawMessage(`{"driver":"` + nobody + `"}`),
		"internal":     json.RawMessage("true"),
		"dns_enabled":  json.RawMessage("false"),
	})
	return runtimes.PrintJSON(c.Out, fields)
}

// checkRange refuses a subnet that the network has no addresses of. Where no daemon runs
// yet, the containers' setup does.
func (c *call) checkRange(ctx context.Context, s settings) error {
	if len(s.subnets) == 0 {
		return nil
	}
	client := api.NewClient(s.socket)
	defer client.Close()
	all, err := client.IPAM(ctx)
	if errors.Is(err, api.ErrUnreachable) {
		c.note("%v, so nobody has looked whether --subnet is a part of ripstop's range", err)
		return nil
	}
	if err != nil {
		return err
	}
	for _, p := range s.subnets {
		if !within(p, all.Range) {
			return fmt.Errorf("subnet %v: it is no part of ripstop's range %v: give a part of that, or leave --subnet out", p, all.Range)
		}
	}
	return nil
}

// within reports whether p is r or a part of it.
func within(p, r netip.Prefix) bool { return p.Bits() >= r.Bits() && r.Contains(p.Addr()) }
