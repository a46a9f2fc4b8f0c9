package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ripstop/mesh/api"
	"ripstop/mesh/api/apitest"
)

// daemon is the part of a Backend that the plug-in asks.
type daemon struct {
	api.Backend
	asked   []any
	refusal error // of everything but what is only asked for
	ipam    api.IPAM
	status  api.Status
	given   []netip.Prefix
}

func (d *daemon) IPAM(context.Context) (api.IPAM, error)     { return d.ipam, nil }
func (d *daemon) Status(context.Context) (api.Status, error) { return d.status, nil }
func (d *daemon) Names(context.Context) (api.Names, error) {
	server := netip.MustParseAddr("169.254.83.53")
	return api.Names{Address: &server}, nil
}
func (d *daemon) Allocate(_ context.Context, q api.AllocateRequest) (api.Address, error) {
	d.asked = append(d.asked, q)
	return api.Address{For: q.For, Addresses: d.given}, d.refusal
}
func (d *daemon) Release(_ context.Context, q api.ReleaseRequest) (api.Moved, error) {
	d.asked = append(d.asked, q)
	if d.refusal == nil {
		d.ipam.Uses = nil
	}
	return api.Moved{}, d.refusal
}
func (d *daemon) Reserve(_ context.Context, q api.AttachRequest) (api.AttachPlan, error) {
	d.asked = append(d.asked, q)
	return api.AttachPlan{}, d.refusal
}
func (d *daemon) Detach(_ context.Context, q api.DetachRequest) (api.AttachPlan, error) {
	d.asked = append(d.asked, q)
	return api.AttachPlan{HostInterface: "ripvnone", MAC: "02:00:00:00:00:01"}, d.refusal
}

const (
	network  = "6ae5e2ff381fe4ca68cf6e22282934271cf10678e494359e0c69d47565a90ab4"
	endpoint = "b0e492927cb3d298b36b3a493c280f21ba3cdbcec1cba1f6d6fd78f429d7453b"
	mac      = "02:42:0a:20:00:07"
	ids      = `"NetworkID":"` + network + `","EndpointID":"` + endpoint + `"`
)

// numbered is a daemon that gives out 10.32.0.0/12.
func numbered() *daemon {
	return &daemon{
		ipam:  api.IPAM{Range: netip.MustParsePrefix("10.32.0.0/12"), Range6: netip.MustParsePrefix("fd12::/64"), Subnet: netip.MustParsePrefix("10.32.2.0/24")},
		given: []netip.Prefix{netip.MustParsePrefix("10.32.2.7/25"), netip.MustParsePrefix("fd12::a20:207/64")},
	}
}

// uses makes the daemon know an address.
func (d *daemon) uses(address, holder string) {
	d.ipam.Uses = append(d.ipam.Uses, api.IPAMUse{Address: netip.MustParsePrefix(address), For: holder, State: "used"})
}

// attached makes the daemon know an endpoint of that address.
func (d *daemon) attached(address string) {
	d.status.Endpoints = append(d.status.Endpoints, api.Endpoint{Owner: "docker:" + network + "/" + endpoint, Interface: "ripi1", HostPort: "ripv1",
		Addresses: []netip.Prefix{netip.MustParsePrefix(address)}, Routes: []netip.Prefix{netip.MustParsePrefix("169.254.83.53/32")}})
}

// plugin is a plug-in that asks d; nil: no daemon answers.
func plugin(t testing.TB, d api.Backend) *Server {
	t.Helper()
	socket := "/no/such/socket"
	if d != nil {
		socket = apitest.Serve(t, d)
	}
	client := api.NewClient(socket)
	t.Cleanup(client.Close)
	return &Server{cfg: Config{Client: client, Log: slog.New(slog.DiscardHandler)}}
}

// ask is one call of Docker's.
func ask(s *Server, method, body string) (status int, answer string) {
	w := httptest.NewRecorder()
	s.routes().ServeHTTP(w, httptest.NewRequest("POST", "/"+method, strings.NewReader(body)))
	return w.Code, w.Body.String()
}

// refused is the refusal in an answer; empty: there is none.
func refused(t *testing.T, answer string) string {
	t.Helper()
	var r refusal
	if err := json.Unmarshal([]byte(answer), &r); err != nil || r.Err != r.Error {
		t.Fatalf("%q is no answer: %v", answer, err)
	}
	return r.Err
}

