package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"ripstop/mesh"
	"ripstop/tun"
)

// host is how the checks see the kernel and the file system. None of it changes
// anything; a test puts its own in the place of any.
type host struct {
	user        int // effective
	release     func() (string, error)
	capable     func() (capabilities, error)
	tunLoaded   func() (bool, error)
	open        func(path string) error // opens for reading and writing, and closes
	stat        func(path string) (fs.FileInfo, error)
	space       func(path string) (space, error)
	sysctl      func(key string) (string, error)
	storedRange func(state string) (netip.Prefix, bool, error)
	forwarding  func(bridge string) (sentence string, there bool)
	routing     func(bridge string) (sentence string, there bool)
	overlap     func(prefix netip.Prefix, ours ...string) (string, error)
	holders     func(ctx context.Context, port uint16) ([]holder, error)
	has         func(address netip.Addr) (bool, error) // an interface of this host has it
	resolve     func(ctx context.Context, server netip.Addr, name string) error
	resolved    func(ctx context.Context, device, domain string) (runs, asks bool, err error)
}

// thisHost is the host that the program runs on.
func thisHost() host {
	return host{
		user: os.Geteuid(), release: release, capable: capable, tunLoaded: tunLoaded, open: openAndClose, stat: os.Stat, space: spaceAt, sysctl: sysctl,
		storedRange: mesh.StoredRange, forwarding: tun.ForwardingHazard, routing: tun.RoutingHazard, overlap: tun.Overlap, holders: holders,
		has: hasAddress, resolve: resolve, resolved: mesh.ResolvedAsks,
	}
}

func release() (string, error) {
	var u unix.Utsname
	err := unix.Uname(&u)
	return unix.ByteSliceToString(u.Release[:]), err
}

// capable reads what this process may do, and whether its user namespace is the
// initial one: that maps every user to itself.
func capable() (c capabilities, err error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return c, err
	}
	c.effective = uint64(data[1].Effective)<<32 | uint64(data[0].Effective)
	users, err := os.ReadFile("/proc/self/uid_map")
	c.whole = strings.Join(strings.Fields(string(users)), " ") == "0 0 4294967295"
	return c, err
}

// tunLoaded looks for the driver among those that /proc/misc lists.
func tunLoaded() (bool, error) {
	text, err := os.ReadFile("/proc/misc")
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[1] == "tun" {
			return true, nil
		}
	}
	return false, err
}

func openAndClose(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

func spaceAt(path string) (space, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return space{}, err
	}
	unit := s.Frsize
	if unit == 0 {
		unit = s.Bsize
	}
	return space{bytes: s.Bavail * uint64(unit), inodes: s.Ffree, limited: s.Files > 0, readOnly: s.Flags&unix.ST_RDONLY != 0}, nil
}

func sysctl(key string) (string, error) {
	b, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(key, ".", "/"))
	return strings.TrimSpace(string(b)), err
}

// hasAddress reports whether an interface of this host has an address.
func hasAddress(address netip.Addr) (bool, error) {
	all, err := net.InterfaceAddrs()
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap() == address {
			return true, nil
		}
	}
	return false, err
}

// resolve asks one server for a name; that there is no such name is an answer.
func resolve(ctx context.Context, server netip.Addr, name string) error {
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, netip.AddrPortFrom(server, 53).String())
	}}
	_, err := r.LookupNetIP(ctx, "ip4", name)
	var answer *net.DNSError
	if errors.As(err, &answer) && answer.IsNotFound {
		return nil
	}
	return err
}

// maxHolders bounds the sockets that are told of one port.
const maxHolders = 4

// holders lists the sockets that listen at a port, in this network namespace, with the
// processes that have them as far as this user may see.
func holders(ctx context.Context, port uint16) ([]holder, error) {
	var all []holder
	inodes := make(map[string]int) // to the index in all
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6"} {
		found, err := listening(filepath.Join("/proc/self/net", table), port, strings.HasPrefix(table, "tcp"))
		if errors.Is(err, fs.ErrNotExist) { // no IPv6
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, inode := range found[:min(len(found), maxHolders-len(all))] {
			inodes[inode] = len(all)
			all = append(all, holder{protocol: strings.TrimSuffix(table, "6")})
		}
	}
	if len(all) > 0 {
		nameHolders(ctx, all, inodes)
	}
	return all, nil
}

// tcpListen is the state of a listening TCP socket (include/net/tcp_states.h).
const tcpListen = "0A"

// listening reads one of the kernel's tables of sockets and returns the inodes of those
// at a port: of TCP, that listen.
func listening(table string, port uint16, tcp bool) (inodes []string, err error) {
	f, err := os.Open(table)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	suffix := fmt.Sprintf(":%04X", port)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// sl local remote st queues timer retransmits uid timeout inode …
		fields := strings.Fields(lines.Text())
		if len(fields) > 9 && strings.HasSuffix(fields[1], suffix) && (!tcp || fields[3] == tcpListen) {
			inodes = append(inodes, fields[9])
		}
	}
	return inodes, lines.Err()
}

// nameHolders looks through the processes for who has the sockets of those inodes.
func nameHolders(ctx context.Context, all []holder, inodes map[string]int) {
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	for _, p := range processes {
		pid, err := strconv.Atoi(p.Name())
		if err != nil || ctx.Err() != nil {
			continue
		}
		dir := filepath.Join("/proc", p.Name(), "fd")
		files, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, f := range files {
			link, err := os.Readlink(filepath.Join(dir, f.Name()))
			inode, isSocket := strings.CutPrefix(link, "socket:[")
			if i, ours := inodes[strings.TrimSuffix(inode, "]")]; err == nil && isSocket && ours {
				name, _ := os.ReadFile(filepath.Join("/proc", p.Name(), "comm"))
				all[i].process = fmt.Sprintf("%s (process %d)", strings.TrimSpace(string(name)), pid)
			}
		}
	}
}
