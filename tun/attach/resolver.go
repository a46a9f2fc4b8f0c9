package attach

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"ripstop/tun/netns"
)

// Resolver is what a container's resolver file is to say.
type Resolver struct {
	Servers []netip.Addr
	Search  []string
}

// The resolver file as we write it begins with the head and ends with what was there
// before, so that it can be put back with nothing else remembered:
//
//	# Written by ripstop (attach --dns); detach puts the old file back.
//	nameserver 169.254.83.53
//	search ripstop.internal
//	options …                      those of the old file
//	# old BASE64                   or: # none
const (
	resolverHead = "# Written by ripstop (attach --dns); detach puts the old file back.\n"
	resolverOld  = "# old "
	resolverNone = "# none\n" // there was no file
	resolverPath = "etc/resolv.conf"
	netnsEtc     = "/etc/netns" // ip-netns(8)
	maxOldFile   = 16 << 10     // bytes; a larger resolver file is none
)

// inside keeps a path in the container's root: no link is followed, so that a file of
// the container never leads to another one, neither the host's nor its own.
const inside = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_SYMLINKS

// ErrNoFiles says that a namespace was named in a way that does not lead to the files
// of a container.
var ErrNoFiles = errors.New("which container's resolver file is meant cannot be told: name the namespace as pid:NUMBER, or as `ip netns` names it")

// WriteResolver writes the resolver file of the plan's container: of the process named
// by pid:NUMBER or /proc/NUMBER/ns/net, in its own mount namespace; of a namespace with
// a name, /etc/netns/NAME/resolv.conf. The file is written where it is, because
// container engines mount it there.
func WriteResolver(plan Plan, r Resolver) error {
	root, path, err := filesOf(plan, true)
	if err != nil {
		return fmt.Errorf("attach: resolver file of %s: %w", plan.Netns, err)
	}
	defer root.Close()
	if err := writeResolver(root, path, "/"+resolverPath, r); err != nil {
		return fmt.Errorf("attach: resolver file of %s: /%s: %w", plan.Netns, path, err)
	}
	return nil
}

// RestoreResolver puts back what WriteResolver found. A file that somebody has
// rewritten meanwhile stays, and a container that is gone is no error.
func RestoreResolver(plan Plan) error {
	root, path, err := filesOf(plan, false)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err == nil {
		defer root.Close()
		err = restoreResolver(root, path)
	}
	if name, ok := namespaceName(plan.Netns); ok && err == nil {
		os.Remove(filepath.Join(netnsEtc, name)) // made by WriteResolver; it stays while something is in it
	}
	if err != nil {
		return fmt.Errorf("attach: resolver file of %s: %w", plan.Netns, err)
	}
	return nil
}

// filesOf opens the directory that the container sees as its root, and says where
// below it the resolver file is.
func filesOf(plan Plan, create bool) (root *os.File, path string, err error) {
	if name, ok := namespaceName(plan.Netns); ok {
		dir := filepath.Join(netnsEtc, name)
		if create {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return nil, "", err
			}
		}
		root, err = os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
		return root, filepath.Base(resolverPath), err
	}
	pid, ok := processOf(plan.Netns)
	if !ok {
		return nil, "", ErrNoFiles
	}
	// What is opened below this directory is the process's that it was opened for,
	// or fails: the number may be another's by then.
	process, err := os.OpenFile(filepath.Join("/proc", strconv.Itoa(pid)), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, "", err
	}
	defer process.Close()
	var stat unix.Stat_t
	if err := unix.Fstatat(int(process.Fd()), "ns/net", &stat, 0); err != nil {
		return nil, "", err
	}
	if plan.NetnsInode != 0 && (stat.Dev != plan.NetnsDev || stat.Ino != plan.NetnsInode) {
		return nil, "", fmt.Errorf("process %d has another network namespace by now: %w", pid, os.ErrNotExist)
	}
	fd, err := unix.Openat(int(process.Fd()), "root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", err
	}
	return os.NewFile(uintptr(fd), "/proc/"+strconv.Itoa(pid)+"/root"), resolverPath, nil
}

// namespaceName is the name of a namespace of iproute2.
func namespaceName(arg string) (string, bool) {
	if strings.HasPrefix(arg, "pid:") {
		return "", false
	}
	if dir, name := filepath.Split(arg); dir == "" || dir == netns.RunDir+"/" || dir == "/var"+netns.RunDir+"/" {
		return name, name != "" && name != "." && name != ".."
	}
	return "", false
}

