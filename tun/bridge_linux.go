package tun

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Bridge is the Ethernet of this host: the TAP and whatever is attached.
//
// A bridge is ours if it carries our alias. Ours outlives the daemon while
// anything is attached, so that the containers of one host go on talking, and is
// adopted by the next start. A bridge without the alias was made by someone else
// and told to us: it gets the TAP as a port and is otherwise left as it is (its
// MAC, MTU, addresses and protocols are its owner's), and is never removed.
type Bridge struct {
	name  string
	index int
	tap   string
	made  bool
}

// SetUpBridge makes the bridge, or adopts the one there is, and puts the TAP on
// it. Calling it again changes nothing.
func SetUpBridge(cfg BridgeConfig) (*Bridge, error) {
	if cfg.MTU == 0 {
		cfg.MTU = MaxMTU
	}
	if err := checkName(cfg.Name); err != nil {
		return nil, fmt.Errorf("tun: set up bridge: %w", err)
	}
	if err := checkMTU(cfg.MTU); err != nil {
		return nil, fmt.Errorf("tun: set up bridge %s: %w", cfg.Name, err)
	}
	tap, err := linkByName(cfg.TAP)
	if err != nil {
		return nil, fmt.Errorf("tun: set up bridge %s: TAP: %w", cfg.Name, err)
	}
	b := &Bridge{name: cfg.Name, tap: cfg.TAP}
	fresh, err := b.find(cfg)
	if err == nil && b.made {
		err = b.settle(cfg)
	}
	if err == nil {
		err = b.enslave(tap)
	}
	if err != nil {
		if fresh {
			netlink.LinkDel(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: b.name, Index: b.index}})
		}
		return nil, fmt.Errorf("tun: set up bridge %s: %w", cfg.Name, err)
	}
	return b, nil
}

// find makes or adopts the bridge; fresh tells that it was made just now.
func (b *Bridge) find(cfg BridgeConfig) (fresh bool, err error) {
	link, err := linkByName(cfg.Name)
	if errors.Is(err, errNoLink) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = cfg.Name
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return false, fmt.Errorf("make it: %w", privilege(err))
		}
		if link, err = linkByName(cfg.Name); err != nil {
			return false, err
		}
		b.index, b.made = link.Attrs().Index, true
		if err := netlink.LinkSetAlias(link, Alias); err != nil {
			return true, fmt.Errorf("set alias: %w", privilege(err))
		}
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if link.Type() != "bridge" {
		return false, fmt.Errorf("%w by a %s device, which is no bridge: choose another name with --bridge, or remove it with `ip link delete %s`", ErrNameTaken, kindOf(link), cfg.Name)
	}
	b.index, b.made = link.Attrs().Index, link.Attrs().Alias == Alias
	return false, nil
}

// settle configures a bridge of ours.
func (b *Bridge) settle(cfg BridgeConfig) error {
	link, err := netlink.LinkByIndex(b.index)
	if err != nil {
		return err
	}
	// The kernel takes the MTU as "set" only when it changes it; a bridge whose MTU
	// was never set follows its smallest port (br_mtu_auto_adjust).
	if link.Attrs().MTU == cfg.MTU {
		other := cfg.MTU - 1
		if other < MinMTU {
			other = cfg.MTU + 1
		}
		if err := netlink.LinkSetMTU(link, other); err != nil {
			return fmt.Errorf("set MTU %d: %w", other, privilege(err))
		}
	}
	if err := setBridgeOptions(b.index, map[int]uint32{
		nl.IFLA_BR_STP_STATE:   0,
		nl.IFLA_BR_AGEING_TIME: uint32(Ageing / (10 * time.Millisecond)), // in clock ticks of user space
	}); err != nil {
		return fmt.Errorf("set options: %w", privilege(err))
	}
	return settle(b.name, linkSettings{mac: cfg.MAC, mtu: cfg.MTU})
}

