package attach

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"ripstop/tun"
	"ripstop/tun/netns"
)

// move moves an interface as a container engine does, and gives it another name.
func move(from, to *netns.NS, was, name string) error {
	err := from.Do(func() error {
		link, err := netlink.LinkByName(was)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetDown(link); err != nil {
			return err
		}
		return netlink.LinkSetNsFd(link, to.FD())
	})
	if err != nil {
		return err
	}
	return to.Do(func() error {
		link, err := netlink.LinkByName(was)
		if err != nil {
			return err
		}
		return netlink.LinkSetName(link, name)
	})
}

// TestLend: the inner end waits on the host without a word, an engine moves it in and
// brings it back, and Recall takes the pair away; each may come twice.
func TestLend(t *testing.T) {
	l := newLab(t)
	empty := state(t, l.host)
	p, inside := l.plan(1)
	p.Netns, p.Interface = "docker-1", "ripi0011223344"
	for range 2 {
		l.do(func() error { return Lend(t.Context(), p) })
	}
	l.do(func() error {
		link, err := find(p.Interface)
		if err != nil {
			return err
		}
		off, err := os.ReadFile(sysctlPath(p.Interface, "disable_ipv6"))
		if link.Attrs().MTU != tun.ContainerMTU || link.Attrs().HardwareAddr.String() != "02:00:00:00:00:01" || strings.TrimSpace(string(off)) != "1" {
			t.Errorf("the inner end has MTU %d, MAC %v, disable_ipv6 %s", link.Attrs().MTU, link.Attrs().HardwareAddr, off)
		}
		if err != nil {
			return err
		}
		return EnslavePort(bridgeName, p.HostInterface, p.MAC, l.fw, p.rule())
	})
	if err := move(l.host, inside, p.Interface, "eth0"); err != nil {
		t.Fatal(err)
	}
	err := inside.Do(func() error {
		link, err := find("eth0")
		if err == nil && link.Attrs().MTU != tun.ContainerMTU {
			t.Errorf("moved, it has MTU %d", link.Attrs().MTU)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	l.do(func() error { return Recall(p.Interface) }) // it is elsewhere
	if err := l.try(func() error { _, err := find(p.HostInterface); return err }); err != nil {
		t.Errorf("recalled while it was in use: %v", err)
	}
	if err := move(inside, l.host, "eth0", p.Interface); err != nil {
		t.Fatal(err)
	}
	l.do(func() error { return ReleasePort(bridgeName, p.HostInterface, l.fw) })
	for range 2 {
		l.do(func() error { return Recall(p.Interface) })
	}
	if now := state(t, l.host); now != empty {
		t.Errorf("left behind:\n%s\nbefore:\n%s", now, empty)
	}
}

// TestLendFails: whichever step fails, nothing is left; and what is not ripstop's is
// neither taken nor removed.
func TestLendFails(t *testing.T) {
	l := newLab(t)
	p, _ := l.plan(1)
	p.Interface = "ripi0011223344"
	empty := state(t, l.host)
	broken := errors.New("broken")
	var steps []string
	l.do(func() error {
		return lend(t.Context(), p, func(step string) error {
			steps = append(steps, step)
			return nil
		})
	})
	l.do(func() error { return Recall(p.Interface) })
	for _, bad := range steps {
		err := l.try(func() error {
			return lend(context.Background(), p, func(step string) error {
				if step == bad {
					return broken
				}
				return nil
			})
		})
		if !errors.Is(err, broken) {
			t.Errorf("%s: %v", bad, err)
		}
		if now := state(t, l.host); now != empty {
			t.Errorf("%s: left behind:\n%s", bad, now)
		}
	}
	l.do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = p.Interface
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "theirs"})
	})
	if err := l.try(func() error { return Lend(t.Context(), p) }); !errors.Is(err, ErrInterfaceTaken) {
		t.Errorf("lent over another's interface: %v", err)
	}
	if err := l.try(func() error { return Recall(p.Interface) }); err == nil || !strings.Contains(err.Error(), "not ripstop's") {
		t.Errorf("recalled another's interface: %v", err)
	}
	if err := l.try(func() error { return Recall("a/b") }); err == nil {
		t.Error("a name that no interface can have was recalled")
	}
}
