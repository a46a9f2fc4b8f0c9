package mesh

import (
	"context"

	"ripstop/mesh/store"
)

// Reset removes from a host on which no daemon runs everything that one left there:
// attachments, bridge, rules and the state directory. cfg says where they are. It
// takes the bridge up again for a moment, so that what is removed is found in the
// same way as by a daemon that is told to reset.
func Reset(_ context.Context, cfg Config) (err error) {
	n := &node{cfg: cfg, log: cfg.Log}
	if err := n.cfg.check(); err != nil {
		return err
	}
	if n.store, err = store.Open(n.cfg.StateDir); err != nil {
		return err
	}
	defer n.store.Close()
	if n.identity, err = loadIdentity(n.store, &n.fresh); err != nil {
		return err
	}
	if n.attachments, err = loadAttachments(n.store); err != nil {
		return err
	}
	if err := n.openDevice(); err != nil {
		return err
	}
	n.closeDevice(true)
	return nil
}
