package mesh

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"ripstop/crypto"
	"ripstop/mesh/ipam"
	"ripstop/mesh/store"
	"ripstop/tun"
)

// numbering is how a host numbers its network, as the state directory keeps it.
// What a start is not told stays as it was; Subnet and Reserved go with their range.
type numbering struct {
	Range    netip.Prefix   `json:"range"`
	Subnet   netip.Prefix   `json:"subnet"` // of requests that name none
	Reserved []netip.Prefix `json:"reserved,omitempty"`
	NoIPv6   bool           `json:"no_ipv6,omitempty"`
}

// numberingFor is the numbering of this start, what was stored, and whether the range
// is the stored one.
func numberingFor(stored numbering, cfg *Config) (now numbering, known bool) {
	now.Range = cmp.Or(cfg.Range, stored.Range, ipam.DefaultRange)
	known = now.Range == stored.Range
	if known {
		now.Subnet, now.Reserved = stored.Subnet, stored.Reserved
	}
	now.Subnet = cmp.Or(cfg.Subnet, now.Subnet, now.Range)
	if len(cfg.Reserved) > 0 {
		now.Reserved = slices.Clone(cfg.Reserved)
	}
	now.NoIPv6 = stored.NoIPv6
	if cfg.IPv6 != "" {
		now.NoIPv6 = cfg.IPv6 == ipv6Off
	}
	return now, known
}

// StoredRange is the range that the host with this state directory gives addresses out
// of, the default where nothing is stored yet: known is false then. Nothing is changed.
func StoredRange(dir string) (r netip.Prefix, known bool, err error) {
	stored, err := store.Peek[numbering](dir, store.Numbering)
	if err != nil || !stored.Range.IsValid() {
		return ipam.DefaultRange, false, err
	}
	return stored.Range, true, nil
}

// The values of Config.IPv6 besides none.
const (
	ipv6On  = "on"
	ipv6Off = "off"
)

// checkNumbering refuses what the command line says about ranges and cannot be.
func (c *Config) checkNumbering(misuse func(format string, args ...any) error) error {
	if c.IPv6 != "" && c.IPv6 != ipv6On && c.IPv6 != ipv6Off {
		return misuse("--ipv6 %q: it is one of %s, %s", c.IPv6, ipv6On, ipv6Off)
	}
	if c.Range.IsValid() && !c.Range.Addr().Is4() {
		return misuse("--ipalloc-range %v: it is an IPv4 range such as %v; IPv6 addresses come beside it by themselves", c.Range, ipam.DefaultRange)
	}
	if r := c.Range; r.IsValid() {
		switch {
		case r != r.Masked():
			return misuse("--ipalloc-range %v: it has host bits set, %v was meant", r, r.Masked())
		case r.Bits() < 8 || r.Bits() > 30:
			return misuse("--ipalloc-range %v: it must have 4 to 16777216 addresses: /8 to /30", r)
		}
		if c.Subnet.IsValid() && !r.Overlaps(c.Subnet) {
			return misuse("--ipalloc-default-subnet %v: it has no address of the range %v", c.Subnet, r)
		}
	}
	if s := c.Subnet; s.IsValid() && s != s.Masked() {
		return misuse("--ipalloc-default-subnet %v: %v was meant", s, s.Masked())
	}
	for _, r := range c.Reserved {
		if r != r.Masked() {
			return misuse("--ipalloc-reserve %v: %v was meant", r, r.Masked())
		}
	}
	return nil
}

// loadNumbering makes the address machine of this start from what is stored. Nothing
// is written yet.
func (n *node) loadNumbering(now time.Time) error {
	stored, err := store.Load[numbering](n.store, store.Numbering)
	if err != nil {
		return err
	}
	known := false
	n.numbering, known = numberingFor(stored, &n.cfg)
	cfg := ipam.Config{
		Identity: n.identity, Network: n.network.ID(), UID: n.uid, Random: n.random,
		Range: n.numbering.Range, Subnet: n.numbering.Subnet, Reserved: n.numbering.Reserved, NoIPv6: n.numbering.NoIPv6,
		Elsewhere: n.elsewhere,
	}
	var generations [][]byte
	if n.journal, generations, err = n.store.Journal(store.Addresses); err != nil {
		return err
	}
	if len(generations) == 0 {
		n.machine, err = ipam.New(cfg, now)
	} else {
		n.machine, err = ipam.Restore(cfg, now, generations...)
	}
	if err == nil && len(generations) > 0 && !known && n.machine.Status().Map == "" {
		n.machine, err = ipam.New(cfg, now) // what was said of another range and never came true
	}
	var refusal *ipam.Error
	switch {
	case errors.Is(err, ipam.ErrForeign):
		what := strings.TrimPrefix(strings.TrimSuffix(err.Error(), ": "+ipam.ErrForeign.Error()), "ipam: ")
		return fmt.Errorf("addresses were given out here already: %s: start it as before, or have it forget everything by `ripstop reset`", what)
	case errors.Is(err, ipam.ErrDamaged):
		return fmt.Errorf("%w: bring the files ipam.1 and ipam.2 of the state directory back from a backup; without them remove both: this host then waits a minute for others to say what they hold of its addresses", err)
	case errors.As(err, &refusal):
		return &ExitError{Code: 2, Err: errors.New(refusal.Text)}
	case err != nil && len(generations) == 0:
		return &ExitError{Code: 2, Err: errors.New(strings.TrimPrefix(err.Error(), "ipam: "))}
	case err != nil:
		return err
	}
	if !known {
		return n.checkOverlap()
	}
	return nil
}

// elsewhere says at which other host the endpoint map has an address.
func (n *node) elsewhere(a netip.Addr) (crypto.Name, bool) {
	host, there := n.table.Directory().Holder(vni, a)
	return host, there && host != n.identity.Name()
}

// checkOverlap refuses a range that this host reaches otherwise: its containers, or
// the host itself, could not tell the two apart.
func (n *node) checkOverlap() error {
	ranges := []netip.Prefix{n.numbering.Range}
	if !n.numbering.NoIPv6 {
		ranges = append(ranges, ipam.ULA(n.network.ID()))
	}
	for _, r := range ranges {
		what, err := tun.Overlap(r, n.cfg.Bridge, n.cfg.Device)
		if err != nil {
			n.log.Warn("routes of this host cannot be looked at", "error", err)
			return nil
		}
		if what != "" {
			return fmt.Errorf("range %v overlaps with this host's %s: choose another range by --ipalloc-range, the same on all hosts", r, what)
		}
	}
	for _, target := range slices.Concat(n.targets, n.filePeers) {
		if a, ok := targetAddress(target); ok && n.numbering.Range.Contains(a) {
			return fmt.Errorf("range %v overlaps with the peer %s: choose another range by --ipalloc-range, the same on all hosts", n.numbering.Range, target)
		}
	}
	return nil
}

// targetAddress is the address of a target that is none by name.
func targetAddress(target string) (netip.Addr, bool) {
	if p, err := netip.ParseAddrPort(target); err == nil {
		return p.Addr().Unmap(), true
	}
	a, err := netip.ParseAddr(strings.Trim(target, "[]"))
	return a.Unmap(), err == nil
}

// ipv6Disabled reports whether an interface of this host takes no IPv6 address, as
// where the kernel has none. Without an interface of that name, what new ones get.
func ipv6Disabled(iface string) bool {
	for _, name := range []string{iface, "default"} {
		b, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6")
		if err == nil {
			return strings.TrimSpace(string(b)) != "0"
		}
	}
	return true
}