// TestAnswers: what Docker hears when all is well.
func TestAnswers(t *testing.T) {
	d := numbered()
	d.uses("10.32.2.7/24", "docker:"+mac)
	d.attached("10.32.2.7/24")
	s := plugin(t, d)
	for _, c := range []struct{ method, body, want string }{
		{"Plugin.Activate", "", `{"Implements":["NetworkDriver","IpamDriver"]}`},
		{"NetworkDriver.GetCapabilities", "", `{"Scope":"local","ConnectivityScope":"global","GwAllocChecker":true}`},
		{"NetworkDriver.GwAllocCheck", `{"Options":{}}`, `{"SkipIPv4":true,"SkipIPv6":true}`},
		{"IpamDriver.GetCapabilities", "", `{"RequiresMACAddress":true,"RequiresRequestReplay":false}`},
		{"IpamDriver.GetDefaultAddressSpaces", "null", `{"LocalDefaultAddressSpace":"ripstop","GlobalDefaultAddressSpace":"ripstop"}`},
		{"IpamDriver.RequestPool", `{"AddressSpace":"ripstop","Pool":"","SubPool":"","Options":null,"V6":false}`, `{"PoolID":"10.32.2.0/24,10.32.2.0/24","Pool":"10.32.2.0/24","Data":{}}`},
		{"IpamDriver.RequestPool", `{"Pool":"10.32.0.0/16","SubPool":"10.32.4.0/24","New":1}`, `{"PoolID":"10.32.0.0/16,10.32.4.0/24","Pool":"10.32.0.0/16","Data":{}}`},
		{"IpamDriver.RequestPool", `{"Options":{"com.docker.network.ipam.serial":"true"}}`, `{"PoolID":"10.32.2.0/24,10.32.2.0/24","Pool":"10.32.2.0/24","Data":{}}`},
		{"IpamDriver.RequestPool", `{"V6":true}`, `{"PoolID":"fd12::/64,fd12::/64","Pool":"fd12::/64","Data":{}}`},
		{"IpamDriver.RequestAddress", `{"PoolID":"10.32.0.0/16,10.32.0.0/16","Options":{"RequestAddressType":"com.docker.network.gateway"}}`, `{"Address":"0.0.0.0/16","Data":{}}`},
		{"IpamDriver.RequestAddress", `{"PoolID":"fd12::/64,fd12::/64","Options":{"RequestAddressType":"com.docker.network.gateway"}}`, `{"Address":"::/64","Data":{}}`},
		{"IpamDriver.RequestAddress", `{"PoolID":"10.32.2.0/24,10.32.2.0/25","Options":{"com.docker.network.endpoint.macaddress":"` + mac + `"}}`, `{"Address":"10.32.2.7/24","Data":{}}`},
		{"IpamDriver.RequestAddress", `{"PoolID":"fd12::/64,fd12::/64","Options":{"com.docker.network.endpoint.macaddress":"` + mac + `"}}`, `{"Address":"fd12::a20:207/64","Data":{}}`},
		{"IpamDriver.ReleaseAddress", `{"PoolID":"10.32.2.0/24,10.32.2.0/24","Address":"0.0.0.0"}`, `{}`},
		{"IpamDriver.ReleaseAddress", `{"PoolID":"10.32.2.0/24,10.32.2.0/24","Address":"10.32.2.99"}`, `{}`},
		{"IpamDriver.ReleaseAddress", `{"PoolID":"fd12::/64,fd12::/64","Address":"fd12::a20:207"}`, `{}`},
		{"IpamDriver.ReleasePool", `{"PoolID":"10.32.2.0/24,10.32.2.0/24"}`, `{}`},
		{"NetworkDriver.CreateNetwork", `{"NetworkID":"` + network + `","Options":{"com.docker.network.enable_ipv6":false,"com.docker.network.generic":{}},"IPv4Data":[{"AddressSpace":"ripstop","Pool":"10.32.2.0/24","Gateway":"0.0.0.0/24","AuxAddresses":{}}],"IPv6Data":[]}`, `{}`},
		{"NetworkDriver.DeleteNetwork", `{"NetworkID":"` + network + `"}`, `{}`},
		{"NetworkDriver.EndpointOperInfo", `{` + ids + `}`, `{"Value":{}}`},
		{"NetworkDriver.Join", `{` + ids + `,"SandboxKey":"/var/run/docker/netns/1","Options":{}}`, `{"InterfaceName":{"SrcName":"ripi1","DstPrefix":"eth"},"StaticRoutes":[{"Destination":"169.254.83.53/32","RouteType":1}],"DisableGatewayService":true}`},
		{"NetworkDriver.Leave", `{` + ids + `}`, `{}`},
		{"NetworkDriver.DeleteEndpoint", `{` + ids + `}`, `{}`},
		{"NetworkDriver.DiscoverNew", `{"DiscoveryType":1,"DiscoveryData":{"Address":"192.0.2.1","Self":true}}`, `{}`},
	} {
		for range 2 {
			if status, got := ask(s, c.method, c.body); status != http.StatusOK || got != c.want {
				t.Errorf("%s %s: %d\n got %s\nwant %s", c.method, c.body, status, got, c.want)
			}
		}
	}
}

