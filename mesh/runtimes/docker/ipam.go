package docker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"ripstop/mesh/api"
)

// space is the one address space: ripstop's range.
const space = "ripstop"

// holderPrefix begins the names to which the daemon allocates Docker's addresses.
const holderPrefix = "docker:"

func (s *Server) addressCapabilities(context.Context, nothing) (addressCapabilities, error) {
	return addressCapabilities{RequiresMACAddress: true}, nil
}

func (s *Server) addressSpaces(context.Context, nothing) (addressSpaces, error) {
	return addressSpaces{space, space}, nil
}

// pool is a part of ripstop's range. Its number among Docker's is its text, so that it
// need not be kept.
type pool struct {
	subnet netip.Prefix // what containers take for their network
	part   netip.Prefix // of it, where addresses are chosen from
}

// String is the number of the pool, which parsePool reads.
func (p pool) String() string { return p.subnet.String() + "," + p.part.String() }

func parsePool(id string) (p pool, err error) {
	subnet, part, ok := strings.Cut(id, ",")
	if ok {
		p.subnet, err = netip.ParsePrefix(subnet)
	}
	if ok && err == nil {
		p.part, err = netip.ParsePrefix(part)
	}
	if !ok || err != nil || !within(p.part, p.subnet) {
		return pool{}, fmt.Errorf("pool %.100q: it is none of this driver's", id)
	}
	return p, nil
}

// within reports whether all of p lies in whole.
func within(p, whole netip.Prefix) bool {
	return p.IsValid() && whole.IsValid() && p == p.Masked() && p.Bits() >= whole.Bits() && whole.Contains(p.Addr())
}

// requestPool makes a pool of what a network was created with. Two networks may have the
// same one: no address is given to both.
func (s *Server) requestPool(ctx context.Context, q poolRequest) (poolAnswer, error) {
	if q.AddressSpace != "" && q.AddressSpace != space {
		return poolAnswer{}, fmt.Errorf("address space %.100q: it is %s", q.AddressSpace, space)
	}
	for key := range q.Options {
		if !strings.HasPrefix(key, dockersOwn) {
			return poolAnswer{}, fmt.Errorf("option %.200q: this driver has none for addresses", key)
		}
	}
	all, err := patiently(ctx, s, s.cfg.Client.IPAM)
	if err != nil {
		return poolAnswer{}, err
	}
	p, err := choosePool(q, all)
	if err != nil {
		return poolAnswer{}, err
	}
	return poolAnswer{PoolID: p.String(), Pool: p.subnet.String(), Data: map[string]string{}}, nil
}

// choosePool checks what was asked for, or takes what the host gives by itself.
func choosePool(q poolRequest, all api.IPAM) (p pool, err error) {
	whole, subnet := all.Range, all.Subnet
	if q.V6 {
		whole, subnet = all.Range6, all.Range6
		if !whole.IsValid() {
			return p, errors.New("this host gives out no IPv6 addresses: `ripstop up --ipv6 on` does; or create the network without --ipv6")
		}
	}
	if p.subnet, err = parsePart("subnet", q.Pool, subnet, whole); err != nil {
		return p, err
	}
	if q.V6 && p.subnet != whole {
		return p, fmt.Errorf("subnet %v: an IPv6 address goes with an IPv4 address, so it can be any of %v: give that", p.subnet, whole)
	}
	p.part, err = parsePart("IP range", q.SubPool, p.subnet, p.subnet)
	return p, err
}

