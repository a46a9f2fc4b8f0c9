package attach

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ripstop/tun"
	"ripstop/tun/firewall"
)

// EnslavePort puts a host end on the bridge: first its rules, so that it never
// sends unguarded, then the bridge, a fixed place for each of its MACs (`static
// sticky`: a frame with that source from elsewhere does not move it), then up. fw
// nil means without rules. What this call did is undone when a step fails.
func EnslavePort(bridge, hostIf string, mac [6]byte, fw *firewall.Table, rule firewall.PortRule) error {
	return enslave(bridge, hostIf, mac, fw, rule, func(string) error { return nil })
}

// enslave is EnslavePort with a hook before each step, by which tests make it fail.
func enslave(bridge, hostIf string, mac [6]byte, fw *firewall.Table, rule firewall.PortRule, before func(step string) error) error {
	link, err := ours(hostIf)
	if err != nil {
		return fmt.Errorf("attach: port: %w", err)
	}
	master, err := find(bridge)
	if err != nil {
		return fmt.Errorf("attach: port %s: bridge %w", hostIf, err)
	}
	if master.Type() != "bridge" {
		return fmt.Errorf("attach: port %s: %s is a %s, not a bridge", hostIf, bridge, master.Type())
	}
	was := link.Attrs().MasterIndex
	rule.Port = hostIf
	macs := append([][6]byte{mac}, rule.AllowMACs...)
	steps := []step{
		{name: "rules", do: func() error {
			if fw == nil {
				return nil
			}
			return fw.SetPort(rule)
		}},
		{name: "MTU", do: func() error { return netlink.LinkSetMTU(link, tun.MaxMTU) }},
		{name: "silence", do: func() error { return deafen(hostIf) }},
		{name: "bridge", do: func() error {
			if was == master.Attrs().Index {
				return nil
			}
			return netlink.LinkSetMaster(link, master)
		}},
		{name: "fixed MACs", do: func() error { return fixMACs(link, macs) }},
		{name: "up", do: func() error { return netlink.LinkSetUp(link) }},
	}
	for _, s := range steps {
		err := before(s.name)
		if err == nil {
			err = s.do()
		}
		if err == nil {
			continue
		}
		err = fmt.Errorf("attach: port %s: %s: %w", hostIf, s.name, privilege(err))
		if was == master.Attrs().Index {
			return err // a port that served before goes on as it did
		}
		if undo := release(master.Attrs().Index, hostIf, fw); undo != nil {
			return fmt.Errorf("%w; and it could not be undone: %w", err, undo)
		}
		return err
	}
	return nil
}

// fixMACs makes macs the port's fixed ones and no others.
func fixMACs(link netlink.Link, macs [][6]byte) error {
	index := link.Attrs().Index
	want := make(map[string]bool)
	for _, mac := range macs {
		want[string(mac[:])] = true
		if err := netlink.NeighSet(fdbEntry(index, mac[:])); err != nil {
			return fmt.Errorf("%s: %w", net.HardwareAddr(mac[:]), err)
		}
	}
	entries, err := dump(func() ([]netlink.Neigh, error) { return netlink.NeighList(index, unix.AF_BRIDGE) })
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.State == netlink.NUD_NOARP && e.Flags&netlink.NTF_STICKY != 0 && !want[string(e.HardwareAddr)] {
			if err := netlink.NeighDel(fdbEntry(index, e.HardwareAddr)); err != nil {
				return fmt.Errorf("%s: %w", e.HardwareAddr, err)
			}
		}
	}
	return nil
}

// fdbEntry is `bridge fdb … master static sticky`.
func fdbEntry(index int, mac []byte) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: index, Family: unix.AF_BRIDGE, HardwareAddr: mac,
		State: netlink.NUD_NOARP, Flags: netlink.NTF_MASTER | netlink.NTF_STICKY,
	}
}

// ReleasePort takes a host end off the bridge, sets it down, and then takes its
// rules away. The interface itself stays: Unplug removes it. It is no error when
// there is nothing to release, nor when the interface is gone.
func ReleasePort(bridge, hostIf string, fw *firewall.Table) error {
	index := 0
	if master, err := find(bridge); err == nil {
		index = master.Attrs().Index
	} else if !errors.Is(err, errNoLink) {
		return fmt.Errorf("attach: release %s: %w", hostIf, err)
	}
	if err := release(index, hostIf, fw); err != nil {
		return fmt.Errorf("attach: release %s: %w", hostIf, privilege(err))
	}
	return nil
}

// release is ReleasePort for a bridge's index, 0 when there is no bridge.
func release(bridge int, hostIf string, fw *firewall.Table) error {
	link, err := ours(hostIf)
	switch {
	case errors.Is(err, errNoLink):
	case err != nil:
		return err
	default:
		if err := netlink.LinkSetDown(link); err != nil && !errors.Is(err, unix.ENODEV) {
			return err
		}
		if bridge != 0 && link.Attrs().MasterIndex == bridge {
			// The bridge forgets the port's fixed MACs by itself.
			if err := netlink.LinkSetNoMaster(link); err != nil && !errors.Is(err, unix.ENODEV) {
				return err
			}
		}
	}
	if fw == nil {
		return nil
	}
	return fw.DeletePort(hostIf)
}

// PortExists reports whether there is a host end of that name that is ripstop's.
func PortExists(hostIf string) bool {
	_, err := ours(hostIf)
	return err == nil
}

// Port is a host end as it stands.
type Port struct {
	Name      string
	Enslaved  bool // on the bridge that was asked about
	Elsewhere bool // on another one
	Up        bool // set up by us; whether the other end is up too is another matter
}

// Ports lists the host ends on this machine, by name, for a daemon that was started
// again: those it knows are adopted by EnslavePort, others are what dead callers
// left and may be removed by Unplug, unless they are another daemon's.
func Ports(bridge string) ([]Port, error) {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("attach: list ports: %w", err)
	}
	index := -1
	for _, link := range links {
		if link.Attrs().Name == bridge {
			index = link.Attrs().Index
		}
	}
	var ports []Port
	for _, link := range links {
		a := link.Attrs()
		if strings.HasPrefix(a.Name, HostPrefix) && link.Type() == "veth" && a.Alias == tun.Alias {
			ports = append(ports, Port{Name: a.Name, Enslaved: a.MasterIndex == index, Elsewhere: a.MasterIndex != 0 && a.MasterIndex != index, Up: a.Flags&net.FlagUp != 0})
		}
	}
	slices.SortFunc(ports, func(a, b Port) int { return strings.Compare(a.Name, b.Name) })
	return ports, nil
}
