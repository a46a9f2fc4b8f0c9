package docker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

func (s *Server) networkCapabilities(context.Context, nothing) (networkCapabilities, error) {
	return networkCapabilities{Scope: "local", ConnectivityScope: "global", GwAllocChecker: true}, nil
}

// checkGateway says that a network needs no gateway.
func (s *Server) checkGateway(context.Context, nothing) (skipGateway, error) {
	return skipGateway{SkipIPv4: true, SkipIPv6: true}, nil
}

// createNetwork checks what a network was created with. There is nothing to be made.
func (s *Server) createNetwork(_ context.Context, q networkRequest) (nothing, error) {
	if err := checkID("network", q.NetworkID); err != nil {
		return nothing{}, err
	}
	for _, p := range slices.Concat(q.IPv4Data, q.IPv6Data) {
		if p.AddressSpace != "" && p.AddressSpace != space {
			return nothing{}, fmt.Errorf("addresses %.50s are given out by another driver, which other hosts know nothing of: create the network with --ipam-driver as with --driver", p.Pool)
		}
	}
	if options, _ := q.Options[optionGeneric].(map[string]any); len(options) > 0 {
		names := slices.Sorted(maps.Keys(options))
		return nothing{}, fmt.Errorf("option %.200q: this driver has none for a network", strings.Join(names, ", "))
	}
	return nothing{}, nil
}

// deleteNetwork takes endpoints off that Docker has lost: it deletes no network that has
// some. Neither a daemon that does not answer nor one of them is in the way of the network's
// end.
func (s *Server) deleteNetwork(ctx context.Context, q deleteNetworkRequest) (nothing, error) {
	if err := checkID("network", q.NetworkID); err != nil {
		return nothing{}, err
	}
	status, err := s.cfg.Client.Status(ctx)
	if err != nil {
		return nothing{}, nil
	}
	for _, e := range status.Endpoints {
		if strings.HasPrefix(e.Owner, ownerPrefix+q.NetworkID+"/") {
			s.detachLost(ctx, e)
		}
	}
	return nothing{}, nil
}

// discover hears of other hosts of Docker's, which do not matter: ripstop knows its own.
func (s *Server) discover(context.Context, nothing) (nothing, error) { return nothing{}, nil }

// maxID bounds Docker's numbers of networks and endpoints, which are 64 hexadecimal digits.
const maxID = 128

// checkID refuses what cannot be such a number. None has a slash.
func checkID(what, id string) error {
	bad := func(r rune) bool { return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') }
	if id == "" || len(id) > maxID || strings.ContainsFunc(id, bad) {
		return fmt.Errorf("%s %.50q: its number is letters and digits, %d at most", what, id, maxID)
	}
	return nil
}
