package route

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"time"

	"ripstop/crypto"
)

// host is the name of the n-th host of a test; names are in the order of n.
func host(n int) (name crypto.Name) {
	binary.BigEndian.PutUint64(name[:8], uint64(n+1))
	name[15] = byte(n)
	return name
}

// mac is the MAC of the n-th station.
func mac(n int) MAC { return MAC{0x02, 0, 0, byte(n >> 16), byte(n >> 8), byte(n)} }

// addr4 and addr6 are the addresses of the n-th station.
func addr4(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 32 + byte(n>>16), byte(n >> 8), byte(n)})
}

func addr6(n int) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfd, 13: byte(n >> 16), 14: byte(n >> 8), 15: byte(n)})
}

// endpoint is the n-th station, with both addresses, on a host.
func endpoint(n, on int) Endpoint {
	return Endpoint{MAC: mac(n), Addresses: []netip.Addr{addr4(n), addr6(n)}, Host: host(on), Claim: 1}
}

// both are the two published directions of one link.
func both(a, b int, rtt time.Duration) []Link {
	return []Link{{A: host(a), B: host(b), RTT: rtt}, {A: host(b), B: host(a), RTT: rtt}}
}

// numbers gives host n the PeerID n+1.
func numbers(hosts int) map[crypto.Name]PeerID {
	m := make(map[crypto.Name]PeerID)
	for n := range hosts {
		m[host(n)] = PeerID(n + 1)
	}
	return m
}

// allUp says that all of a host's links in a graph are up.
func allUp(g *Graph) map[crypto.Name]bool {
	m := make(map[crypto.Name]bool)
	for _, n := range g.Neighbours() {
		m[n] = true
	}
	return m
}

// table builds host self's table with all links up.
func table(self, hosts int, links []Link, endpoints []Endpoint) *Table {
	g := BuildGraph(host(self), links)
	peers := numbers(hosts)
	delete(peers, host(self))
	return Build(TableConfig{Self: host(self), Peers: peers, Graph: g, LinksUp: allUp(g), Endpoints: endpoints})
}

// randomLinks draws a topology: each pair is linked with probability p, with few
// distinct costs or, half the time, one, so that equal paths are common. Some ends
// publish nothing.
func randomLinks(r *rand.Rand, hosts int, p float64) []Link {
	var links []Link
	kinds := 1 + 2*r.IntN(2)
	for a := range hosts {
		for b := range a {
			if r.Float64() >= p {
				continue
			}
			for _, l := range both(a, b, 0) {
				l.RTT = time.Duration(r.IntN(kinds)) * time.Millisecond
				l.Loss = float64(r.IntN(kinds)) / 100
				if r.IntN(20) > 0 {
					links = append(links, l)
				}
			}
		}
	}
	r.Shuffle(len(links), func(i, j int) { links[i], links[j] = links[j], links[i] })
	return links
}

// Frames.

func ethernetFrame(dst, src MAC, etherType uint16, payload []byte) []byte {
	b := make([]byte, ethernetLen, ethernetLen+len(payload))
	putEthernet(b, dst, src, etherType)
	return append(b, payload...)
}

// tagged puts a VLAN tag behind the addresses of a frame.
func tagged(frame []byte, tpid, tci uint16) []byte {
	b := append([]byte{}, frame[:12]...)
	b = binary.BigEndian.AppendUint16(b, tpid)
	b = binary.BigEndian.AppendUint16(b, tci)
	return append(b, frame[12:]...)
}

func ipv4Packet(src, dst netip.Addr, proto uint8, payload []byte) []byte {
	b := make([]byte, ipv4Len)
	b[0], b[8], b[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(b[2:], uint16(ipv4Len+len(payload)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	return append(b, payload...)
}

func ipv6Packet(src, dst netip.Addr, next uint8, payload []byte) []byte {
	b := make([]byte, ipv6Len)
	b[0], b[6], b[7] = 0x60, next, 255
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return append(b, payload...)
}

func arpFrame(dst, src MAC, op uint16, sender MAC, senderIP netip.Addr, target MAC, targetIP netip.Addr) []byte {
	b := make([]byte, arpLen)
	ARP{op, sender, target, senderIP.As4(), targetIP.As4()}.put(b)
	return ethernetFrame(dst, src, typeARP, b)
}

// ask4 is the usual ARP request of a station for an address.
func ask4(src int, target netip.Addr) []byte {
	return arpFrame(Broadcast, mac(src), arpRequest, mac(src), addr4(src), MAC{}, target)
}

// ndPacket is a solicitation or advertisement with the given options.
func ndPacket(kind uint8, src, dst, target netip.Addr, options ...byte) []byte {
	b := make([]byte, ndLen, ndLen+len(options))
	b[0] = kind
	copy(b[8:], target.AsSlice())
	return ipv6Packet(src, dst, protoICMPv6, append(b, options...))
}

// linkLayer is a link-layer address option.
func linkLayer(kind uint8, m MAC) []byte { return append([]byte{kind, 1}, m[:]...) }

// ask6 is the usual solicitation of a station for an address.
func ask6(src int, target netip.Addr) []byte {
	return ethernetFrame(MAC{0x33, 0x33, 0xff, 0, 0, 1}, mac(src), typeIPv6,
		ndPacket(ndSolicitation, addr6(src), netip.MustParseAddr("ff02::1:ff00:1"), target, linkLayer(ndSourceOption, mac(src))...))
}

func udp4(dstMAC MAC, src, dst int, port uint16) []byte {
	payload := binary.BigEndian.AppendUint16(nil, port)
	payload = append(payload, 0, 80, 0, 8, 0, 0)
	return ethernetFrame(dstMAC, mac(src), typeIPv4, ipv4Packet(addr4(src), addr4(dst), protoUDP, payload))
}
