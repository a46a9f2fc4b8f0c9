package tun

import (
	"bytes"
	"encoding/binary"
	"os"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestHazard(t *testing.T) {
	drop := forwardChain{table: "filter", name: "FORWARD", drops: true}
	with := func(f func(*forwardChain)) []forwardChain {
		c := drop
		f(&c)
		return []forwardChain{c}
	}
	for _, c := range []struct {
		name     string
		nf4, nf6 bool
		chains   []forwardChain
		says     string // "": no hazard
	}{
		{"none", true, true, nil, ""},
		{"policy accept", true, true, with(func(c *forwardChain) { c.drops = false }), ""},
		{"a rule for us", true, true, with(func(c *forwardChain) { c.accepts = true }), ""},
		{"not shown", false, true, with(func(c *forwardChain) {}), ""},
		{"drop", true, false, with(func(c *forwardChain) {}), "iptables -I FORWARD -i br -o br -j ACCEPT"},
		{"docker", true, false, with(func(c *forwardChain) { c.dockered = true }), "iptables -I DOCKER-USER -i br -o br -j ACCEPT"},
		{"IPv6", true, true, with(func(c *forwardChain) { c.ipv6 = true }), "ip6tables -I FORWARD -i br -o br -j ACCEPT"},
		{"IPv6 not shown", true, false, with(func(c *forwardChain) { c.ipv6 = true }), ""},
		{"nft", true, false, with(func(c *forwardChain) { c.table = "mine" }), "nft insert rule ip mine FORWARD iifname br oifname br accept"},
		{"bridge", false, false, with(func(c *forwardChain) { c.bridge = true }), "drops bridged frames, so frames between ports of br are lost; to let them pass: nft insert rule bridge filter FORWARD meta ibrname br accept"},
		{"bridge and a rule for us", true, true, with(func(c *forwardChain) { c.bridge, c.accepts = true, true }), ""},
		{"only IPv6 is shown", false, true, with(func(c *forwardChain) { c.ipv6 = true }), "bridge-nf-call-ip6tables is 1"},
		{"inet", false, true, with(func(c *forwardChain) { c.inet = true }), "nft insert rule inet filter FORWARD iifname br oifname br accept"},
	} {
		got := hazard("br", c.nf4, c.nf6, c.chains)
		if (got == "") != (c.says == "") || !strings.Contains(got, c.says) {
			t.Errorf("%s: %q, want %q in it", c.name, got, c.says)
		}
	}
}

func TestRoutingHazard(t *testing.T) {
	drop := forwardChain{table: "filter", name: "FORWARD", drops: true}
	with := func(f func(*forwardChain)) []forwardChain {
		c := drop
		f(&c)
		return []forwardChain{c}
	}
	const answers = " -o br -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
	for _, c := range []struct {
		name     string
		forwards bool
		chains   []forwardChain
		says     string // "": no hazard
	}{
		{"none", true, nil, ""},
		{"off", false, nil, "does not forward IPv4 (net.ipv4.ip_forward is 0), so containers do not reach through br what is behind it; to let them pass: sysctl -w net.ipv4.ip_forward=1"},
		{"policy accept", true, with(func(c *forwardChain) { c.drops = false }), ""},
		{"both ways", true, with(func(c *forwardChain) { c.out, c.back = true, true }), ""},
		{"frames only", true, with(func(c *forwardChain) { c.accepts = true }), "iptables -I FORWARD -i br -j ACCEPT; iptables -I FORWARD" + answers},
		{"one way", true, with(func(c *forwardChain) { c.out = true }), "to let them pass: iptables -I FORWARD" + answers},
		{"docker, and off", false, with(func(c *forwardChain) { c.dockered = true }), "sysctl -w net.ipv4.ip_forward=1; iptables -I DOCKER-USER -i br -j ACCEPT; iptables -I DOCKER-USER" + answers},
		{"IPv6", true, with(func(c *forwardChain) { c.ipv6 = true }), ""},
		{"bridge", true, with(func(c *forwardChain) { c.bridge = true }), ""},
		{"inet", true, with(func(c *forwardChain) { c.inet, c.table = true, "mine" }), "nft insert rule inet mine FORWARD iifname br accept; nft insert rule inet mine FORWARD oifname br ct state related,established accept"},
	} {
		got := routingHazard("br", c.forwards, c.chains)
		if (got == "") != (c.says == "") || !strings.HasSuffix(got, c.says) {
			t.Errorf("%s: %q, want %q at the end", c.name, got, c.says)
		}
	}
}

// TestRoutingHazardKernel: against the kernel's own switch and nftables.
func TestRoutingHazardKernel(t *testing.T) {
	inNamespace(t)
	want := func(what, says string) {
		t.Helper()
		if sentence, bad := RoutingHazard("ripstop"); bad != (says != "") || !strings.Contains(sentence, says) {
			t.Errorf("%s: %q, want %q in it", what, sentence, says)
		}
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	want("forwarding off", "sysctl -w")
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	want("forwarding on", "")
	nft := newNFT(t)
	nft.chain("filter", "FORWARD", nfDrop)
	want("policy drop", "-i ripstop -j ACCEPT; iptables")
	nft.chainAt(unix.NF_INET_LOCAL_IN, "filter", "INPUT", nfAccept)
	nft.accept("filter", "INPUT", "ripstop")
	want("what the host itself accepts", "-i ripstop -j ACCEPT; iptables")
	nft.accept("filter", "FORWARD", "ripstop")
	want("one way", "to let them pass: iptables -I FORWARD -o ripstop -m conntrack")
	nft.acceptBy(unix.NFT_META_OIFNAME, "filter", "FORWARD", "ripstop")
	want("both ways", "")
	nft.chain("other", "FORWARD", nfDrop)
	nft.accept("other", "FORWARD", "ripstop")
	nft.acceptState(1<<3, "other", "FORWARD")
	want("what is new", "oifname ripstop ct state related,established accept")
	nft.acceptState(ctEstablished, "other", "FORWARD")
	want("answers to whomever", "")
}

// TestForwardingHazardNFT: against the kernel's own nftables.
func TestForwardingHazardNFT(t *testing.T) {
	inNamespace(t)
	sysctlOn(t)
	if sentence, bad := ForwardingHazard("ripstop"); bad {
		t.Errorf("without a firewall: %s", sentence)
	}
	nft := newNFT(t)
	nft.chain("filter", "FORWARD", nfDrop)
	sentence, bad := ForwardingHazard("ripstop")
	if !bad || !strings.Contains(sentence, "iptables -I FORWARD -i ripstop -o ripstop -j ACCEPT") {
		t.Errorf("%q, %v", sentence, bad)
	}
	t.Log(sentence)
	nft.accept("filter", "FORWARD", "other0")
	if _, bad := ForwardingHazard("ripstop"); !bad {
		t.Error("another bridge's rule was taken for ours")
	}
	nft.accept("filter", "FORWARD", "ripstop")
	if sentence, bad := ForwardingHazard("ripstop"); bad {
		t.Errorf("with a rule for the bridge: %s", sentence)
	}
	nft.chain("strict", "forward", nfDrop)
	if sentence, bad := ForwardingHazard("ripstop"); !bad || !strings.Contains(sentence, "nft insert rule ip strict forward") {
		t.Errorf("%q, %v", sentence, bad)
	}
	if err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	if sentence, bad := ForwardingHazard("ripstop"); bad {
		t.Errorf("with bridge-nf-call-iptables 0: %s", sentence)
	}
	// A chain of the bridges needs no such switch.
	nft.family = unix.NFPROTO_BRIDGE
	nft.chain("mine", "forward", nfDrop)
	if sentence, bad := ForwardingHazard("ripstop"); !bad || !strings.Contains(sentence, "nft insert rule bridge mine forward meta ibrname ripstop accept") {
		t.Errorf("%q, %v", sentence, bad)
	}
	nft.accept("mine", "forward", "ripstop") // of ibrname the comparison is the same, but not every kernel has it
	if sentence, bad := ForwardingHazard("ripstop"); bad {
		t.Errorf("with a rule for the bridge: %s", sentence)
	}
}

func sysctlOn(t *testing.T) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("1"), 0); err != nil {
		t.Skipf("this kernel has no br_netfilter: %v", err)
	}
}

