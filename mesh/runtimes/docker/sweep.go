package docker

import (
	"context"
	"net/netip"
	"strings"
	"time"

	"ripstop/mesh/api"
)

// An address that no endpoint has is released after staleAfter: Docker has one between
// RequestAddress and CreateEndpoint, and between DeleteEndpoint and ReleaseAddress, for
// less than a second.
const (
	staleAfter = 2 * time.Minute
	sweepEvery = 30 * time.Second
)

// sweepNowAndThen sweeps until ctx ends.
func (s *Server) sweepNowAndThen(ctx context.Context) {
	idle := make(map[netip.Addr]time.Time)
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		s.sweep(ctx, time.Now(), idle)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// sweep releases Docker's addresses that no endpoint has had for staleAfter: those whose
// release nobody heard, because a daemon, Docker or the host went down. idle is since when
// each was seen to have none.
func (s *Server) sweep(ctx context.Context, now time.Time, idle map[netip.Addr]time.Time) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	unused, err := s.unused(ctx)
	if err != nil {
		return // the next time
	}
	for a, u := range unused {
		since, known := idle[a]
		switch {
		case !known:
			idle[a] = now
		case now.Sub(since) >= staleAfter:
			s.releaseLost(ctx, u)
		}
	}
	for a := range idle {
		if _, still := unused[a]; !still {
			delete(idle, a)
		}
	}
}

// reclaim releases an address that Docker has but no endpoint, since Docker asks for it
// by --ip for another one. Should it not be lost, its own endpoint finds it taken.
func (s *Server) reclaim(ctx context.Context, address netip.Addr) bool {
	unused, err := s.unused(ctx)
	if err != nil {
		return false
	}
	u, ok := unused[address]
	return ok && s.releaseLost(ctx, u)
}

func (s *Server) releaseLost(ctx context.Context, u api.IPAMUse) bool {
	err := s.release(ctx, u)
	s.cfg.Log.Info("an address is released that Docker has lost", "address", u.Address.Addr(), "for", u.For, "error", err)
	return err == nil
}

// unused are the addresses that Docker has for containers and no endpoint has. Those of
// --aux-address, which never have one, are not among them.
func (s *Server) unused(ctx context.Context) (map[netip.Addr]api.IPAMUse, error) {
	all, err := s.cfg.Client.IPAM(ctx)
	if err != nil {
		return nil, err
	}
	status, err := s.cfg.Client.Status(ctx)
	if err != nil {
		return nil, err
	}
	unused := make(map[netip.Addr]api.IPAMUse)
	for _, u := range all.Uses {
		if ofContainer(u) {
			unused[u.Address.Addr()] = u
		}
	}
	for _, e := range status.Endpoints {
		if e.HostPort == "" {
			continue // at another host
		}
		for _, p := range e.Addresses {
			delete(unused, p.Addr())
		}
	}
	return unused, nil
}

// ofContainer reports whether an address was given to Docker for a container.
func ofContainer(u api.IPAMUse) bool {
	mac, ok := strings.CutPrefix(u.For, holderPrefix)
	if !ok || u.State == "resting" {
		return false
	}
	_, err := parseMAC(mac)
	return err == nil
}
