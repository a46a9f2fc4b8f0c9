package transport

import (
	"net"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// zoneTable turns the zones of IPv6 link-local addresses, which netip has as interface
// names, into the interface numbers of the kernel and back. It asks the kernel once for
// each and keeps the answer. At most maxZones are kept.
type zoneTable struct {
	mu     sync.Mutex // guards both maps
	names  map[uint32]string
	scopes map[string]uint32
}

const maxZones = 256

// index is the number of the interface that zone names, or zone itself if it is a number.
func (z *zoneTable) index(zone string) (uint32, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if i, ok := z.scopes[zone]; ok {
		return i, nil
	}
	var scope uint32
	if i, err := net.InterfaceByName(zone); err == nil {
		scope = uint32(i.Index)
	} else if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		scope = uint32(n)
	} else {
		z.names = nil // an interface was renamed: what it was called is not to be told again
		return 0, unix.EADDRNOTAVAIL
	}
	if z.scopes == nil || len(z.scopes) >= maxZones {
		z.scopes = make(map[string]uint32)
	}
	z.scopes[zone] = scope
	return scope, nil
}

// name is the name of interface number scope, or the number when it has none.
func (z *zoneTable) name(scope uint32) string {
	z.mu.Lock()
	defer z.mu.Unlock()
	if name, ok := z.names[scope]; ok {
		return name
	}
	name := strconv.FormatUint(uint64(scope), 10)
	if i, err := net.InterfaceByIndex(int(scope)); err == nil {
		name = i.Name
	}
	if z.names == nil || len(z.names) >= maxZones {
		z.names = make(map[uint32]string)
	}
	z.names[scope] = name
	return name
}

// forget drops what is kept: an interface may have gone and come back under another
// number.
func (z *zoneTable) forget() {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.names, z.scopes = nil, nil
}