// nft makes tables, chains and rules by hand, so that the test needs no program.
type nft struct {
	t      *testing.T
	fd     int
	family uint8
}

func newNFT(t *testing.T) nft {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return nft{t, fd, unix.NFPROTO_IPV4}
}

func attribute(kind int, parts ...[]byte) []byte {
	value := bytes.Join(parts, nil)
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, uint16(kind))
	b = append(b, value...)
	return append(b, make([]byte, (4-len(value)%4)%4)...)
}

func text(kind int, s string) []byte { return attribute(kind, append([]byte(s), 0)) }

func word(kind int, v uint32) []byte { return attribute(kind, binary.BigEndian.AppendUint32(nil, v)) }

// batch sends messages of (type, attributes) as one transaction.
func (n nft) batch(messages ...[]byte) {
	n.t.Helper()
	message := func(kind, flags uint16, family byte, resource uint16, attrs []byte) []byte {
		b := binary.NativeEndian.AppendUint32(nil, uint32(20+len(attrs)))
		b = binary.NativeEndian.AppendUint16(b, kind)
		b = binary.NativeEndian.AppendUint16(b, flags)
		b = append(b, make([]byte, 8)...)
		b = append(b, family, 0, byte(resource>>8), byte(resource))
		return append(b, attrs...)
	}
	all := message(unix.NFNL_MSG_BATCH_BEGIN, unix.NLM_F_REQUEST, 0, unix.NFNL_SUBSYS_NFTABLES, nil)
	for _, m := range messages {
		all = append(all, message(unix.NFNL_SUBSYS_NFTABLES<<8|uint16(m[0]), unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_APPEND, n.family, 0, m[1:])...)
	}
	all = append(all, message(unix.NFNL_MSG_BATCH_END, unix.NLM_F_REQUEST, 0, unix.NFNL_SUBSYS_NFTABLES, nil)...)
	if err := unix.Sendto(n.fd, all, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		n.t.Fatal(err)
	}
	answer := make([]byte, 4096)
	for range messages {
		count, _, err := unix.Recvfrom(n.fd, answer, 0)
		if err != nil || count < 20 {
			n.t.Fatal(count, err)
		}
		if code := int32(binary.NativeEndian.Uint32(answer[16:])); code != 0 {
			n.t.Fatalf("nftables: %v", unix.Errno(-code))
		}
	}
}

