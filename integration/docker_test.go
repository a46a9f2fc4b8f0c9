package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"

	"ripstop/integration/lab"
	"ripstop/tun/netns"
)

// engine plays dockerd's part on a host: it asks the plug-in what Docker asks, in Docker's
// order, and moves interfaces as Docker does.
type engine struct {
	*story
	host   string
	socket string
	plugin *exec.Cmd
	log    bytes.Buffer
	pool   string
}

// engine starts the plug-in of a host.
func (s *story) engine(host string) *engine {
	return s.engineAt(host, filepath.Join(s.Dir(), host, "ripstop.sock"))
}

func (s *story) engineAt(host, socket string) *engine {
	e := &engine{story: s, host: host, socket: socket}
	s.Cleanup(func() {
		if e.plugin != nil {
			e.stop(syscall.SIGTERM)
		}
		if s.Failed() {
			s.Logf("log of the plug-in of %s:\n%s", host, e.log.String())
		}
	})
	e.start()
	return e
}

func (e *engine) start() {
	e.Helper()
	e.plugin = exec.Command(program, "docker", "--socket", e.Host(e.host).Socket(), "--plugin-socket", e.socket)
	e.plugin.Stderr = &e.log
	if err := e.Host(e.host).Do(e.plugin.Start); err != nil {
		e.Fatal(err)
	}
	e.eventually("the plug-in of "+e.host+" answers", func() error {
		_, err := e.call("Plugin.Activate", nil)
		return err
	})
}

// stop ends the plug-in.
func (e *engine) stop(signal syscall.Signal) {
	e.Helper()
	e.plugin.Process.Signal(signal)
	if err := e.plugin.Wait(); err != nil && signal == syscall.SIGTERM {
		e.Errorf("the plug-in of %s: %v", e.host, err)
	}
	e.plugin = nil
}

type object = map[string]any

// call is one call of Docker's; the error is the refusal.
func (e *engine) call(method string, q object) (object, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", e.socket)
	}}}
	var body []byte
	if q != nil {
		body, _ = json.Marshal(q)
	}
	request, err := http.NewRequestWithContext(e.ctx, http.MethodPost, "http://plugin/"+method, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	var answer object
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, fmt.Errorf("%s: %q: %w", method, text, err)
	}
	if refusal, _ := answer["Err"].(string); refusal != "" {
		return nil, fmt.Errorf("%s: %s", method, refusal)
	}
	return answer, nil
}

// must is call that has to succeed.
func (e *engine) must(method string, q object) object {
	e.Helper()
	answer, err := e.call(method, q)
	if err != nil {
		e.Fatalf("%s: %v", e.host, err)
	}
	return answer
}

// firewall makes the host's firewall what Docker makes it: forwarded packets are dropped,
// and where the kernel can, bridged frames are shown to it.
func (e *engine) firewall() {
	e.Helper()
	err := e.Host(e.host).Do(func() error {
		err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("1"), 0)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		e.Fatal(err)
	}
	for _, line := range []string{
		"add table ip filter",
		"add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }",
		"add chain ip filter DOCKER-USER",
		"add rule ip filter DOCKER-USER counter return",
		"add rule ip filter FORWARD counter jump DOCKER-USER",
	} {
		if r, err := e.Host(e.host).Exec(e.ctx, "nft", line); err != nil || r.Code != 0 {
			e.Fatalf("nft %s: %v %+v", line, err, r)
		}
	}
}

// passed reports whether that firewall has ripstop's rule.
func (e *engine) passed() bool {
	e.Helper()
	r, err := e.Host(e.host).Exec(e.ctx, "nft", "--stateless", "list", "chain", "ip", "filter", "DOCKER-USER")
	if err != nil || r.Code != 0 {
		e.Fatalf("%v %+v", err, r)
	}
	return strings.Contains(r.Out, `oifname "ripstop"`)
}

// createNetwork is `docker network create`, by a Docker before 28.
func (e *engine) createNetwork() {
	e.Helper()
	e.must("NetworkDriver.GetCapabilities", nil)
	e.must("IpamDriver.GetCapabilities", nil)
	space := e.must("IpamDriver.GetDefaultAddressSpaces", nil)["LocalDefaultAddressSpace"]
	pool := e.must("IpamDriver.RequestPool", object{"AddressSpace": space, "Pool": "10.32.7.0/24", "SubPool": "", "Options": nil, "V6": false})
	e.pool = pool["PoolID"].(string)
	gateway := e.must("IpamDriver.RequestAddress", object{"PoolID": e.pool, "Address": "", "Options": object{"RequestAddressType": "com.docker.network.gateway"}})
	e.must("NetworkDriver.CreateNetwork", object{"NetworkID": "n1", "Options": object{"com.docker.network.generic": object{}},
		"IPv4Data": []object{{"AddressSpace": space, "Pool": pool["Pool"], "Gateway": gateway["Address"], "AuxAddresses": object{}}}, "IPv6Data": []object{}})
}

