package transport

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// ControlKind is the first byte of the body of a TypeControl datagram.
type ControlKind uint8

const (
	ControlProbe   ControlKind = 1
	ControlRequest ControlKind = 2
	ControlReply   ControlKind = 3
)

// ProbeLen is the length of a probe without padding; MaxRequest bounds the body of a
// request and of a reply.
const (
	ProbeLen   = 32
	MaxRequest = 1024
)

// Offsets in a probe, and in requests and replies.
const (
	controlKind = 0

	probeFlags = 1
	probePath  = 2
	probeZero  = 3
	probeID    = 4
	probeMTU   = 12
	probePort  = 14
	probeAddr  = 16

	requestKind = 1
	requestID   = 2
	requestLen  = 10 // bytes in front of the body
)

// Flags of a probe.
const (
	probeAnswer   = 1 << 0
	probeHearsYou = 1 << 1
)

// Probe asks whether a path carries datagrams both ways, and answers such a question.
type Probe struct {
	ID       uint64 // chosen by who asks, repeated in the answer
	Answer   bool
	HearsYou bool           // the sender has had an answer on this path
	Path     PathKind       // the kind of path it was sent on
	MTU      uint16         // bytes of IP packet that the sender knows to pass; 0 = not known
	Observed netip.AddrPort // in an answer: where the probe came from; else the zero value
}

// Append writes the probe, ProbeLen bytes, behind b. Observed is written without zone.
func (p Probe) Append(b []byte) []byte {
	var w [ProbeLen]byte
	w[controlKind] = byte(ControlProbe)
	if p.Answer {
		w[probeFlags] |= probeAnswer
	}
	if p.HearsYou {
		w[probeFlags] |= probeHearsYou
	}
	w[probePath] = byte(p.Path)
	binary.BigEndian.PutUint64(w[probeID:], p.ID)
	binary.BigEndian.PutUint16(w[probeMTU:], p.MTU)
	if p.Observed.IsValid() {
		addr := p.Observed.Addr().As16()
		copy(w[probeAddr:], addr[:])
		binary.BigEndian.PutUint16(w[probePort:], p.Observed.Port())
	}
	return append(b, w[:]...)
}

// ParseProbe reads a probe. Bytes behind it are padding, by which a probe becomes as
// long as the datagrams it speaks for; unknown flags are ignored. An IPv4 address that
// is mapped into IPv6 comes out as IPv4; the unspecified address as no address.
func ParseProbe(b []byte) (Probe, error) {
	if len(b) < ProbeLen {
		return Probe{}, ErrDatagramShort
	}
	if ControlKind(b[controlKind]) != ControlProbe || b[probeZero] != 0 {
		return Probe{}, ErrDatagramField
	}
	p := Probe{
		ID:       binary.BigEndian.Uint64(b[probeID:]),
		Answer:   b[probeFlags]&probeAnswer != 0,
		HearsYou: b[probeFlags]&probeHearsYou != 0,
		Path:     PathKind(b[probePath]),
		MTU:      binary.BigEndian.Uint16(b[probeMTU:]),
	}
	addr := netip.AddrFrom16([16]byte(b[probeAddr:ProbeLen])).Unmap()
	if !addr.IsUnspecified() {
		p.Observed = netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[probePort:]))
	}
	return p, nil
}

// Request is what one host asks another directly, inside the pair's session. It is
// repeated under the same ID until a reply comes or the asker gives up, so the other
// end must take a repetition for what it is.
type Request struct {
	ID   uint64
	Kind uint8  // what is asked; the caller's numbers
	Body []byte // at most MaxRequest bytes
}

// Append writes the request behind b.
func (r Request) Append(b []byte) ([]byte, error) {
	return appendRequest(b, ControlRequest, r.ID, r.Kind, r.Body)
}

// ParseRequest reads a request. Body is a part of b, not a copy.
func ParseRequest(b []byte) (Request, error) {
	id, kind, body, err := parseRequest(b, ControlRequest)
	return Request{ID: id, Kind: kind, Body: body}, err
}

// Reply answers the Request of the same ID and Kind.
type Reply struct {
	ID   uint64
	Kind uint8
	Body []byte // at most MaxRequest bytes
}

// Append writes the reply behind b.
func (r Reply) Append(b []byte) ([]byte, error) {
	return appendRequest(b, ControlReply, r.ID, r.Kind, r.Body)
}

// ParseReply reads a reply. Body is a part of b, not a copy.
func ParseReply(b []byte) (Reply, error) {
	id, kind, body, err := parseRequest(b, ControlReply)
	return Reply{ID: id, Kind: kind, Body: body}, err
}

// appendRequest writes the form that requests and replies share.
func appendRequest(b []byte, control ControlKind, id uint64, kind uint8, body []byte) ([]byte, error) {
	if len(body) > MaxRequest {
		return b, fmt.Errorf("transport: append request: body of %d bytes, at most %d", len(body), MaxRequest)
	}
	b = append(b, byte(control), kind)
	b = binary.BigEndian.AppendUint64(b, id)
	return append(b, body...), nil
}

// parseRequest reads the form that requests and replies share.
func parseRequest(b []byte, control ControlKind) (id uint64, kind uint8, body []byte, err error) {
	if len(b) < requestLen {
		return 0, 0, nil, ErrDatagramShort
	}
	if ControlKind(b[controlKind]) != control || len(b) > requestLen+MaxRequest {
		return 0, 0, nil, ErrDatagramField
	}
	return binary.BigEndian.Uint64(b[requestID:]), b[requestKind], b[requestLen:], nil
}
