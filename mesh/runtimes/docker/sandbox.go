package docker

import (
	"net/netip"
	"slices"
	"sync"

	"ripstop/mesh/api"
)

// sandboxes knows which routes endpoints have that lie in one container, where Docker
// cannot put a route twice: it then takes the container's second network back. It is
// forgotten with the plug-in, so that a container which runs longer and is given a second
// network has to be started again.
type sandboxes struct {
	mu    sync.Mutex
	given map[string]map[string][]netip.Prefix // routes, by the sandbox's path and an endpoint's owner; guarded by mu
}

// maxSandboxKey bounds a sandbox's path, as the kernel does.
const maxSandboxKey = 4096

// maxWider bounds how many bits shorter than wanted the prefix of a route may be.
const maxWider = 3

// routes are those wanted of an endpoint that joins a sandbox, as far as no other one has
// them there. That to a single address, which is the name server's, gets a shorter prefix
// instead: whichever of a container's networks it leaves, it goes on finding names.
// Endpoints that are not attached any more are forgotten.
func (s *sandboxes) routes(q joinRequest, wanted []netip.Prefix, attached []api.Endpoint) (routes []netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetLocked(q.owner(), attached)
	var taken []netip.Prefix
	for _, given := range s.given[q.SandboxKey] {
		taken = append(taken, given...)
	}
	for _, r := range wanted {
		free := r
		for slices.Contains(taken, free) && r.IsSingleIP() && r.Bits()-free.Bits() < maxWider {
			free = netip.PrefixFrom(r.Addr(), free.Bits()-1).Masked()
		}
		if !slices.Contains(taken, free) {
			routes = append(routes, free)
		}
	}
	if q.SandboxKey == "" || len(q.SandboxKey) > maxSandboxKey {
		return routes
	}
	if s.given == nil {
		s.given = make(map[string]map[string][]netip.Prefix)
	}
	if s.given[q.SandboxKey] == nil {
		s.given[q.SandboxKey] = make(map[string][]netip.Prefix)
	}
	s.given[q.SandboxKey][q.owner()] = routes
	return routes
}

// forgetLocked forgets an endpoint, and those that are not attached.
func (s *sandboxes) forgetLocked(owner string, attached []api.Endpoint) {
	is := make(map[string]bool)
	for _, e := range attached {
		is[e.Owner] = true
	}
	for path, given := range s.given {
		for o := range given {
			if o == owner || !is[o] {
				delete(given, o)
			}
		}
		if len(given) == 0 {
			delete(s.given, path)
		}
	}
}
