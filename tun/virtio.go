package tun

import (
	"encoding/binary"
)

// The virtio header as the kernel puts it in front of each frame, in the byte
// order of the machine (struct virtio_net_hdr_v1 and, from byte 10 on, the fields
// of struct virtio_net_hdr_v1_hash_tunnel in include/uapi/linux/virtio_net.h):
//
//	 0      1      2      4      6         8            10       12    16      18    20       22
//	+------+------+------+------+---------+------------+--------+-----+-------+-----+--------+--------+
//	|flags | type |hdrlen| size | csum at | csum offset| nbufs  |hash |report | pad |outer L4|inner L3|
//	+------+------+------+------+---------+------------+--------+-----+-------+-----+--------+--------+
//	|<------------------ 10 bytes -------------------->|<--------- only with 24 bytes -------------->|
const (
	virtioFlags     = 0
	virtioType      = 1
	virtioHeaderLen = 2
	virtioSize      = 4
	virtioStart     = 6
	virtioOffset    = 8
	virtioOuterL4   = 20
	virtioInnerL3   = 22

	flagNeedsChecksum = 0x01 // VIRTIO_NET_HDR_F_NEEDS_CSUM
	flagDataValid     = 0x02 // VIRTIO_NET_HDR_F_DATA_VALID: checked already, nothing to do
	flagOuterChecksum = 0x08 // VIRTIO_NET_HDR_F_UDP_TUNNEL_CSUM

	gsoECN     = 0x80 // VIRTIO_NET_HDR_GSO_ECN
	gsoTunnel4 = 0x20 // VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV4
	gsoTunnel6 = 0x40 // VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV6
	gsoTunnel  = gsoTunnel4 | gsoTunnel6
)

// getVirtio reads a header of 10 or 24 bytes. It is false when the header says
// something of the frame that is not known here: such a frame is dropped, for
// guessing would corrupt it.
func getVirtio(h []byte) (Offload, bool) {
	flags, kind := h[virtioFlags], h[virtioType]
	if flags == 0 && kind == 0 {
		return Offload{}, true
	}
	tunnelled := kind & gsoTunnel
	if flags&^(flagNeedsChecksum|flagDataValid|flagOuterChecksum) != 0 ||
		tunnelled == gsoTunnel || tunnelled != 0 && len(h) < virtioTunnelHeader {
		return Offload{}, false
	}
	o := Offload{
		NeedsChecksum: flags&flagNeedsChecksum != 0,
		Type:          GSOType(kind &^ (gsoECN | gsoTunnel)),
		ECN:           kind&gsoECN != 0,
	}
	switch o.Type {
	case GSONone:
		if kind != 0 {
			return Offload{}, false
		}
	case GSOTCPv4, GSOTCPv6, GSOUDP:
		o.HeaderLen = binary.NativeEndian.Uint16(h[virtioHeaderLen:])
		o.SegmentSize = binary.NativeEndian.Uint16(h[virtioSize:])
	default:
		return Offload{}, false
	}
	if o.NeedsChecksum {
		o.ChecksumStart = binary.NativeEndian.Uint16(h[virtioStart:])
		o.ChecksumOffset = binary.NativeEndian.Uint16(h[virtioOffset:])
	}
	if tunnelled != 0 {
		o.OuterL4 = binary.NativeEndian.Uint16(h[virtioOuterL4:])
		o.InnerL3 = binary.NativeEndian.Uint16(h[virtioInnerL3:])
	}
	return o, true
}

// putVirtio writes a header of len(h) bytes for a frame that begins with the bytes
// of frame: the version of a tunnel's outer IP header and whether its UDP sum is
// used stand in the frame alone.
func putVirtio(h []byte, o *Offload, frame []byte) {
	clear(h)
	if !o.NeedsChecksum && o.Type == GSONone {
		return
	}
	kind := byte(o.Type)
	if o.NeedsChecksum {
		h[virtioFlags] = flagNeedsChecksum
		binary.NativeEndian.PutUint16(h[virtioStart:], o.ChecksumStart)
		binary.NativeEndian.PutUint16(h[virtioOffset:], o.ChecksumOffset)
	}
	if o.Type != GSONone {
		binary.NativeEndian.PutUint16(h[virtioHeaderLen:], o.HeaderLen)
		binary.NativeEndian.PutUint16(h[virtioSize:], o.SegmentSize)
		if o.ECN {
			kind |= gsoECN
		}
	}
	if o.OuterL4 != 0 && len(h) >= virtioTunnelHeader {
		if outerIPv6(frame) {
			kind |= gsoTunnel6
		} else {
			kind |= gsoTunnel4
		}
		if sum := int(o.OuterL4) + 6; sum+2 <= len(frame) && (frame[sum] != 0 || frame[sum+1] != 0) {
			h[virtioFlags] |= flagOuterChecksum
		}
		binary.NativeEndian.PutUint16(h[virtioOuterL4:], o.OuterL4)
		binary.NativeEndian.PutUint16(h[virtioInnerL3:], o.InnerL3)
	}
	h[virtioType] = kind
}

// outerIPv6 tells whether the first IP header of a frame, behind any VLAN tags, is
// of version 6.
func outerIPv6(frame []byte) bool {
	for at := 12; at+2 <= len(frame); at += 4 {
		switch binary.BigEndian.Uint16(frame[at:]) {
		case etherVLAN, etherServiceVLAN:
		default:
			return binary.BigEndian.Uint16(frame[at:]) == etherIPv6
		}
	}
	return false
}
