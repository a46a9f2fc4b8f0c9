// Package runtimestest stands in for a daemon, and makes namespaces, where the plug-ins of
// container runtimes are tested.
package runtimestest

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"testing"

	"ripstop/mesh/api"
	"ripstop/tun/netns"
	"ripstop/tun/tuntest"
)

// Daemon is the part of a Backend that plug-ins ask. It answers with what its fields
// hold, and to whatever changes something, and to Status, with Refusal where that is set.
type Daemon struct {
	api.Backend
	Asked   []any // what Reserve, Expose and Detach were asked for
	Refusal error
	NoPlace error // Reserve's answer, where it is set
	State   api.Status
	Named   api.Names
	Plan    api.AttachPlan
}

// Status is State.
func (d *Daemon) Status(context.Context) (api.Status, error) { return d.State, d.Refusal }

// Names is Named.
func (d *Daemon) Names(context.Context) (api.Names, error) { return d.Named, nil }

// IPAM has the range 10.32.0.0/12, 10.32.2.0/24 of it as the default subnet, and fd12::/64
// beside it.
func (d *Daemon) IPAM(context.Context) (api.IPAM, error) {
	return api.IPAM{Range: netip.MustParsePrefix("10.32.0.0/12"), Subnet: netip.MustParsePrefix("10.32.2.0/24"), Range6: netip.MustParsePrefix("fd12::/64")}, nil
}

// Reserve is Plan.
func (d *Daemon) Reserve(_ context.Context, q api.AttachRequest) (api.AttachPlan, error) {
	d.Asked = append(d.Asked, q)
	return d.Plan, errors.Join(d.Refusal, d.NoPlace)
}

// Expose makes the host a gateway, as far as anybody can tell.
func (d *Daemon) Expose(_ context.Context, q api.ExposeRequest) (api.Endpoint, error) {
	d.Asked = append(d.Asked, q)
	return api.Endpoint{}, d.Refusal
}

// Detach detaches what has no interface.
func (d *Daemon) Detach(_ context.Context, q api.DetachRequest) (api.AttachPlan, error) {
	d.Asked = append(d.Asked, q)
	return api.AttachPlan{HostInterface: "ripvnone", MAC: "02:00:00:00:00:01"}, d.Refusal
}

// Standing is a daemon with one attachment, of the namespace at path, which its owner
// asks for again.
func Standing(path, owner string) *Daemon {
	plan := api.AttachPlan{Netns: path, Interface: "eth0", HostInterface: "ripv0011223344", MAC: "02:00:5e:00:53:01", MTU: 1500, HostMTU: 65535, Existing: true,
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.32.0.1/12"), netip.MustParsePrefix("fd12::1/64")}, Routes: []netip.Prefix{netip.MustParsePrefix("169.254.83.53/32")}}
	server := netip.MustParseAddr("169.254.83.53")
	return &Daemon{
		Plan:  plan,
		Named: api.Names{Domain: "ripstop.internal", Address: &server, Search: []string{"lab.example"}},
		State: api.Status{Endpoints: []api.Endpoint{{Owner: owner, State: api.EndpointHere, MAC: plan.MAC,
			Addresses: plan.Addresses, Interface: plan.Interface, HostPort: plan.HostInterface}}},
	}
}

// Namespace makes a network namespace for the time of a test, and returns its path. The
// test is skipped where that needs root.
func Namespace(t *testing.T) string {
	t.Helper()
	tuntest.NeedRoot(t)
	dir := t.TempDir()
	ns, err := netns.NewNamed(dir, "c1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ns.Close()
		if err := netns.Delete(dir, "c1"); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(dir, "c1")
}
