package tun

import (
	"bytes"
	"encoding/binary"
	"os"
	"strings"
	"unsafe"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ForwardingHazard tells whether the host's firewall stops frames that only pass
// the bridge, and if so says it in a sentence with the command that helps. It
// looks at the network namespace of the calling thread, changes nothing, and
// believes all is well where it cannot look.
func ForwardingHazard(bridge string) (string, bool) {
	nf4 := bridgeSysctl("bridge-nf-call-iptables")
	nf6 := bridgeSysctl("bridge-nf-call-ip6tables")
	var chains []forwardChain
	if nf4 || nf6 {
		chains = append(nftChains(unix.NFPROTO_UNSPEC, bridge), legacyChains(bridge)...)
	} else {
		chains = nftChains(unix.NFPROTO_BRIDGE, bridge)
	}
	sentence := hazard(bridge, nf4, nf6, chains)
	return sentence, sentence != ""
}

// RoutingHazard does the same for packets that are routed between the bridge and elsewhere:
// whether the host forwards IPv4, and its firewall lets them pass.
func RoutingHazard(bridge string) (string, bool) {
	value, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	forwards := err != nil || strings.TrimSpace(string(value)) != "0"
	sentence := routingHazard(bridge, forwards, append(nftChains(unix.NFPROTO_UNSPEC, bridge), legacyChains(bridge)...))
	return sentence, sentence != ""
}

func bridgeSysctl(key string) bool {
	value, err := os.ReadFile("/proc/sys/net/bridge/" + key)
	return err == nil && strings.TrimSpace(string(value)) == "1"
}

// Verdicts and policies (include/uapi/linux/netfilter.h).
const (
	nfDrop   = 0
	nfAccept = 1
)

// ctEstablished is the bit of the state of a connection that has had an answer
// (NF_CT_STATE_BIT in include/uapi/linux/netfilter/nf_conntrack_common.h).
const ctEstablished = 1 << 1

// nftMessage is the four bytes in front of nftables' attributes (struct nfgenmsg).
type nftMessage struct{ family uint8 }

func (m nftMessage) Len() int          { return 4 }
func (m nftMessage) Serialize() []byte { return []byte{m.family, 0, 0, 0} }

// nftDump lists the objects of one kind of a family, NFPROTO_UNSPEC for all.
func nftDump(kind int, family uint8) [][]byte {
	request := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|kind, unix.NLM_F_DUMP)
	request.AddData(nftMessage{family})
	messages, err := request.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return nil
	}
	return messages
}

// nftChains are nftables' chains at the forward hook of a family: of IPv4, IPv6, both, or
// the bridges themselves.
func nftChains(family uint8, bridge string) []forwardChain {
	type key struct {
		family uint8
		table  string
	}
	type place struct {
		key
		chain string // "": those that no hook calls, but perhaps one that it does
	}
	dockered := make(map[key]bool)
	based := make(map[place]bool)
	dump := nftDump(unix.NFT_MSG_GETCHAIN, family)
	for _, m := range dump {
		attrs := nftAttributes(m)
		if attrs[unix.NFTA_CHAIN_HOOK] != nil {
			based[place{key{m[0], cString(attrs[unix.NFTA_CHAIN_TABLE])}, cString(attrs[unix.NFTA_CHAIN_NAME])}] = true
		}
		if cString(attrs[unix.NFTA_CHAIN_NAME]) == "DOCKER-USER" {
			dockered[key{m[0], cString(attrs[unix.NFTA_CHAIN_TABLE])}] = true
		}
	}
	var chains []forwardChain
	var keys []key
	drops := false
	for _, m := range dump {
		attrs := nftAttributes(m)
		hook := nftNested(attrs[unix.NFTA_CHAIN_HOOK])
		number, policy := hook[unix.NFTA_HOOK_HOOKNUM], attrs[unix.NFTA_CHAIN_POLICY]
		// The forward hook of bridges has the same number (NF_BR_FORWARD).
		if len(number) != 4 || binary.BigEndian.Uint32(number) != unix.NF_INET_FORWARD || len(policy) != 4 {
			continue
		}
		k := key{m[0], cString(attrs[unix.NFTA_CHAIN_TABLE])}
		c := forwardChain{table: k.table, name: cString(attrs[unix.NFTA_CHAIN_NAME]),
			drops: binary.BigEndian.Uint32(policy) == nfDrop, dockered: dockered[k]}
		switch k.family {
		case unix.NFPROTO_IPV4:
		case unix.NFPROTO_IPV6:
			c.ipv6 = true
		case unix.NFPROTO_INET:
			c.inet = true
		case unix.NFPROTO_BRIDGE:
			c.bridge = true
		default:
			continue
		}
		chains, keys = append(chains, c), append(keys, k)
		drops = drops || c.drops
	}
	if !drops { // whatever the rules are
		return chains
	}
	lets := make(map[place]forwardChain)
	for _, m := range nftDump(unix.NFT_MSG_GETRULE, family) {
		attrs := nftAttributes(m)
		at := place{key{m[0], cString(attrs[unix.NFTA_RULE_TABLE])}, cString(attrs[unix.NFTA_RULE_CHAIN])}
		if !based[at] {
			at.chain = ""
		}
		accepts, out, back := nftLets(attrs[unix.NFTA_RULE_EXPRESSIONS], bridge)
		l := lets[at]
		lets[at] = forwardChain{accepts: l.accepts || accepts, out: l.out || out, back: l.back || back}
	}
	for i, k := range keys {
		own, called := lets[place{k, chains[i].name}], lets[place{k, ""}]
		chains[i].accepts, chains[i].out, chains[i].back = own.accepts || called.accepts, own.out || called.out, own.back || called.back
	}
	return chains
}