func (n nft) chain(table, name string, policy uint32) {
	n.t.Helper()
	n.chainAt(unix.NF_INET_FORWARD, table, name, policy)
}

func (n nft) chainAt(hook uint32, table, name string, policy uint32) {
	n.t.Helper()
	n.batch(
		append([]byte{unix.NFT_MSG_NEWTABLE}, text(unix.NFTA_TABLE_NAME, table)...),
		append([]byte{unix.NFT_MSG_NEWCHAIN}, bytes.Join([][]byte{
			text(unix.NFTA_CHAIN_TABLE, table), text(unix.NFTA_CHAIN_NAME, name), text(unix.NFTA_CHAIN_TYPE, "filter"),
			attribute(unix.NFTA_CHAIN_HOOK|unix.NLA_F_NESTED, word(unix.NFTA_HOOK_HOOKNUM, hook), word(unix.NFTA_HOOK_PRIORITY, 0)),
			word(unix.NFTA_CHAIN_POLICY, policy),
		}, nil)...),
	)
}

// accept adds: iifname NAME counter accept.
func (n nft) accept(table, chain, name string) {
	n.t.Helper()
	n.acceptBy(unix.NFT_META_IIFNAME, table, chain, name)
}

// acceptBy is accept by where a packet comes from, or goes to.
func (n nft) acceptBy(key uint32, table, chain, name string) {
	n.t.Helper()
	padded := make([]byte, 16)
	copy(padded, name)
	n.acceptIf(table, chain,
		expression("meta", word(unix.NFTA_META_DREG, unix.NFT_REG_1), word(unix.NFTA_META_KEY, key)),
		expression("cmp", word(unix.NFTA_CMP_SREG, unix.NFT_REG_1), word(unix.NFTA_CMP_OP, unix.NFT_CMP_EQ), value(unix.NFTA_CMP_DATA, padded)),
	)
}

