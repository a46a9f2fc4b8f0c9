package gossip

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

const (
	MaxEndpointAddresses = 16
	MaxEndpointNames     = 8
	MaxDNSName           = 253 // characters

	maxEndpointBody = 2560 // 21 + 16×17 + 8×254 and the two counts, rounded up
	maxNameBody     = 1024
)

// EndpointBody is an attached container, namespace or exposed host.
//
//	layout 1 | flags 1 | VNI 2 | MAC 6 | MTU 2 | claim 8 | count 1 | count × (family 1 | address 4 or 16) |
//	count 1 | count × (length 1 | name)
type EndpointBody struct {
	VNI       uint16
	MAC       [6]byte      // unicast, not zero
	MTU       uint16       // bytes of an IP packet that its interface takes; 0 = any, or not known
	Addresses []netip.Addr // at most MaxEndpointAddresses
	Names     []string     // DNS names, at most MaxEndpointNames
	Claim     uint64       // the greater claim holds (DESIGN 8)
	Flags     uint8        // opaque here
}

// Append writes the body behind dst; an error means a limit was exceeded.
func (e EndpointBody) Append(dst []byte) ([]byte, error) {
	if err := checkMAC(e.MAC); err != nil {
		return nil, err
	}
	if len(e.Addresses) > MaxEndpointAddresses {
		return nil, fmt.Errorf("gossip: endpoint: %d addresses, at most %d", len(e.Addresses), MaxEndpointAddresses)
	}
	if len(e.Names) > MaxEndpointNames {
		return nil, fmt.Errorf("gossip: endpoint: %d names, at most %d", len(e.Names), MaxEndpointNames)
	}
	dst = append(dst, bodyLayout, e.Flags)
	dst = binary.BigEndian.AppendUint16(dst, e.VNI)
	dst = append(dst, e.MAC[:]...)
	dst = binary.BigEndian.AppendUint16(dst, e.MTU)
	dst = binary.BigEndian.AppendUint64(dst, e.Claim)
	dst, err := appendAddresses(dst, e.Addresses)
	if err != nil {
		return nil, err
	}
	dst = append(dst, byte(len(e.Names)))
	for _, n := range e.Names {
		if err := checkDNSName(n); err != nil {
			return nil, err
		}
		dst = appendText(dst, n)
	}
	return dst, nil
}

// ParseEndpointBody reads what Append wrote.
func ParseEndpointBody(b []byte) (EndpointBody, error) {
	r := reader{b: b}
	r.layout()
	var e EndpointBody
	e.Flags = r.u8()
	e.VNI = r.u16()
	e.MAC = [6]byte(r.take(6))
	e.MTU = r.u16()
	e.Claim = r.u64()
	e.Addresses = r.addresses(MaxEndpointAddresses)
	n := r.count("names", MaxEndpointNames)
	for range n {
		name := r.dnsName()
		if r.err != nil {
			break
		}
		e.Names = append(e.Names, name)
	}
	if r.err == nil {
		if err := checkMAC(e.MAC); err != nil {
			r.fail(err)
		}
	}
	if err := r.end(); err != nil {
		return EndpointBody{}, err
	}
	return e, nil
}

// NameBody is a DNS name and the addresses it stands for, or a service that an endpoint
// of that name offers.
//
//	layout 1 | flags 1 | length 1 | name | count 1 | count × (family 1 | address 4 or 16) | port 2
type NameBody struct {
	Name      string
	Addresses []netip.Addr // at most MaxEndpointAddresses
	Port      uint16       // of a service; 0 = it is none
	Flags     uint8        // opaque here
}

// Append writes the body behind dst; an error means a limit was exceeded.
func (n NameBody) Append(dst []byte) ([]byte, error) {
	if err := checkDNSName(n.Name); err != nil {
		return nil, err
	}
	if len(n.Addresses) > MaxEndpointAddresses {
		return nil, fmt.Errorf("gossip: name: %d addresses, at most %d", len(n.Addresses), MaxEndpointAddresses)
	}
	dst = append(dst, bodyLayout, n.Flags)
	dst = appendText(dst, n.Name)
	dst, err := appendAddresses(dst, n.Addresses)
	return binary.BigEndian.AppendUint16(dst, n.Port), err
}

