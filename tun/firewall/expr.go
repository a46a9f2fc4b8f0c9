package firewall

import (
	"encoding/binary"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Rules are lists of expressions that pass a value on in registers. Here register 1
// (16 bytes) holds what is compared or looked up, or the port's name when register 2
// holds the second part of a key. An expression that cannot load its bytes (the
// frame ends before them, or has no such header) ends its rule, not the frame.

// Where bytes are loaded from.
const (
	link      = expr.PayloadBaseLLHeader
	network   = expr.PayloadBaseNetworkHeader
	transport = expr.PayloadBaseTransportHeader // behind IP options and extension headers
)

// rule joins expressions and lists of them.
func rule(parts ...any) []expr.Any {
	var out []expr.Any
	for _, p := range parts {
		switch p := p.(type) {
		case expr.Any:
			out = append(out, p)
		case []expr.Any:
			out = append(out, p...)
		}
	}
	return out
}

func meta(key expr.MetaKey) expr.Any { return &expr.Meta{Key: key, Register: 1} }

func loadPort() expr.Any { return meta(expr.MetaKeyIIFNAME) }

func load(base expr.PayloadBase, off, length uint32) expr.Any {
	return &expr.Payload{DestRegister: 1, Base: base, Offset: off, Len: length}
}

// portAnd loads the key of a set that is keyed by port and something more.
func (t *Table) portAnd(base expr.PayloadBase, off, length uint32) []expr.Any {
	return []expr.Any{loadPort(), &expr.Payload{DestRegister: 2, Base: base, Offset: off, Len: length}}
}

func (t *Table) in(set string) expr.Any {
	return &expr.Lookup{SourceRegister: 1, SetName: set, SetID: t.sets[set].ID}
}

func (t *Table) notIn(set string) expr.Any {
	return &expr.Lookup{SourceRegister: 1, SetName: set, SetID: t.sets[set].ID, Invert: true}
}

// mapped does what the map says of register 1; without an element the next rule
// follows.
func (t *Table) mapped(set string) expr.Any {
	return &expr.Lookup{SourceRegister: 1, SetName: set, SetID: t.sets[set].ID, IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT}
}

func equal(b ...byte) expr.Any   { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: b} }
func differs(b ...byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: b} }

func l4proto(proto byte) []expr.Any {
	return []expr.Any{meta(expr.MetaKeyL4PROTO), equal(proto)}
}

// protocol compares the EtherType behind a tag that the kernel took off.
func protocol(v uint16) []expr.Any {
	return []expr.Any{meta(expr.MetaKeyPROTOCOL), equal(binary.BigEndian.AppendUint16(nil, v)...)}
}

func fromUnspecified() []expr.Any {
	return []expr.Any{load(network, offIPv6Source, 16), equal(make([]byte, 16)...)}
}

func verdict(kind expr.VerdictKind, chain string) expr.Any {
	return &expr.Verdict{Kind: kind, Chain: chain}
}

func accept() expr.Any           { return verdict(expr.VerdictAccept, "") }
func jump(chain string) expr.Any { return verdict(expr.VerdictJump, chain) }

// drop goes where the cause is counted.
func drop(cause Cause) []expr.Any {
	return []expr.Any{verdict(expr.VerdictGoto, cause.chain())}
}
