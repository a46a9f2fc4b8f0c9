package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Cause is why a frame was dropped. The numbers stand in the kernel's set of
// counters and are never used for something else.
type Cause uint8

// The causes; their names (String) are those of the kernel's counters and of
// whoever prints them.
const (
	CauseMAC        Cause = iota // Ethernet source is not the port's
	CauseIPv4                    // IPv4 source is not the port's
	CauseIPv6                    // IPv6 source is not the port's
	CauseARP                     // ARP that is not Ethernet and IPv4
	CauseARPMAC                  // hardware sender in ARP is not the port's
	CauseARPAddress              // protocol sender in ARP is not the port's
	CauseND                      // target of an advertisement, or link-layer address in it, is not the port's
	CauseRouter                  // router advertisement or redirect from a container
	CauseDHCP                    // DHCP or DHCPv6 server's answer from a container
	CauseTagged                  // more tags than can be looked behind
	CauseEndpoint                // a port without rules used what belongs to an endpoint
	CauseStrict                  // a port without rules, while strict
	causes
)

// String is the counter's name.
func (c Cause) String() string {
	names := [causes]string{
		"forged_mac", "forged_ipv4", "forged_ipv6", "arp_shape", "arp_forged_mac", "arp_forged_ipv4",
		"nd_forged", "router", "dhcp_server", "tagged", "endpoint_taken", "strict",
	}
	if c < causes {
		return names[c]
	}
	return fmt.Sprintf("cause_%d", uint8(c))
}

func (c Cause) chain() string { return "drop_" + c.String() }

// key is the cause's part of a counter's key; never 0, which a register may hold by
// chance.
func (c Cause) key() []byte { return binary.NativeEndian.AppendUint32(nil, uint32(c)+1) }

// Drops are dropped frames, by cause.
type Drops [causes]uint64

// Total is the sum over all causes.
func (d Drops) Total() uint64 {
	var n uint64
	for _, v := range d {
		n += v
	}
	return n
}

// Map is the same by the causes' names, for metrics and status.
func (d Drops) Map() map[string]uint64 {
	m := make(map[string]uint64, len(d))
	for cause, v := range d {
		m[Cause(cause).String()] = v
	}
	return m
}

// Counters returns the dropped frames of all ports by the causes' names, and those
// of the underlay guard, since the rules were made.
func (t *Table) Counters() (map[string]uint64, error) {
	_, total, err := t.PortCounters()
	if err != nil {
		return nil, err
	}
	guarded, err := t.Guarded()
	if err != nil {
		return nil, err
	}
	all := total.Map()
	all[counterGuard] = guarded
	return all, nil
}

// PortCounters returns the dropped frames of each port that had any, and of all
// ports since the rules were made. A port's own count ends with DeletePort; the
// total does not.
func (t *Table) PortCounters() (ports map[string]Drops, total Drops, err error) {
	c, err := dial()
	if err != nil {
		return nil, total, fmt.Errorf("firewall: %s: read counters: %w", t.bridge, err)
	}
	objects, err := c.GetObjects(t.table)
	if err != nil {
		return nil, total, fmt.Errorf("firewall: %s: read counters: %w", t.bridge, err)
	}
	for _, o := range objects {
		counter, ok := o.(*nftables.CounterObj)
		if !ok || counter.Table == nil || counter.Table.Name != t.table.Name {
			continue
		}
		for cause := range causes {
			if cause.String() == counter.Name {
				total[cause] = counter.Packets
			}
		}
	}
	elements, err := c.GetSetElements(t.sets[setDrops])
	if err != nil {
		return nil, total, fmt.Errorf("firewall: %s: read counters: %w", t.bridge, err)
	}
	ports = make(map[string]Drops)
	for _, e := range elements {
		if len(e.Key) != unix.IFNAMSIZ+4 || e.Counter == nil {
			continue
		}
		cause := Cause(binary.NativeEndian.Uint32(e.Key[unix.IFNAMSIZ:]) - 1)
		if cause >= causes {
			continue
		}
		name := portOf(string(e.Key))
		drops := ports[name]
		drops[cause] = e.Counter.Packets
		ports[name] = drops
	}
	return ports, total, nil
}

// forgetDropsLocked takes a port's counters away.
func (t *Table) forgetDropsLocked(port string) error {
	c, err := dial()
	if err != nil {
		return err
	}
	elements, err := c.GetSetElements(t.sets[setDrops])
	if err != nil {
		return fmt.Errorf("firewall: %s: read counters: %w", t.bridge, err)
	}
	var gone []nftables.SetElement
	for _, e := range elements {
		if len(e.Key) > unix.IFNAMSIZ && portOf(string(e.Key)) == port {
			gone = append(gone, nftables.SetElement{Key: e.Key})
		}
	}
	if len(gone) == 0 {
		return nil
	}
	if err := c.SetDeleteElements(t.sets[setDrops], gone); err != nil {
		return err
	}
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("firewall: %s: forget counters of %s: %w", t.bridge, port, err)
	}
	return nil
}