// ParseNameBody reads what Append wrote.
func ParseNameBody(b []byte) (NameBody, error) {
	r := reader{b: b}
	r.layout()
	var n NameBody
	n.Flags = r.u8()
	n.Name = r.dnsName()
	n.Addresses = r.addresses(MaxEndpointAddresses)
	n.Port = r.u16()
	if err := r.end(); err != nil {
		return NameBody{}, err
	}
	return n, nil
}

// HintBody says how much address space a host could give away.
//
//	layout 1 | free blocks 4 | free addresses 4
type HintBody struct {
	FreeBlocks    uint32
	FreeAddresses uint32
}

// Append writes the body behind dst.
func (h HintBody) Append(dst []byte) ([]byte, error) {
	dst = append(dst, bodyLayout)
	dst = binary.BigEndian.AppendUint32(dst, h.FreeBlocks)
	return binary.BigEndian.AppendUint32(dst, h.FreeAddresses), nil
}

// ParseHintBody reads what Append wrote.
func ParseHintBody(b []byte) (HintBody, error) {
	r := reader{b: b}
	r.layout()
	h := HintBody{FreeBlocks: r.u32(), FreeAddresses: r.u32()}
	if err := r.end(); err != nil {
		return HintBody{}, err
	}
	return h, nil
}

// appendAddresses writes a count of one byte and the addresses.
func appendAddresses(dst []byte, list []netip.Addr) ([]byte, error) {
	dst = append(dst, byte(len(list)))
	for _, a := range list {
		if err := checkOverlay(a); err != nil {
			return nil, err
		}
		dst = appendAddr(dst, a)
	}
	return dst, nil
}

func (r *reader) addresses(limit int) []netip.Addr {
	var list []netip.Addr
	for range r.count("addresses", limit) {
		a := r.addr()
		if r.err == nil {
			if err := checkOverlay(a); err != nil {
				r.fail(err)
			}
		}
		if r.err != nil {
			return nil
		}
		list = append(list, a)
	}
	return list
}

func (r *reader) dnsName() string {
	s := string(r.take(r.count("name bytes", MaxDNSName)))
	if r.err == nil {
		if err := checkDNSName(s); err != nil {
			r.fail(err)
		}
	}
	return s
}

// checkMAC refuses what no single interface has.
func checkMAC(m [6]byte) error {
	if m == [6]byte{} || m[0]&1 != 0 {
		return fmt.Errorf("gossip: %x is no interface's MAC", m)
	}
	return nil
}

// checkOverlay refuses addresses that no endpoint can have.
func checkOverlay(a netip.Addr) error {
	if !a.IsValid() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
		return fmt.Errorf("gossip: %v is no endpoint's address", a)
	}
	return nil
}

// checkDNSName takes lower-case letters, digits, hyphens and underscores in
// labels of 1 to 63 characters, without a dot at the end.
func checkDNSName(s string) error {
	if len(s) == 0 || len(s) > MaxDNSName {
		return fmt.Errorf("gossip: dns name of %d characters", len(s))
	}
	label := 0
	for i := range len(s) {
		c := s[i]
		switch {
		case c == '.':
			if label == 0 {
				return fmt.Errorf("gossip: dns name %q: empty label", s)
			}
			label = 0
			continue
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
			label++
		default:
			return fmt.Errorf("gossip: dns name %q: character %q", s, c)
		}
		if label > 63 {
			return fmt.Errorf("gossip: dns name %q: label longer than 63", s)
		}
	}
	if label == 0 {
		return fmt.Errorf("gossip: dns name %q: empty label", s)
	}
	return nil
}