// nftLets tells whether a rule accepts, and asks for our bridge, for bridged
// frames (the physdev match), or for nothing at all; out, that it accepts what comes from
// the bridge and goes elsewhere; and back, the other way, if perhaps only answers. A rule for
// answers alone, to whomever, lets them back.
func nftLets(expressions []byte, bridge string) (accepts, out, back bool) {
	accept, named, asked := false, false, false
	from, to := false, false
	state, answers, more := false, false, false // the state was loaded last; is asked for; so is something else
	var key uint32                              // of what was loaded last
	for _, expression := range nftList(expressions) {
		attrs := nftNested(expression)
		data := nftNested(attrs[unix.NFTA_EXPR_DATA])
		switch cString(attrs[unix.NFTA_EXPR_NAME]) {
		case "immediate":
			verdict := nftNested(nftNested(data[unix.NFTA_IMMEDIATE_DATA])[unix.NFTA_DATA_VERDICT])
			code := verdict[unix.NFTA_VERDICT_CODE]
			accept = len(code) == 4 && binary.BigEndian.Uint32(code) == nfAccept
		case "ct":
			b := data[unix.NFTA_CT_KEY]
			state = len(b) == 4 && binary.BigEndian.Uint32(b) == unix.NFT_CT_STATE
			key, asked, more = 0, true, more || !state
		case "bitwise":
			mask := nftNested(data[unix.NFTA_BITWISE_MASK])[unix.NFTA_DATA_VALUE]
			answers = answers || state && len(mask) == 4 && binary.NativeEndian.Uint32(mask)&ctEstablished != 0
			key, asked, more = 0, true, more || !state
		case "cmp":
			asked, more, state = true, more || !state, false
			if isName(nftNested(data[unix.NFTA_CMP_DATA])[unix.NFTA_DATA_VALUE], bridge) {
				named = true
				op := data[unix.NFTA_CMP_OP]
				equal := len(op) == 4 && binary.BigEndian.Uint32(op) == unix.NFT_CMP_EQ
				from, to = from || equal && key == unix.NFT_META_IIFNAME, to || equal && key == unix.NFT_META_OIFNAME
			}
		case "match":
			asked = true
			switch cString(data[unix.NFTA_MATCH_NAME]) {
			case "physdev":
				named, more = true, true
			case "conntrack", "state":
				answers = true
			default:
				more = true
			}
		case "counter":
		case "meta":
			key, state = 0, false
			if b := data[unix.NFTA_META_KEY]; len(b) == 4 {
				key = binary.BigEndian.Uint32(b)
			}
		default:
			key, asked, more = 0, true, true
		}
	}
	return accept && (named || !asked), accept && (!asked || from && !to), accept && (!asked || to && !from || answers && !more)
}

