package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Rule says what is dropped on its way through one end of a link. The zero value
// lets everything through. Dropped packets vanish without a trace, as they do
// further down a path: no device loses its carrier.
type Rule struct {
	All  bool    // everything
	UDP  bool    // UDP over IPv4 and IPv6, fragments included; every IPv6 fragment
	TCP  bool    // TCP over IPv4 and IPv6
	Loss float64 // this share of everything, 0 to 1, at random
}

// What a tc program tells the kernel to do (include/uapi/linux/pkt_cls.h).
const (
	tcPass = 0 // TC_ACT_OK
	tcDrop = 2 // TC_ACT_SHOT
)

const etherHeader = 14

// program is the rule in classic BPF; it sees the frame from its Ethernet header on.
//
//	random < loss ──yes──► drop
//	EtherType = IPv4 ──► protocol ──┐
//	EtherType = IPv6 ──► next header┴─ = UDP, TCP, fragment ──► drop
//	else pass
func (r Rule) program() []bpf.Instruction {
	if r.All || r.Loss >= 1 {
		return []bpf.Instruction{bpf.RetConstant{Val: tcDrop}}
	}
	var p []bpf.Instruction
	if r.Loss > 0 {
		p = append(p,
			bpf.LoadExtension{Num: bpf.ExtRand},
			bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: uint32(r.Loss * math.MaxUint32), SkipTrue: 1},
			bpf.RetConstant{Val: tcDrop})
	}
	var v4, v6 []uint32
	if r.UDP {
		v4, v6 = append(v4, unix.IPPROTO_UDP), append(v6, unix.IPPROTO_UDP, unix.IPPROTO_FRAGMENT)
	}
	if r.TCP {
		v4, v6 = append(v4, unix.IPPROTO_TCP), append(v6, unix.IPPROTO_TCP)
	}
	p = append(p, dropProtocols(unix.ETH_P_IP, etherHeader+9, v4)...)
	p = append(p, dropProtocols(unix.ETH_P_IPV6, etherHeader+6, v6)...)
	return append(p, bpf.RetConstant{Val: tcPass})
}

// dropProtocols drops frames of etherType whose byte at offset is one of protocols.
func dropProtocols(etherType, offset uint32, protocols []uint32) []bpf.Instruction {
	if len(protocols) == 0 {
		return nil
	}
	p := []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtProto},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: etherType, SkipTrue: uint8(1 + 2*len(protocols))},
		bpf.LoadAbsolute{Off: offset, Size: 1},
	}
	for _, protocol := range protocols {
		p = append(p,
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protocol, SkipTrue: 1},
			bpf.RetConstant{Val: tcDrop})
	}
	return p
}

// Impair sets what is dropped of that which comes in and goes out at this end.
// Captures at this end see what is dropped coming in, and not what is dropped going out.
func (e *End) Impair(in, out Rule) error {
	err := e.host.Do(func() error {
		dev, err := netlink.LinkByName(e.name)
		if err != nil {
			return err
		}
		clsact := &netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: dev.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
		if err := netlink.QdiscAdd(clsact); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("make clsact: %w", err)
		}
		if err := setFilter(dev.Attrs().Index, netlink.HANDLE_MIN_INGRESS, in); err != nil {
			return err
		}
		return setFilter(dev.Attrs().Index, netlink.HANDLE_MIN_EGRESS, out)
	})
	if err != nil {
		return fmt.Errorf("lab: %s: %s: impair: %w", e.host.name, e.name, err)
	}
	return nil
}

const filterPriority = 1

// setFilter puts rule in the place of whatever filter is at parent. The program goes
// in as classic BPF: the netlink package offers only programs loaded by bpf(2), which
// root of a user namespace may not do.
func setFilter(ifindex int, parent uint32, rule Rule) error {
	raw, err := bpf.Assemble(rule.program())
	if err != nil {
		return fmt.Errorf("assemble: %w", err)
	}
	var ops []byte
	for _, op := range raw { // struct sock_filter, in the machine's byte order
		ops = binary.NativeEndian.AppendUint16(ops, op.Op)
		ops = append(ops, op.Jt, op.Jf)
		ops = binary.NativeEndian.AppendUint32(ops, op.K)
	}
	protocol := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
	request := func(command, flags int) *nl.NetlinkRequest {
		r := nl.NewNetlinkRequest(command, flags|unix.NLM_F_ACK)
		r.AddData(&nl.TcMsg{
			Family:  unix.AF_UNSPEC,
			Ifindex: int32(ifindex),
			Parent:  parent,
			Info:    filterPriority<<16 | uint32(protocol),
		})
		return r
	}
	remove := request(unix.RTM_DELTFILTER, 0)
	if _, err := remove.Execute(unix.NETLINK_ROUTE, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove filter: %w", err)
	}
	if rule == (Rule{}) {
		return nil
	}
	add := request(unix.RTM_NEWTFILTER, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	add.AddData(nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated("bpf")))
	options := nl.NewRtAttr(nl.TCA_OPTIONS, nil)
	options.AddRtAttr(nl.TCA_BPF_OPS_LEN, nl.Uint16Attr(uint16(len(raw))))
	options.AddRtAttr(nl.TCA_BPF_OPS, ops)
	options.AddRtAttr(nl.TCA_BPF_FLAGS, nl.Uint32Attr(nl.TCA_BPF_FLAG_ACT_DIRECT))
	add.AddData(options)
	if _, err := add.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("add filter: %w", err)
	}
	return nil
}

// Impair sets one rule for what comes in at every end, which on a link of two
// hosts means both directions.
func (k *Link) Impair(r Rule) error {
	var errs []error
	for _, e := range k.ends {
		errs = append(errs, e.Impair(r, Rule{}))
	}
	return errors.Join(errs...)
}

// Cut drops everything on the link, silently.
func (k *Link) Cut() error { return k.Impair(Rule{All: true}) }

// Heal lets everything through again.
func (k *Link) Heal() error { return k.Impair(Rule{}) }
