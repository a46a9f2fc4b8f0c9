package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"ripstop/mesh/store"
)

// checkState says whether others may look into the state directory.
func checkState(_ context.Context, x *examination) []finding {
	info, err := x.host.stat(x.state)
	switch {
	case errors.Is(err, fs.ErrNotExist) && x.status != nil:
		return one(skipped("run it where the daemon runs", "the daemon's state directory %s is not seen from here", x.state))
	case errors.Is(err, fs.ErrNotExist):
		return one(good("%s is not there: the first `ripstop up` makes it", x.state))
	case errors.Is(err, fs.ErrPermission):
		return one(skipped(asRoot, "this user may not see %s", x.state))
	case err != nil:
		return one(failure("choose another directory by --state", "%s: %s", x.state, reason(err)))
	case !info.IsDir():
		return one(failure("choose another path by --state", "%s is no directory", x.state))
	case info.Mode().Perm()&0o077 != 0:
		return one(warning("chmod 700 "+x.state, "%s may be looked into by others (mode %04o)", x.state, info.Mode().Perm()))
	}
	return one(good("%s is this host's own (mode %04o)", x.state, info.Mode().Perm()))
}

// checkSecret says whether others may read what makes a host a member.
func checkSecret(_ context.Context, x *examination) []finding {
	files := []string{filepath.Join(x.state, store.Seed), filepath.Join(x.state, store.Network), filepath.Join(x.state, store.Admin)}
	if x.secret != "" {
		files = append(files, x.secret)
	}
	var found []finding
	there := 0
	for _, path := range files {
		info, err := x.host.stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist) && path == x.secret && x.status == nil:
			found = append(found, failure("check --secret-file; `ripstop secret new` makes one for a new network", "%s is not there", path))
		case errors.Is(err, fs.ErrNotExist):
		case errors.Is(err, fs.ErrPermission):
			return append(found, skipped(asRoot, "this user may not see %s", path))
		case err != nil:
			found = append(found, warning("`ls -l "+path+"` should say the same", "%s: %s", path, reason(err)))
		default:
			there++
			found = append(found, exposed(path, info.Mode())...)
		}
	}
	if there == 0 {
		return orGood(found, "there is no secret yet")
	}
	return orGood(found, "%s with secrets, none of which others may read", plural(there, "file"))
}

// exposed says who besides the owner may use a file with a secret. A pipe or device, by
// which a secret may be handed over too, keeps nothing.
func exposed(path string, mode fs.FileMode) []finding {
	if !mode.IsRegular() {
		return nil
	}
	remedy := "chmod 600 " + path + "; if somebody may have read it, make a new network by `ripstop secret new`"
	switch perm := mode.Perm(); {
	case perm&0o006 != 0:
		return one(failure(remedy, "%s may be %s by everybody on this host (mode %04o)", path, uses(perm), perm))
	case perm&0o060 != 0:
		return one(warning(remedy, "%s may be %s by its group (mode %04o)", path, uses(perm>>3), perm))
	}
	return nil
}

// uses says what the lowest three bits of a mode allow of a secret.
func uses(perm fs.FileMode) string {
	switch perm & 0o006 {
	case 0o002:
		return "written"
	case 0o004:
		return "read"
	}
	return "read and written"
}

// space is what a file system has left for everybody.
type space struct {
	bytes    uint64
	inodes   uint64 // meaningless without inodeLimit
	limited  bool   // it has a number of inodes
	readOnly bool
}

// What the state needs: some files of a few MiB at the most, each written anew beside
// the old one.
const (
	lowBytes, leastBytes   = 64 << 20, 4 << 20
	lowInodes, leastInodes = 1000, 16
)

// checkDisk says whether state can be saved: without that no address is given out.
func checkDisk(_ context.Context, x *examination) []finding {
	path := x.state
	s, err := x.host.space(path)
	for errors.Is(err, fs.ErrNotExist) && path != filepath.Dir(path) {
		path = filepath.Dir(path)
		s, err = x.host.space(path)
	}
	remedy := fmt.Sprintf("make room: `df -h %s` and `df -i %s` show how much there is", path, path)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return one(skipped(asRoot, "this user may not see %s", path))
	case err != nil:
		return one(warning("`df "+path+"` should say the same", "the space at %s is not known: %s", path, reason(err)))
	case s.readOnly:
		return one(failure("mount it to be written to, or choose another directory by --state", "%s is mounted to be read only", path))
	case s.bytes < leastBytes:
		return one(failure(remedy, "%s has %s left", path, size(s.bytes)))
	case s.limited && s.inodes < leastInodes:
		return one(failure(remedy, "%s has room for %s", path, plural(int(s.inodes), "more file")))
	case s.bytes < lowBytes:
		return one(warning(remedy, "%s has %s left", path, size(s.bytes)))
	case s.limited && s.inodes < lowInodes:
		return one(warning(remedy, "%s has room for %s", path, plural(int(s.inodes), "more file")))
	}
	return one(good("%s has %s left", path, size(s.bytes)))
}

// size is a number of bytes for people.
func size(n uint64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}