func nftAttributes(message []byte) map[int][]byte {
	if len(message) < 4 {
		return nil
	}
	return nftNested(message[4:])
}

// nftNested are the attributes in b by number; what is cut short ends them.
func nftNested(b []byte) map[int][]byte {
	attrs := make(map[int][]byte)
	eachAttribute(b, func(kind int, value []byte) { attrs[kind] = value })
	return attrs
}

func nftList(b []byte) [][]byte {
	var list [][]byte
	eachAttribute(b, func(_ int, value []byte) { list = append(list, value) })
	return list
}

func eachAttribute(b []byte, f func(kind int, value []byte)) {
	for len(b) >= unix.SizeofNlAttr {
		length := int(binary.NativeEndian.Uint16(b))
		if length < unix.SizeofNlAttr || length > len(b) {
			return
		}
		kind := int(binary.NativeEndian.Uint16(b[2:])) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		f(kind, b[unix.SizeofNlAttr:length])
		b = b[min((length+3)&^3, len(b)):]
	}
}

// The names of iptables' own interface: getsockopt numbers and lengths
// (include/uapi/linux/netfilter_ipv4/ip_tables.h; IPv6 has the same numbers).
const (
	xtGetInfo    = 64
	xtGetEntries = 65
	xtInfoLen    = 84 // name 32, hooks 4, first entry of each hook 5·4, policy of each 5·4, count 4, size 4
	xtInfoFirst  = 36
	xtInfoPolicy = 56
	xtInfoSize   = 80
	xtEntriesAt  = 40
	xtMaxSize    = 16 << 20
)

// legacyChains are iptables' own FORWARD chains, where the filter table is in use:
// asking for a table that isn't there would make it.
func legacyChains(bridge string) []forwardChain {
	var chains []forwardChain
	for _, f := range []struct {
		names         string
		domain, level int
		layout        entryLayout
		ipv6          bool
	}{
		{"/proc/thread-self/net/ip_tables_names", unix.AF_INET, unix.SOL_IP, layoutIPv4, false},
		{"/proc/thread-self/net/ip6_tables_names", unix.AF_INET6, unix.SOL_IPV6, layoutIPv6, true},
	} {
		names, err := os.ReadFile(f.names)
		if err != nil || !bytes.Contains(append([]byte("\n"), names...), []byte("\nfilter\n")) {
			continue
		}
		if c, ok := legacyChain(f.domain, f.level, f.layout, bridge); ok {
			c.ipv6 = f.ipv6
			chains = append(chains, c)
		}
	}
	return chains
}

func legacyChain(domain, level int, layout entryLayout, bridge string) (forwardChain, bool) {
	info, blob, ok := legacyEntries(domain, level)
	if !ok {
		return forwardChain{}, false
	}
	first := int(binary.NativeEndian.Uint32(info[xtInfoFirst+4*unix.NF_INET_FORWARD:]))
	policy := int(binary.NativeEndian.Uint32(info[xtInfoPolicy+4*unix.NF_INET_FORWARD:]))
	c, ok := readEntries(layout, blob, first, policy, bridge)
	c.table, c.name, c.legacy = "filter", "FORWARD", true
	c.dockered = bytes.Contains(blob, []byte("DOCKER-USER\x00"))
	return c, ok
}

// legacyEntries are what iptables' own filter table says of itself, and its rules.
func legacyEntries(domain, level int) (info, blob []byte, ok bool) {
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, false
	}
	defer unix.Close(fd)
	info = make([]byte, xtInfoLen)
	copy(info, "filter")
	if !getsockopt(fd, level, xtGetInfo, info) {
		return nil, nil, false
	}
	size := int(binary.NativeEndian.Uint32(info[xtInfoSize:]))
	if size <= 0 || size > xtMaxSize {
		return nil, nil, false
	}
	entries := make([]byte, xtEntriesAt+size)
	copy(entries, "filter")
	binary.NativeEndian.PutUint32(entries[32:], uint32(size))
	if !getsockopt(fd, level, xtGetEntries, entries) {
		return nil, nil, false
	}
	return info, entries[xtEntriesAt:], true
}

func getsockopt(fd, level, option int, b []byte) bool {
	length := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&length)), 0)
	return errno == 0
}
