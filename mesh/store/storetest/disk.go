// Package storetest is a directory in memory that treats what was not synced as a
// disk does when its host loses power.
//
//	write ──▶ cached ──Sync──▶ durable           bytes of a file
//	rename ─▶ cached ──SyncDir▶ durable          names of files
//	             │
//	           Crash: of the cached part some first bytes stay, perhaps as zeros,
//	                  and some first changes of names
package storetest

import (
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"syscall"

	"ripstop/mesh/store"
)

// Disk is a store.FS. It is for one goroutine.
type Disk struct {
	Full bool               // writes find no space but for their first half
	Fail func(string) error // asked before each operation by its name; nil: none fails

	names   map[string]*inode
	durable map[string]*inode
	changes []change // of names, since the last SyncDir
	run     int      // files opened before a Crash are dead
}

type inode struct {
	data   []byte
	synced int // bytes that are durable
}

// change sets a name, or removes it.
type change struct {
	name string
	file *inode
}

// NewDisk makes an empty directory.
func NewDisk() *Disk {
	return &Disk{names: make(map[string]*inode), durable: make(map[string]*inode)}
}

// Copy is another disk with what a crash would certainly leave of this one: an old
// image of a host, or a clone.
func (d *Disk) Copy() *Disk {
	c := NewDisk()
	for name, f := range d.durable {
		c.durable[name] = &inode{slices.Clone(f.data[:f.synced]), f.synced}
	}
	c.names = maps.Clone(c.durable)
	return c
}

// Crash ends the run of the host. Without rng all that was written survives, as when
// only the daemon was killed.
func (d *Disk) Crash(rng *rand.Rand) {
	d.run++
	changes := d.changes
	if rng != nil {
		changes = changes[:rng.IntN(len(changes)+1)]
	}
	for _, c := range changes {
		set(d.durable, c)
	}
	d.changes = nil
	d.names = maps.Clone(d.durable)
	for _, name := range slices.Sorted(maps.Keys(d.names)) {
		f := d.names[name]
		if rng != nil {
			f.data = f.data[:f.synced+rng.IntN(len(f.data)-f.synced+1)]
			if rng.IntN(4) == 0 {
				clear(f.data[f.synced:])
			}
		}
		f.synced = len(f.data)
	}
}

func set(names map[string]*inode, c change) {
	if c.file == nil {
		delete(names, c.name)
	} else {
		names[c.name] = c.file
	}
}

func (d *Disk) change(name string, f *inode) {
	c := change{name, f}
	set(d.names, c)
	d.changes = append(d.changes, c)
}

func (d *Disk) asked(operation string) error {
	if d.Fail != nil {
		return d.Fail(operation)
	}
	return nil
}

// ReadFile is of store.FS.
func (d *Disk) ReadFile(name string, limit int64) ([]byte, error) {
	if err := d.asked("read"); err != nil {
		return nil, err
	}
	f := d.names[name]
	if f == nil {
		return nil, fmt.Errorf("storetest: read %s: %w", name, fs.ErrNotExist)
	}
	if int64(len(f.data)) > limit {
		return nil, fmt.Errorf("storetest: read %s: more than %d bytes", name, limit)
	}
	return slices.Clone(f.data), nil
}

// Create is of store.FS.
func (d *Disk) Create(name string) (store.File, error) {
	if err := d.asked("create"); err != nil {
		return nil, err
	}
	f := &inode{}
	d.change(name, f)
	return &file{d, f, d.run}, nil
}

// Rename is of store.FS.
func (d *Disk) Rename(from, to string) error {
	if err := d.asked("rename"); err != nil {
		return err
	}
	f := d.names[from]
	if f == nil {
		return fmt.Errorf("storetest: rename %s: %w", from, fs.ErrNotExist)
	}
	d.change(to, f)
	d.change(from, nil)
	return nil
}

// Remove is of store.FS.
func (d *Disk) Remove(name string) error {
	if err := d.asked("remove"); err != nil {
		return err
	}
	if d.names[name] == nil {
		return fmt.Errorf("storetest: remove %s: %w", name, fs.ErrNotExist)
	}
	d.change(name, nil)
	return nil
}

// SyncDir is of store.FS.
func (d *Disk) SyncDir() error {
	if err := d.asked("sync directory"); err != nil {
		return err
	}
	for _, c := range d.changes {
		set(d.durable, c)
	}
	d.changes = nil
	return nil
}

// file is an open file.
type file struct {
	d   *Disk
	f   *inode
	run int
}

func (f *file) alive(operation string) error {
	if f.run != f.d.run {
		return fmt.Errorf("storetest: %s: the host has crashed", operation)
	}
	return f.d.asked(operation)
}

func (f *file) Write(b []byte) (int, error) {
	if err := f.alive("write"); err != nil {
		return 0, err
	}
	n, err := len(b), error(nil)
	if f.d.Full {
		n, err = len(b)/2, syscall.ENOSPC
	}
	f.f.data = append(f.f.data, b[:n]...)
	return n, err
}

func (f *file) Sync() error {
	if err := f.alive("sync"); err != nil {
		return err
	}
	f.f.synced = len(f.f.data)
	return nil
}

func (f *file) Close() error { return nil }
