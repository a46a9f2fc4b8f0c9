package tun

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
)

// Where br_netfilter is on (Docker switches it on), frames that pass the bridge
// are shown to the host's FORWARD chain. Docker gives that chain the policy drop,
// and so cuts the containers of one bridge from each other and from the overlay. A chain
// of nftables' bridge family sees them in any case.

// forwardChain is one chain of the host's firewall that sees forwarded packets.
type forwardChain struct {
	ipv6      bool
	inet      bool // it sees both families
	bridge    bool // it sees bridged frames, of all kinds
	table     string
	name      string
	drops     bool // its policy is drop
	accepts   bool // a rule lets our bridge's frames pass, as far as one can tell
	out, back bool // a rule lets pass what is routed from our bridge to elsewhere, and back
	dockered  bool // there is a chain DOCKER-USER beside it, which Docker leaves alone
	legacy    bool // of iptables' own tables, not nftables'
}

// hazard is the sentence about the chains that stop the bridge's frames, "" if
// none does. nf4 and nf6 tell whether the bridge's IPv4 and IPv6 are shown to them.
func hazard(bridge string, nf4, nf6 bool, chains []forwardChain) string {
	var families, commands, bridged []string
	for _, c := range chains {
		if c.bridge && c.drops && !c.accepts {
			bridged = append(bridged, fmt.Sprintf("nft insert rule bridge %s %s meta ibrname %s accept", c.table, c.name, bridge))
		}
		shown := !c.bridge && (nf4 && !c.ipv6 || nf6 && (c.ipv6 || c.inet))
		if !c.drops || c.accepts || !shown {
			continue
		}
		family, tool := "IPv4", "iptables"
		if c.ipv6 {
			family, tool = "IPv6", "ip6tables"
		}
		var command string
		switch {
		case c.dockered && !c.inet:
			command = fmt.Sprintf("%s -I DOCKER-USER -i %s -o %s -j ACCEPT", tool, bridge, bridge)
		case c.legacy || !c.inet && c.table == "filter" && c.name == "FORWARD":
			command = fmt.Sprintf("%s -I FORWARD -i %s -o %s -j ACCEPT", tool, bridge, bridge)
		default:
			nft := "ip"
			if c.inet {
				nft, family = "inet", "IPv4 and IPv6"
			} else if c.ipv6 {
				nft = "ip6"
			}
			command = fmt.Sprintf("nft insert rule %s %s %s iifname %s oifname %s accept", nft, c.table, c.name, bridge, bridge)
		}
		families = append(families, family)
		commands = append(commands, command)
	}
	var what []string
	if len(commands) > 0 {
		sysctl := "iptables"
		if !nf4 {
			sysctl = "ip6tables"
		}
		what = append(what, fmt.Sprintf("drops forwarded %s packets and sees bridged frames too (net.bridge.bridge-nf-call-%s is 1, as Docker wants it)",
			strings.Join(families, " and "), sysctl))
	}
	if len(bridged) > 0 {
		what = append(what, "drops bridged frames")
	}
	if len(what) == 0 {
		return ""
	}
	return fmt.Sprintf("this host's firewall %s, so frames between ports of %s are lost%s%s",
		strings.Join(what, " and "), bridge, HazardRemedy, strings.Join(append(commands, bridged...), "; "))
}

// routingHazard is the sentence about what stops packets that are routed between the
// bridge and elsewhere, "" if nothing does.
func routingHazard(bridge string, forwards bool, chains []forwardChain) string {
	var what, commands []string
	if !forwards {
		what = append(what, "does not forward IPv4 (net.ipv4.ip_forward is 0)")
		commands = append(commands, "sysctl -w net.ipv4.ip_forward=1")
	}
	drops := false
	for _, c := range chains {
		if c.bridge || c.ipv6 || !c.drops || c.out && c.back {
			continue
		}
		drops = true
		answers := "-m conntrack --ctstate RELATED,ESTABLISHED"
		insert := "iptables -I FORWARD"
		out, in, accept := "-i "+bridge, "-o "+bridge, "-j ACCEPT"
		switch {
		case c.dockered && !c.inet:
			insert = "iptables -I DOCKER-USER"
		case c.legacy || !c.inet && c.table == "filter" && c.name == "FORWARD":
		default:
			family := "ip"
			if c.inet {
				family = "inet"
			}
			insert, answers = fmt.Sprintf("nft insert rule %s %s %s", family, c.table, c.name), "ct state related,established"
			out, in, accept = "iifname "+bridge, "oifname "+bridge, "accept"
		}
		if !c.out {
			commands = append(commands, strings.Join([]string{insert, out, accept}, " "))
		}
		if !c.back {
			commands = append(commands, strings.Join([]string{insert, in, answers, accept}, " "))
		}
	}
	if drops {
		what = append(what, "has a firewall that drops forwarded IPv4 packets")
	}
	if len(what) == 0 {
		return ""
	}
	return fmt.Sprintf("this host %s, so containers do not reach through %s what is behind it%s%s",
		strings.Join(what, " and "), bridge, HazardRemedy, strings.Join(commands, "; "))
}

