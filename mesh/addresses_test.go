package mesh

import (
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"ripstop/mesh/gossip"
)

// TestUnderlayAddresses: whatever a host is bound to, others are told addresses that
// they can dial, and nothing else, so that its peer record has a form.
func TestUnderlayAddresses(t *testing.T) {
	n, ns := host(t)
	n.port = 6783
	err := ns.Do(func() error {
		under := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "under"}, PeerName: "other"}
		if err := netlink.LinkAdd(under); err != nil {
			return err
		}
		for _, a := range []string{"198.51.100.7/24", "2001:db8::7/64"} {
			addr, err := netlink.ParseAddr(a)
			if err != nil {
				return err
			}
			addr.Flags = syscall.IFA_F_NODAD
			if err := netlink.AddrAdd(under, addr); err != nil {
				return err
			}
		}
		if err := netlink.LinkSetUp(under); err != nil {
			return err
		}
		const v4, v6 = "198.51.100.7:6783", "[2001:db8::7]:6783"
		for _, c := range []struct{ bind, want []string }{
			{nil, []string{v4, v6}},
			{[]string{"198.51.100.7"}, []string{v4}},
			{[]string{"192.0.2.9"}, []string{"192.0.2.9:6783"}},
			{[]string{"0.0.0.0"}, []string{v4}},
			{[]string{"::"}, []string{v6}},
			{[]string{"0.0.0.0", "::"}, []string{v4, v6}},
			{[]string{"fe80::7%under"}, nil},
			{[]string{"fe80::7%under", "198.51.100.7"}, []string{v4}},
		} {
			n.cfg.Bind = nil
			for _, a := range c.bind {
				n.cfg.Bind = append(n.cfg.Bind, netip.MustParseAddr(a))
			}
			got, known := n.underlayAddresses(time.Now())
			var body gossip.PeerBody
			body.Nickname, body.Addresses = "a", got
			if _, err := body.Append(nil); err != nil || !known {
				t.Errorf("bound to %v: %v, known %v", c.bind, err, known)
			}
			want := make(map[string]bool)
			for _, a := range c.want {
				want[a] = true
			}
			for _, a := range got {
				if !want[a.String()] {
					t.Errorf("bound to %v: others are told %v", c.bind, a)
				}
				delete(want, a.String())
			}
			for a := range want {
				t.Errorf("bound to %v: others are not told %v", c.bind, a)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
