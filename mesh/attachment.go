package mesh

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ripstop/crypto"
	"ripstop/mesh/api"
	"ripstop/route"
	"ripstop/tun"
	"ripstop/tun/attach"
	"ripstop/tun/firewall"
)

const (
	maxAddresses = 16  // of one endpoint
	maxOwner     = 512 // bytes
)

// attachment is an endpoint of this host, as the state directory keeps it.
type attachment struct {
	Plan         api.AttachPlan `json:"plan"`
	Name         string         `json:"name,omitempty"`
	Aliases      []string       `json:"aliases,omitempty"` // lower case
	Owner        string         `json:"owner,omitempty"`   // what a runtime knows it by
	Claim        uint64         `json:"claim"`
	AllowMAC     []string       `json:"allow_mac,omitempty"`
	AllowAddress []string       `json:"allow_address,omitempty"`
	Exposed      bool           `json:"exposed,omitempty"`    // the host itself, on the bridge
	Masquerade   bool           `json:"masquerade,omitempty"` // of Exposed: the host is a gateway
	Leases       []lease        `json:"leases,omitempty"`     // of Plan's addresses, those that the table knows
	Services     []string       `json:"services,omitempty"`
	DNS          bool           `json:"dns,omitempty"` // it was told where names are resolved
}

// reservation holds an attachment for a caller that is making its interface.
type reservation struct {
	attachment
	expires time.Time
}

// mac is the attachment's MAC; the plan was validated when it was made.
func (a *attachment) mac() route.MAC {
	m, _ := parseMAC(a.Plan.MAC)
	return m
}

// holds reports whether a has that MAC or address.
func (a *attachment) holds(mac route.MAC, addresses []netip.Addr) bool {
	if a.mac() == mac {
		return true
	}
	return slices.ContainsFunc(a.Plan.Addresses, func(p netip.Prefix) bool { return slices.Contains(addresses, p.Addr()) })
}

// clash says what is the same: one of the addresses, else the MAC.
func clash(mac route.MAC, addresses, others []netip.Addr) string {
	for _, a := range addresses {
		if slices.Contains(others, a) {
			return a.String()
		}
	}
	return "the MAC " + macOf(mac)
}

// addrs are the attachment's addresses without their prefix lengths.
func (a *attachment) addrs() []netip.Addr {
	all := make([]netip.Addr, len(a.Plan.Addresses))
	for i, p := range a.Plan.Addresses {
		all[i] = p.Addr()
	}
	return all
}

// key is what the attachment's record is gossiped under.
func (a *attachment) key() string { return hex.EncodeToString([]byte{0, byte(vni)}) + a.Plan.MAC }

// rule is what the attachment's port may send.
func (a *attachment) rule() firewall.PortRule {
	r := firewall.PortRule{Port: a.Plan.HostInterface, MAC: a.mac(), Addresses: a.addrs()}
	for _, m := range a.AllowMAC {
		if m == "any" {
			r.AnyMAC = true
		} else if mac, err := parseMAC(m); err == nil {
			r.AllowMACs = append(r.AllowMACs, mac)
		}
	}
	for _, p := range a.AllowAddress {
		if p == "any" {
			r.AnyAddress = true
		} else if prefix, err := parsePrefix(p); err == nil {
			r.AllowAddresses = append(r.AllowAddresses, prefix)
		}
	}
	return r
}

// label is what people know the attachment by.
func (a *attachment) label() string {
	switch {
	case a.Exposed:
		return "the host itself (ripstop expose)"
	case a.Name != "":
		return a.Name
	}
	return a.Plan.Netns
}

