package lab

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// LinkConfig describes an underlay link. Two hosts get a veth pair, more of them
// a bridge in a namespace of its own.
type LinkConfig struct {
	Hosts  []string // two or more
	MTU    int      // bytes, 0 = 1500
	NoIPv4 bool     // no IPv4 addresses
	NoIPv6 bool     // no IPv6 at all, link-local addresses included
	// Single makes the kernel cut super-frames before the link, so that losses and
	// captures count single packets.
	Single bool
}

// Link is an underlay link.
type Link struct {
	lab    *Lab
	number int
	ends   map[string]*End // by host; not changed after the link is made
}

// End is one host's end of a Link.
type End struct {
	link *Link
	host *Host
	name string
	ipv4 netip.Prefix // zero: none
	ipv6 netip.Prefix // zero: none
}

const maxLinks = 255

// AddLink makes a link and puts addresses on its ends.
func (l *Lab) AddLink(cfg LinkConfig) (*Link, error) {
	if len(cfg.Hosts) < 2 || len(cfg.Hosts) > 250 {
		return nil, fmt.Errorf("lab: link %v: 2 to 250 hosts are needed", cfg.Hosts)
	}
	if cfg.MTU == 0 {
		cfg.MTU = 1500
	}
	l.mu.Lock()
	number := len(l.links) + 1
	if number > maxLinks {
		l.mu.Unlock()
		return nil, fmt.Errorf("lab: link %v: more than %d links", cfg.Hosts, maxLinks)
	}
	link := &Link{lab: l, number: number, ends: make(map[string]*End)}
	l.links = append(l.links, link)
	hosts := make([]*Host, len(cfg.Hosts))
	for i, name := range cfg.Hosts {
		hosts[i] = l.hosts[name]
	}
	l.mu.Unlock()

	ends := make([]*End, len(hosts))
	for i, h := range hosts {
		if h == nil {
			return nil, fmt.Errorf("lab: link %v: there is no host %s", cfg.Hosts, cfg.Hosts[i])
		}
		e := &End{link: link, host: h, name: fmt.Sprintf("l%d", number)}
		if !cfg.NoIPv4 {
			e.ipv4 = netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(number), byte(i + 1)}), 24)
		}
		if !cfg.NoIPv6 {
			e.ipv6 = netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, byte(number), 15: byte(i + 1)}), 64)
		}
		ends[i] = e
	}
	if err := link.plug(cfg, ends); err != nil {
		return nil, fmt.Errorf("lab: link %v: %w", cfg.Hosts, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range ends {
		link.ends[e.host.name] = e
		e.host.ends = append(e.host.ends, e)
	}
	return link, nil
}

// plug makes the devices.
func (k *Link) plug(cfg LinkConfig, ends []*End) error {
	if len(ends) == 2 {
		if err := k.pair(ends[0], ends[1].host.Place, ends[1].name, cfg.MTU); err != nil {
			return err
		}
	} else {
		sw, err := k.lab.newSpace(fmt.Sprintf("switch%d", k.number))
		if err != nil {
			return err
		}
		err = sw.Do(func() error {
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.MTU = "br", cfg.MTU
			snooping := false
			br := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
			if err := netlink.LinkAdd(br); err != nil {
				return fmt.Errorf("make the switch: %w", err)
			}
			return netlink.LinkSetUp(br)
		})
		if err != nil {
			return err
		}
		for i, e := range ends {
			port := fmt.Sprintf("p%d", i+1)
			if err := k.pair(e, sw, port, cfg.MTU); err != nil {
				return err
			}
			if err := sw.Do(func() error { return plugPort(port) }); err != nil {
				return err
			}
		}
	}
	for _, e := range ends {
		if err := e.host.Do(func() error { return e.setUp(cfg) }); err != nil {
			return fmt.Errorf("%s on %s: %w", e.name, e.host.name, err)
		}
	}
	for _, e := range ends {
		if err := e.host.Do(e.waitCarrier); err != nil {
			return fmt.Errorf("%s on %s: %w", e.name, e.host.name, err)
		}
	}
	return nil
}

// carrierTimeout is how long a device may take from being taken up to being used.
const carrierTimeout = 3 * time.Second

// waitCarrier waits until the kernel uses the device; before that IPv6 has no routes.
func (e *End) waitCarrier() error {
	for deadline := time.Now().Add(carrierTimeout); ; time.Sleep(time.Millisecond) {
		dev, err := netlink.LinkByName(e.name)
		if err != nil {
			return err
		}
		if dev.Attrs().OperState == netlink.OperUp {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no carrier after %v", carrierTimeout)
		}
	}
}

// firstIndex is above every interface number that the kernel gives by itself here.
// A veth end whose number equals its peer's in the other namespace is taken for a
// device that is nobody's peer, and its carrier reported up to a second late
// (linkwatch_urgent_event in net/core/link_watch.c).
const firstIndex = 1000

// pair makes a veth pair between e and a device of the other place.
func (k *Link) pair(e *End, other *Place, name string, mtu int) error {
	return e.host.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.Index = e.name, mtu, firstIndex+k.number
		err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name, PeerNamespace: netlink.NsFd(other.ns.FD())})
		if err != nil {
			return fmt.Errorf("make veth %s–%s: %w", e.host.name, other.name, err)
		}
		return nil
	})
}

