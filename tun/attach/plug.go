package attach

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"ripstop/tun"
	"ripstop/tun/netns"
)

// Plug makes the pair, moves the inner end into the namespace and configures it.
// The host end is left down and off the bridge: that is the daemon's part. A pair
// that this plan made before is put right; when a step fails, a pair made by this
// call is removed.
func Plug(ctx context.Context, plan Plan) error {
	return plug(ctx, plan, func(string) error { return nil })
}

// step is one of the things that Plug does, each in one namespace.
type step struct {
	name   string
	inside bool
	do     func() error
}

// plug is Plug with a hook before each step, by which tests make it fail.
func plug(ctx context.Context, plan Plan, before func(step string) error) error {
	plan, err := plan.filled()
	if err != nil {
		return err
	}
	ns, err := open(plan)
	if err != nil {
		return err
	}
	defer ns.Close()
	p := &plugger{Plan: plan, ns: ns}
	return p.run(ctx, p.steps(), before)
}

// run does the steps. When one fails, a pair that an earlier one made is removed.
func (p *plugger) run(ctx context.Context, steps []step, before func(step string) error) (err error) {
	defer func() {
		if err != nil && p.made {
			if undo := remove(p.HostInterface); undo != nil {
				err = fmt.Errorf("%w; and %s could not be removed again: %w", err, p.HostInterface, undo)
			}
		}
	}()
	for _, s := range steps {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("attach: %s: %s: %w", p.Netns, s.name, err)
		}
		err := before(s.name)
		switch {
		case err != nil:
		case s.inside:
			err = p.ns.Do(s.do)
		default:
			err = s.do()
		}
		if err != nil {
			return fmt.Errorf("attach: %s: %s: %w", p.Netns, s.name, privilege(err))
		}
	}
	return nil
}

// open opens the plan's namespace and checks that it is still the one meant.
func open(plan Plan) (*netns.NS, error) {
	ns, err := netns.Parse(plan.Netns)
	if err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	if dev, inode := ns.ID(); plan.NetnsInode != 0 && (dev != plan.NetnsDev || inode != plan.NetnsInode) {
		ns.Close()
		return nil, fmt.Errorf("attach: %s: another namespace than a moment ago: the process or the name was replaced", plan.Netns)
	}
	return ns, nil
}

// plugger is one run of Plug or Lend.
type plugger struct {
	Plan
	ns     *netns.NS // nil: the inner end stays in the caller's own
	inner  int       // index of the inner end when it exists, seen from inside
	parent int       // index of that one's other end
	made   bool      // the pair was made by this run
}

func (p *plugger) steps() []step {
	return []step{
		{"look at " + p.Interface, true, p.look},
		{"look at the default route", true, p.lookOut},
		{"make the pair", false, p.pair},
		{"mark the host end", false, p.mark},
		{"silence the host end", false, func() error { return deafen(p.HostInterface) }},
		{"silence " + p.Interface, true, p.silence},
		{"set MTU", true, p.size},
		{"set addresses", true, p.address},
		{"set " + p.Interface + " up", true, p.up},
		{"set routes", true, p.route},
	}
}

// look sees whether the name inside is free, or is that of a veth whose other end
// may be this plan's.
func (p *plugger) look() error {
	link, err := find(p.Interface)
	if errors.Is(err, errNoLink) {
		return nil
	}
	if err != nil {
		return err
	}
	if link.Type() != "veth" || link.Attrs().HardwareAddr.String() != net.HardwareAddr(p.MAC[:]).String() {
		return ErrInterfaceTaken
	}
	p.inner, p.parent = link.Attrs().Index, link.Attrs().ParentIndex
	return nil
}

// pair makes the pair, or finds that it stands.
func (p *plugger) pair() error {
	host, err := find(p.HostInterface)
	if err != nil && !errors.Is(err, errNoLink) {
		return err
	}
	if p.inner != 0 {
		if err == nil && p.parent == host.Attrs().Index && host.Attrs().ParentIndex == p.inner && host.Type() == "veth" {
			return netlink.LinkSetMTU(host, p.HostMTU)
		}
		return ErrInterfaceTaken // by another attachment
	}
	// What a caller left that died, or whose namespace's number is used again.
	if err := remove(p.HostInterface); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = p.HostInterface, p.HostMTU
	// A bridge whose own MAC was never set takes its ports' lowest: not this one.
	mac := p.MAC
	if mac[0] = 0xfe; mac == p.MAC {
		mac[0] = 0xfa
	}
	attrs.HardwareAddr = mac[:]
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: p.Interface, PeerHardwareAddr: p.MAC[:]}
	if p.ns != nil {
		veth.PeerNamespace = netlink.NsFd(p.ns.FD())
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return err
	}
	p.made = true
	return nil
}