// acceptState accepts what has one of the bits in its connection's state.
func (n nft) acceptState(bits uint32, table, chain string) {
	n.t.Helper()
	n.acceptIf(table, chain,
		expression("ct", word(unix.NFTA_CT_DREG, unix.NFT_REG_1), word(unix.NFTA_CT_KEY, unix.NFT_CT_STATE)),
		expression("bitwise", word(unix.NFTA_BITWISE_SREG, unix.NFT_REG_1), word(unix.NFTA_BITWISE_DREG, unix.NFT_REG_1), word(unix.NFTA_BITWISE_LEN, 4),
			value(unix.NFTA_BITWISE_MASK, binary.NativeEndian.AppendUint32(nil, bits)), value(unix.NFTA_BITWISE_XOR, make([]byte, 4))),
		expression("cmp", word(unix.NFTA_CMP_SREG, unix.NFT_REG_1), word(unix.NFTA_CMP_OP, unix.NFT_CMP_NEQ), value(unix.NFTA_CMP_DATA, make([]byte, 4))),
	)
}

func (n nft) acceptIf(table, chain string, expressions ...[]byte) {
	n.t.Helper()
	expressions = append(expressions, expression("counter"), expression("immediate", word(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT),
		attribute(unix.NFTA_IMMEDIATE_DATA|unix.NLA_F_NESTED, attribute(unix.NFTA_DATA_VERDICT|unix.NLA_F_NESTED, word(unix.NFTA_VERDICT_CODE, nfAccept)))))
	n.batch(append([]byte{unix.NFT_MSG_NEWRULE}, bytes.Join([][]byte{
		text(unix.NFTA_RULE_TABLE, table), text(unix.NFTA_RULE_CHAIN, chain),
		attribute(unix.NFTA_RULE_EXPRESSIONS|unix.NLA_F_NESTED, expressions...),
	}, nil)...))
}

func expression(name string, data ...[]byte) []byte {
	return attribute(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, text(unix.NFTA_EXPR_NAME, name), attribute(unix.NFTA_EXPR_DATA|unix.NLA_F_NESTED, data...))
}

func value(kind int, b []byte) []byte {
	return attribute(kind|unix.NLA_F_NESTED, attribute(unix.NFTA_DATA_VALUE, b))
}

// TestForwardingHazardLegacy: against iptables' own tables, made by asking for
// them; the policy is changed in the blob that the kernel gave.
func TestForwardingHazardLegacy(t *testing.T) {
	inNamespace(t)
	sysctlOn(t)
	info, blob, ok := legacyEntries(unix.AF_INET, unix.SOL_IP)
	if !ok {
		t.Skip("this kernel has no iptables of its own")
	}
	if sentence, bad := ForwardingHazard("ripstop"); bad {
		t.Errorf("policy accept: %s", sentence)
	}
	policy := int(binary.NativeEndian.Uint32(info[xtInfoPolicy+4*unix.NF_INET_FORWARD:]))
	verdict := blob[policy+layoutIPv4.size+targetHeader:]
	drop := int32(verdictDrop)
	binary.NativeEndian.PutUint32(verdict, uint32(drop))
	replaceLegacy(t, info, blob)
	sentence, bad := ForwardingHazard("ripstop")
	if !bad || !strings.Contains(sentence, "iptables -I FORWARD -i ripstop") {
		t.Errorf("%q, %v", sentence, bad)
	}
}

// replaceLegacy gives the kernel a table (struct ipt_replace).
func replaceLegacy(t *testing.T, info, blob []byte) {
	t.Helper()
	entries := binary.NativeEndian.Uint32(info[xtInfoSize-4:])
	counters := make([]byte, 16*entries)
	b := make([]byte, 96, 96+len(blob))
	copy(b, "filter")
	copy(b[32:], info[32:36])                                // hooks
	binary.NativeEndian.PutUint32(b[36:], entries)           //
	binary.NativeEndian.PutUint32(b[40:], uint32(len(blob))) //
	copy(b[44:], info[xtInfoFirst:xtInfoFirst+40])           // first entries and policies
	binary.NativeEndian.PutUint32(b[84:], entries)           // counters to give back, and where to
	binary.NativeEndian.PutUint64(b[88:], uint64(uintptr(unsafe.Pointer(&counters[0]))))
	b = append(b, blob...)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptString(fd, unix.SOL_IP, 64, string(b)); err != nil {
		t.Fatal(err)
	}
}

