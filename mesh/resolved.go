package mesh

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// resolvedTime is how long systemd-resolved may take to answer.
const resolvedTime = 3 * time.Second

// resolvectl is the program that speaks to systemd-resolved; empty where there is none
// of this network namespace: it tells interfaces by their numbers, and another
// namespace's number is another interface. Who may not see the first process gets an error.
func resolvectl() (string, error) {
	if _, err := os.Stat("/run/systemd/resolve"); err != nil {
		return "", nil
	}
	if here, err := inOurNetwork(1); err != nil || !here {
		return "", err
	}
	for _, path := range []string{"/usr/bin/resolvectl", "/bin/resolvectl"} {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", nil
}

// inOurNetwork reports whether a process is in this network namespace. /proc/PID/ns/net
// says that only to who may trace the process, and a daemon with few rights may not trace
// the first one. /proc/PID/net/unix lists the sockets of that process's namespace for
// everybody, by their inodes, which are the kernel's, not a namespace's (proc(5)).
func inOurNetwork(pid int) (bool, error) {
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(s)
	var info unix.Stat_t
	if err := unix.Fstat(s, &info); err != nil {
		return false, err
	}
	sockets, err := os.Open(fmt.Sprintf("/proc/%d/net/unix", pid))
	if err != nil {
		return false, err
	}
	defer sockets.Close()
	return socketListed(sockets, info.Ino)
}

// socketListed reports whether a socket is in a table as /proc/PID/net/unix has it: a heading,
// then a line a socket, with its inode in the seventh column and a path of any kind behind.
func socketListed(table io.Reader, inode uint64) (bool, error) {
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) >= 7 && fields[6] == strconv.FormatUint(inode, 10) {
			return true, nil
		}
	}
	return false, lines.Err()
}

// ResolvedAsks tells whether systemd-resolved runs here, and whether it asks through
// device for names of domain. It changes nothing.
func ResolvedAsks(ctx context.Context, device, domain string) (runs, asks bool, err error) {
	program, err := resolvectl()
	if program == "" {
		return false, false, err
	}
	asks, err = resolvedHas(ctx, program, device, domain)
	return true, asks, err
}

// resolvedHas reports whether a domain is among those of an interface.
func resolvedHas(ctx context.Context, program, device, domain string) (bool, error) {
	out, err := runResolvectl(ctx, program, "domain", device)
	if err != nil {
		return false, err
	}
	return slices.Contains(strings.Fields(out), "~"+domain), nil
}

// tellResolved has systemd-resolved, where it runs, ask for names of the network here,
// so that this host's own programs find them; the rest of its settings stays. That it
// does not answer is no fault.
func (n *node) tellResolved(ctx context.Context) {
	program, err := resolvectl()
	if err != nil || program == "" {
		return
	}
	if err := setResolved(ctx, program, n.overlayDevice(), n.cfg.DNSAddress, n.cfg.DNSDomain); err != nil {
		n.log.Debug("systemd-resolved was not told", "error", err)
		return
	}
	n.log.Info("systemd-resolved asks here for names", "interface", n.overlayDevice())
	<-ctx.Done()
	if _, err := runResolvectl(context.Background(), program, "revert", n.overlayDevice()); err != nil {
		n.log.Debug("systemd-resolved was not told", "error", err)
	}
}

// setResolved routes questions for one domain, and no others, to a server.
func setResolved(ctx context.Context, program, device string, server netip.Addr, domain string) error {
	for _, args := range [][]string{{"domain", device, "~" + domain}, {"default-route", device, "false"}, {"dns", device, server.String()}} {
		if _, err := runResolvectl(ctx, program, args...); err != nil {
			return err
		}
	}
	return nil
}

// runResolvectl returns what the program printed.
func runResolvectl(ctx context.Context, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, resolvedTime)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("mesh: resolvectl %s: %w: %s", args[0], err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}