// parsePart reads a part of whole; none is given: otherwise.
func parsePart(what, text string, otherwise, whole netip.Prefix) (netip.Prefix, error) {
	if text == "" {
		return otherwise, nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil || p != p.Masked() {
		return p, fmt.Errorf("%s %.100q: a range without host bits, such as %v", what, text, whole)
	}
	if !within(p, whole) {
		return p, fmt.Errorf("%s %v: it is no part of %v, out of which addresses are given here", what, p, whole)
	}
	return p, nil
}

func (s *Server) releasePool(context.Context, releasePoolRequest) (nothing, error) {
	return nothing{}, nil
}

// requestAddress allocates an address to "docker:MAC", so that Docker gets the same one
// when it asks again; one without a MAC is kept off containers by --aux-address.
func (s *Server) requestAddress(ctx context.Context, q addressRequest) (addressAnswer, error) {
	p, err := parsePool(q.PoolID)
	if err != nil {
		return addressAnswer{}, err
	}
	var want netip.Addr
	if q.Address != "" {
		if want, err = parseAddress(q.Address); err != nil {
			return addressAnswer{}, err
		}
	}
	if q.Options[optionType] == typeGateway {
		return gateway(p, want)
	}
	holder := ""
	switch {
	case q.Options[optionMAC] != "":
		mac, err := parseMAC(q.Options[optionMAC])
		if err != nil {
			return addressAnswer{}, err
		}
		holder = holderPrefix + mac
	case want.IsValid():
		holder = holderPrefix + want.String()
	default:
		return addressAnswer{}, errors.New("the MAC is missing for which an address is to be chosen")
	}
	if p.subnet.Addr().Is6() {
		return s.twin(ctx, p, holder, want)
	}
	subnet := p.part
	if want.IsValid() {
		subnet = p.subnet
	}
	ask := api.AllocateRequest{For: holder, Subnet: subnet, Address: want}
	given, err := patiently(ctx, s, func(ctx context.Context) (api.Address, error) { return s.cfg.Client.Allocate(ctx, ask) })
	if api.IsCode(err, api.CodeConflict) && want.IsValid() && s.reclaim(ctx, want) {
		given, err = s.cfg.Client.Allocate(ctx, ask)
	}
	if err != nil {
		return addressAnswer{}, err
	}
	return p.answer(given.Addresses[0].Addr()), nil
}

// answer is an address of the pool as Docker wants it.
func (p pool) answer(a netip.Addr) addressAnswer {
	return addressAnswer{Address: netip.PrefixFrom(a, p.subnet.Bits()).String(), Data: map[string]string{}}
}

// gateway answers a Docker before 28, which always wants a gateway: the unspecified
// address stands for none.
func gateway(p pool, want netip.Addr) (addressAnswer, error) {
	if want.IsValid() {
		return addressAnswer{}, fmt.Errorf("gateway %v: the network has none, so create it without --gateway", want)
	}
	none := netip.IPv4Unspecified()
	if p.subnet.Addr().Is6() {
		none = netip.IPv6Unspecified()
	}
	return p.answer(none), nil
}

// twin is the IPv6 address beside the IPv4 address that a holder has.
func (s *Server) twin(ctx context.Context, p pool, holder string, want netip.Addr) (addressAnswer, error) {
	all, err := patiently(ctx, s, s.cfg.Client.IPAM)
	if err != nil {
		return addressAnswer{}, err
	}
	for _, u := range all.Uses {
		if u.For != holder {
			continue
		}
		given, err := s.cfg.Client.Allocate(ctx, api.AllocateRequest{For: holder, Address: u.Address.Addr()})
		if err != nil {
			return addressAnswer{}, err
		}
		for _, a := range given.Addresses {
			if !p.subnet.Contains(a.Addr()) {
				continue
			}
			if want.IsValid() && want != a.Addr() {
				return addressAnswer{}, fmt.Errorf("IPv6 address %v: with %v goes %v: give that, or leave it out", want, u.Address.Addr(), a.Addr())
			}
			return p.answer(a.Addr()), nil
		}
	}
	return addressAnswer{}, fmt.Errorf("an IPv6 address of %v goes with an IPv4 address, and this one has none", p.subnet)
}

// releaseAddress takes an address of Docker's back. One that is not Docker's, or is no
// more, is none of its affair; an IPv6 address goes with the IPv4 one.
func (s *Server) releaseAddress(ctx context.Context, q releaseAddressRequest) (nothing, error) {
	address, err := parseAddress(q.Address)
	if err != nil || address.IsUnspecified() || address.Is6() {
		return nothing{}, err
	}
	all, err := s.cfg.Client.IPAM(ctx)
	if err != nil {
		return nothing{}, err
	}
	for _, u := range all.Uses {
		if u.Address.Addr() == address && strings.HasPrefix(u.For, holderPrefix) {
			return nothing{}, s.release(ctx, u)
		}
	}
	return nothing{}, nil
}

// release takes an address back; somebody may have done so meanwhile.
func (s *Server) release(ctx context.Context, u api.IPAMUse) error {
	_, err := s.cfg.Client.Release(ctx, api.ReleaseRequest{For: u.For, Address: u.Address.Addr()})
	if api.IsCode(err, api.CodeNotFound) {
		return nil
	}
	return err
}

// parseAddress reads an address, with or without a prefix length.
func parseAddress(text string) (netip.Addr, error) {
	bare, _, _ := strings.Cut(text, "/")
	a, err := netip.ParseAddr(bare)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("address %.100q: it is no IP address", text)
	}
	return a.Unmap(), nil
}

// parseMAC reads a MAC address into the form in which the daemon has it.
func parseMAC(text string) (string, error) {
	mac, err := net.ParseMAC(text)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
		return "", fmt.Errorf("MAC %.100q: it is no unicast MAC address, such as 02:00:5e:00:53:01", cmp.Or(text, "none"))
	}
	return mac.String(), nil
}
