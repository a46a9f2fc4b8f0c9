package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
)

// FS is the directory that journals live in: a Store's, or one in memory that loses
// what was not synced (storetest).
type FS interface {
	// ReadFile reads a whole file of at most limit bytes; none is fs.ErrNotExist.
	ReadFile(name string, limit int64) ([]byte, error)
	// Create makes an empty file, mode 0600, in place of whatever has the name.
	Create(name string) (File, error)
	Rename(from, to string) error
	Remove(name string) error
	// SyncDir makes what was created, renamed and removed durable.
	SyncDir() error
}

// File is a file that is written from its beginning. What was written is durable
// once Sync has returned nil, its name once the directory was synced.
type File interface {
	io.Writer
	Sync() error
	Close() error
}

// MaxJournal bounds one generation of a journal, bytes.
const MaxJournal = 64 << 20

// Each generation begins with its number in 16 hexadecimal digits:
//
//	"ripstop journal 1 " | number | "\n" | the caller's bytes
const (
	journalMagic = "ripstop journal "
	journalHead  = journalMagic + "1 "
	headSize     = len(journalHead) + 16 + 1
)

// Journal is a file that grows by appending, and is begun anew when it has grown
// too long: then the generation before it is kept, so there are two.
//
//	NAME.1      generation 7: snapshot, appended, appended, …
//	NAME.2      generation 8: snapshot, appended          ◀ the newest, grows
//	NAME.2.tmp  a generation that was not whole when the host stopped
//
// Rotate writes the next generation beside, syncs it, and renames it over the older
// one, so at every moment a whole one is on the disk. After an error nothing can be
// appended any more, since nobody knows what is on the disk: Rotate helps. The bytes
// are the caller's, and so is the check that they are whole: what was appended and
// not synced may be there in part after a crash.
//
// A Journal is for one goroutine.
type Journal struct {
	files  FS
	name   string
	slot   int    // 0 or 1: of the newest generation
	number uint64 // of the newest generation
	file   File   // nil: nothing can be appended before the next Rotate
	size   int
}

// Journal opens the journal of a name, and returns its generations, the newest first.
func (s *Store) Journal(name string) (*Journal, [][]byte, error) { return OpenJournal(rootFS{s}, name) }

// OpenJournal is for directories that are no Store's. One that was written by a
// newer version is refused and left as it is. A generation whose beginning cannot be
// read counts as the newest, and is returned as it is: whoever checks it finds it
// damaged. Nothing can be appended before the first Rotate.
func OpenJournal(files FS, name string) (*Journal, [][]byte, error) {
	j := &Journal{files: files, name: name, slot: 1}
	var found [2][]byte
	var numbers [2]uint64
	for i := range found {
		b, err := files.ReadFile(j.path(i), int64(headSize+MaxJournal))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		number, body, err := parseHead(b)
		if err != nil {
			return nil, nil, fmt.Errorf("store: journal %s: %w", j.path(i), err)
		}
		found[i], numbers[i] = body, number
	}
	for i, number := range numbers {
		if number == damagedHead {
			j.slot = 1 - i // it is replaced first
		}
	}
	for i, number := range numbers {
		if number != damagedHead && number > j.number {
			j.slot, j.number = i, number
		}
	}
	newest := 0
	if numbers[1] > numbers[0] {
		newest = 1
	}
	var list [][]byte
	for _, i := range []int{newest, 1 - newest} {
		if found[i] != nil {
			list = append(list, found[i])
		}
	}
	return j, list, nil
}

// damagedHead stands for the number of a generation that does not say it.
const damagedHead = ^uint64(0)

// parseHead takes the number off a generation. One without a number is returned whole.
func parseHead(b []byte) (number uint64, body []byte, err error) {
	if len(b) >= headSize && string(b[:len(journalHead)]) == journalHead && b[headSize-1] == '\n' {
		n, err := strconv.ParseUint(string(b[len(journalHead):headSize-1]), 16, 64)
		if err == nil && n < 1<<62 {
			return n, b[headSize:], nil
		}
	}
	if rest, ours := bytes.CutPrefix(b, []byte(journalMagic)); ours {
		format, _, _ := bytes.Cut(rest[:min(len(rest), 20)], []byte(" "))
		if v, err := strconv.ParseUint(string(format), 10, 64); err == nil && v > 1 {
			return 0, nil, fmt.Errorf("it has the format %d, this version knows 1: run the version that wrote it", v)
		}
	}
	return damagedHead, append([]byte{}, b...), nil
}

func (j *Journal) path(slot int) string { return j.name + "." + strconv.Itoa(slot+1) }

// Size is how many bytes the newest generation has, without its beginning.
func (j *Journal) Size() int { return j.size }

// Append adds bytes to the newest generation. They are durable after Sync.
func (j *Journal) Append(b []byte) error {
	if j.file == nil {
		return fmt.Errorf("store: journal %s: append: it is to be written anew first", j.name)
	}
	err := error(nil)
	if j.size+len(b) > MaxJournal {
		err = fmt.Errorf("more than %d bytes", MaxJournal)
	} else {
		_, err = j.file.Write(b)
	}
	if err != nil {
		return j.broken("append", err)
	}
	j.size += len(b)
	return nil
}

// Sync makes durable what was appended: one call for all that waits.
func (j *Journal) Sync() error {
	if j.file == nil {
		return fmt.Errorf("store: journal %s: sync: it is to be written anew first", j.name)
	}
	if err := j.file.Sync(); err != nil {
		return j.broken("sync", err) // what the kernel still has of it may be marked as written
	}
	return nil
}

// broken ends the use of a file of which nobody knows what is on the disk.
func (j *Journal) broken(doing string, err error) error {
	j.Close()
	return fmt.Errorf("store: journal %s: %s: %w", j.name, doing, err)
}

// Rotate begins the next generation with a snapshot, durably. After an error the
// generations before are still there.
func (j *Journal) Rotate(snapshot []byte) error {
	if len(snapshot) > MaxJournal {
		return j.broken("begin anew", fmt.Errorf("%d bytes are more than %d", len(snapshot), MaxJournal))
	}
	slot, temp := 1-j.slot, j.path(1-j.slot)+tempSuffix
	f, err := j.files.Create(temp)
	if err != nil {
		return j.broken("begin anew", err)
	}
	_, err = f.Write(fmt.Appendf(make([]byte, 0, headSize+len(snapshot)), "%s%016x\n%s", journalHead, j.number+1, snapshot))
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = j.files.Rename(temp, j.path(slot))
	}
	if err == nil {
		err = j.files.SyncDir()
	}
	if err != nil {
		f.Close()
		j.files.Remove(temp) // the space is wanted
		return j.broken("begin anew", err)
	}
	j.Close()
	j.file, j.slot, j.number, j.size = f, slot, j.number+1, len(snapshot)
	return nil
}

// Close ends the use of the journal; it may be called more than once.
func (j *Journal) Close() error {
	if j.file == nil {
		return nil
	}
	err := j.file.Close()
	j.file = nil
	if err != nil {
		return fmt.Errorf("store: journal %s: close: %w", j.name, err)
	}
	return nil
}

// rootFS is the directory of a Store.
type rootFS struct{ s *Store }

func (r rootFS) ReadFile(name string, limit int64) ([]byte, error) { return r.s.readFile(name, limit) }

func (r rootFS) Create(name string) (File, error) { return r.s.create(name, 0o600) }

func (r rootFS) Rename(from, to string) error { return r.s.root.Rename(from, to) }

func (r rootFS) Remove(name string) error { return r.s.root.Remove(name) }

func (r rootFS) SyncDir() error { return r.s.syncDir() }