// enslave puts the TAP on the bridge and makes it a port behind which multicast
// routers are: with snooping and a querier about, the kernel would else send it
// neither the containers' multicast nor their joins.
func (b *Bridge) enslave(tap netlink.Link) error {
	if !b.made {
		if err := b.shyMAC(tap); err != nil {
			return err
		}
	}
	if tap.Attrs().MasterIndex != b.index {
		if err := netlink.LinkSetMasterByIndex(tap, b.index); err != nil {
			return fmt.Errorf("put %s on it: %w", b.tap, privilege(err))
		}
	}
	if err := setPortOption(tap.Attrs().Index, unix.IFLA_BRPORT_MULTICAST_ROUTER, 2); err != nil {
		return fmt.Errorf("set mcast_router 2 on %s: %w", b.tap, privilege(err))
	}
	if !b.made {
		return nil // its owner decides when it is up
	}
	if err := netlink.LinkSetUp(tap); err != nil {
		return fmt.Errorf("set %s up: %w", b.tap, privilege(err))
	}
	return nil
}

// shyMAC gives the TAP a MAC from the upper end, for a bridge whose MAC was never
// set takes the lowest of its ports: somebody else's bridge, and the host's
// address on it, must not change under them.
func (b *Bridge) shyMAC(tap netlink.Link) error {
	mac := append(net.HardwareAddr(nil), tap.Attrs().HardwareAddr...)
	if len(mac) != 6 || mac[0] == 0xfe {
		return nil
	}
	mac[0] = 0xfe
	if err := netlink.LinkSetHardwareAddr(tap, mac); err != nil {
		return fmt.Errorf("set MAC of %s: %w", b.tap, privilege(err))
	}
	return nil
}

// Name is the bridge's interface name.
func (b *Bridge) Name() string { return b.name }

// Index is the bridge's interface index.
func (b *Bridge) Index() int { return b.index }

// Made tells whether the bridge is ours, made now or by an earlier run.
func (b *Bridge) Made() bool { return b.made }

// Ports are the bridge's ports, the TAP among them.
func (b *Bridge) Ports() ([]Port, error) {
	links, err := listLinks()
	if err != nil {
		return nil, fmt.Errorf("tun: ports of %s: %w", b.name, err)
	}
	var ports []Port
	for _, link := range links {
		attrs := link.Attrs()
		if attrs.MasterIndex != b.index {
			continue
		}
		port := Port{Name: attrs.Name, Index: attrs.Index, MTU: attrs.MTU, Alias: attrs.Alias,
			TAP: attrs.Name == b.tap, Up: attrs.Flags&net.FlagUp != 0}
		if kind := link.Type(); kind != "device" {
			port.Kind = kind
		}
		copy(port.MAC[:], attrs.HardwareAddr)
		ports = append(ports, port)
	}
	return ports, nil
}

// RemoveIfUnused removes a bridge of ours that has no port but the TAP and no
// address of the host (an exposed host is attached too). Anything else stays, and
// that is no error; nor is a bridge that is gone already.
func (b *Bridge) RemoveIfUnused() error {
	link, err := linkByName(b.name)
	if errors.Is(err, errNoLink) || err == nil && link.Attrs().Index != b.index {
		return nil
	}
	if err != nil {
		return fmt.Errorf("tun: remove bridge %s: %w", b.name, err)
	}
	if !b.made || link.Attrs().Alias != Alias {
		return nil
	}
	ports, err := b.Ports()
	if err != nil {
		return err
	}
	for _, port := range ports {
		if !port.TAP {
			return nil
		}
	}
	addresses, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("tun: remove bridge %s: list addresses: %w", b.name, err)
	}
	for _, address := range addresses {
		if !address.IP.IsLinkLocalUnicast() {
			return nil
		}
	}
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("tun: remove bridge %s: %w", b.name, privilege(err))
	}
	return nil
}

// Watch watches the bridge and its TAP.
func (b *Bridge) Watch() (*Watcher, error) { return Watch(b.name, b.tap) }

// listLinks lists all links. A dump that was interrupted by a change is taken
// again: half a list would make a used bridge look unused.
func listLinks() ([]netlink.Link, error) {
	for attempt := 0; ; attempt++ {
		links, err := netlink.LinkList()
		if errors.Is(err, netlink.ErrDumpInterrupted) && attempt < 10 {
			continue
		}
		return links, err
	}
}
