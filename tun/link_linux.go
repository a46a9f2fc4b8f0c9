package tun

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// errNoLink: there is no link of that name.
var errNoLink = errors.New("no such interface")

func linkByName(name string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) || errors.Is(err, unix.ENODEV) {
		return nil, fmt.Errorf("%s: %w", name, errNoLink)
	}
	return link, err
}

// linkSettings are what every device made here is given before it is set up.
type linkSettings struct {
	mac    [6]byte // zero: left as it is
	mtu    int     // bytes; 0: left as it is
	alias  string  // "": left as it is
	noIPv6 bool    // the link is only a port: the host speaks no IPv6 on it
}

// settle configures a link and sets it up: first silence, then the rest, then up,
// so that it never says a word of its own.
func settle(name string, s linkSettings) error {
	link, err := linkByName(name)
	if err != nil {
		return err
	}
	if err := silence(link, s.noIPv6); err != nil {
		return err
	}
	if s.mac != ([6]byte{}) {
		if err := netlink.LinkSetHardwareAddr(link, s.mac[:]); err != nil {
			return fmt.Errorf("set MAC %s: %w", net.HardwareAddr(s.mac[:]), privilege(err))
		}
	}
	if s.mtu != 0 {
		if err := netlink.LinkSetMTU(link, s.mtu); err != nil {
			return fmt.Errorf("set MTU %d: %w", s.mtu, privilege(err))
		}
	}
	if s.alias != "" {
		if err := netlink.LinkSetAlias(link, s.alias); err != nil {
			return fmt.Errorf("set alias: %w", privilege(err))
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set up: %w", privilege(err))
	}
	return nil
}

// silence keeps the kernel's IPv6 from choosing an address, from sending router
// solicitations and from believing router advertisements on a link: an
// advertisement from the overlay would give this host a default route.
func silence(link netlink.Link, noIPv6 bool) error {
	name := link.Attrs().Name
	if _, err := os.Stat(sysctlPath("ipv6", name, "accept_ra")); errors.Is(err, os.ErrNotExist) {
		return nil // this kernel or namespace has no IPv6, or the MTU is too small for it
	}
	if err := netlink.LinkSetIP6AddrGenMode(link, nl.IN6_ADDR_GEN_MODE_NONE); err != nil {
		return fmt.Errorf("set addrgenmode none: %w", privilege(err))
	}
	if err := setSysctl("ipv6", name, "accept_ra", "0"); err != nil {
		return err
	}
	if noIPv6 {
		return setSysctl("ipv6", name, "disable_ipv6", "1")
	}
	return nil
}

func sysctlPath(family, link, key string) string {
	return filepath.Join("/proc/sys/net", family, "conf", link, key)
}

// setSysctl writes a setting of one link; /proc/sys shows the namespace of the
// calling thread.
func setSysctl(family, link, key, value string) error {
	path := sysctlPath(family, link, key)
	if now, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(now)) == value {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("set %s to %s: %w: make /proc/sys writable here, or set `sysctl net.%s.conf.default.%s=%s` before", key, value, err, family, key, value)
	}
	return nil
}

// setPortOption sets one byte-wide option of a bridge port, by its IFLA_BRPORT_
// number (br_port_policy in net/bridge/br_netlink.c).
func setPortOption(index, option int, value uint8) error {
	request := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	message := nl.NewIfInfomsg(unix.AF_BRIDGE)
	message.Index = int32(index)
	request.AddData(message)
	port := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	port.AddRtAttr(option, nl.Uint8Attr(value))
	request.AddData(port)
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// setBridgeOptions sets options of a bridge by their IFLA_BR_ numbers
// (br_policy in net/bridge/br_netlink.c); all in use here are 32 bits wide.
func setBridgeOptions(index int, options map[int]uint32) error {
	request := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	message := nl.NewIfInfomsg(unix.AF_UNSPEC)
	message.Index = int32(index)
	request.AddData(message)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	for option, value := range options {
		data.AddRtAttr(option, nl.Uint32Attr(value))
	}
	request.AddData(info)
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