// TestRefusals: what cannot be is said in words, whatever was asked for.
func TestRefusals(t *testing.T) {
	s, alone := plugin(t, numbered()), plugin(t, nil)
	const pool = `"PoolID":"10.32.2.0/24,10.32.2.0/24"`
	iface := func(text string) string { return `{` + ids + `,"Interface":` + text + `}` }
	good := `{"Address":"10.32.2.7/24","MacAddress":"` + mac + `"}`
	for _, c := range []struct {
		s                  *Server
		method, body, want string
	}{
		{alone, "IpamDriver.RequestPool", `{}`, "ripstop up"},
		{alone, "IpamDriver.RequestAddress", `{` + pool + `,"Options":{"com.docker.network.endpoint.macaddress":"` + mac + `"}}`, "ripstop docker --socket"},
		{alone, "IpamDriver.ReleaseAddress", `{` + pool + `,"Address":"10.32.2.7"}`, "ripstop up"},
		{alone, "NetworkDriver.CreateEndpoint", iface(good), "ripstop up"},
		{alone, "NetworkDriver.Join", `{` + ids + `}`, "ripstop up"},
		{s, "IpamDriver.RequestPool", `{"AddressSpace":"LocalDefault"}`, "address space"},
		{s, "IpamDriver.RequestPool", `{"Pool":"192.168.0.0/24"}`, "no part of 10.32.0.0/12"},
		{s, "IpamDriver.RequestPool", `{"Pool":"10.0.0.0/8"}`, "no part of 10.32.0.0/12"},
		{s, "IpamDriver.RequestPool", `{"Pool":"10.32.2.1/24"}`, "without host bits"},
		{s, "IpamDriver.RequestPool", `{"Pool":"web"}`, "without host bits"},
		{s, "IpamDriver.RequestPool", `{"Pool":"10.32.2.0/24","SubPool":"10.32.3.0/24"}`, "IP range 10.32.3.0/24"},
		{s, "IpamDriver.RequestPool", `{"V6":true,"Pool":"fd12::/80"}`, "fd12::/64"},
		{s, "IpamDriver.RequestPool", `{"Options":{"color":"red"}}`, `"color": this driver has none`},
		{s, "IpamDriver.RequestAddress", `{"PoolID":"x"}`, "none of this driver's"},
		{s, "IpamDriver.RequestAddress", `{"PoolID":"10.32.2.0/24,10.33.0.0/24"}`, "none of this driver's"},
		{s, "IpamDriver.RequestAddress", `{` + pool + `}`, "MAC is missing"},
		{s, "IpamDriver.RequestAddress", `{` + pool + `,"Address":"web"}`, "no IP address"},
		{s, "IpamDriver.RequestAddress", `{` + pool + `,"Options":{"com.docker.network.endpoint.macaddress":"01:00:5e:00:53:01"}}`, "unicast"},
		{s, "IpamDriver.RequestAddress", `{` + pool + `,"Address":"10.32.2.1","Options":{"RequestAddressType":"com.docker.network.gateway"}}`, "--gateway"},
		{s, "IpamDriver.RequestAddress", `{"PoolID":"fd12::/64,fd12::/64","Options":{"com.docker.network.endpoint.macaddress":"` + mac + `"}}`, "IPv4 address"},
		{s, "IpamDriver.ReleaseAddress", `{` + pool + `,"Address":""}`, "no IP address"},
		{s, "NetworkDriver.CreateNetwork", `{"NetworkID":""}`, "letters and digits"},
		{s, "NetworkDriver.CreateNetwork", `{"NetworkID":"` + strings.Repeat("a", 200) + `"}`, "128 at most"},
		{s, "NetworkDriver.CreateNetwork", `{"NetworkID":"n1","IPv4Data":[{"AddressSpace":"LocalDefault","Pool":"172.18.0.0/16"}]}`, "--ipam-driver"},
		{s, "NetworkDriver.CreateNetwork", `{"NetworkID":"n1","Options":{"com.docker.network.generic":{"mtu":"1400","a":"b"}}}`, `"a, mtu"`},
		{s, "NetworkDriver.CreateEndpoint", `{` + ids + `}`, "no IPv4 address"},
		{s, "NetworkDriver.CreateEndpoint", `{"NetworkID":"a/b","EndpointID":"c"}`, "letters and digits"},
		{s, "NetworkDriver.CreateEndpoint", iface(`{"Address":"10.32.2.7/24"}`), "unicast MAC"},
		{s, "NetworkDriver.CreateEndpoint", iface(`{"Address":"10.32.2.7","MacAddress":"` + mac + `"}`), "prefix length"},
		{s, "NetworkDriver.CreateEndpoint", `{` + ids + `,"Interface":` + good + `,"Options":{"ripstop.name":"no_name"}}`, "ripstop.name=no_name"},
		{s, "NetworkDriver.CreateEndpoint", `{` + ids + `,"Interface":` + good + `,"Options":{"ripstop.name":7}}`, "it is a text"},
		{s, "NetworkDriver.CreateEndpoint", `{` + ids + `,"Interface":` + good + `,"Options":{"ripstop.nam":"web"}}`, "known are ripstop.name"},
		{s, "NetworkDriver.CreateEndpoint", `{` + ids + `,"Interface":` + good + `,"Options":{"ripstop.routes":"0.0.0.0/0"}}`, "224.0.0.0/4"},
		{s, "NetworkDriver.CreateEndpoint", `{` + ids + `,"Interface":` + good + `,"Options":{"ripstop.routes":"` + strings.Repeat("10.0.0.0/8 ", 100) + `"}}`, "more than 64"},
		{s, "NetworkDriver.Join", `{` + ids + `}`, "not attached"},
	} {
		status, answer := ask(c.s, c.method, c.body)
		if got := refused(t, answer); status != http.StatusOK || !strings.Contains(got, c.want) {
			t.Errorf("%s %.200s: %d, %q, want %q", c.method, c.body, status, got, c.want)
		}
	}
	for _, c := range []struct {
		method, body, want string
		status             int
	}{
		{"NetworkDriver.AllocateNetwork", `{}`, "nothing that this driver does", 404},
		{"NetworkDriver.ProgramExternalConnectivity", `{}`, "nothing that this driver does", 404}, // Docker goes on
		{"NetworkDriver.Leave", `{`, "cannot be read", 400},
		{"NetworkDriver.Leave", `{} {}`, "more than one object", 400},
		{"NetworkDriver.Leave", `{"NetworkID":7}`, "cannot be read", 400},
		{"NetworkDriver.Leave", `{"NetworkID":"` + strings.Repeat("a", maxBody) + `"}`, "too large", 400},
	} {
		status, answer := ask(s, c.method, c.body)
		if got := refused(t, answer); status != c.status || !strings.Contains(got, c.want) {
			t.Errorf("%s %.200s: %d, %q", c.method, c.body, status, got)
		}
	}
}

