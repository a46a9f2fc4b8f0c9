package dns

import "maps"

// shards is how many maps a table consists of: at 200 000 keys a change copies some
// 200 of them, and the 8 KiB of the list.
const shards = 1 << 10

// table is a map that is never changed once it is shared.
//
//	list [shards] ──▶ map of the keys whose hash ends in that number, nil when there are none
type table[K comparable, V any] struct{ list *[shards]map[K]V }

// shard is where keys of that hash are.
func (t table[K, V]) shard(hash uint64) map[K]V {
	if t.list == nil {
		return nil
	}
	return t.list[hash%shards]
}

// edit begins a new table: what is put there is not seen in the old one.
func (t table[K, V]) edit() *tableEdit[K, V] {
	e := &tableEdit[K, V]{table: table[K, V]{list: new([shards]map[K]V)}}
	if t.list != nil {
		*e.list = *t.list
	}
	return e
}

// tableEdit is a table in the making.
type tableEdit[K comparable, V any] struct {
	table[K, V]
	own [shards]bool // copied already
}

func (e *tableEdit[K, V]) put(hash uint64, k K, v V) { e.mine(hash)[k] = v }

func (e *tableEdit[K, V]) drop(hash uint64, k K) {
	m := e.mine(hash)
	delete(m, k)
	if len(m) == 0 {
		e.list[hash%shards], e.own[hash%shards] = nil, false
	}
}

// mine is the shard, copied when it was not yet.
func (e *tableEdit[K, V]) mine(hash uint64) map[K]V {
	i := hash % shards
	if !e.own[i] {
		e.own[i] = true
		if e.list[i] = maps.Clone(e.list[i]); e.list[i] == nil {
			e.list[i] = make(map[K]V)
		}
	}
	return e.list[i]
}
