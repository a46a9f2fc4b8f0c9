package docker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"ripstop/mesh/api"
	"ripstop/mesh/runtimes"
	"ripstop/tun/attach"
)

// What `docker run --network name=NETWORK,driver-opt=OPTION=VALUE` may say.
const (
	optionPrefix = "ripstop."
	optionName   = optionPrefix + "name"   // the endpoint's name
	optionRoute  = optionPrefix + "routes" // further networks, with spaces between
)

// maxRoutes bounds optionRoute.
const maxRoutes = 64

// check refuses numbers that Docker cannot have given.
func (e endpointName) check() error {
	return errors.Join(checkID("network", e.NetworkID), checkID("endpoint", e.EndpointID))
}

// owner is what the daemon knows the endpoint by.
func (e endpointName) owner() string { return ownerPrefix + e.NetworkID + "/" + e.EndpointID }

const ownerPrefix = "docker:"

// inner is the name of its interface while that is in the host's namespace.
func (e endpointName) inner() string {
	sum := sha256.Sum256([]byte(e.EndpointID))
	return "ripi" + hex.EncodeToString(sum[:5])
}

// label is what people see in the place of a namespace: `ripstop detach` takes it.
func (e endpointName) label() string { return "docker-" + e.EndpointID[:min(len(e.EndpointID), 12)] }

// createEndpoint puts an interface on the network, whose other end waits for join.
func (s *Server) createEndpoint(ctx context.Context, q endpointRequest) (endpointAnswer, error) {
	request, err := q.attachment()
	if err != nil {
		return endpointAnswer{}, err
	}
	names, err := patiently(ctx, s, s.cfg.Client.Names)
	if err != nil {
		return endpointAnswer{}, err
	}
	if server := names.Address; server != nil {
		request.Routes = append(request.Routes, netip.PrefixFrom(*server, server.BitLen()))
	}
	if ports, _ := q.Options[optionPorts].([]any); len(ports) > 0 {
		s.cfg.Log.Warn("ports are not published by this network: give the container a second one, such as bridge", "endpoint", request.Netns)
	}
	if err = s.lend(ctx, request); err == nil {
		s.passFirewall(ctx)
	}
	return endpointAnswer{}, err
}

func (s *Server) lend(ctx context.Context, request api.AttachRequest) error {
	s.attaching.Lock()
	defer s.attaching.Unlock()
	_, err := runtimes.Lend(ctx, s.cfg.Client, request)
	return err
}

// attachment is what the daemon is asked for.
func (q endpointRequest) attachment() (a api.AttachRequest, err error) {
	name := endpointName{q.NetworkID, q.EndpointID}
	if err := name.check(); err != nil {
		return a, err
	}
	a = api.AttachRequest{Netns: name.label(), Interface: name.inner(), Owner: name.owner()}
	if q.Interface == nil || q.Interface.Address == "" {
		return a, fmt.Errorf("endpoint %s has no IPv4 address: create the network with --ipam-driver as with --driver", a.Netns)
	}
	if a.MAC, err = parseMAC(q.Interface.MacAddress); err != nil {
		return a, err
	}
	a.AddressesFor = holderPrefix + a.MAC
	for _, text := range []string{q.Interface.Address, q.Interface.AddressIPv6} {
		if text == "" {
			continue
		}
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return a, fmt.Errorf("address %.100q: an address with its prefix length, such as 10.32.0.1/12", text)
		}
		a.Addresses = append(a.Addresses, p)
	}
	err = readOptions(&a, q.Options)
	return a, err
}

// readOptions takes our options out of Docker's own.
func readOptions(a *api.AttachRequest, options map[string]any) (err error) {
	for key, value := range options {
		if !strings.HasPrefix(key, optionPrefix) {
			continue
		}
		text, ok := value.(string)
		switch {
		case !ok:
			return fmt.Errorf("option %.100s: it is a text", key)
		case key == optionName && api.ValidName(text):
			a.Name = text
		case key == optionName:
			return fmt.Errorf("option %s=%.100s: letters, digits, hyphens within, and dots between; 63 characters at most", key, text)
		case key == optionRoute:
			if a.Routes, err = parseRoutes(text); err != nil {
				return err
			}
		default:
			return fmt.Errorf("option %.100s: known are %s and %s", key, optionName, optionRoute)
		}
	}
	return nil
}

func parseRoutes(text string) (all []netip.Prefix, err error) {
	for word := range strings.FieldsSeq(text) {
		p, err := netip.ParsePrefix(word)
		if err != nil || p.Bits() == 0 {
			return nil, fmt.Errorf("option %s: %.100q is no network with its prefix length, such as 224.0.0.0/4", optionRoute, word)
		}
		if all = append(all, p.Masked()); len(all) > maxRoutes {
			return nil, fmt.Errorf("option %s: more than %d networks", optionRoute, maxRoutes)
		}
	}
	return all, nil
}

// endpointInfo has nothing to add to what Docker knows.
func (s *Server) endpointInfo(_ context.Context, q endpointName) (endpointInfo, error) {
	return endpointInfo{map[string]any{}}, q.check()
}

// join tells Docker which interface is the endpoint's. Docker moves and names it, and
// gives it the addresses that it knows.
func (s *Server) join(ctx context.Context, q joinRequest) (joinAnswer, error) {
	if err := q.check(); err != nil {
		return joinAnswer{}, err
	}
	status, err := patiently(ctx, s, s.cfg.Client.Status)
	if err != nil {
		return joinAnswer{}, err
	}
	i := slices.IndexFunc(status.Endpoints, func(e api.Endpoint) bool { return e.Owner == q.owner() })
	if i < 0 {
		return joinAnswer{}, fmt.Errorf("endpoint %s is not attached: start the container again", q.label())
	}
	e := status.Endpoints[i]
	answer := joinAnswer{InterfaceName: interfaceName{SrcName: e.Interface, DstPrefix: "eth"}, DisableGatewayService: true}
	for _, r := range s.inside.routes(q, e.Routes, status.Endpoints) {
		answer.StaticRoutes = append(answer.StaticRoutes, staticRoute{r.String(), onLink})
	}
	return answer, nil
}

// leave does nothing: Docker brings the interface back after it, or has lost it with the
// namespace, and then deletes the endpoint.
func (s *Server) leave(_ context.Context, q endpointName) (nothing, error) {
	return nothing{}, q.check()
}

// deleteEndpoint takes an endpoint off the network. One that is gone already is no
// failure, nor is a daemon that is: Docker would keep an endpoint for ever that it cannot
// delete. The daemon then finds, when it runs again, that the interface is gone.
func (s *Server) deleteEndpoint(ctx context.Context, q endpointName) (nothing, error) {
	if err := q.check(); err != nil {
		return nothing{}, err
	}
	s.attaching.Lock()
	defer s.attaching.Unlock()
	err := runtimes.Detach(ctx, s.cfg.Client, api.DetachRequest{Owner: q.owner()})
	if api.IsCode(err, api.CodeNotFound) || api.IsCode(err, api.CodeStopping) || errors.Is(err, api.ErrUnreachable) || errors.Is(err, context.DeadlineExceeded) {
		err = attach.Recall(q.inner())
	}
	return nothing{}, err
}