// TestRequests: what the daemon is asked for.
func TestRequests(t *testing.T) {
	const pool = `"PoolID":"10.32.2.0/24,10.32.2.128/25"`
	holder := "docker:" + mac
	prefix := netip.MustParsePrefix
	owner := "docker:" + network + "/" + endpoint
	lent := api.AttachRequest{Netns: "docker-b0e492927cb3", Interface: endpointName{network, endpoint}.inner(), Owner: owner, MAC: mac, AddressesFor: holder,
		Addresses: []netip.Prefix{prefix("10.32.2.7/24")}, Routes: []netip.Prefix{prefix("169.254.83.53/32")}}
	more := lent
	more.Name, more.Addresses = "web.shop", append(more.Addresses[:1:1], prefix("fd12::a20:207/64"))
	more.Routes = []netip.Prefix{prefix("224.0.0.0/4"), prefix("169.254.83.53/32")}
	for _, c := range []struct {
		method, body string
		want         any
	}{
		{"IpamDriver.RequestAddress", `{` + pool + `,"Options":{"com.docker.network.endpoint.macaddress":"02:42:0A:20:00:07"}}`, api.AllocateRequest{For: holder, Subnet: prefix("10.32.2.128/25")}},
		{"IpamDriver.RequestAddress", `{` + pool + `,"Address":"10.32.2.9","Options":{"com.docker.network.endpoint.macaddress":"` + mac + `"}}`, api.AllocateRequest{For: holder, Subnet: prefix("10.32.2.0/24"), Address: netip.MustParseAddr("10.32.2.9")}},
		{"IpamDriver.RequestAddress", `{` + pool + `,"Address":"10.32.2.9"}`, api.AllocateRequest{For: "docker:10.32.2.9", Subnet: prefix("10.32.2.0/24"), Address: netip.MustParseAddr("10.32.2.9")}},
		{"NetworkDriver.CreateEndpoint", `{` + ids + `,"Interface":{"Address":"10.32.2.7/24","AddressIPv6":"","MacAddress":"` + mac + `"},"Options":{"com.docker.network.portmap":[{"Port":80}]}}`, lent},
		{"NetworkDriver.CreateEndpoint", `{` + ids + `,"Interface":{"Address":"10.32.2.7/24","AddressIPv6":"fd12::a20:207/64","MacAddress":"` + mac + `"},"Options":{"ripstop.name":"web.shop","ripstop.routes":"224.0.0.0/4"}}`, more},
		{"NetworkDriver.DeleteEndpoint", `{` + ids + `}`, api.DetachRequest{Owner: owner}},
	} {
		d := numbered()
		d.refusal = api.Errorf(api.CodeUnavailable, "not now")
		_, answer := ask(plugin(t, d), c.method, c.body)
		if refused(t, answer) != "not now" || !reflect.DeepEqual(d.asked, []any{c.want}) {
			t.Errorf("%s %s: %s\n got %+v\nwant %+v", c.method, c.body, answer, d.asked, c.want)
		}
	}
}

