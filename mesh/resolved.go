package mesh

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// resolvedTime is how long systemd-resolved may take to answer.
const resolvedTime = 3 * time.Second

// resolvectl is the program that speaks to systemd-resolved; empty where there is none
// of this network namespace: it tells interfaces by their numbers, and another
// namespace's number is another interface. Who may not see which namespace is the first
// process's gets an error.
func resolvectl() (string, error) {
	if _, err := os.Stat("/run/systemd/resolve"); err != nil {
		return "", nil
	}
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return "", err
	}
	if first, err := os.Readlink("/proc/1/ns/net"); err != nil || first != own {
		return "", err
	}
	for _, path := range []string{"/usr/bin/resolvectl", "/bin/resolvectl"} {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", nil
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
