package tun

import (
	"context"
	"testing"
	"time"

	"github.com/google/nftables"
)

// TestChanges: every change that alters what InterfaceAddrs or Bridge.Ports list is told,
// and that port rules have gone.
func TestChanges(t *testing.T) {
	inNamespace(t)
	mustTAP(t, Config{Name: "rs0", Queues: 1})
	ip := func(args ...string) func() {
		return func() { command(t, "ip", args...) }
	}
	table := &nftables.Table{Name: "rules", Family: nftables.TableFamilyBridge}
	rules := func(change func(*nftables.Conn)) func() {
		return func() {
			c, err := nftables.New()
			if err != nil {
				t.Fatal(err)
			}
			change(c)
			if err := c.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, about := range []struct {
		name    string
		begin   func() (*Changes, error)
		changes []func()
	}{
		{"interfaces", WatchInterfaces, []func(){
			ip("link", "add", "br0", "type", "bridge"),
			ip("link", "set", "rs0", "master", "br0"),
			ip("link", "set", "br0", "up"),
			ip("address", "add", "198.51.100.7/24", "dev", "br0"),
			ip("address", "add", "2001:db8::7/64", "dev", "br0", "nodad"),
			ip("address", "delete", "198.51.100.7/24", "dev", "br0"),
			ip("address", "delete", "2001:db8::7/64", "dev", "br0"),
			ip("link", "set", "br0", "name", "br1"),
			ip("link", "set", "rs0", "nomaster"),
			ip("link", "delete", "br1"),
		}},
		{"rules", WatchRules, []func(){
			rules(func(c *nftables.Conn) { c.AddTable(table) }),
			rules(func(c *nftables.Conn) { c.DelTable(table) }),
			rules(func(c *nftables.Conn) { c.AddTable(table) }),
			rules(func(c *nftables.Conn) { c.FlushRuleset() }),
		}},
	} {
		c, err := about.begin()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		told, ended := make(chan struct{}, 1000), make(chan error, 1)
		go func() { ended <- c.Run(ctx, func() { told <- struct{}{} }) }()
		for i, change := range about.changes {
			time.Sleep(20 * time.Millisecond) // what the last change brought with it
			for len(told) > 0 {
				<-told
			}
			change()
			select {
			case <-told:
			case <-time.After(5 * time.Second):
				t.Errorf("%s: change %d is not told", about.name, i)
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}
