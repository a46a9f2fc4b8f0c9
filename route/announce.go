package route

import (
	"net/netip"
	"slices"
	"time"

	"ripstop/crypto"
)

// AppendGratuitousARP appends the broadcast frame (42 bytes) that tells a bridge's
// ports that an IPv4 address is now at mac (RFC 5227 section 3). For any other
// address it appends nothing.
func AppendGratuitousARP(dst []byte, mac MAC, address netip.Addr) []byte {
	if address = plain(address); !address.Is4() {
		return dst
	}
	var b [ethernetLen + arpLen]byte
	putEthernet(b[:], Broadcast, mac, typeARP)
	ARP{
		Operation:     arpRequest,
		SenderMAC:     mac,
		SenderAddress: address.As4(),
		TargetAddress: address.As4(),
	}.put(b[ethernetLen:])
	return append(dst, b[:]...)
}

// AppendUnsolicitedNA appends the frame to all nodes (86 bytes) that tells a
// bridge's ports that an IPv6 address is now at mac (RFC 4861 section 7.2.6). For
// any other address it appends nothing.
func AppendUnsolicitedNA(dst []byte, mac MAC, address netip.Addr) []byte {
	if address = plain(address); !address.Is6() {
		return dst
	}
	var b [ndAnswerLen]byte
	putND(b[:], MAC{0x33, 0x33, 0, 0, 0, 1}, mac, allNodes, address.As16(), ndOverride)
	return append(dst, b[:]...)
}

// AppendAnnouncement is AppendGratuitousARP or AppendUnsolicitedNA.
func AppendAnnouncement(dst []byte, mac MAC, address netip.Addr) []byte {
	return AppendUnsolicitedNA(AppendGratuitousARP(dst, mac, address), mac, address)
}

const (
	announceKeep = 20 * time.Minute // how long a departed address is remembered
	announceMost = 65536            // how many are
)

// Announcement says that an address is at another MAC or host than before. One
// frame of AppendAnnouncement is to be written to the TAP of its VNI.
type Announcement struct {
	VNI     VNI
	Address netip.Addr
	MAC     MAC
	Host    crypto.Name
}

// Announcer finds addresses that change MAC or host, also when they were nobody's
// for a while in between. It is for one goroutine. The zero Announcer is ready.
type Announcer struct {
	known map[announceKey]*announced
	gone  int
	round uint64
}

type announceKey struct {
	vni     VNI
	address netip.Addr
}

type announced struct {
	mac   MAC
	host  crypto.Name
	round uint64    // of the Update that saw it last
	gone  time.Time // since when it is nobody's; zero: it is somebody's
}

// Update compares t with what was known and returns what is to be announced here,
// sorted by VNI and address: changes to endpoints on other hosts only, because an
// endpoint here announces itself, and its MAC must never be a frame's source on the
// TAP. The first Update announces nothing. It looks at every endpoint: call it when
// endpoints changed.
func (a *Announcer) Update(now time.Time, t *Table) []Announcement {
	if a.known == nil {
		a.known = make(map[announceKey]*announced)
	}
	a.round++
	var changes []Announcement
	for _, e := range t.directory.Holding() {
		for _, address := range e.Addresses {
			key := announceKey{e.VNI, plain(address)}
			k := a.known[key]
			if k == nil {
				k = &announced{mac: e.MAC, host: e.Host}
				a.known[key] = k
			}
			if !k.gone.IsZero() {
				k.gone = time.Time{}
				a.gone--
			}
			if (k.mac != e.MAC || k.host != e.Host) && e.Host != t.self {
				changes = append(changes, Announcement{e.VNI, key.address, e.MAC, e.Host})
			}
			k.mac, k.host, k.round = e.MAC, e.Host, a.round
		}
	}
	for key, k := range a.known {
		switch {
		case k.round == a.round:
		case k.gone.IsZero() && a.gone < announceMost:
			k.gone = now
			a.gone++
		case k.gone.IsZero():
			delete(a.known, key)
		case now.Sub(k.gone) > announceKeep:
			delete(a.known, key)
			a.gone--
		}
	}
	slices.SortFunc(changes, func(x, y Announcement) int {
		if x.VNI != y.VNI {
			return int(x.VNI) - int(y.VNI)
		}
		return x.Address.Compare(y.Address)
	})
	return changes
}
