package attach

import (
	"errors"
	"io/fs"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/vishvananda/netlink"

	"ripstop/tun"
	"ripstop/tun/netns"
)

// TestLook: an attached interface is shown as it was planned, with its host end; one
// that somebody else made is shown without, and what is gone is said to be gone.
func TestLook(t *testing.T) {
	l := newLab(t)
	p, ns := l.plan(1)
	l.attach(p)
	look := func(arg, iface string) (inner Inner, err error) {
		err = l.try(func() error {
			inner, err = Look(arg, iface)
			return err
		})
		return inner, err
	}
	got, err := look(p.Netns, p.Interface)
	want := Inner{HostInterface: p.HostInterface, MAC: p.MAC, MTU: tun.ContainerMTU, Up: true, Addresses: p.Addresses}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	// Of a pair inside the namespace the index of the other end may be any link's outside.
	err = ns.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "other0"
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "other1"})
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := look(p.Netns, "other0"); err != nil || got.HostInterface != "" || got.Up {
		t.Errorf("a foreign interface: %+v, %v", got, err)
	}
	for arg, iface := range map[string]string{p.Netns: "rip9", filepath.Join(l.dir, "none"): "rip0"} {
		if _, err := look(arg, iface); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s in %s: %v", iface, arg, err)
		}
	}
	if _, err := look(p.Netns, "a/b"); err == nil {
		t.Error("a name that no interface can have was looked for")
	}
	if _, err := look("/proc/thread-self/ns/net", "lo"); !errors.Is(err, netns.ErrOwn) {
		t.Errorf("the host's own namespace: %v", err)
	}
}
