package tun

// OffloadMask is a set of TUN_F_ bits (include/uapi/linux/if_tun.h): what the
// kernel may leave undone in frames it hands over. Writing such frames needs no bit.
type OffloadMask uint16

// The bits. golang.org/x/sys has no name for the last two.
const (
	OffloadChecksum       OffloadMask = 0x01 // unfinished checksums
	OffloadTSO4           OffloadMask = 0x02
	OffloadTSO6           OffloadMask = 0x04
	OffloadECN            OffloadMask = 0x08 // TCP super-frames with CWR
	OffloadUSO4           OffloadMask = 0x20
	OffloadUSO6           OffloadMask = 0x40
	OffloadTunnel         OffloadMask = 0x80  // super-frames inside a UDP tunnel
	OffloadTunnelChecksum OffloadMask = 0x100 // the same with an outer checksum

	offloadTCP = OffloadTSO4 | OffloadTSO6 | OffloadECN
	offloadUDP = OffloadUSO4 | OffloadUSO6
	offloadTun = OffloadTunnel | OffloadTunnelChecksum

	// OffloadAll asks for whatever the kernel has.
	OffloadAll = OffloadChecksum | offloadTCP | offloadUDP | offloadTun
)

// The sizes of the virtio header: the first as old as the TAP, the second with
// the fields of a UDP tunnel.
const (
	virtioHeader       = 10
	virtioTunnelHeader = 24
)

// offloadLadder are the words tried from the top down: each is something some
// kernel since 2.6.27 accepts (0x1ef 6.17, 0x6f 6.2).
var offloadLadder = [...]OffloadMask{
	OffloadAll,
	OffloadChecksum | offloadTCP | offloadUDP,
	OffloadChecksum | offloadTCP,
	OffloadChecksum,
	0,
}

// steps are the words to try for a wish, greatest first, without repetition and
// ending with 0. The kernel refuses a word as a whole when a bit lacks what it
// rests on, so each step is made consistent.
func (m OffloadMask) steps() []OffloadMask {
	var steps []OffloadMask
	for _, rung := range offloadLadder {
		step := (rung & m).consistent()
		if len(steps) == 0 || steps[len(steps)-1] != step {
			steps = append(steps, step)
		}
	}
	return steps
}

// consistent drops the bits whose base is missing: all need checksums, the two of
// UDP go only together, ECN needs TSO, and tunnels need all of the rest.
func (m OffloadMask) consistent() OffloadMask {
	m &= OffloadAll
	if m&OffloadChecksum == 0 {
		return 0
	}
	if m&(OffloadTSO4|OffloadTSO6) == 0 {
		m &^= OffloadECN
	}
	if m&offloadUDP != offloadUDP {
		m &^= offloadUDP
	}
	base := OffloadTSO4 | OffloadTSO6 | offloadUDP
	if m&base != base {
		m &^= offloadTun
	}
	if m&OffloadTunnel == 0 {
		m &^= OffloadTunnelChecksum
	}
	return m
}

// header is the size of the virtio header that a word needs: with the tunnel bit
// and less than 24 bytes every read fails with EFAULT.
func (m OffloadMask) header() int {
	if m&OffloadTunnel != 0 {
		return virtioTunnelHeader
	}
	return virtioHeader
}

// capabilities are what an accepted word means.
func (m OffloadMask) capabilities() Capabilities {
	return Capabilities{
		VirtioHeader:   m.header(),
		Checksum:       m&OffloadChecksum != 0,
		TCP:            m&(OffloadTSO4|OffloadTSO6) == OffloadTSO4|OffloadTSO6,
		UDP:            m&offloadUDP == offloadUDP,
		Tunnel:         m&OffloadTunnel != 0,
		TunnelChecksum: m&OffloadTunnelChecksum != 0,
	}
}
