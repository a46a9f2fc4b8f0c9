package mesh

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"ripstop/crypto"
	"ripstop/mesh/api"
	"ripstop/tun"
)

// TestGatewayFor: a container's gateway is an address of the host's in its network, and both
// are in the range that is masqueraded.
func TestGatewayFor(t *testing.T) {
	host := &attachment{Exposed: true, Masquerade: true}
	for _, a := range []string{"10.32.0.100/24", "10.32.2.100/24", "192.168.77.1/24", "10.31.255.1/8", "10.47.0.1/8", "10.32.3.100/24"} {
		host.Plan.Addresses = append(host.Plan.Addresses, netip.MustParsePrefix(a))
	}
	n := &node{network: new(crypto.Network)}
	n.addressing = newAddressing()
	n.attachments = []*attachment{host}
	n.numbering.Range = netip.MustParsePrefix("10.32.0.0/12")
	n.fenced[netip.MustParseAddr("10.32.3.100")] = true
	for _, c := range []struct{ container, want, says string }{
		{"10.32.2.7/24", "10.32.2.100", ""},
		{"10.32.9.7/24", "", "--subnet 10.32.9.0/24"},
		{"10.32.3.7/24", "", "--subnet 10.32.3.0/24"}, // fenced
		{"192.168.77.2/24", "", "192.168.77.1 is outside the range 10.32.0.0/12"},
		{"10.40.0.1/8", "10.47.0.1", ""},
		{"10.48.0.1/8", "", "10.48.0.1 is outside the range"},
		{"fd00::1/64", "", "no IPv4 network"},
	} {
		a := &attachment{Plan: api.AttachPlan{Addresses: []netip.Prefix{netip.MustParsePrefix(c.container)}}}
		got, err := n.gatewayFor(a)
		if c.want != "" && (err != nil || got.String() != c.want) {
			t.Errorf("%s: %v, %v, want %s", c.container, got, err, c.want)
		}
		var answer *api.Error
		if c.want == "" && (!errors.As(err, &answer) || answer.Code != api.CodeConflict || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v, %v, want %q", c.container, got, err, c.says)
		}
	}
	host.Masquerade = false
	if _, err := n.gatewayFor(host); err == nil || !strings.Contains(err.Error(), "ripstop expose --masquerade") {
		t.Errorf("no gateway: %v", err)
	}
}

// TestHideAGateway: as long as something has its default route by the host, it stays.
func TestHideAGateway(t *testing.T) {
	gateway := netip.MustParseAddr("10.32.0.100")
	host := &attachment{Exposed: true, Masquerade: true}
	host.Plan.Addresses = []netip.Prefix{netip.PrefixFrom(gateway, 24)}
	n := &node{bridge: new(tun.Bridge)}
	n.attachments = []*attachment{host}
	for _, name := range []string{"a1", "a2", "a3", "a4", "a5", "elsewhere", "inside"} {
		a := &attachment{Name: name, Plan: api.AttachPlan{Gateway: gateway}}
		switch name {
		case "elsewhere":
			a.Plan.Gateway = gateway.Next()
		case "inside":
			a.Plan.Gateway = netip.Addr{}
		}
		n.attachments = append(n.attachments, a)
	}
	n.reservations = map[string]*reservation{"1": {attachment: *n.attachments[1]}}
	err := (*backend)(n).Hide(t.Context())
	if err == nil || !strings.Contains(err.Error(), "gateway of a1, a2, a3, a4, 2 more: run `ripstop detach`") || n.exposed() == nil {
		t.Errorf("hidden: %v", err)
	}
	n.attachments = []*attachment{host}
	if err := (*backend)(n).Hide(t.Context()); err == nil || !strings.Contains(err.Error(), "gateway of a1:") {
		t.Errorf("hidden while somebody is about to attach: %v", err)
	}
}

// TestExposeWaits: who asks while another is exposing the host waits only as long as it likes.
func TestExposeWaits(t *testing.T) {
	n := &node{bridge: new(tun.Bridge), exposing: make(chan struct{}, 1)}
	n.exposing <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (*backend)(n).Expose(ctx, api.ExposeRequest{}); !errors.Is(err, context.Canceled) {
		t.Errorf("exposed: %v", err)
	}
}
