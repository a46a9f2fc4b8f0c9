package attach

import (
	"context"
	"errors"
	"fmt"
)

// Lend makes the pair as Plug does, but leaves its inner end where the caller is, silent
// and down: a container engine moves it into a namespace, names it and gives it the
// plan's addresses and routes, and may bring it back by the old name. Of Netns only
// errors speak. A pair that this plan made before is put right while its inner end is
// here; when a step fails, a pair made by this call is removed.
func Lend(ctx context.Context, plan Plan) error {
	return lend(ctx, plan, func(string) error { return nil })
}

// lend is Lend with a hook before each step, by which tests make it fail.
func lend(ctx context.Context, plan Plan, before func(step string) error) error {
	plan, err := plan.filled()
	if err != nil {
		return err
	}
	p := &plugger{Plan: plan}
	return p.run(ctx, []step{
		{"look at " + p.Interface, false, p.look},
		{"make the pair", false, p.pair},
		{"mark the host end", false, p.mark},
		{"silence the host end", false, func() error { return deafen(p.HostInterface) }},
		// The kernel gives an interface its IPv6 settings anew in another namespace, so
		// that this holds only here.
		{"silence " + p.Interface, false, func() error { return deafen(p.Interface) }},
		{"set MTU", false, p.size},
	}, before)
}

// Recall removes the pair of an inner end that was lent and is here, or here again. It is
// no error when there is none; an interface that is not ripstop's is refused.
func Recall(iface string) error {
	if err := checkName(iface); err != nil {
		return err
	}
	link, err := find(iface)
	if errors.Is(err, errNoLink) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("attach: recall: %w", err)
	}
	host := hostEnd(link)
	if host == "" {
		return fmt.Errorf("attach: recall: %s is not ripstop's (a %s)", iface, link.Type())
	}
	return Unplug(Plan{HostInterface: host})
}
