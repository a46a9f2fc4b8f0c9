package firewall

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The sets of a table. P is a port's name, 16 bytes with zeros behind; MACs in
// concatenated keys are padded to 8 bytes, as the kernel pads each part to 4.
//
//	ports          P → accept | goto managed         who is checked
//	macs           P . MAC                           what it may send as
//	ipv4  ipv6     P . address
//	net4  net6     P . first address – P . last      AllowAddresses
//	any_mac  any_address   P                         AnyMAC, AnyAddress
//	endpoint_mac  endpoint_ipv4  endpoint_ipv6       what belongs to an endpoint anywhere
//	known          P                                 those in ports, as a set
//	members        P                                 the bridge's ports, see SetMembers
//	drops          P . cause, each with a counter    filled by the drop rules
//	protocols  icmpv6      which chain looks at it   fixed
//	reports  lladdr        small fixed sets
const (
	setPorts        = "ports"
	setMACs         = "macs"
	setIPv4         = "ipv4"
	setIPv6         = "ipv6"
	setNet4         = "net4"
	setNet6         = "net6"
	setKnown        = "known"
	setMembers      = "members"
	setAnyMAC       = "any_mac"
	setAnyAddress   = "any_address"
	setEndpointMAC  = "endpoint_mac"
	setEndpointIPv4 = "endpoint_ipv4"
	setEndpointIPv6 = "endpoint_ipv6"
	setDrops        = "drops"
	setProtocols    = "protocols"
	setICMPv6       = "icmpv6"
	setUnspecified  = "unspecified"
	setLinkAddress  = "link_address"
)

// setOrder numbers the sets within a transaction and fixes the order in which they
// are made.
var setOrder = []string{
	setMACs, setIPv4, setIPv6, setNet4, setNet6, setAnyMAC, setAnyAddress,
	setEndpointMAC, setEndpointIPv4, setEndpointIPv6, setDrops,
	setPorts, setKnown, setMembers, setProtocols, setICMPv6, setUnspecified, setLinkAddress,
}

// portSets are keyed by port; elementSets are all whose elements follow what the
// caller says.
var (
	portSets    = []string{setPorts, setKnown, setMACs, setIPv4, setIPv6, setNet4, setNet6, setAnyMAC, setAnyAddress}
	elementSets = append([]string{setEndpointMAC, setEndpointIPv4, setEndpointIPv6, setMembers}, portSets...)
)

// dropsSize bounds the per-port counters: (port, cause) pairs that are remembered.
const dropsSize = 16384

func newSets(table *nftables.Table) map[string]*nftables.Set {
	portAnd := func(second nftables.SetDatatype) nftables.SetDatatype {
		return nftables.MustConcatSetType(nftables.TypeIFName, second)
	}
	sets := map[string]*nftables.Set{
		setPorts:        {KeyType: nftables.TypeIFName, IsMap: true, DataType: nftables.TypeVerdict},
		setMACs:         {KeyType: portAnd(nftables.TypeEtherAddr), Concatenation: true},
		setIPv4:         {KeyType: portAnd(nftables.TypeIPAddr), Concatenation: true},
		setIPv6:         {KeyType: portAnd(nftables.TypeIP6Addr), Concatenation: true},
		setNet4:         {KeyType: portAnd(nftables.TypeIPAddr), Concatenation: true, Interval: true},
		setNet6:         {KeyType: portAnd(nftables.TypeIP6Addr), Concatenation: true, Interval: true},
		setKnown:        {KeyType: nftables.TypeIFName},
		setMembers:      {KeyType: nftables.TypeIFName},
		setAnyMAC:       {KeyType: nftables.TypeIFName},
		setAnyAddress:   {KeyType: nftables.TypeIFName},
		setEndpointMAC:  {KeyType: nftables.TypeEtherAddr},
		setEndpointIPv4: {KeyType: nftables.TypeIPAddr},
		setEndpointIPv6: {KeyType: nftables.TypeIP6Addr},
		setDrops:        {KeyType: portAnd(nftables.TypeMark), Concatenation: true, Dynamic: true, Size: dropsSize},
		setProtocols:    {KeyType: nftables.TypeEtherType, IsMap: true, DataType: nftables.TypeVerdict},
		setICMPv6:       {KeyType: nftables.TypeICMP6Type, IsMap: true, DataType: nftables.TypeVerdict},
		setUnspecified:  {KeyType: nftables.TypeICMP6Type},
		setLinkAddress:  {KeyType: nftables.TypeICMP6Type},
	}
	for i, name := range setOrder {
		set := sets[name]
		// Numbers of our own: the library's counter is shared and unguarded.
		set.Table, set.Name, set.ID = table, name, uint32(i+1)
	}
	return sets
}

// fixed are the elements that a set holds from the start.
func (t *Table) fixed(name string) []nftables.SetElement {
	var elements []nftables.SetElement
	verdict := func(key []byte, kind expr.VerdictKind, chain string) {
		elements = append(elements, nftables.SetElement{Key: key, VerdictData: &expr.Verdict{Kind: kind, Chain: chain}})
	}
	switch name {
	case setProtocols:
		verdict(ethertype(unix.ETH_P_IP), expr.VerdictGoto, chainIPv4)
		verdict(ethertype(unix.ETH_P_IPV6), expr.VerdictGoto, chainIPv6)
		verdict(ethertype(unix.ETH_P_ARP), expr.VerdictGoto, chainARP)
		for _, tag := range tags {
			verdict(ethertype(tag), expr.VerdictGoto, chainTagged)
		}
	case setICMPv6:
		verdict([]byte{icmpv6RA}, expr.VerdictJump, chainRouter)
		verdict([]byte{icmpv6Redirect}, expr.VerdictJump, chainRouter)
		verdict([]byte{icmpv6NS}, expr.VerdictJump, chainNS)
		verdict([]byte{icmpv6NA}, expr.VerdictJump, chainNA)
	case setUnspecified:
		// What may come from ::, RFC 4861 4.1 and 4.3, RFC 3810 5.2.13, RFC 2710 3.
		for _, kind := range []byte{icmpv6NS, icmpv6RS, icmpv6Report, icmpv6Done, icmpv6Report2} {
			elements = append(elements, nftables.SetElement{Key: []byte{kind}})
		}
	case setLinkAddress:
		elements = []nftables.SetElement{{Key: []byte{1}}, {Key: []byte{2}}} // source, target: RFC 4861 4.6.1
	}
	return elements
}

// tags are the EtherTypes of VLAN tags: 802.1Q, 802.1ad, and two used before that.
var tags = []uint16{unix.ETH_P_8021Q, unix.ETH_P_8021AD, unix.ETH_P_QINQ1, unix.ETH_P_QINQ2}

func ethertype(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }

// ifname is a port's name as the kernel compares it.
func ifname(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

// macKey is a MAC as a part of a concatenated key.
func macKey(mac [6]byte) []byte { return append(mac[:], 0, 0) }

// addr is a plain address: no zone, IPv4 never mapped into IPv6.
type addr = netip.Addr

func plain(a netip.Addr) addr { return a.Unmap().WithZone("") }

// linkLocal is the link-local address made of a MAC, RFC 4291 appendix A.
func linkLocal(mac [6]byte) addr {
	return netip.AddrFrom16([16]byte{
		0: 0xfe, 1: 0x80,
		8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5],
	})
}

// last is the greatest address of a prefix.
func last(p netip.Prefix) addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
