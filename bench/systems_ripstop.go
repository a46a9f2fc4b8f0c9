package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"ripstop/crypto"
	"ripstop/integration/lab"
	"ripstop/mesh/api"
)

// ripstopRoom is what of an underlay packet ripstop's own headers may take, over IPv6 and
// relayed, rounded up: on an underlay larger than Ethernet containers get the rest.
const ripstopRoom = 160

// ripstopSystems are ripstop in its forms.
func ripstopSystems(v variants) []*system {
	make := func(name, title, cipher string, policy crypto.CipherPolicy, relays int, args ...string) *system {
		return &system{
			name: name, title: title, layer: "2", cipher: cipher, relays: relays,
			lay: func(ctx context.Context, r *rig) error { return layRipstop(ctx, r, policy, args) },
		}
	}
	const sealed = "AES-256-GCM or ChaCha20-Poly1305"
	all := []*system{
		make(ripstop, "ripstop, sealed", sealed, crypto.CipherAuto, 0),
		make(ripstopNone, "ripstop, cipher none", "", crypto.CipherNone, 0),
		make(ripstopRelay1, "ripstop, sealed, over 1 relay", sealed, crypto.CipherAuto, 1),
		make(ripstopRelay2, "ripstop, sealed, over 2 relays", sealed, crypto.CipherAuto, 2),
	}
	for _, one := range v {
		s := make(ripstop+":"+one.Name, "ripstop, sealed, "+one.Name, sealed, crypto.CipherAuto, 0, one.Args...)
		s.program = one.Program
		all = append(all, s)
	}
	return all
}

// layRipstop starts the daemons, waits until the ends have a session over the
// expected way, and attaches a container at each end.
func layRipstop(ctx context.Context, r *rig, policy crypto.CipherPolicy, args []string) error {
	network, _, err := crypto.NewNetwork(rand.Reader, policy)
	if err != nil {
		return err
	}
	token, err := network.Token()
	if err != nil {
		return err
	}
	if mtu := r.ripstopMTU(); mtu != 0 {
		args = slices.Concat([]string{"--mtu", strconv.Itoa(mtu)}, args) // a variant's own holds
	}
	hosts := r.lab.Hosts()
	for _, h := range hosts {
		var peers []string
		for _, other := range hosts {
			if _, ok := h.Addr(other); ok && other != h {
				peers = append(peers, other.Name())
			}
		}
		d, err := h.Start(lab.StartConfig{Secret: token, Peers: peers, Args: args})
		if err != nil {
			return err
		}
		if h.Name() == hostA || h.Name() == hostB {
			r.ends = append(r.ends, d.PID())
		} else {
			r.relays = append(r.relays, d.PID())
		}
	}
	if err := r.waitSession(ctx, len(r.relays)+1); err != nil {
		return err
	}
	a, b, err := r.containers()
	if err != nil {
		return err
	}
	r.addr = overlayB.Addr()
	return errors.Join(a.Attach(ctx, overlayA.String()), b.Attach(ctx, overlayB.String()))
}

// ripstopMTU is the containers' MTU to be asked for; 0 = ripstop's default.
func (r *rig) ripstopMTU() int {
	switch {
	case r.opt.ContainerMTU != 0:
		return r.opt.ContainerMTU
	case r.opt.MTU > 1500:
		return r.opt.MTU - ripstopRoom
	}
	return 0
}

// waitSession waits until both ends have a session with one another over so many
// hops, neighbours by UDP.
func (r *rig) waitSession(ctx context.Context, hops int) error {
	deadline := time.Now().Add(reachTimeout)
	for _, pair := range [][2]string{{hostA, hostB}, {hostB, hostA}} {
		client := api.NewClient(r.lab.Host(pair[0]).Socket())
		defer client.Close()
		for {
			status, err := client.Status(ctx)
			if err != nil {
				return fmt.Errorf("host %s: %w", pair[0], err)
			}
			state := "is not known"
			for _, p := range status.Peers {
				if p.Nickname != pair[1] {
					continue
				}
				state = fmt.Sprintf("has session %q, %d hops, path %q", p.Session, p.Hops, p.Path)
				if p.Session != "" && p.Hops == hops && (hops > 1 || p.Path == "udp") {
					state = ""
				}
			}
			if state == "" {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("host %s: after %v %s %s, want %d hops", pair[0], reachTimeout, pair[1], state, hops)
			}
			if err := pause(ctx, 20*time.Millisecond); err != nil {
				return err
			}
		}
	}
	return nil
}

// pause waits.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