// attachmentFor is the attachment that q asks for, checked for sense.
func (n *node) attachmentFor(q api.AttachRequest) (attachment, error) {
	a := attachment{Owner: q.Owner, AllowMAC: q.AllowMAC, AllowAddress: q.AllowAddress}
	invalid := func(format string, args ...any) (attachment, error) {
		return attachment{}, api.Errorf(api.CodeInvalid, format, args...)
	}
	if len(q.Addresses) > maxAddresses {
		return invalid("%d addresses, %d are the most for one interface", len(q.Addresses), maxAddresses)
	}
	for _, p := range q.Addresses {
		if err := checkAddress(p); err != nil {
			return attachment{}, err
		}
	}
	if len(q.Owner) > maxOwner {
		return invalid("an owner of %d bytes, %d are the most", len(q.Owner), maxOwner)
	}
	if err := a.takeNames(q); err != nil {
		return attachment{}, err
	}
	if err := n.nameServices(&a, q); err != nil {
		return attachment{}, err
	}
	for _, m := range q.AllowMAC {
		if _, err := parseMAC(m); m != "any" && err != nil {
			return invalid("--allow-mac %q: a MAC address or `any`", m)
		}
	}
	for _, p := range q.AllowAddress {
		if _, err := parsePrefix(p); p != "any" && err != nil {
			return invalid("--allow-address %q: an address, a CIDR or `any`", p)
		}
	}
	iface := q.Interface
	if iface == "" {
		iface = api.DefaultInterface
	}
	if len(iface) > 15 || strings.ContainsAny(iface, "/ \t\n:%") || iface == "." || iface == ".." {
		return invalid("interface name %q: at most 15 characters, without spaces, slashes, colons and percent signs", iface)
	}
	sum := placeSum(n.identity.Name(), q.NetnsID, iface)
	mac := route.MAC(sum[:6])
	mac[0] = mac[0]&^0x01 | 0x02
	if q.MAC != "" {
		m, err := parseMAC(q.MAC)
		if err != nil || m[0]&1 != 0 || m == (route.MAC{}) {
			return invalid("--mac %q: a unicast MAC address such as 02:00:5e:00:53:01", q.MAC)
		}
		mac = m
	}
	mtu := q.MTU
	if mtu == 0 {
		mtu = n.cfg.MTU
	}
	if err := CheckMTU(mtu); err != nil {
		return invalid("%v", err)
	}
	a.Plan = api.AttachPlan{
		Netns: q.Netns, NetnsID: q.NetnsID,
		Interface: iface, HostInterface: attach.HostPrefix + hex.EncodeToString(sum[6:11]),
		MAC: net.HardwareAddr(mac[:]).String(), Addresses: slices.Clone(q.Addresses), Routes: q.Routes,
		MTU: mtu, HostMTU: tun.MaxMTU,
	}
	return a, n.resolverFor(&a)
}

// takeNames takes up the names that an attachment is to be found by.
func (a *attachment) takeNames(q api.AttachRequest) error {
	if len(q.Aliases) > api.MaxAliases {
		return api.Errorf(api.CodeInvalid, "%d aliases, %d are the most for one interface", len(q.Aliases), api.MaxAliases)
	}
	if q.Name == "" {
		if len(q.Aliases) > 0 {
			return api.Errorf(api.CodeInvalid, "aliases are names beside another one, which is missing")
		}
		return nil
	}
	for _, name := range append([]string{q.Name}, q.Aliases...) {
		if !api.ValidName(name) {
			return api.Errorf(api.CodeInvalid, "name %.80q: letters, digits, hyphens within, and dots between; 63 characters at most", name)
		}
	}
	a.Name = q.Name
	for _, alias := range q.Aliases {
		if alias = strings.ToLower(alias); alias != strings.ToLower(a.Name) && !slices.Contains(a.Aliases, alias) {
			a.Aliases = append(a.Aliases, alias)
		}
	}
	return nil
}

// placeSum is a number for an interface of a namespace of this host: the same
// each time, so that a try that failed is followed by the same one.
func placeSum(self crypto.Name, netns api.NetnsID, iface string) [32]byte {
	b := append([]byte("ripstop attachment v1"), self[:]...)
	b = binary.BigEndian.AppendUint64(b, netns.Dev)
	b = binary.BigEndian.AppendUint64(b, netns.Inode)
	return sha256.Sum256(append(b, iface...))
}

// checkAddress refuses what no interface can have.
func checkAddress(p netip.Prefix) error {
	a := p.Addr()
	switch {
	case !p.IsValid(), a.IsUnspecified(), a.IsMulticast(), a.IsLoopback(), a.Is4In6(), a.Zone() != "":
		return api.Errorf(api.CodeInvalid, "--address %s: not an address that an interface can have", p)
	case a.IsLinkLocalUnicast() && a.Is6():
		return api.Errorf(api.CodeInvalid, "--address %s: link-local addresses come by themselves", p)
	case a.Is4() && p.Bits() < 31 && (a == p.Masked().Addr() || a == lastAddr(p)):
		return api.Errorf(api.CodeInvalid, "--address %s: the network's own or its broadcast address; give one in between", p)
	}
	return nil
}

// lastAddr is the highest address of an IPv4 prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	v := binary.BigEndian.Uint32(b[:]) | (1<<(32-p.Bits()) - 1)
	binary.BigEndian.PutUint32(b[:], v)
	return netip.AddrFrom4(b)
}

func parseMAC(s string) (route.MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 {
		return route.MAC{}, errors.New("not a MAC address: " + s)
	}
	return route.MAC(hw), nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Prefix(a.BitLen())
	}
	return netip.ParsePrefix(s)
}

func joinPrefixes(ps []netip.Prefix) string {
	var b strings.Builder
	for i, p := range ps {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(p.String())
	}
	return b.String()
}