// TestDeleteIsForgiving: neither an endpoint nor a daemon that is gone is in the way.
func TestDeleteIsForgiving(t *testing.T) {
	for _, d := range []api.Backend{nil, &daemon{refusal: api.Errorf(api.CodeNotFound, "none")}, &daemon{refusal: api.Errorf(api.CodeStopping, "stopping")}} {
		s := plugin(t, d)
		for range 2 {
			if _, answer := ask(s, "NetworkDriver.DeleteEndpoint", `{`+ids+`}`); answer != "{}" {
				t.Errorf("%+v: %s", d, answer)
			}
		}
	}
}

// TestRelease: Docker gives back what is Docker's, and nothing else.
func TestRelease(t *testing.T) {
	for holder, want := range map[string][]any{
		"docker:" + mac:    {api.ReleaseRequest{For: "docker:" + mac, Address: netip.MustParseAddr("10.32.2.7")}},
		"docker:10.32.2.7": {api.ReleaseRequest{For: "docker:10.32.2.7", Address: netip.MustParseAddr("10.32.2.7")}},
		"vm7":              nil,
		"web@ripv1":        nil,
	} {
		d := numbered()
		d.uses("10.32.2.7/24", holder)
		if _, answer := ask(plugin(t, d), "IpamDriver.ReleaseAddress", `{"PoolID":"10.32.2.0/24,10.32.2.0/24","Address":"10.32.2.7"}`); answer != "{}" || !reflect.DeepEqual(d.asked, want) {
			t.Errorf("%s: %s, asked %+v", holder, answer, d.asked)
		}
	}
}

