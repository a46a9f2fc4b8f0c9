package route

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"ripstop/crypto"
)

// Directory is the settled endpoint map, by MAC and by address. It knows hosts by
// name only, so that it outlives changes of topology: many Tables share one. It is
// immutable and for any number of readers.
//
//	macs   VNI, MAC  -> host, fenced, endpoint
//	ip4    VNI, IPv4 -> host, MAC
//	ip6    VNI, IPv6 -> host, MAC
//	hosts  host number -> name
type Directory struct {
	endpoints []Endpoint
	fenced    []int32 // positions in endpoints that hold nothing
	dropped   []int32 // positions of repeats
	granted   []int32 // positions of holders with opt-outs

	macs  map[uint64]macPlace
	ip4   map[uint64]addrPlace
	ip6   map[ip6Key]addrPlace
	hosts []crypto.Name

	hostNumbers map[crypto.Name]int32
	networks    map[network]struct{} // who has an endpoint in a VNI other than 0
}

type macPlace struct {
	host   int32
	fenced bool
}

type addrPlace struct {
	mac  MAC
	host int32
}

// network is a host's part in a VNI.
type network struct {
	vni  VNI
	host int32
}

// ip6Key is an IPv6 address and its VNI.
type ip6Key [18]byte

func ip4Key(vni VNI, a [4]byte) uint64 {
	return uint64(vni)<<32 | uint64(binary.BigEndian.Uint32(a[:]))
}

func makeIP6Key(vni VNI, a [16]byte) (k ip6Key) {
	binary.BigEndian.PutUint16(k[:2], uint16(vni))
	copy(k[2:], a[:])
	return k
}

// BuildDirectory settles the claims of endpoints (see Settle) and makes the map.
// It keeps the slice: it must not be changed afterwards.
func BuildDirectory(endpoints []Endpoint) *Directory {
	d := &Directory{endpoints: endpoints}
	d.reset()
	clash := false
	for i := range endpoints {
		if e := &endpoints[i]; !e.holdable() || !d.free(e) {
			clash = true
			break
		}
		d.hold(int32(i))
	}
	if clash { // rare, so only then everything is sorted
		d.reset()
		d.settle()
	}
	return d
}

func (d *Directory) reset() {
	n := len(d.endpoints)
	d.macs = make(map[uint64]macPlace, n)
	d.ip4 = make(map[uint64]addrPlace, n)
	d.ip6 = make(map[ip6Key]addrPlace)
	d.hosts, d.hostNumbers = nil, make(map[crypto.Name]int32)
	d.networks = make(map[network]struct{})
	d.fenced, d.dropped, d.granted = nil, nil, nil
}

// settle gives everything to the strongest claims first.
func (d *Directory) settle() {
	order := make([]int32, len(d.endpoints))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int { return byClaim(&d.endpoints[a], &d.endpoints[b]) })
	for at, i := range order {
		e := &d.endpoints[i]
		switch {
		case at > 0 && byClaim(&d.endpoints[order[at-1]], e) == 0:
			d.dropped = append(d.dropped, i)
		case e.holdable() && d.free(e):
			d.hold(i)
		default:
			d.fenced = append(d.fenced, i)
		}
	}
	for _, i := range d.fenced { // a fenced MAC that nobody holds is cut off
		e := &d.endpoints[i]
		key, host := macKey(e.VNI, e.MAC), d.number(e.Host)
		if _, held := d.macs[key]; !held {
			d.macs[key] = macPlace{host: host, fenced: true}
		}
	}
}

// free reports whether nobody holds anything of e.
func (d *Directory) free(e *Endpoint) bool {
	if _, taken := d.macs[macKey(e.VNI, e.MAC)]; taken {
		return false
	}
	for _, a := range e.Addresses {
		if _, taken := d.find(e.VNI, plain(a)); taken {
			return false
		}
	}
	return true
}

// hold enters endpoint i, which is free.
func (d *Directory) hold(i int32) {
	e := &d.endpoints[i]
	host := d.number(e.Host)
	d.macs[macKey(e.VNI, e.MAC)] = macPlace{host: host}
	for _, a := range e.Addresses {
		if a = plain(a); a.Is4() {
			d.ip4[ip4Key(e.VNI, a.As4())] = addrPlace{e.MAC, host}
		} else {
			d.ip6[makeIP6Key(e.VNI, a.As16())] = addrPlace{e.MAC, host}
		}
	}
	if len(e.AllowMACs) > 0 || e.AllowAnyMAC || len(e.AllowAddresses) > 0 {
		d.granted = append(d.granted, i)
	}
	if e.VNI != 0 {
		d.networks[network{e.VNI, host}] = struct{}{}
	}
}

func (d *Directory) number(host crypto.Name) int32 {
	n, ok := d.hostNumbers[host]
	if !ok {
		n = int32(len(d.hosts))
		d.hosts = append(d.hosts, host)
		d.hostNumbers[host] = n
	}
	return n
}

// find returns who holds a plain address.
func (d *Directory) find(vni VNI, a netip.Addr) (addrPlace, bool) {
	if a.Is4() {
		p, ok := d.ip4[ip4Key(vni, a.As4())]
		return p, ok
	}
	p, ok := d.ip6[makeIP6Key(vni, a.As16())]
	return p, ok
}

// Holding are the endpoints that hold what they claim, sorted by VNI, MAC and host.
func (d *Directory) Holding() []Endpoint {
	out := make([]bool, len(d.endpoints))
	for _, i := range d.fenced {
		out[i] = true
	}
	for _, i := range d.dropped {
		out[i] = true
	}
	var list []Endpoint
	for i := range d.endpoints {
		if !out[i] {
			list = append(list, d.endpoints[i])
		}
	}
	sortEndpoints(list)
	return list
}

// Fenced are the endpoints that lost a claim, sorted by VNI, MAC, host and claim.
func (d *Directory) Fenced() []Endpoint {
	var list []Endpoint
	for _, i := range d.fenced {
		list = append(list, d.endpoints[i])
	}
	sortEndpoints(list)
	return list
}

func sortEndpoints(list []Endpoint) {
	slices.SortFunc(list, func(a, b Endpoint) int { return byPlace(&a, &b) })
}
