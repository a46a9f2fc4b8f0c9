package dns

import (
	"hash/maphash"
	"iter"
	"net/netip"
	"slices"
	"strings"
)

// Record is one fact about a name. Names are lower case and without the domain; one
// that would be too long with it is not served.
type Record struct {
	Name      string
	Addresses []netip.Addr // of the name; none for a service
	Reverse   bool         // the addresses' PTR is the name
	Port      uint16       // of a service, else 0
	Target    string       // of a service: the name that has the addresses
}

// equal reports whether both say the same.
func (r *Record) equal(o *Record) bool {
	return r.Name == o.Name && r.Port == o.Port && r.Target == o.Target && r.Reverse == o.Reverse && slices.Equal(r.Addresses, o.Addresses)
}

// Change is all that a source says from now on; without records the source is gone.
type Change struct {
	Source  string // unique: for example one gossip record
	Records []Record
}

// Zone is every name there is, at one moment. It is immutable.
//
//	sources   source ──▶ its records
//	names     name ────▶ entry: records of all sources, their addresses sorted
//	reverse   address ─▶ records whose PTR it has
//
// A name that only has names below it exists too, without records (RFC 8020).
type Zone struct {
	domain  string
	seed    maphash.Seed
	serial  uint32
	sources table[string, []Record]
	names   table[string, *entry]
	reverse table[netip.Addr, []*Record]
	count   int // names with records
}

// entry is a name. It is immutable once its zone is.
type entry struct {
	records []*Record
	v4, v6  []byte // addresses, 4 and 16 bytes each, ascending
	below   int    // names directly under it
}

func (e *entry) exists() bool { return len(e.records) > 0 || e.below > 0 }

// NewZone is an empty zone; domain is one that CanonicalDomain gave.
func NewZone(domain string) *Zone { return &Zone{domain: domain, seed: maphash.MakeSeed()} }

// Domain is what stands behind every name.
func (z *Zone) Domain() string { return z.domain }

// Len is how many names have records.
func (z *Zone) Len() int { return z.count }

// Full is a name with the domain behind it.
func (z *Zone) Full(name string) string { return name + "." + z.domain }

// Set returns the zone after the changes. It costs what changed, not what there is.
func (z *Zone) Set(changes ...Change) *Zone {
	b := builder{zone: *z, sources: z.sources.edit(), names: z.names.edit(), reverse: z.reverse.edit(), fresh: make(map[string]*entry)}
	changed := false
	for _, c := range changes {
		changed = b.change(c) || changed
	}
	if !changed {
		return z
	}
	b.finish()
	b.zone.sources, b.zone.names, b.zone.reverse = b.sources.table, b.names.table, b.reverse.table
	b.zone.serial++
	return &b.zone
}

// builder makes the next zone.
type builder struct {
	zone    Zone
	sources *tableEdit[string, []Record]
	names   *tableEdit[string, *entry]
	reverse *tableEdit[netip.Addr, []*Record]
	fresh   map[string]*entry // entries made by this builder, which it may change
}

func (b *builder) change(c Change) bool {
	hash := maphash.String(b.zone.seed, c.Source)
	old := b.sources.shard(hash)[c.Source]
	records := make([]Record, 0, len(c.Records))
	for _, r := range c.Records {
		if r.Name != "" && len(b.zone.Full(r.Name)) <= maxName {
			records = append(records, r)
		}
	}
	if slices.EqualFunc(old, records, func(x, y Record) bool { return x.equal(&y) }) {
		return false
	}
	for i := range old {
		b.remove(&old[i])
	}
	for i := range records {
		b.add(&records[i])
	}
	if len(records) == 0 {
		b.sources.drop(hash, c.Source)
	} else {
		b.sources.put(hash, c.Source, records)
	}
	return true
}

// entry is a name's entry, which may be changed.
func (b *builder) entry(name string) *entry {
	if e := b.fresh[name]; e != nil {
		return e
	}
	e := new(entry)
	if old := b.names.shard(maphash.String(b.zone.seed, name))[name]; old != nil {
		*e = entry{records: slices.Clone(old.records), below: old.below}
	}
	b.fresh[name] = e
	return e
}

