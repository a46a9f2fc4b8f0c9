package mesh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"ripstop/mesh/api"
	"ripstop/mesh/plane"
	"ripstop/tun"
	"ripstop/tun/firewall"
)

// hazardEvery is how often it is looked whether this host's firewall drops what
// the bridge carries.
const hazardEvery = 10 * time.Second

// deviceOffloads are what the TAP is asked for: unfinished checksums and super-frames
// of TCP and UDP, also inside the tunnels of containers.
func (c *Config) deviceOffloads() tun.OffloadMask {
	var mask tun.OffloadMask
	if !c.offload("checksum") {
		return mask // the others rest on it
	}
	mask |= tun.OffloadChecksum
	if c.offload("tso") {
		mask |= tun.OffloadTSO4 | tun.OffloadTSO6 | tun.OffloadECN
	}
	if c.offload("uso") {
		mask |= tun.OffloadUSO4 | tun.OffloadUSO6
	}
	if c.offload("tunnel") {
		mask |= tun.OffloadTunnel | tun.OffloadTunnelChecksum
	}
	return mask
}

// openDevice opens the device, and in bridge mode sets up bridge and port rules.
// A step that fails undoes the ones before.
func (n *node) openDevice() (err error) {
	mac := n.identity.Name().MAC()
	if n.cfg.Mode == modeRouted {
		n.device, err = tun.OpenTUN(tun.RoutedConfig{
			Name: n.cfg.Device, MAC: mac, Addresses: n.cfg.Address, MTU: n.cfg.MTU,
		})
		if err != nil {
			return deviceError(err, "--device")
		}
		n.deviceName = n.device.Name()
		return nil
	}
	tap := mac
	tap[0] ^= 0x40 // the TAP's own MAC must differ from the bridge's, which is the host's
	n.device, err = tun.OpenTAP(tun.Config{
		Name: n.cfg.Device, MAC: tap, Queues: plane.Workers(), Offloads: n.cfg.deviceOffloads(),
	})
	if err != nil {
		return deviceError(err, "--device")
	}
	n.deviceName = n.device.Name()
	undo := func() {
		n.device.Close()
		if n.bridge != nil {
			n.bridge.RemoveIfUnused()
		}
	}
	if n.bridge, err = tun.SetUpBridge(tun.BridgeConfig{Name: n.cfg.Bridge, MAC: mac, TAP: n.deviceName}); err != nil {
		undo()
		return deviceError(err, "--bridge")
	}
	if n.firewall, err = firewall.New(n.cfg.Bridge); err == nil {
		err = n.setUpRules()
	}
	if err != nil {
		undo()
		return err
	}
	return nil
}

// choosesOwn reports whether this host's own address comes from the table: it is in
// routed mode, and none was given.
func (n *node) choosesOwn() bool { return n.bridge == nil && len(n.cfg.Address) == 0 }