// container is one that Docker runs: a namespace of the lab with an endpoint.
type container struct {
	place   string // of the lab
	mac     string
	address netip.Prefix
	inner   string // name of its interface on the host
}

func (c *container) endpoint() object {
	return object{"NetworkID": "n1", "EndpointID": c.place + strings.ReplaceAll(c.mac, ":", "")}
}

// run is `docker run`.
func (e *engine) run(place, mac string, options object) *container {
	e.Helper()
	c := &container{place: place, mac: mac}
	given := e.must("IpamDriver.RequestAddress", object{"PoolID": e.pool, "Address": "", "Options": object{"com.docker.network.endpoint.macaddress": mac}})
	var err error
	if c.address, err = netip.ParsePrefix(given["Address"].(string)); err != nil || !netip.MustParsePrefix("10.32.7.0/24").Contains(c.address.Addr()) || c.address.Bits() != 24 {
		e.Fatalf("%v: %v", given, err)
	}
	create := c.endpoint()
	create["Interface"], create["Options"] = object{"Address": c.address.String(), "AddressIPv6": "", "MacAddress": mac}, options
	for range 2 { // as after an answer that was lost
		e.must("NetworkDriver.CreateEndpoint", create)
	}
	join := c.endpoint()
	join["SandboxKey"], join["Options"] = e.Container(place).Netns(), object{}
	joined := e.must("NetworkDriver.Join", join)
	if joined["DisableGatewayService"] != true || joined["InterfaceName"].(object)["DstPrefix"] != "eth" {
		e.Errorf("Join: %v", joined)
	}
	c.inner = joined["InterfaceName"].(object)["SrcName"].(string)
	e.moveIn(c, joined["StaticRoutes"].([]any))
	e.must("NetworkDriver.EndpointOperInfo", c.endpoint())
	return c
}