func (b *builder) add(r *Record) {
	e := b.entry(r.Name)
	was := e.exists()
	if len(e.records) == 0 {
		b.zone.count++
	}
	e.records = append(e.records, r)
	if !was {
		b.below(r.Name, 1)
	}
	if r.Reverse {
		for _, a := range r.Addresses {
			b.point(a, func(list []*Record) []*Record { return append(list, r) })
		}
	}
}

func (b *builder) remove(r *Record) {
	same := func(o *Record) bool { return o == r }
	e := b.entry(r.Name)
	e.records = slices.DeleteFunc(e.records, same)
	if len(e.records) == 0 {
		b.zone.count--
	}
	if !e.exists() {
		b.below(r.Name, -1)
	}
	if r.Reverse {
		for _, a := range r.Addresses {
			b.point(a, func(list []*Record) []*Record { return slices.DeleteFunc(list, same) })
		}
	}
}

// below counts that there is one name more, or less, under name's parent.
func (b *builder) below(name string, n int) {
	_, parent, ok := strings.Cut(name, ".")
	if !ok {
		return
	}
	e := b.entry(parent)
	was := e.exists()
	e.below += n
	if e.exists() != was {
		b.below(parent, n)
	}
}

// point changes the records that an address points at.
func (b *builder) point(a netip.Addr, change func([]*Record) []*Record) {
	hash := maphash.Comparable(b.zone.seed, a)
	list := change(slices.Clone(b.reverse.shard(hash)[a]))
	if len(list) == 0 {
		b.reverse.drop(hash, a)
		return
	}
	slices.SortFunc(list, func(x, y *Record) int { return strings.Compare(x.Name, y.Name) })
	b.reverse.put(hash, a, list)
}

// finish settles the entries that changed.
func (b *builder) finish() {
	for name, e := range b.fresh {
		hash := maphash.String(b.zone.seed, name)
		if !e.exists() {
			b.names.drop(hash, name)
			continue
		}
		if len(e.records) > 0 {
			e.v4, e.v6 = packed(e.records)
		}
		b.names.put(hash, name, e)
	}
}

// packed are the addresses of the records, each once.
func packed(records []*Record) (v4, v6 []byte) {
	all := records[0].Addresses
	if len(records) > 1 || len(all) > 1 {
		all = nil
		for _, r := range records {
			all = append(all, r.Addresses...)
		}
		slices.SortFunc(all, netip.Addr.Compare) // IPv4 comes first
		all = slices.Compact(all)
	}
	for _, a := range all {
		if a.Is4() {
			b := a.As4()
			v4 = append(v4, b[:]...)
		} else {
			b := a.As16()
			v6 = append(v6, b[:]...)
		}
	}
	return slices.Clip(v4), slices.Clip(v6)
}

// find is a name's entry; nil when there is none.
func (z *Zone) find(name []byte) *entry {
	return z.names.shard(maphash.Bytes(z.seed, name))[string(name)]
}

// pointed are the records that an address points at.
func (z *Zone) pointed(a netip.Addr) []*Record {
	return z.reverse.shard(maphash.Comparable(z.seed, a))[a]
}

// Lookup is what is known of a name, which is given without the domain.
func (z *Zone) Lookup(name string) []Record {
	e := z.find([]byte(name))
	if e == nil {
		return nil
	}
	var all []Record
	for _, r := range e.records {
		all = append(all, *r)
	}
	return all
}

// Reverse are the names that an address has, without the domain.
func (z *Zone) Reverse(a netip.Addr) []string {
	var names []string
	for _, r := range z.pointed(a) {
		names = append(names, r.Name)
	}
	return slices.Compact(names)
}

// All walks every source and what it says, in no order.
func (z *Zone) All() iter.Seq2[string, []Record] {
	return func(yield func(string, []Record) bool) {
		if z.sources.list == nil {
			return
		}
		for _, m := range z.sources.list {
			for source, records := range m {
				if !yield(source, records) {
					return
				}
			}
		}
	}
}