// TestReadEntries: rules of iptables' own, and every way they can be cut short.
func TestReadEntries(t *testing.T) {
	entry := func(in, out string, verdict int32) []byte {
		l := layoutIPv4
		b := make([]byte, l.size+40)
		copy(b[l.in:], in)
		copy(b[l.out:], out)
		binary.NativeEndian.PutUint16(b[l.targetOffset:], uint16(l.size))
		binary.NativeEndian.PutUint16(b[l.targetOffset+2:], uint16(len(b)))
		binary.NativeEndian.PutUint16(b[l.size:], 40)
		binary.NativeEndian.PutUint32(b[l.size+targetHeader:], uint32(verdict))
		return b
	}
	inverted := func(entry []byte, flags byte) []byte {
		entry[layoutIPv4.invert] = flags
		return entry
	}
	asking := func(match string) []byte {
		e, l := entry("", "", verdictAllow), layoutIPv4
		m := make([]byte, 40)
		binary.NativeEndian.PutUint16(m, 40)
		copy(m[2:], match)
		binary.NativeEndian.PutUint16(e[l.targetOffset:], uint16(l.size+40))
		binary.NativeEndian.PutUint16(e[l.targetOffset+2:], uint16(len(e)+40))
		return slices.Insert(e, l.size, m...)
	}
	size := layoutIPv4.size + 40
	for _, c := range []struct {
		name           string
		rules          [][]byte // of FORWARD, the policy last
		drops, accepts bool
		out, back      bool
	}{
		{"policy drop", [][]byte{entry("", "", verdictDrop)}, true, false, false, false},
		{"policy accept", [][]byte{entry("", "", verdictAllow)}, false, false, false, false},
		{"ours", [][]byte{entry("br", "br", verdictAllow), entry("", "", verdictDrop)}, true, true, false, false},
		{"from ours", [][]byte{entry("br", "", verdictAllow), entry("", "", verdictDrop)}, true, true, true, false},
		{"ours to another", [][]byte{entry("br", "eth0", verdictAllow), entry("", "", verdictDrop)}, true, false, true, false},
		{"longer name", [][]byte{entry("br0", "br0", verdictAllow), entry("", "", verdictDrop)}, true, false, false, false},
		{"all", [][]byte{entry("", "", verdictAllow), entry("", "", verdictDrop)}, true, true, true, true},
		{"ours dropped", [][]byte{entry("br", "br", verdictDrop), entry("", "", verdictDrop)}, true, false, false, false},
		{"to ours", [][]byte{entry("", "br", verdictAllow), entry("", "", verdictDrop)}, true, true, false, true},
		{"answers", [][]byte{asking("conntrack"), entry("", "", verdictDrop)}, true, false, false, true},
		{"something else", [][]byte{asking("tcp"), entry("", "", verdictDrop)}, true, false, false, false},
		{"from ours to others", [][]byte{inverted(entry("br", "br", verdictAllow), 2), entry("", "", verdictDrop)}, true, true, true, false},
	} {
		input := entry("", "", verdictAllow) // another chain's policy is no rule of ours
		blob := append(bytes.Clone(input), bytes.Join(c.rules, nil)...)
		policy := len(blob) - size
		got, ok := readEntries(layoutIPv4, blob, size, policy, "br")
		if !ok || got != (forwardChain{drops: c.drops, accepts: c.accepts, out: c.out, back: c.back}) {
			t.Errorf("%s: %+v, %v", c.name, got, ok)
		}
		for n := range blob {
			readEntries(layoutIPv4, blob[:n], size, policy, "br") // must not panic
			if _, ok := readEntries(layoutIPv4, blob[:n], size, policy, "br"); ok && n < policy+size {
				t.Errorf("%s: %d bytes were enough", c.name, n)
			}
		}
	}
}
