package mesh

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"
)

// resolvedTime is how long systemd-resolved may take to answer.
const resolvedTime = 3 * time.Second

// resolvectl is the program that speaks to systemd-resolved; empty where there is none
// of this network namespace: it tells interfaces by their numbers, and another
// namespace's number is another interface.
func resolvectl() string {
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return ""
	}
	if first, err := os.Readlink("/proc/1/ns/net"); err != nil || first != own {
		return ""
	}
	if _, err := os.Stat("/run/systemd/resolve"); err != nil {
		return ""
	}
	for _, path := range []string{"/usr/bin/resolvectl", "/bin/resolvectl"} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}

// tellResolved has systemd-resolved, where it runs, ask for names of the network here,
// so that this host's own programs find them; the rest of its settings stays. That it
// does not answer is no fault.
func (n *node) tellResolved(ctx context.Context) {
	program := resolvectl()
	if program == "" {
		return
	}
	if err := setResolved(ctx, program, n.overlayDevice(), n.cfg.DNSAddress, n.cfg.DNSDomain); err != nil {
		n.log.Debug("systemd-resolved was not told", "error", err)
		return
	}
	n.log.Info("systemd-resolved asks here for names", "interface", n.overlayDevice())
	<-ctx.Done()
	if err := runResolvectl(context.Background(), program, "revert", n.overlayDevice()); err != nil {
		n.log.Debug("systemd-resolved was not told", "error", err)
	}
}

// setResolved routes questions for one domain, and no others, to a server.
func setResolved(ctx context.Context, program, device string, server netip.Addr, domain string) error {
	if err := runResolvectl(ctx, program, "domain", device, "~"+domain); err != nil {
		return err
	}
	if err := runResolvectl(ctx, program, "default-route", device, "false"); err != nil {
		return err
	}
	return runResolvectl(ctx, program, "dns", device, server.String())
}

func runResolvectl(ctx context.Context, program string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, resolvedTime)
	defer cancel()
	if out, err := exec.CommandContext(ctx, program, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("mesh: resolvectl %s: %w: %s", args[0], err, strings.TrimSpace(string(out)))
	}
	return nil
}
