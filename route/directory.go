package route

import (
	"cmp"
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"

	"ripstop/crypto"
)

// Directory is the settled endpoint map, by MAC and by address. It knows hosts by
// name only, so that it outlives changes of topology: many Tables share one. It is
// immutable and for any number of readers.
//
//	macs   VNI, MAC  -> host, fenced, endpoint, MTU
//	ip4    VNI, IPv4 -> host, MAC
//	ip6    VNI, IPv6 -> host, MAC
//	hosts  host number -> name
type Directory struct {
	endpoints []Endpoint
	fenced    []int32            // positions in endpoints of those that hold nothing
	lost      map[int32]struct{} // the same, and repeats
	granted   []int32            // positions of holders with opt-outs

	macs  map[uint64]macPlace
	ip4   map[uint64]addrPlace
	ip6   map[ip6Key]addrPlace
	hosts []crypto.Name

	hostNumbers map[crypto.Name]int32
	networks    map[network]struct{} // who has an endpoint in a VNI other than 0
}

type macPlace struct {
	host, endpoint int32
	mtu            uint16
	fenced         bool
}

type addrPlace struct {
	mac            MAC
	host, endpoint int32
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
// It keeps the slice: it must not be changed afterwards. Only what clashes is
// sorted, so that a few conflicts cost next to nothing.
func BuildDirectory(endpoints []Endpoint) *Directory {
	n := len(endpoints)
	d := &Directory{
		endpoints:   endpoints,
		macs:        make(map[uint64]macPlace, n),
		ip4:         make(map[uint64]addrPlace, n),
		ip6:         make(map[ip6Key]addrPlace),
		hostNumbers: make(map[crypto.Name]int32),
		networks:    make(map[network]struct{}),
		lost:        make(map[int32]struct{}),
	}
	contested := make(map[int32]struct{})
	for i := range endpoints {
		if endpoints[i].holdable() {
			d.enter(int32(i), contested)
		} else {
			contested[int32(i)] = struct{}{}
		}
	}
	if len(contested) > 0 {
		d.settle(slices.Collect(maps.Keys(contested)))
	}
	for i := range endpoints {
		e := &endpoints[i]
		if _, lost := d.lost[int32(i)]; lost {
			continue
		}
		if len(e.AllowMACs) > 0 || e.AllowAnyMAC || len(e.AllowAddresses) > 0 {
			d.granted = append(d.granted, int32(i))
		}
		if e.VNI != 0 {
			d.networks[network{e.VNI, d.number(e.Host)}] = struct{}{}
		}
	}
	return d
}

// enter gives endpoint i what of its claims is free. Where another has it already,
// both are noted in contested.
func (d *Directory) enter(i int32, contested map[int32]struct{}) {
	e := &d.endpoints[i]
	host := d.number(e.Host)
	clash := func(with int32) {
		contested[i] = struct{}{}
		contested[with] = struct{}{}
	}
	key := macKey(e.VNI, e.MAC)
	if p, taken := d.macs[key]; taken {
		clash(p.endpoint)
	} else {
		d.macs[key] = macPlace{host: host, endpoint: i, mtu: e.MTU}
	}
	for _, a := range e.Addresses {
		a = plain(a)
		if p, taken := d.find(e.VNI, a); !taken {
			d.place(e.VNI, a, addrPlace{mac: e.MAC, host: host, endpoint: i})
		} else if p.endpoint != i {
			clash(p.endpoint)
		}
	}
}

// settle takes everything from the contested endpoints and gives it to the
// strongest claims first. The others share nothing with them.
func (d *Directory) settle(contested []int32) {
	slices.SortFunc(contested, func(a, b int32) int {
		return cmp.Or(byClaim(&d.endpoints[a], &d.endpoints[b]), cmp.Compare(a, b))
	})
	for _, i := range contested {
		d.leave(i)
	}
	for at, i := range contested {
		e := &d.endpoints[i]
		switch {
		case at > 0 && byClaim(&d.endpoints[contested[at-1]], e) == 0: // listed twice
			d.lost[i] = struct{}{}
		case e.holdable() && d.free(e):
			d.enter(i, nil)
		default:
			d.lost[i] = struct{}{}
			d.fenced = append(d.fenced, i)
		}
	}
	for _, i := range d.fenced { // a fenced MAC that nobody holds is cut off
		e := &d.endpoints[i]
		key, host := macKey(e.VNI, e.MAC), d.number(e.Host)
		if _, held := d.macs[key]; !held {
			d.macs[key] = macPlace{host: host, endpoint: i, fenced: true}
		}
	}
}

// leave takes from endpoint i what it has.
func (d *Directory) leave(i int32) {
	e := &d.endpoints[i]
	key := macKey(e.VNI, e.MAC)
	if p, ok := d.macs[key]; ok && p.endpoint == i {
		delete(d.macs, key)
	}
	for _, a := range e.Addresses {
		a = plain(a)
		if p, ok := d.find(e.VNI, a); !ok || p.endpoint != i {
			continue
		}
		if a.Is4() {
			delete(d.ip4, ip4Key(e.VNI, a.As4()))
		} else {
			delete(d.ip6, makeIP6Key(e.VNI, a.As16()))
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

func (d *Directory) number(host crypto.Name) int32 {
	n, ok := d.hostNumbers[host]
	if !ok {
		n = int32(len(d.hosts))
		d.hosts = append(d.hosts, host)
		d.hostNumbers[host] = n
	}
	return n
}

// place enters who holds a plain address.
func (d *Directory) place(vni VNI, a netip.Addr, p addrPlace) {
	if a.Is4() {
		d.ip4[ip4Key(vni, a.As4())] = p
	} else {
		d.ip6[makeIP6Key(vni, a.As16())] = p
	}
}

// find returns who holds a plain address.
func (d *Directory) find(vni VNI, a netip.Addr) (addrPlace, bool) {
	if !a.IsValid() {
		return addrPlace{}, false
	}
	if a.Is4() {
		p, ok := d.ip4[ip4Key(vni, a.As4())]
		return p, ok
	}
	p, ok := d.ip6[makeIP6Key(vni, a.As16())]
	return p, ok
}

// Holder is the host of the endpoint that holds an address.
func (d *Directory) Holder(vni VNI, a netip.Addr) (crypto.Name, bool) {
	p, ok := d.find(vni, plain(a))
	if !ok {
		return crypto.Name{}, false
	}
	return d.hosts[p.host], true
}

// Holding are the endpoints that hold what they claim, sorted by VNI, MAC and host.
func (d *Directory) Holding() []Endpoint {
	var list []Endpoint
	for i := range d.endpoints {
		if _, lost := d.lost[int32(i)]; !lost {
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