// HazardRemedy stands between what is wrong and the commands that help in
// the sentences of ForwardingHazard and RoutingHazard.
const HazardRemedy = "; to let them pass: "

// isName tells whether a value compared in a rule is an interface name: padded
// with zeros, or cut where a wildcard begins.
func isName(value []byte, name string) bool {
	if trimmed := bytes.TrimRight(value, "\x00"); len(trimmed) < len(value) {
		return string(trimmed) == name
	}
	return len(value) > 0 && strings.HasPrefix(name, string(value))
}

// The layout of iptables' own rules (struct ipt_entry, struct ip6t_entry in
// include/uapi/linux/netfilter_ip{v4/ip,v6/ip6}_tables.h). Byte order and
// alignment are the machine's.
type entryLayout struct {
	in, out      int // of the interface names, 16 bytes each
	targetOffset int // of the 16-bit offset of the target; the next entry's follows
	size         int // of the fixed part
	any          int // bytes from the start that are zero when every packet matches
	invert       int // of the flags by which a name means any other
}

var (
	layoutIPv4 = entryLayout{in: 16, out: 32, targetOffset: 88, size: 112, any: 84, invert: 83}
	layoutIPv6 = entryLayout{in: 64, out: 80, targetOffset: 140, size: 168, any: 136, invert: 132}
)

const (
	targetHeader = 32 // struct xt_entry_target: length 2, name 29, revision 1
	targetSize   = 36 // struct xt_standard_target up to and with the verdict
	verdictDrop  = -1 // -NF_DROP - 1
	verdictAllow = -2 // -NF_ACCEPT - 1
)

// readEntries looks through iptables' own rules: those of the FORWARD chain stand
// from first to policy, the entry that is its policy; other chains may be called
// from there. ok is false when they make no sense.
func readEntries(l entryLayout, blob []byte, first, policy int, bridge string) (c forwardChain, ok bool) {
	order := binary.NativeEndian
	for at := 0; at+l.size <= len(blob); {
		entry := blob[at:]
		target := int(order.Uint16(entry[l.targetOffset:]))
		next := int(order.Uint16(entry[l.targetOffset+2:]))
		if target < l.size || next < target+targetHeader || next > len(entry) {
			return forwardChain{}, false
		}
		verdict := 0
		if entry[target+2] == 0 && next >= target+targetSize { // the standard target has no name
			verdict = int(int32(order.Uint32(entry[target+targetHeader:])))
		}
		if at == policy {
			c.drops, ok = verdict == verdictDrop, true
		}
		if verdict == verdictAllow && target == l.size {
			all := bytes.Count(entry[:l.any], []byte{0}) == l.any
			if all && at >= first && at < policy {
				c.accepts, c.out, c.back = true, true, true
			}
			if lets(l, entry, bridge) {
				c.accepts = true
			}
		}
		if verdict == verdictAllow { // perhaps if more holds, such as that it is an answer
			from, to := named(l, entry, bridge)
			c.out, c.back = c.out || from && !to, c.back || to && !from || answers(l, entry, target)
		}
		at += next
	}
	return c, ok
}

// answers tells whether an entry asks for the state of the connection alone: as it accepts
// something, that is what answers have.
func answers(l entryLayout, entry []byte, target int) bool {
	const header = 31 // struct xt_entry_match: length 2, name 29
	if bytes.Count(entry[:l.any], []byte{0}) != l.any || target < l.size+header {
		return false
	}
	match := entry[l.size:target]
	name := cString(match[2:header])
	return int(binary.NativeEndian.Uint16(match)) == len(match) && (name == "conntrack" || name == "state")
}

// named tells whether an entry asks for the bridge as where a packet comes from, and goes to.
func named(l entryLayout, entry []byte, bridge string) (from, to bool) {
	const otherIn, otherOut = 1, 2 // IPT_INV_VIA_IN, IPT_INV_VIA_OUT
	inverted := entry[l.invert]
	return inverted&otherIn == 0 && cString(entry[l.in:l.in+16]) == bridge, inverted&otherOut == 0 && cString(entry[l.out:l.out+16]) == bridge
}

// lets tells whether an entry is for what comes from the bridge, or goes to it, or
// both.
func lets(l entryLayout, entry []byte, bridge string) bool {
	in, out := cString(entry[l.in:l.in+16]), cString(entry[l.out:l.out+16])
	return (in == bridge || in == "") && (out == bridge || out == "") && in+out != ""
}

func cString(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}