func (p *plugger) mark() error {
	link, err := find(p.HostInterface)
	if err != nil {
		return err
	}
	return netlink.LinkSetAlias(link, tun.Alias)
}

// silence lets the interface have the addresses of the plan and the link-local one
// made of its MAC (the only one that the port rules know), and believe nobody else.
func (p *plugger) silence() error {
	link, err := find(p.Interface)
	if err != nil {
		return err
	}
	if !hasIPv6(p.Interface) {
		if p.ipv6() {
			return errors.New("this kernel has no IPv6, but the attachment has IPv6 addresses")
		}
		return nil
	}
	settings := [][2]string{{"accept_ra", "0"}, {"accept_dad", "0"}}
	if p.ipv6() {
		settings = append(settings, [2]string{"disable_ipv6", "0"}) // container engines often set it
	}
	for _, s := range settings {
		if err := setSysctl(p.Interface, s[0], s[1]); err != nil {
			return err
		}
	}
	return netlink.LinkSetIP6AddrGenMode(link, nl.IN6_ADDR_GEN_MODE_EUI64)
}

func (p *plugger) size() error {
	link, err := find(p.Interface)
	if err != nil {
		return err
	}
	return netlink.LinkSetMTU(link, p.MTU)
}

// address puts the plan's addresses on the interface and takes others of global
// scope away, which an earlier plan may have set.
func (p *plugger) address() error {
	link, err := find(p.Interface)
	if err != nil {
		return err
	}
	want := make(map[netip.Prefix]bool)
	for _, a := range p.Addresses {
		want[a] = true
	}
	have, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return err
	}
	for _, a := range have {
		if a.Scope == unix.RT_SCOPE_UNIVERSE && !want[prefixOf(a)] {
			if err := netlink.AddrDel(link, &a); err != nil {
				return err
			}
		}
	}
	for _, a := range p.Addresses {
		if err := putAddress(link, a, 0); err != nil {
			return err
		}
	}
	return nil
}

func (p *plugger) up() error {
	link, err := find(p.Interface)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

func (p *plugger) route() error {
	link, err := find(p.Interface)
	if err != nil {
		return err
	}
	for _, r := range p.Routes {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(r.Masked())}
		if r.Addr().Is4() {
			route.Scope = netlink.SCOPE_LINK
		}
		// Before, and not in the place of, one through another interface, which must have
		// its own when this one goes: to the name server, of a container attached twice.
		if err := netlink.RouteAddEcmp(route); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("route %s: %w", r, err)
		}
	}
	if p.Gateway.IsValid() {
		return putDefaultRoute(link, p.Gateway)
	}
	return nil
}

// Unplug removes the pair. Only HostInterface of the plan is needed. It is no error
// when there is none; an interface that is not ripstop's is refused.
func Unplug(plan Plan) error {
	if err := remove(plan.HostInterface); err != nil {
		return fmt.Errorf("attach: unplug: %w", privilege(err))
	}
	return nil
}

// remove deletes the host end, and with it the pair; it is no error when there is
// none.
func remove(host string) error {
	if err := checkHostName(host); err != nil {
		return err
	}
	link, err := find(host)
	if errors.Is(err, errNoLink) {
		return nil
	}
	if err != nil {
		return err
	}
	// An alias of somebody's makes it theirs; none is what an interrupted caller left.
	if alias := link.Attrs().Alias; link.Type() != "veth" || alias != tun.Alias && alias != "" {
		return fmt.Errorf("%s is not ripstop's (a %s with alias %q)", host, link.Type(), alias)
	}
	err = netlink.LinkDel(link)
	if errors.Is(err, unix.ENODEV) {
		return nil // its namespace ended meanwhile
	}
	return err
}
