// Package attach gives a network namespace its interface on the bridge and takes it
// back, and puts the host itself on the bridge.
//
//	 caller (command line, plug-in)           │  daemon (CAP_NET_ADMIN only)
//	                                          │
//	 1                                        │  reserves name, MAC, addresses: the Plan
//	 2 Plug: veth pair, inner end configured  │
//	 3                                        │  EnslavePort: rules, bridge, fixed MAC, up
//	 4 Announce: gratuitous ARP and NA        │
//	                                          │
//	 namespace            host                │
//	┌───────────┐  veth  ┌──────────────┐     │
//	│ rip0      ├────────┤ ripv6f0a…    ├──── bridge ── TAP ── overlay
//	│ MAC, addr │        │ MTU maximum  │     │
//	│ MTU 1500  │        │ no IPv6      │     │
//	└───────────┘        └──────────────┘     │
//
// A container engine that moves interfaces itself is lent the inner end: Lend and Recall
// in the places of Plug and Unplug, and nobody announces.
//
// Only the caller enters namespaces. Everything may be repeated, and what fails
// half-way leaves nothing behind. A host end is known by its name's prefix and its
// alias, so that an interface of somebody else is never touched and a daemon that
// was started again finds what is attached.
//
// Why the ends differ in MTU: a frame larger than a bridge port's MTU vanishes
// without a trace, so no port may have a small one. What limits a container's
// packets is its own interface, and what limits the host's own is the route beside
// its address, since the bridge has the maximum too.
//
// What it leaves to the caller: choosing addresses, telling firewall.Table what
// belongs to the exposed host (SetHost), publishing.
//
// Read plug.go and lend.go (caller's side), port.go (daemon's side), expose.go and
// gateway.go (the host, and the way through it).
package attach

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"ripstop/tun"
)

// HostPrefix begins the name of every host end; at most 11 characters follow it.
const HostPrefix = "ripv"

// Plan is what an attachment consists of. The daemon makes it, the caller carries
// it out.
type Plan struct {
	Netns string // as netns.Parse takes it
	// NetnsDev and NetnsInode are the identity that Netns must still have, so that a
	// process number used again is noticed. Zero: not compared.
	NetnsDev, NetnsInode uint64
	Interface            string         // inside
	HostInterface        string         // outside; begins with HostPrefix
	MAC                  [6]byte        // inside
	Addresses            []netip.Prefix // inside, with the length of the network
	Routes               []netip.Prefix // further networks reached through the interface, on link
	Gateway              netip.Addr     // where everything else goes, IPv4; zero: nowhere
	MTU                  int            // inside, bytes; 0: tun.ContainerMTU
	HostMTU              int            // outside, bytes; 0: tun.MaxMTU
}

// ErrInterfaceTaken says that the namespace has an interface of that name already.
var ErrInterfaceTaken = errors.New("that interface exists in the namespace: choose another name with --interface")

// minIPv6MTU is RFC 8200 section 5: the kernel takes IPv6 off a smaller link.
const minIPv6MTU = 1280

// filled returns the plan with its defaults, or what is wrong with it.
func (p Plan) filled() (Plan, error) {
	if p.MTU == 0 {
		p.MTU = tun.ContainerMTU
	}
	if p.HostMTU == 0 {
		p.HostMTU = tun.MaxMTU
	}
	if err := checkName(p.Interface); err != nil {
		return p, err
	}
	if err := checkHostName(p.HostInterface); err != nil {
		return p, err
	}
	if p.MAC[0]&1 != 0 || p.MAC == [6]byte{} {
		return p, fmt.Errorf("attach: MAC %s: not a unicast MAC", net.HardwareAddr(p.MAC[:]))
	}
	for _, mtu := range []int{p.MTU, p.HostMTU} {
		if mtu < tun.MinMTU || mtu > tun.MaxMTU {
			return p, fmt.Errorf("attach: MTU %d: from %d to %d", mtu, tun.MinMTU, tun.MaxMTU)
		}
	}
	for _, a := range p.Addresses {
		if err := checkAddress(a); err != nil {
			return p, err
		}
	}
	for _, r := range p.Routes {
		if !r.IsValid() {
			return p, fmt.Errorf("attach: route %s: not a network", r)
		}
	}
	if p.Gateway.IsValid() && !slices.ContainsFunc(p.Addresses, func(a netip.Prefix) bool { return p.Gateway.Is4() && a.Masked().Contains(p.Gateway) }) {
		return p, fmt.Errorf("attach: gateway %s: not in an IPv4 network of the interface", p.Gateway)
	}
	if p.ipv6() && p.MTU < minIPv6MTU {
		return p, fmt.Errorf("attach: MTU %d: IPv6 addresses need at least %d", p.MTU, minIPv6MTU)
	}
	return p, nil
}

// ipv6 reports whether the plan has something of IPv6.
func (p Plan) ipv6() bool {
	for _, all := range [][]netip.Prefix{p.Addresses, p.Routes} {
		for _, a := range all {
			if a.Addr().Is6() {
				return true
			}
		}
	}
	return false
}

func checkAddress(a netip.Prefix) error {
	if !a.IsValid() || a.Addr().Is4In6() || a.Addr().Zone() != "" || a.Addr().IsUnspecified() || a.Addr().IsMulticast() {
		return fmt.Errorf("attach: address %s: not an address of a host", a)
	}
	return nil
}

// ValidName reports whether an interface can be called so.
func ValidName(name string) bool { return checkName(name) == nil }

// checkName is the kernel's rule (dev_valid_name in net/core/dev.c), without the
// letters that have a meaning to it or to a path.
func checkName(name string) error {
	if name == "" || len(name) >= unix.IFNAMSIZ || name == "." || name == ".." || strings.ContainsAny(name, "/:% \t\n\v\f\r") {
		return fmt.Errorf("attach: interface %q: not an interface name: 1 to %d characters, no slash, colon, percent or space", name, unix.IFNAMSIZ-1)
	}
	return nil
}

func checkHostName(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if !strings.HasPrefix(name, HostPrefix) {
		return fmt.Errorf("attach: interface %q: a host end's name begins with %s", name, HostPrefix)
	}
	return nil
}