// TestSweep: only what Docker lost is taken back, and not before its time.
func TestSweep(t *testing.T) {
	start := time.Unix(1000, 0)
	release := api.ReleaseRequest{For: "docker:" + mac, Address: netip.MustParseAddr("10.32.2.7")}
	detach := api.DetachRequest{Owner: "docker:" + network + "/" + endpoint}
	const here = "lo" // an interface that is in every namespace
	for name, c := range map[string]struct {
		holder   string
		attached string // the endpoint's interface; empty: there is none
		owner    string
		after    time.Duration
		want     []any
	}{
		"lost":                  {"docker:" + mac, "", "", staleAfter, []any{release}},
		"too early":             {"docker:" + mac, "", "", staleAfter - time.Second, nil},
		"attached":              {"docker:" + mac, "ripi1", detach.Owner, staleAfter, nil},
		"auxiliary":             {"docker:10.32.2.7", "", "", staleAfter, nil},
		"an operator":           {"vm7", "", "", staleAfter, nil},
		"in no container":       {"docker:" + mac, here, detach.Owner, staleAfter, []any{detach}},
		"not yet in one":        {"docker:" + mac, here, detach.Owner, staleAfter - time.Second, nil},
		"not Docker's and here": {"docker:" + mac, here, "pods/1", staleAfter, nil},
	} {
		d := numbered()
		d.uses("10.32.2.7/24", c.holder)
		if c.attached != "" {
			d.attached("10.32.2.7/24")
			d.status.Endpoints[0].Interface, d.status.Endpoints[0].Owner = c.attached, c.owner
		}
		s, since := plugin(t, d), make(map[string]time.Time)
		s.sweep(t.Context(), start, since)
		s.sweep(t.Context(), start.Add(c.after), since)
		if !reflect.DeepEqual(d.asked, c.want) {
			t.Errorf("%s: asked %+v", name, d.asked)
		}
		d.ipam.Uses, d.status.Endpoints = nil, nil
		if s.sweep(t.Context(), start.Add(time.Hour), since); len(since) != 0 {
			t.Errorf("%s: %v is noted of what is gone", name, since)
		}
	}
}

// TestDeleteNetwork: what Docker has lost of a network goes with it, and nothing else.
func TestDeleteNetwork(t *testing.T) {
	d := numbered()
	for _, owner := range []string{"docker:" + network + "/1", "docker:" + network + "2/1", "pods/1", "", "docker:" + network + "/2"} {
		d.attached("10.32.2.7/24")
		d.status.Endpoints[len(d.status.Endpoints)-1].Owner = owner
	}
	want := []any{api.DetachRequest{Owner: "docker:" + network + "/1"}, api.DetachRequest{Owner: "docker:" + network + "/2"}}
	if _, answer := ask(plugin(t, d), "NetworkDriver.DeleteNetwork", `{"NetworkID":"`+network+`"}`); answer != "{}" || !reflect.DeepEqual(d.asked, want) {
		t.Errorf("%s, asked %+v", answer, d.asked)
	}
	for name, s := range map[string]*Server{"no daemon": plugin(t, nil), "refused": plugin(t, &daemon{status: d.status, refusal: api.Errorf(api.CodeUnavailable, "not now")})} {
		if _, answer := ask(s, "NetworkDriver.DeleteNetwork", `{"NetworkID":"`+network+`"}`); answer != "{}" {
			t.Errorf("%s: %s", name, answer)
		}
	}
}

// TestTwoNetworks: Docker gives a container no route twice, so another of its endpoints is
// told what the first has not, and a wider route to the name server.
func TestTwoNetworks(t *testing.T) {
	d := numbered()
	prefix := netip.MustParsePrefix
	const server, wider, more = "169.254.83.53/32", "169.254.83.52/31", "224.0.0.0/4"
	for id, routes := range map[string][]netip.Prefix{"a1": {prefix(server)}, "a2": {prefix(server), prefix(more)}, "a3": {prefix(more), prefix(server)}, "a4": {prefix(server)}, "a5": {prefix(server)}} {
		d.status.Endpoints = append(d.status.Endpoints, api.Endpoint{Owner: "docker:" + network + "/" + id, Interface: "ripi", HostPort: "ripv", Routes: routes})
	}
	s := plugin(t, d)
	for _, c := range []struct{ id, sandbox, want string }{
		{"a1", "/run/docker/netns/1", server},
		{"a2", "/run/docker/netns/1", wider + " " + more},
		{"a2", "/run/docker/netns/1", wider + " " + more}, // asked again
		{"a3", "/run/docker/netns/1", "169.254.83.52/30"},
		{"a4", "/run/docker/netns/1", "169.254.83.48/29"},
		{"a5", "/run/docker/netns/1", ""},
		{"a3", "/run/docker/netns/2", more + " " + server},
		{"a2", "", server + " " + more},
		{"a2", strings.Repeat("s", maxSandboxKey+1), server + " " + more},
		{"a3", strings.Repeat("s", maxSandboxKey+1), more + " " + server}, // not noted
	} {
		_, text := ask(s, "NetworkDriver.Join", `{"NetworkID":"`+network+`","EndpointID":"`+c.id+`","SandboxKey":"`+c.sandbox+`"}`)
		var answer joinAnswer
		if err := json.Unmarshal([]byte(text), &answer); err != nil {
			t.Fatal(text, err)
		}
		var routes []string
		for _, r := range answer.StaticRoutes {
			routes = append(routes, r.Destination)
		}
		if got := strings.Join(routes, " "); got != c.want {
			t.Errorf("%s in %q: %q, want %q", c.id, c.sandbox, got, c.want)
		}
	}
	d.status.Endpoints = slices.DeleteFunc(d.status.Endpoints, func(e api.Endpoint) bool { return !strings.HasSuffix(e.Owner, "/a2") })
	_, text := ask(s, "NetworkDriver.Join", `{"NetworkID":"`+network+`","EndpointID":"a2","SandboxKey":"/run/docker/netns/1"}`)
	if !strings.Contains(text, server) || len(s.inside.given) != 1 {
		t.Errorf("alone: %s, known are %v", text, s.inside.given)
	}
}

