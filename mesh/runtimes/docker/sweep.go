package docker

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"time"

	"ripstop/mesh/api"
	"ripstop/mesh/runtimes"
)

// What Docker has lost is taken back after staleAfter: an address has no endpoint between
// RequestAddress and CreateEndpoint, and between DeleteEndpoint and ReleaseAddress, and an
// endpoint's interface lies on the host between CreateEndpoint and the container's start,
// and between Leave and DeleteEndpoint, each for less than a second.
const (
	staleAfter = 2 * time.Minute
	sweepEvery = 30 * time.Second
)

// sweepNowAndThen sweeps until ctx ends, and lets frames pass Docker's firewall again when
// somebody has loaded that anew.
func (s *Server) sweepNowAndThen(ctx context.Context) {
	since := make(map[string]time.Time)
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		s.sweep(ctx, time.Now(), since)
		s.passFirewall(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// sweep takes back what was lost for staleAfter, because a daemon, Docker or the host went
// down. since is when each was first seen to be.
func (s *Server) sweep(ctx context.Context, now time.Time, since map[string]time.Time) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	lost, err := s.lost(ctx)
	if err != nil {
		return // the next time
	}
	for name, takeBack := range lost {
		first, known := since[name]
		switch {
		case !known:
			since[name] = now
		case now.Sub(first) >= staleAfter:
			takeBack()
		}
	}
	for name := range since {
		if _, still := lost[name]; !still {
			delete(since, name)
		}
	}
}

// lost is how to take back what Docker seems to have lost, by a name for it.
func (s *Server) lost(ctx context.Context) (map[string]func(), error) {
	unused, stranded, err := s.unused(ctx)
	if err != nil {
		return nil, err
	}
	lost := make(map[string]func())
	for address, u := range unused {
		lost[address.String()] = func() { s.releaseLost(ctx, u) }
	}
	for _, e := range stranded {
		lost[e.Owner] = func() { s.detachLost(ctx, e) }
	}
	return lost, nil
}

// reclaim releases an address that Docker has but no endpoint, since Docker asks for it
// by --ip for another one. Should it not be lost, its own endpoint finds it taken.
func (s *Server) reclaim(ctx context.Context, address netip.Addr) bool {
	unused, _, err := s.unused(ctx)
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

// detachLost takes an endpoint off; somebody may have done so meanwhile.
func (s *Server) detachLost(ctx context.Context, e api.Endpoint) {
	s.attaching.Lock()
	defer s.attaching.Unlock()
	err := runtimes.Detach(ctx, s.cfg.Client, api.DetachRequest{Owner: e.Owner})
	if !api.IsCode(err, api.CodeNotFound) {
		s.cfg.Log.Info("an endpoint is taken off that Docker has lost", "endpoint", e.Netns, "error", err)
	}
}

// unused are the addresses that Docker has for containers and no endpoint has, and the
// endpoints whose interface no container has. Addresses of --aux-address, which never have
// an endpoint, are not among them.
func (s *Server) unused(ctx context.Context) (unused map[netip.Addr]api.IPAMUse, stranded []api.Endpoint, err error) {
	all, err := s.cfg.Client.IPAM(ctx)
	if err != nil {
		return nil, nil, err
	}
	status, err := s.cfg.Client.Status(ctx)
	if err != nil {
		return nil, nil, err
	}
	unused = make(map[netip.Addr]api.IPAMUse)
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
		if strings.HasPrefix(e.Owner, ownerPrefix) && isHere(e.Interface) {
			stranded = append(stranded, e)
		}
	}
	return unused, stranded, nil
}

// isHere reports whether an interface lies in the process's own namespace.
func isHere(name string) bool {
	_, err := net.InterfaceByName(name)
	return err == nil
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

// passFirewall lets frames go from port to port of ripstop's bridge where Docker's
// firewall drops what is forwarded.
func (s *Server) passFirewall(ctx context.Context) {
	if s.pass == nil {
		return
	}
	status, err := patiently(ctx, s, s.cfg.Client.Status)
	if err != nil || status.Bridge == "" {
		return // the next time
	}
	switch added, err := s.pass(status.Bridge); {
	case err != nil:
		s.cfg.Log.Warn("Docker's firewall stays as it is: `ripstop doctor` says whether it drops frames", "error", err)
	case added:
		s.cfg.Log.Info("Docker's firewall lets frames pass between ports of the bridge", "bridge", status.Bridge)
	}
}
