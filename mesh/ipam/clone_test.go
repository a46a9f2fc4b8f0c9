package ipam

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"time"
	"unsafe"

	"ripstop/crypto"
)

// The search needs copies of machines, and to know when two are the same. Both walk
// the whole structure, so a field that is added later is seen.

// shared are types whose values never change, or do not matter.
var shared = map[reflect.Type]bool{
	reflect.TypeFor[*chain](): true, reflect.TypeFor[*takeover](): true, reflect.TypeFor[*crypto.Identity](): true,
	reflect.TypeFor[*hooks](): true, reflect.TypeFor[*rand.Rand](): true, reflect.TypeFor[time.Time](): true,
	reflect.TypeFor[netip.Addr](): true, reflect.TypeFor[netip.Prefix](): true,
}

func cloneMachine(m *Machine) *Machine {
	if m == nil {
		return nil
	}
	return cloneValue(reflect.ValueOf(m), make(map[unsafe.Pointer]reflect.Value)).Interface().(*Machine)
}

func cloneValue(v reflect.Value, seen map[unsafe.Pointer]reflect.Value) reflect.Value {
	t := v.Type()
	if shared[t] {
		return v
	}
	switch t.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return v
		}
		if c, ok := seen[v.UnsafePointer()]; ok {
			return c
		}
		c := reflect.New(t.Elem())
		seen[v.UnsafePointer()] = c
		c.Elem().Set(v.Elem())
		cloneInto(c.Elem(), seen)
		return c
	case reflect.Map:
		if v.IsNil() {
			return v
		}
		c := reflect.MakeMapWithSize(t, v.Len())
		for i := v.MapRange(); i.Next(); {
			c.SetMapIndex(i.Key(), cloneValue(i.Value(), seen))
		}
		return c
	case reflect.Slice:
		if v.IsNil() {
			return v
		}
		c := reflect.MakeSlice(t, v.Len(), v.Len())
		for i := range v.Len() {
			c.Index(i).Set(cloneValue(v.Index(i), seen))
		}
		return c
	case reflect.Struct:
		c := reflect.New(t).Elem()
		c.Set(v)
		cloneInto(c, seen)
		return c
	}
	return v
}

// cloneInto replaces what an addressable struct points to by copies.
func cloneInto(v reflect.Value, seen map[unsafe.Pointer]reflect.Value) {
	if v.Kind() != reflect.Struct || shared[v.Type()] {
		return
	}
	for i := range v.NumField() {
		f := v.Field(i)
		switch f.Kind() {
		case reflect.Pointer, reflect.Map, reflect.Slice, reflect.Struct:
			f = reflect.NewAt(f.Type(), f.Addr().UnsafePointer()).Elem() // also unexported ones
			f.Set(cloneValue(f, seen))
		}
	}
}

// skipped are fields that say nothing about what comes next.
var skipped = map[string]bool{"cfg": true, "hooks": true, "stats": true, "events": true, "keys": true, "lay": true, "takeovers": true, "checked": true, "valid": true,
	"groups": true, "turn": true, "hintSum": true, "ids": true, "rests": true, "cloned": true, "reachable": true, "neighbours": true}

func stateHash(m *Machine) uint64 {
	h := fnv.New64a()
	hashValue(h.Write, reflect.ValueOf(m))
	return h.Sum64()
}

func hashValue(put func([]byte) (int, error), v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			put([]byte{0})
			return
		}
		if v.Type() == reflect.TypeFor[*chain]() {
			c := (*chain)(v.UnsafePointer())
			h := c.head()
			put(h[:])
			return
		}
		hashValue(put, v.Elem())
	case reflect.Map:
		var parts []uint64 // the order of a map must not matter
		for i := v.MapRange(); i.Next(); {
			h := fnv.New64a()
			hashValue(h.Write, i.Key())
			hashValue(h.Write, i.Value())
			parts = append(parts, h.Sum64())
		}
		slices.Sort(parts)
		for _, p := range parts {
			put(binary.BigEndian.AppendUint64(nil, p))
		}
		put([]byte{0xfe})
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 && v.Kind() == reflect.Slice {
			put(v.Bytes())
			return
		}
		for i := range v.Len() {
			hashValue(put, v.Index(i))
		}
		put([]byte{0xff, byte(v.Len())})
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() || v.Type() == reflect.TypeFor[netip.Addr]() || v.Type() == reflect.TypeFor[netip.Prefix]() {
			fmt.Fprint(writer(put), v)
			return
		}
		for i := range v.NumField() {
			if !skipped[v.Type().Field(i).Name] {
				hashValue(put, v.Field(i))
			}
		}
	case reflect.String:
		put([]byte(v.String()))
	case reflect.Bool:
		put(putBool(nil, v.Bool()))
	case reflect.Int, reflect.Int64, reflect.Int32:
		put(put64(nil, uint64(v.Int())))
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		put(put64(nil, v.Uint()))
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }
