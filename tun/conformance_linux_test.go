package tun_test

import (
	"net/netip"
	"testing"
	"time"

	"ripstop/tun"
	"ripstop/tun/tuntest"
)

var (
	here  = tuntest.Address{MAC: [6]byte{0x0a, 0, 0, 0, 0, 1}, IP: netip.MustParseAddr("10.32.0.1")}
	there = tuntest.Address{MAC: [6]byte{0x0a, 0, 0, 0, 0, 2}, IP: netip.MustParseAddr("10.32.0.2")}
)

// TestConformanceTAP: the other side is a packet socket on the TAP.
func TestConformanceTAP(t *testing.T) {
	for name, cfg := range map[string]tun.Config{
		"plain":    {Name: "rs0", MAC: here.MAC, Queues: 2},
		"offloads": {Name: "rs0", MAC: here.MAC, Queues: 1, Offloads: tun.OffloadAll},
	} {
		t.Run(name, func(t *testing.T) {
			tuntest.Conformance(t, func(t *testing.T) (tun.Device, tuntest.End) {
				tun.InNamespace(t)
				device, err := tun.OpenTAP(cfg)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { device.Close() })
				w := tun.NewWire(t, device.Name())
				return device, tuntest.End{
					Send: w.Send,
					Receive: func(wait time.Duration) ([]byte, bool) {
						return w.Receive(wait, tuntest.Ours)
					},
					Here: here, There: there, MaxFrame: tun.MaxMTU + 14,
				}
			})
		})
	}
}

// TestConformanceRouted: the other side is a packet socket on the TUN, which sees
// packets without Ethernet headers; there is one station to talk with.
func TestConformanceRouted(t *testing.T) {
	tuntest.Conformance(t, func(t *testing.T) (tun.Device, tuntest.End) {
		tun.InNamespace(t)
		device, err := tun.OpenTUN(tun.RoutedConfig{
			Name: "rs0", MAC: here.MAC, MTU: tun.MaxMTU,
			Addresses: []netip.Prefix{netip.PrefixFrom(here.IP, 12)},
			Resolve: func(a netip.Addr) ([6]byte, bool) {
				return there.MAC, a == there.IP
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { device.Close() })
		w := tun.NewWire(t, device.Name())
		ether := append(append(append([]byte(nil), here.MAC[:]...), there.MAC[:]...), 0x08, 0x00)
		return device, tuntest.End{
			Send: w.Send,
			Receive: func(wait time.Duration) ([]byte, bool) {
				packet, ok := w.Receive(wait, func(p []byte) bool {
					return tuntest.Ours(append(append([]byte(nil), ether...), p...))
				})
				return append(append([]byte(nil), ether...), packet...), ok
			},
			Here: here, There: there, MaxFrame: tun.MaxMTU + 14,
		}
	})
}