// moveIn moves an interface into its container, names it, and sets it up.
func (e *engine) moveIn(c *container, routes []any) {
	e.Helper()
	inside, err := netns.Open(e.Container(c.place).Netns())
	if err != nil {
		e.Fatal(err)
	}
	defer inside.Close()
	err = e.Host(e.host).Do(func() error {
		link, err := netlink.LinkByName(c.inner)
		if err != nil {
			return err
		}
		return netlink.LinkSetNsFd(link, inside.FD())
	})
	if err != nil {
		e.Fatal(err)
	}
	err = inside.Do(func() error {
		link, err := netlink.LinkByName(c.inner)
		if err != nil {
			return err
		}
		address, err := netlink.ParseAddr(c.address.String())
		if err != nil {
			return err
		}
		for _, step := range []func() error{
			func() error { return netlink.LinkSetName(link, "eth0") },
			func() error { return netlink.AddrAdd(link, address) },
			func() error { return netlink.LinkSetUp(link) },
		} {
			if err := step(); err != nil {
				return err
			}
		}
		for _, r := range routes {
			_, to, err := net.ParseCIDR(r.(object)["Destination"].(string))
			if err != nil {
				return err
			}
			if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: to, Scope: netlink.SCOPE_LINK}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		e.Fatal(err)
	}
}

// moveOut brings an interface back to the host.
func (e *engine) moveOut(c *container) {
	e.Helper()
	home, err := netns.Open(e.Host(e.host).Netns())
	if err != nil {
		e.Fatal(err)
	}
	defer home.Close()
	err = e.Container(c.place).Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		for _, step := range []func() error{
			func() error { return netlink.LinkSetDown(link) },
			func() error { return netlink.LinkSetName(link, c.inner) },
			func() error { return netlink.LinkSetNsFd(link, home.FD()) },
		} {
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		e.Fatal(err)
	}
}

// remove is `docker rm --force`, up to where the address is released.
func (e *engine) remove(c *container) {
	e.Helper()
	e.must("NetworkDriver.Leave", c.endpoint())
	e.moveOut(c)
	for range 2 {
		e.must("NetworkDriver.DeleteEndpoint", c.endpoint())
	}
	if got := e.interfaces(c.place); len(got) != 0 {
		e.Errorf("interfaces of %s after its end: %v", c.place, got)
	}
}

// release is the end of `docker rm`.
func (e *engine) release(c *container) error {
	_, err := e.call("IpamDriver.ReleaseAddress", object{"PoolID": e.pool, "Address": c.address.Addr().String()})
	return err
}

// lent are the ends of pairs that lie on a host, of either side.
func (e *engine) lent() (names []string) {
	e.Helper()
	err := e.Host(e.host).Do(func() error {
		links, err := netlink.LinkList()
		for _, link := range links {
			if name := link.Attrs().Name; strings.HasPrefix(name, "ripi") || strings.HasPrefix(name, "ripv") {
				names = append(names, name)
			}
		}
		return err
	})
	if err != nil {
		e.Fatal(err)
	}
	return names
}

// used are the names for which a host has addresses in use.
func (e *engine) used() (holders []string) {
	e.Helper()
	for _, u := range e.ipam(e.host).Uses {
		if u.For != "" && u.State != "resting" {
			holders = append(holders, u.For)
		}
	}
	slices.Sort(holders)
	return holders
}

// TestDocker: Docker on each of two hosts gives containers their place by the plug-in;
// they find each other past Docker's firewall, also after the plug-in and the daemon were
// started again, and everything goes as Docker says, also while no daemon runs.
func TestDocker(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a", "b"}, Links: []lab.LinkConfig{{Hosts: []string{"a", "b"}}}, Containers: 1})
	s.upAll()
	s.reach("a", "b")
	a, b := s.engine("a"), s.engine("b")
	a.firewall()
	b.firewall()
	a.createNetwork()
	b.createNetwork()
	const macA, macB = "02:42:00:00:00:0a", "02:42:00:00:00:0b"
	web := a.run("a1", macA, object{"ripstop.name": "web", "com.docker.network.endpoint.exposedports": []any{}})
	db := b.run("b1", macB, object{})
	s.known(2)
	s.owned("a", "docker:n1/a1"+strings.ReplaceAll(macA, ":", ""))
	reached := func() {
		t.Helper()
		s.answered("b1", web.address.Addr(), s.ping("b1", web.address.Addr(), lab.PingConfig{Count: 3}))
		s.answered("a1", db.address.Addr(), s.ping("a1", db.address.Addr(), lab.PingConfig{Count: 3}))
	}
	reached()
	s.resolves(s.Container("b1").Place, "web.ripstop.internal", dns.TypeA, web.address.Addr().String())
	if r, err := s.Host("a").Ripstop(s.ctx, "ipam", "release", "docker:"+macA); err != nil || r.Code != 1 || !strings.Contains(r.Err, "is attached") {
		t.Errorf("an address in use was released: %v %+v", err, r)
	}

	if !a.passed() || !b.passed() {
		t.Errorf("Docker's firewall has ripstop's rule: on a %v, on b %v", a.passed(), b.passed())
	}

	// The plug-in has no state that a restart could lose, nor does the daemon lose its.
	a.stop(syscall.SIGKILL)
	b.stop(syscall.SIGTERM)
	if _, err := os.Lstat(b.socket); !os.IsNotExist(err) {
		t.Errorf("the socket of a plug-in that ended: %v", err)
	}
	a.start()
	b.start()
	if err := s.Host("a").Daemon().Kill(); err != nil {
		t.Fatal(err)
	}
	s.up("a", lab.StartConfig{})
	s.reach("a", "b")
	s.known(2)
	reached()
	if got := a.used(); !slices.Equal(got, []string{"docker:" + macA}) {
		t.Errorf("after restarts addresses are for %q", got)
	}

	a.remove(web)
	if err := a.release(web); err != nil {
		t.Error(err)
	}
	if err := a.release(web); err != nil {
		t.Errorf("released twice: %v", err)
	}
	s.owned("a")
	if got := a.used(); len(got) != 0 {
		t.Errorf("after release addresses are for %q", got)
	}

	// Without a daemon the interface goes all the same, and Docker hears that the address
	// is not released; it gets it again when it asks for it.
	if err := s.Host("b").Daemon().Stop(); err != nil {
		t.Fatal(err)
	}
	b.remove(db)
	if err := b.release(db); err == nil || !strings.Contains(err.Error(), "ripstop up") {
		t.Errorf("released without a daemon: %v", err)
	}
	if got := b.lent(); len(got) != 0 {
		t.Errorf("interfaces left on b: %v", got)
	}
	s.up("b", lab.StartConfig{})
	s.owned("b")
	again := b.must("IpamDriver.RequestAddress", object{"PoolID": b.pool, "Address": db.address.Addr().String(), "Options": object{"com.docker.network.endpoint.macaddress": "02:42:00:00:00:0c"}})
	if again["Address"] != db.address.String() {
		t.Errorf("asked for %v: %v", db.address, again)
	}
	if got := b.used(); !slices.Equal(got, []string{"docker:02:42:00:00:00:0c"}) {
		t.Errorf("on b addresses are for %q", got)
	}

	// Docker dies between an endpoint and its container, and forgets it. It goes with the
	// network.
	lost := object{"NetworkID": "n1", "EndpointID": "lost", "Interface": object{"Address": db.address.String(), "MacAddress": "02:42:00:00:00:0c"}}
	b.must("NetworkDriver.CreateEndpoint", lost)
	s.owned("b", "docker:n1/lost")
	for _, e := range []*engine{a, b} {
		e.must("IpamDriver.ReleaseAddress", object{"PoolID": e.pool, "Address": "0.0.0.0"})
		e.must("IpamDriver.ReleasePool", object{"PoolID": e.pool})
		e.must("NetworkDriver.DeleteNetwork", object{"NetworkID": "n1"})
	}
	s.owned("b")
	if got := b.lent(); len(got) != 0 {
		t.Errorf("interfaces left on b by the network: %v", got)
	}
	if err := s.Host("a").Daemon().Stop(); err != nil {
		t.Fatal(err)
	}
	if a.passed() {
		t.Error("ripstop's rule is in Docker's firewall when its bridge is gone")
	}
}