func plugPort(port string) error {
	br, err := netlink.LinkByName("br")
	if err != nil {
		return err
	}
	dev, err := netlink.LinkByName(port)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetMaster(dev, br); err != nil {
		return err
	}
	return netlink.LinkSetUp(dev)
}

// setUp gives the end, in whose namespace it runs, addresses and takes it up.
func (e *End) setUp(cfg LinkConfig) error {
	dev, err := netlink.LinkByName(e.name)
	if err != nil {
		return err
	}
	if cfg.Single {
		if err := netlink.LinkSetGSOMaxSegs(dev, 1); err != nil {
			return fmt.Errorf("single packets: %w", err)
		}
	}
	setting := "accept_dad" // link-local addresses are used at once
	value := "0"
	if cfg.NoIPv6 {
		setting, value = "disable_ipv6", "1"
	}
	if err := writeSysctl("net/ipv6/conf/"+e.name+"/"+setting, value); err != nil {
		return err
	}
	for _, prefix := range []netip.Prefix{e.ipv4, e.ipv6} {
		if !prefix.IsValid() {
			continue
		}
		addr := &netlink.Addr{IPNet: ipNet(prefix)}
		if prefix.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(dev, addr); err != nil {
			return fmt.Errorf("address %s: %w", prefix, err)
		}
	}
	return netlink.LinkSetUp(dev)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// End is the named host's end of the link; nil if it is not on it.
func (k *Link) End(host string) *End { return k.ends[host] }

// Device is the interface's name in the host's namespace.
func (e *End) Device() string { return e.name }

// Addr is the end's address: IPv4 if it has one.
func (e *End) Addr() netip.Addr {
	if e.ipv4.IsValid() {
		return e.ipv4.Addr()
	}
	return e.ipv6.Addr()
}

// IPv4 and IPv6 are the end's addresses; the zero value where it has none.
func (e *End) IPv4() netip.Addr { return e.ipv4.Addr() }

// IPv6 is the end's global address.
func (e *End) IPv6() netip.Addr { return e.ipv6.Addr() }

// SetCarrier takes the end's device down or up, as when somebody pulls the plug: the
// host notices, and on a link of two so does the other. Addresses are put back.
func (e *End) SetCarrier(up bool) error {
	err := e.host.Do(func() error {
		dev, err := netlink.LinkByName(e.name)
		if err != nil {
			return err
		}
		if !up {
			return netlink.LinkSetDown(dev)
		}
		if err := netlink.LinkSetUp(dev); err != nil {
			return err
		}
		if e.ipv6.IsValid() { // the kernel forgets IPv6 addresses of a device that goes down
			return netlink.AddrReplace(dev, &netlink.Addr{IPNet: ipNet(e.ipv6), Flags: unix.IFA_F_NODAD})
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("lab: %s: %s: set carrier: %w", e.host.name, e.name, err)
	}
	return nil
}

// SetMTU changes the MTU of every end; between more than two hosts it may only be lowered.
func (k *Link) SetMTU(mtu int) error {
	for _, e := range k.ends {
		if err := e.SetMTU(mtu); err != nil {
			return err
		}
	}
	return nil
}

// SetMTU changes the MTU of one end: what the others send to it and is longer is lost
// without a word, as further down a path.
func (e *End) SetMTU(mtu int) error {
	err := e.host.Do(func() error {
		dev, err := netlink.LinkByName(e.name)
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(dev, mtu)
	})
	if err != nil {
		return fmt.Errorf("lab: %s: %s: set MTU %d: %w", e.host.name, e.name, mtu, err)
	}
	return nil
}