// numberHost gets a routed host its own address, the same as last time, and tries until
// there is one.
func (n *node) numberHost(ctx context.Context) error {
	if !n.choosesOwn() {
		return nil
	}
	var last string
	for {
		a, err := n.expose(ctx, api.ExposeRequest{})
		if err == nil {
			n.log.Info("this host has an address", "address", joinPrefixes(a.Plan.Addresses))
			n.poke()
			return n.device.(tun.Addressable).AddAddresses(a.Plan.Addresses)
		}
		if ctx.Err() != nil {
			return nil
		}
		if text := err.Error(); text != last {
			n.log.Warn("this host has no address yet; it is tried again", "error", err)
			last = text
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

// deviceError adds to an error about a name that is taken which flag chooses another.
func deviceError(err error, flag string) error {
	if errors.Is(err, tun.ErrNameTaken) {
		return fmt.Errorf("%w (%s says which name)", err, flag)
	}
	return err
}

// setUpRules makes the rules that do not depend on what is attached.
func (n *node) setUpRules() error {
	if err := n.firewall.Ensure(); err != nil {
		return err
	}
	err := errors.Join(n.firewall.SetStrict(n.cfg.StrictPorts), n.firewall.SetTrunk(n.deviceName))
	if err == nil && n.bridge.Made() {
		// A bridge of somebody else may carry the underlay itself.
		err = n.firewall.SetUnderlayGuard(n.port)
	}
	return err
}

// watchRules puts the port rules back if they are gone. It waits for the kernel: n.mu
// need not be held.
func (n *node) watchRules(now time.Time) {
	if n.firewall == nil || !n.rules.due(now) {
		return
	}
	n.rules.looked = time.Time{}
	there, err := n.firewall.Present()
	if err != nil {
		n.log.Debug("port rules cannot be looked at", "bridge", n.cfg.Bridge, "error", err)
		return
	}
	n.mu.Lock()
	last := n.rulesFault
	n.mu.Unlock()
	var fault string
	if there {
		n.rules.looked = now
	} else {
		fault = n.restoreRules(last)
	}
	n.mu.Lock()
	n.rulesFault = fault
	n.mu.Unlock()
}

// restoreRules puts the port rules back and says what is in the way, "" if nothing is. What
// was last in the way is not logged again.
func (n *node) restoreRules(last string) string {
	if last == "" {
		n.log.Warn("port rules are gone; putting them back", "bridge", n.cfg.Bridge)
	}
	err := n.firewall.Ensure()
	if err == nil {
		return ""
	}
	if err.Error() != last {
		n.log.Error("port rules cannot be restored", "error", err)
	}
	return err.Error()
}

// watchPorts looks which ports the bridge has, tells the port rules, and looks after
// the attachments among them. n.mu must be held, so that none is attached meanwhile.
func (n *node) watchPorts(now time.Time) {
	if n.bridge == nil {
		return
	}
	names, err := n.portNames(now)
	if err == nil && n.bridgePorts.looked != now && n.lackPort(names) { // attached since, or gone
		n.bridgePorts.stale.Store(true)
		names, err = n.portNames(now)
	}
	if err != nil {
		n.log.Debug("bridge ports cannot be listed", "bridge", n.cfg.Bridge, "error", err)
		return
	}
	n.watchAttachments(now, names)
	if slices.Equal(names, n.ports) {
		return
	}
	n.ports = names
	if err := n.firewall.SetMembers(names); err != nil {
		n.log.Error("port rules cannot be updated", "error", err)
	}
}

// portNames are the bridge's ports.
func (n *node) portNames(now time.Time) ([]string, error) {
	ports, err := n.bridgePorts.get(now, n.bridge.Ports)
	var names []string
	for _, p := range ports {
		names = append(names, p.Name)
	}
	return names, err
}

// lackPort reports whether an attachment's port is not among those. n.mu must be held.
func (n *node) lackPort(names []string) bool {
	return slices.ContainsFunc(n.attachments, func(a *attachment) bool {
		return !a.Exposed && !slices.Contains(names, a.Plan.HostInterface)
	})
}

// closeDevice closes the device. Bridge and rules stay while anything is
// attached, unless everything is to go.
func (n *node) closeDevice(everything bool) {
	n.device.Close()
	if n.bridge == nil {
		if everything {
			n.clearState()
		}
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if everything {
		n.removeAll()
		n.clearState()
	}
	if len(n.attachments) > 0 {
		n.log.Info("bridge and attachments stay; the next `ripstop up` adopts them", "bridge", n.cfg.Bridge, "attachments", len(n.attachments))
		return
	}
	if err := errors.Join(n.firewall.Delete(), n.bridge.RemoveIfUnused()); err != nil {
		n.log.Warn("bridge or rules not removed", "bridge", n.cfg.Bridge, "error", err)
	} else if _, err := net.InterfaceByName(n.cfg.Bridge); everything && n.bridge.Made() && err == nil {
		n.log.Warn("the bridge stays, with ports or addresses that ripstop did not give, or has forgotten; `ip link delete "+n.cfg.Bridge+"` removes it", "bridge", n.cfg.Bridge)
	}
}

// clearState removes what the state directory holds.
func (n *node) clearState() {
	if err := n.store.Clear(); err != nil {
		n.log.Warn("state not removed", "error", err)
	}
}

// watch keeps an eye on the device and the bridge.
func (n *node) watch(ctx context.Context) error {
	if n.bridge == nil {
		<-ctx.Done()
		return nil
	}
	watcher, err := n.bridge.Watch()
	if err != nil {
		return err
	}
	defer watcher.Close()
	return watcher.Run(ctx, func(e tun.LinkEvent) {
		switch {
		case e.State == tun.LinkGone:
			n.stop(fmt.Errorf("interface %s was deleted or renamed under ripstop: start it again", e.Name))
		case e.State == tun.LinkDown || e.Name == n.deviceName && e.Master != n.bridge.Index():
			n.log.Warn("interface was changed under ripstop; setting it right", "interface", e.Name, "state", e.State)
			if _, err := tun.SetUpBridge(tun.BridgeConfig{Name: n.cfg.Bridge, MAC: n.identity.Name().MAC(), TAP: n.deviceName}); err != nil {
				n.stop(err)
			}
		}
	})
}

// hazards are what this host's firewall may do to the bridge's frames, and what is said
// when it does so no more.
func (n *node) hazards() []hazard {
	return []hazard{
		{look: tun.ForwardingHazard, over: "bridged frames are no longer dropped"},
		{look: n.gatewayHazard, over: "nothing stands between what is attached here and the world any more"},
	}
}

type hazard struct {
	look func(bridge string) (sentence string, there bool)
	over string
	last string // sentence; empty: none
}

// watchHazard warns, once for each change, while FORWARD rules drop bridged frames, or
// those of a gateway.
func (n *node) watchHazard(ctx context.Context) error {
	if n.bridge == nil {
		return nil
	}
	tick := time.NewTicker(hazardEvery)
	defer tick.Stop()
	all := n.hazards()
	for {
		var warnings []string
		for i := range all {
			h := &all[i]
			sentence, there := h.look(n.cfg.Bridge)
			switch {
			case !there && h.last != "":
				n.log.Info(h.over, "bridge", n.cfg.Bridge)
			case there && sentence != h.last:
				n.log.Warn(sentence, "bridge", n.cfg.Bridge)
			}
			if h.last = sentence; there {
				warnings = append(warnings, sentence)
			}
		}
		n.mu.Lock()
		n.warnings = warnings
		n.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