// TestPatience: a daemon that is started again is waited for by calls that need it, and by
// no others.
func TestPatience(t *testing.T) {
	d := &starting{daemon: numbered(), after: 3}
	d.uses("10.32.2.7/24", "docker:"+mac)
	d.attached("10.32.2.7/24")
	s := plugin(t, d)
	s.patience = time.Minute
	const pool = `"PoolID":"10.32.2.0/24,10.32.2.0/24"`
	for _, c := range []struct {
		method, body string
		waits        bool
	}{
		{"IpamDriver.RequestPool", `{}`, true},
		{"IpamDriver.RequestAddress", `{` + pool + `,"Options":{"com.docker.network.endpoint.macaddress":"` + mac + `"}}`, true},
		{"NetworkDriver.Join", `{` + ids + `}`, true},
		{"IpamDriver.ReleaseAddress", `{` + pool + `,"Address":"10.32.2.7"}`, false},
		{"NetworkDriver.DeleteNetwork", `{"NetworkID":"` + network + `"}`, false},
	} {
		d.asks.Store(0)
		_, answer := ask(s, c.method, c.body)
		if got := refused(t, answer); c.waits && (got != "" || d.asks.Load() != d.after+1) || !c.waits && d.asks.Load() != 1 {
			t.Errorf("%s: %s after asking %d times", c.method, answer, d.asks.Load())
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	nobody := plugin(t, nil)
	nobody.patience = time.Minute
	if _, err := patiently(ctx, nobody, nobody.cfg.Client.Status); err == nil || ctx.Err() == nil {
		t.Errorf("%v before the call's end", err)
	}
}

// starting is a daemon that stops for the first calls.
type starting struct {
	*daemon
	asks  atomic.Int32
	after int32
}

func (d *starting) ready() error {
	if d.asks.Add(1) <= d.after {
		return api.Errorf(api.CodeStopping, "stopping")
	}
	return nil
}
func (d *starting) IPAM(ctx context.Context) (api.IPAM, error)     { return d.ipam, d.ready() }
func (d *starting) Status(ctx context.Context) (api.Status, error) { return d.status, d.ready() }
func (d *starting) Allocate(ctx context.Context, q api.AllocateRequest) (api.Address, error) {
	if err := d.ready(); err != nil {
		return api.Address{}, err
	}
	return d.daemon.Allocate(ctx, q)
}

// TestFirewall: Docker's firewall is asked about the daemon's bridge, unless it is to stay.
func TestFirewall(t *testing.T) {
	d := numbered()
	d.status.Bridge = "ripstop"
	s := plugin(t, d)
	s.passFirewall(t.Context()) // KeepFirewall
	var bridges []string
	s.pass = func(bridge string) (bool, error) {
		bridges = append(bridges, bridge)
		return false, errors.New("not now")
	}
	s.passFirewall(t.Context())
	d.status.Bridge = "" // routed mode
	s.passFirewall(t.Context())
	nobody := plugin(t, nil)
	nobody.pass = s.pass
	nobody.passFirewall(t.Context())
	if !slices.Equal(bridges, []string{"ripstop"}) {
		t.Errorf("asked for %q", bridges)
	}
	for _, keep := range []bool{false, true} {
		s, err := Listen(Config{Socket: filepath.Join(t.TempDir(), "s"), Client: api.NewClient("/no/such/socket"), Log: slog.New(slog.DiscardHandler), KeepFirewall: keep})
		if err != nil {
			t.Fatal(err)
		}
		defer s.listener.Close()
		if (s.pass == nil) != keep || s.patience == 0 {
			t.Errorf("to be kept %v: it is %v, and a daemon is waited for %v", keep, s.pass == nil, s.patience)
		}
	}
}

// TestReclaim: an address that Docker asks for by itself and has lost is given again.
func TestReclaim(t *testing.T) {
	for _, attached := range []bool{false, true} {
		d := numbered()
		d.uses("10.32.2.7/24", "docker:02:42:00:00:00:99")
		if attached {
			d.attached("10.32.2.7/24")
		}
		_, answer := ask(plugin(t, &takenOnce{d}), "IpamDriver.RequestAddress", `{"PoolID":"10.32.2.0/24,10.32.2.0/24","Address":"10.32.2.7","Options":{"com.docker.network.endpoint.macaddress":"`+mac+`"}}`)
		if got := refused(t, answer); (got == "") == attached {
			t.Errorf("attached %v: %s", attached, answer)
		}
	}
}

// takenOnce is a daemon where an address is in use until somebody releases it.
type takenOnce struct{ *daemon }

func (d *takenOnce) Allocate(ctx context.Context, q api.AllocateRequest) (api.Address, error) {
	if len(d.ipam.Uses) > 0 {
		return api.Address{}, api.Errorf(api.CodeConflict, "10.32.2.7 is in use")
	}
	return d.daemon.Allocate(ctx, q)
}

// TestSocket: one plug-in at a socket, which is gone with it.
func TestSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "plugins", "ripstop.sock")
	cfg := Config{Socket: socket, Client: api.NewClient("/no/such/socket"), Log: slog.New(slog.DiscardHandler)}
	s, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	if _, err := Listen(cfg); err == nil || !strings.Contains(err.Error(), "--plugin-socket") {
		t.Errorf("a second one: %v", err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	r, err := client.Post("http://plugin/Plugin.Activate", "", bytes.NewReader(nil))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(r.Body)
	r.Body.Close()
	if r.Header.Get("Content-Type") != contentType || !strings.Contains(string(body), "IpamDriver") {
		t.Errorf("%v %s", r.Header, body)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
	if err := os.WriteFile(socket, nil, fs.FileMode(0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(cfg); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file: %v", err)
	}
}

// FuzzCalls: whatever comes, the answer is an object, and the daemon is asked for nothing
// that names nobody.
func FuzzCalls(f *testing.F) {
	methods := []string{"IpamDriver.RequestPool", "IpamDriver.RequestAddress", "IpamDriver.ReleaseAddress", "NetworkDriver.CreateNetwork",
		"NetworkDriver.CreateEndpoint", "NetworkDriver.Join", "NetworkDriver.Leave", "NetworkDriver.DeleteEndpoint"}
	for i := range methods {
		f.Add(uint8(i), []byte(`{`+ids+`,"Interface":{"Address":"10.32.2.7/24","MacAddress":"`+mac+`"},"Options":{"ripstop.name":"web"}}`))
		f.Add(uint8(i), []byte(`{"PoolID":"10.32.2.0/24,10.32.2.0/24","Address":"10.32.2.7","Options":{"RequestAddressType":"x"}}`))
	}
	d := numbered()
	d.refusal = api.Errorf(api.CodeUnavailable, "not now")
	s := plugin(f, d)
	f.Fuzz(func(t *testing.T, method uint8, body []byte) {
		d.asked = nil
		_, answer := ask(s, methods[int(method)%len(methods)], string(body))
		refused(t, answer)
		for _, q := range d.asked {
			switch q := q.(type) {
			case api.AttachRequest:
				if !strings.HasPrefix(q.Owner, "docker:") || !strings.HasPrefix(q.AddressesFor, "docker:") || q.Name != "" && !api.ValidName(q.Name) {
					t.Errorf("asked %+v", q)
				}
			case api.DetachRequest:
				if len(q.Owner) < len("docker:a/b") {
					t.Errorf("asked %+v", q)
				}
			case api.AllocateRequest:
				if !strings.HasPrefix(q.For, "docker:") {
					t.Errorf("asked %+v", q)
				}
			}
		}
	})
}