// processOf is the number in pid:NUMBER and /proc/NUMBER/ns/net.
func processOf(arg string) (int, bool) {
	text, ok := strings.CutPrefix(arg, "pid:")
	if !ok {
		text, ok = strings.CutPrefix(arg, "/proc/")
		if rest, found := strings.CutSuffix(text, "/ns/net"); ok && found {
			text = rest
		} else {
			return 0, false
		}
	}
	pid, err := strconv.Atoi(text)
	return pid, err == nil && pid > 0
}

// writeResolver writes the file at path below root; own is this host's, which is never
// written.
func writeResolver(root *os.File, path, own string, r Resolver) error {
	file, err := openInside(root, path, unix.O_RDWR)
	made := false
	if errors.Is(err, os.ErrNotExist) {
		if err := notOurs(root, filepath.Dir(path), filepath.Dir(own)); err != nil {
			return err
		}
		made = true
		file, err = openInside(root, path, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL)
	}
	if err != nil {
		return err
	}
	defer file.Close()
	if err := notOurs(root, path, own); err != nil {
		return err
	}
	now, err := readRegular(file)
	if err != nil {
		return err
	}
	tail := resolverNone
	if old, none, ok := oldFile(now); ok { // written before
		if now = old; !none {
			tail = resolverOld + base64.StdEncoding.EncodeToString(old) + "\n"
		}
	} else if !made {
		tail = resolverOld + base64.StdEncoding.EncodeToString(now) + "\n"
	}
	var b strings.Builder
	b.WriteString(resolverHead)
	for _, a := range r.Servers {
		b.WriteString("nameserver " + a.String() + "\n")
	}
	if len(r.Search) > 0 {
		b.WriteString("search " + strings.Join(r.Search, " ") + "\n")
	}
	for line := range strings.Lines(string(now)) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "options ") {
			b.WriteString(line + "\n")
		}
	}
	return overwrite(file, b.String()+tail)
}

// restoreResolver puts back what the file at path below root was.
func restoreResolver(root *os.File, path string) error {
	file, err := openInside(root, path, unix.O_RDWR)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	now, err := readRegular(file)
	if err != nil {
		return err
	}
	old, none, ok := oldFile(now)
	switch {
	case !ok:
		return nil
	case !none:
		return overwrite(file, string(old))
	}
	dir, err := openInside(root, filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer dir.Close()
	return unix.Unlinkat(int(dir.Fd()), filepath.Base(path), 0)
}

// oldFile is what a file that we wrote says was there before; none: there was no file.
func oldFile(now []byte) (old []byte, none, ok bool) {
	if !bytes.HasPrefix(now, []byte(resolverHead)) {
		return nil, false, false
	}
	if bytes.HasSuffix(now, []byte("\n"+resolverNone)) {
		return nil, true, true
	}
	i := bytes.LastIndex(now, []byte("\n"+resolverOld))
	if i < 0 {
		return nil, false, false
	}
	old, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(string(now[i+1+len(resolverOld):]), "\n"))
	return old, false, err == nil
}

// openInside opens path below root without following any link.
func openInside(root *os.File, path string, flags int) (*os.File, error) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: inside}
	if flags&unix.O_PATH == 0 {
		how.Flags |= unix.O_NONBLOCK | unix.O_NOCTTY // a FIFO or a terminal in its place must not hold us
	}
	if flags&unix.O_CREAT != 0 {
		how.Mode = 0o644
	}
	fd, err := unix.Openat2(int(root.Fd()), path, &how)
	switch {
	case errors.Is(err, unix.ELOOP):
		return nil, fmt.Errorf("a symbolic link is on the way, which could lead anywhere: write the file by hand, or make it a plain one: %w", err)
	case err != nil:
		return nil, &os.PathError{Op: "open", Path: "/" + path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// notOurs refuses what is this host's own: a container that shares the host's files.
func notOurs(root *os.File, path, own string) error {
	file, err := openInside(root, path, unix.O_PATH)
	if err != nil {
		return err
	}
	defer file.Close()
	theirs, err := file.Stat()
	if err != nil {
		return err
	}
	if ours, err := os.Stat(own); err == nil && os.SameFile(ours, theirs) {
		return errors.New("it is this host's own: the container has no files of its own, and without --dns it can be told of " + own + " by a mount")
	}
	return nil
}

// readRegular reads a file that must be a plain and small one.
func readRegular(file *os.File) ([]byte, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is no plain file")
	}
	b, err := io.ReadAll(io.LimitReader(file, 3*maxOldFile))
	if _, _, written := oldFile(b); err == nil && len(b) > maxOldFile && !written {
		return nil, fmt.Errorf("it has more than %d bytes: that is no resolver file", maxOldFile)
	}
	return b, err
}

// overwrite makes text the content of a file, in its place.
func overwrite(file *os.File, text string) error {
	if _, err := file.WriteAt([]byte(text), 0); err != nil {
		return err
	}
	return file.Truncate(int64(len(text)))
}
