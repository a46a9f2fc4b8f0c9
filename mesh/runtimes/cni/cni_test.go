package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"ripstop/mesh/api"
	"ripstop/mesh/api/apitest"
	"ripstop/mesh/runtimes"
	"ripstop/mesh/runtimes/runtimestest"
)

// environment is what a runtime sets for a container.
func environment(verb string, more ...string) map[string]string {
	env := map[string]string{"CNI_COMMAND": verb, "CNI_CONTAINERID": "c1", "CNI_NETNS": "/no/such/netns", "CNI_IFNAME": "eth0", "CNI_PATH": "/opt/cni/bin"}
	for _, pair := range more {
		name, value, _ := strings.Cut(pair, "=")
		env[name] = value
	}
	return env
}

// run is one call; code is the error object's, 0 where it succeeds.
func run(t *testing.T, env map[string]string, stdin io.Reader) (code uint, out, errOut string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	exit := Main(t.Context(), runtimes.Stdio{In: stdin, Out: &stdout, Err: &stderr, LookupEnv: func(name string) (string, bool) {
		value, set := env[name]
		return value, set
	}})
	if exit == 0 {
		return 0, stdout.String(), stderr.String()
	}
	var o struct {
		CNIVersion string
		types.Error
	}
	if err := json.Unmarshal(stdout.Bytes(), &o); err != nil || o.Code == 0 || o.Msg == "" || answerVersion(o.CNIVersion) != o.CNIVersion {
		t.Fatalf("exit code %d with %q, which is no error object: %v", exit, stdout.String(), err)
	}
	return o.Code, stdout.String(), stderr.String()
}

// conf is a configuration with these fields beside those that every one has.
func conf(more string) string {
	if more != "" {
		more = "," + more
	}
	return `{"cniVersion":"1.1.0","name":"pods","type":"ripstop-cni"` + more + `}`
}

func TestWithoutARuntime(t *testing.T) {
	code, out, _ := run(t, nil, strings.NewReader(""))
	if code != 0 || !strings.Contains(out, "ripstop help cni") || !strings.Contains(out, "versions 0.3.1, 0.4.0, 1.0.0, 1.1.0.") {
		t.Errorf("code %d: %s", code, out)
	}
	code, out, _ = run(t, map[string]string{"CNI_COMMAND": "VERSION"}, nil)
	if code != 0 || out != `{"cniVersion":"1.1.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}`+"\n" {
		t.Errorf("VERSION: code %d: %s", code, out)
	}
}

// TestRefusals: whatever a call gets wrong, the answer is an error object of the right
// code that says what.
func TestRefusals(t *testing.T) {
	const nowhere = `"socket":"/no/such/socket"`
	answered := `"socket":"` + apitest.Serve(t, new(runtimestest.Daemon)) + `"`
	for _, c := range []struct {
		env    map[string]string
		config string
		code   uint
		want   string
	}{
		{environment("ADD"), conf(nowhere), 11, "ripstop up"},
		{environment("ADD"), conf(answered), 8, "/no/such/netns"},
		{environment("ADD", "CNI_NETNS=/proc/self/ns/net"), conf(answered), 8, "own network namespace"},
		{environment("ADD", "CNI_NETNS=/dev/null"), conf(answered), 8, "not a network namespace"},
		{environment("FLY"), conf(nowhere), 4, "CNI_COMMAND=FLY"},
		{environment("ADD", "CNI_NETNS="), conf(nowhere), 4, "CNI_NETNS is missing"},
		{environment("ADD", "CNI_NETNS="+strings.Repeat("x", 5000)), conf(nowhere), 4, "4096 are the most"},
		{environment("ADD", "CNI_IFNAME=0123456789abcdef"), conf(nowhere), 4, "CNI_IFNAME"},
		{environment("ADD", "CNI_IFNAME="), conf(nowhere), 4, "CNI_IFNAME"},
		{environment("DEL", "CNI_CONTAINERID=../../x"), conf(nowhere), 4, "CNI_CONTAINERID"},
		{environment("ADD", "CNI_CONTAINERID="+strings.Repeat("x", 129)), conf(nowhere), 4, "128 are the most"},
		{environment("ADD", "CNI_ARGS=FLAVOUR=1"), conf(nowhere), 4, `\"FLAVOUR\" is unknown`},
		{environment("ADD", "CNI_ARGS=IP"), conf(nowhere), 4, "KEY=VALUE"},
		{environment("ADD", "CNI_ARGS=IP="+strings.Repeat("x", 5000)), conf(nowhere), 4, "4096 are the most"},
		{environment("ADD"), "", 6, "no JSON object"},
		{environment("ADD"), `{"cniVersion":`, 6, "no JSON object"},
		{environment("ADD"), conf("") + "{}", 6, "no JSON object"},
		{environment("ADD"), `{"name":"pods"}`, 1, "0.3.1, 0.4.0, 1.0.0, 1.1.0"},
		{environment("ADD"), `{"cniVersion":"2.0.0","name":"pods","nobody":1}`, 1, "2.0.0"},
		{environment("ADD"), `{"cniVersion":"1.0.0","name":"a/b"}`, 7, "letters, digits"},
		{environment("ADD"), `{"cniVersion":"1.0.0","name":"` + strings.Repeat("a", 129) + `"}`, 7, "128 at most"},
		{environment("ADD"), conf(`"isGateway":true`), 7, `unknown field \"isGateway\"; known are socket`},
		{environment("ADD"), conf(`"ipMasq":true`), 7, "ipMasq without isDefaultGateway"},
		{environment("ADD"), conf(`"ipam":{"gateway":"10.32.0.1"}`), 7, `unknown field \"gateway\"`},
		{environment("ADD"), conf(`"ipam":{"type":"host-local"}`), 7, "chooses addresses itself"},
		{environment("ADD"), conf(`"capabilities":{"portMappings":true}`), 7, "behind this one"},
		{environment("ADD"), conf(`"runtimeConfig":{"bandwidth":{}}`), 7, `unknown field \"bandwidth\"`},
		{environment("ADD"), conf(`"socket":"s"`), 7, "whole path"},
		{environment("ADD"), conf(`"interface":"a/b"`), 7, "interface"},
		{environment("ADD"), conf(`"mtu":"1500"`), 7, "mtu"},
		{environment("ADD"), conf(`"mtu":-1`), 7, "mtu -1"},
		{environment("ADD"), conf(`"ipam":{"subnet":"10.32.0.1/24"}`), 7, "without host bits"},
		{environment("ADD"), conf(`"ipam":{"routes":[{"dst":"10.0.0.0"}]}`), 7, "prefix length"},
		{environment("ADD"), conf(`"ipam":{"addresses":[{"address":"web"}]}`), 7, "an IP address"},
		{environment("ADD"), conf(`"runtimeConfig":{"mac":"01:00:5e:00:53:01"}`), 7, "unicast"},
		{environment("ADD"), conf(`"prevResult":{"cniVersion":"1.1.0","interfaces":[null]}`), 7, "null"},
		{environment("ADD"), conf(`"prevResult":{"cniVersion":"9.9.9"}`), 7, "prevResult"},
		{environment("ADD"), conf(`"prevResult":{"ips":"none"}`), 7, "prevResult"},
		{environment("CHECK"), conf(nowhere), 7, "prevResult is missing"},
		{environment("CHECK"), `{"cniVersion":"0.3.1","name":"pods"}`, 1, "CHECK came with version 0.4.0"},
		{environment("CHECK"), conf(nowhere + `,"prevResult":{}`), 11, "ripstop up"},
		{environment("STATUS"), `{"cniVersion":"1.0.0","name":"pods"}`, 1, "STATUS came with version 1.1.0"},
		{environment("STATUS"), conf(nowhere), 51, "ripstop up"},
		{environment("GC"), conf(nowhere + `,"cni.dev/valid-attachments":{}`), 7, "valid-attachments"},
		{environment("GC"), conf(nowhere + `,"cni.dev/valid-attachments":[]`), 11, "ripstop up"},
	} {
		code, out, _ := run(t, c.env, strings.NewReader(c.config))
		if code != c.code || !strings.Contains(out, c.want) {
			t.Errorf("%s %.100s: code %d, want %d with %q: %s", c.env["CNI_COMMAND"], c.config, code, c.code, c.want, out)
		}
	}
	code, out, _ := run(t, environment("GC"), strings.NewReader(strings.Repeat(" ", 2*maxConfig)))
	if code != types.ErrInvalidNetworkConfig || !strings.Contains(out, "more than 4194304 bytes") {
		t.Errorf("a long configuration: code %d: %s", code, out)
	}
}

// TestHungRuntime: a runtime that keeps its end of stdin open holds nobody up for longer
// than the context lasts, which a signal ends.
func TestHungRuntime(t *testing.T) {
	silent, end := io.Pipe()
	defer end.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout bytes.Buffer
	env := environment("DEL")
	code := Main(ctx, runtimes.Stdio{In: silent, Out: &stdout, Err: io.Discard, LookupEnv: func(name string) (string, bool) {
		value, set := env[name]
		return value, set
	}})
	if code != 1 || !strings.Contains(stdout.String(), "context canceled") {
		t.Errorf("exit code %d: %s", code, stdout.String())
	}
}

// TestDelIsForgiving: neither a missing daemon, nor a missing namespace, nor a
// configuration that ADD would refuse stands in the way of DEL.
func TestDelIsForgiving(t *testing.T) {
	const nowhere = `"socket":"/no/such/socket"`
	for _, config := range []string{
		conf(nowhere), conf(nowhere + `,"nobody":1`), conf(nowhere + `,"mtu":"x","prevResult":7`),
		conf(`"socket":"no path"`), conf(nowhere + `,"interface":"a/b"`),
		conf(`"socket":"` + apitest.Serve(t, &runtimestest.Daemon{Refusal: api.Errorf(api.CodeNotFound, "none")}) + `"`),
		conf(`"socket":"` + apitest.Serve(t, &runtimestest.Daemon{Refusal: api.Errorf(api.CodeStopping, "stopping")}) + `"`),
	} {
		for _, env := range []map[string]string{
			environment("DEL"), environment("DEL", "CNI_NETNS="), environment("DEL", "CNI_NETNS=/dev/null"),
			environment("DEL", "CNI_NETNS=/proc/self/ns/net"), environment("DEL", "CNI_ARGS=FLAVOUR=1"),
		} {
			if code, out, errOut := run(t, env, strings.NewReader(config)); code != 0 || out != "" {
				t.Errorf("%s in %s: code %d: %s%s", config, env["CNI_NETNS"], code, out, errOut)
			}
		}
	}
	d := &runtimestest.Daemon{Refusal: errors.New("the disk is full")}
	config := conf(`"socket":"` + apitest.Serve(t, d) + `"`)
	if code, out, _ := run(t, environment("DEL"), strings.NewReader(config)); code != types.ErrInternal || !strings.Contains(out, "the disk is full") {
		t.Errorf("code %d: %s", code, out)
	}
	if want := []any{api.DetachRequest{Owner: "cni:pods/c1/eth0"}}; !reflect.DeepEqual(d.Asked, want) {
		t.Errorf("asked %+v, want %+v", d.Asked, want)
	}
}

// TestRequests: what the daemon is asked for, by configuration and arguments.
func TestRequests(t *testing.T) {
	d := &runtimestest.Daemon{Refusal: api.Errorf(api.CodeUnavailable, "not now")}
	server := netip.MustParseAddr("169.254.83.53")
	d.Named = api.Names{Domain: "ripstop.internal", Address: &server}
	socket, path := apitest.Serve(t, d), runtimestest.Namespace(t)
	prefixes := func(texts ...string) (all []netip.Prefix) {
		for _, text := range texts {
			all = append(all, netip.MustParsePrefix(text))
		}
		return all
	}
	names := prefixes("169.254.83.53/32")
	for _, c := range []struct {
		config, args string
		want         api.AttachRequest
	}{
		{"", "", api.AttachRequest{Routes: names}},
		{`"mtu":1400,"interface":"rip0"`, "", api.AttachRequest{MTU: 1400, Interface: "rip0", Routes: names}},
		{`"args":{"cni":{"labels":[]}},"cni.dev/new":{"a":1}`, "IgnoreUnknown=true;FLAVOUR=1;", api.AttachRequest{Routes: names}},
		{"", "K8S_POD_NAMESPACE=Shop;K8S_POD_NAME=Web;K8S_POD_UID=1", api.AttachRequest{Name: "web.shop", Routes: names}},
		{"", "K8S_POD_NAME=web", api.AttachRequest{Name: "web", Routes: names}},
		{"", "K8S_POD_NAME=no_name", api.AttachRequest{Routes: names}},
		{`"ipam":{"type":"ripstop","subnet":"10.32.2.0/24","routes":[{"dst":"10.40.1.1/16"}]}`, "", api.AttachRequest{Subnets: prefixes("10.32.2.0/24"), Routes: append(prefixes("10.40.0.0/16"), names...)}},
		{`"ipam":{"subnet":"10.32.2.0/24","addresses":[{"address":"10.32.2.7/24"},{"address":"fd12::7"}]}`, "", api.AttachRequest{Addresses: prefixes("10.32.2.7/24", "fd12::7/64"), Routes: names}},
		{`"ipam":{"addresses":[{"address":"10.32.2.7/24"}]}`, "IP=10.32.2.8,10.33.0.9;MAC=02:00:5E:00:53:01", api.AttachRequest{Addresses: prefixes("10.32.2.8/24", "10.33.0.9/12"), MAC: "02:00:5e:00:53:01", Routes: names}},
		{`"capabilities":{"ips":true,"mac":true},"runtimeConfig":{"ips":["fd12::9/64"],"mac":"02:00:5e:00:53:02"}`, "IP=10.32.2.8;MAC=02:00:5e:00:53:01", api.AttachRequest{Addresses: prefixes("fd12::9/64"), MAC: "02:00:5e:00:53:02"}},
	} {
		d.Asked = nil
		config := `"socket":"` + socket + `"`
		if c.config != "" {
			config += "," + c.config
		}
		code, out, errOut := run(t, environment("ADD", "CNI_NETNS="+path, "CNI_ARGS="+c.args), strings.NewReader(conf(config)))
		if code != types.ErrTryAgainLater || !strings.Contains(out, "not now") || len(d.Asked) != 1 {
			t.Fatalf("%s: code %d: %s", c.config, code, out)
		}
		if noted := strings.Contains(errOut, "no_name"); noted != strings.Contains(c.args, "no_name") {
			t.Errorf("%s: stderr %q", c.args, errOut)
		}
		got := d.Asked[0].(api.AttachRequest)
		c.want.Netns, c.want.NetnsID, c.want.NoIPv6 = path, got.NetnsID, got.NoIPv6
		c.want.Owner = "cni:pods/c1/eth0"
		if c.want.Interface == "" {
			c.want.Interface = "eth0"
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s %s:\n got %+v\nwant %+v", c.config, c.args, got, c.want)
		}
	}
	for code, want := range map[api.Code]uint{api.CodeInvalid: 7, api.CodeConflict: 101, api.CodeUnsupported: 50, api.CodeStopping: 11, api.CodeInternal: 999} {
		d.Refusal = api.Errorf(code, "no")
		if got, out, _ := run(t, environment("ADD", "CNI_NETNS="+path), strings.NewReader(conf(`"socket":"`+socket+`"`))); got != want {
			t.Errorf("%s: code %d, want %d: %s", code, got, want, out)
		}
	}
}

// TestGateway: with isDefaultGateway the host is made a gateway first, in the container's
// networks; the result has the gateway and the default route.
func TestGateway(t *testing.T) {
	path := runtimestest.Namespace(t)
	d := standing(path)
	d.NoPlace = api.Errorf(api.CodeUnavailable, "not now")
	socket := apitest.Serve(t, d)
	net2, net3 := netip.MustParsePrefix("10.32.2.0/24"), netip.MustParsePrefix("10.32.3.0/24")
	for _, c := range []struct {
		more, args string
		want       []netip.Prefix
	}{
		{"", "", nil},
		{`,"ipMasq":true,"ipam":{"subnet":"10.32.2.0/24"}`, "", []netip.Prefix{net2}},
		{"", "IP=10.32.2.7/24,10.32.2.8/24,10.32.3.9/24,fd12::9/64", []netip.Prefix{net2, net3}},
	} {
		d.Asked = nil
		code, out, _ := run(t, environment("ADD", "CNI_NETNS="+path, "CNI_ARGS="+c.args), strings.NewReader(conf(`"isDefaultGateway":true,"socket":"`+socket+`"`+c.more)))
		if code != types.ErrTryAgainLater || len(d.Asked) != 2 || !d.Asked[1].(api.AttachRequest).Gateway {
			t.Fatalf("code %d: %s: %+v", code, out, d.Asked)
		}
		if want := (api.ExposeRequest{Subnets: c.want, Masquerade: true}); !reflect.DeepEqual(d.Asked[0], want) {
			t.Errorf("asked %+v, want %+v", d.Asked[0], want)
		}
	}
	d.Refusal = api.Errorf(api.CodeConflict, "exposed otherwise")
	if code, out, _ := run(t, environment("ADD", "CNI_NETNS="+path), strings.NewReader(conf(`"isDefaultGateway":true,"socket":"`+socket+`"`))); code != 101 || !strings.Contains(out, "does not become a gateway: exposed otherwise") {
		t.Errorf("code %d: %s", code, out)
	}

	d = standing(path)
	d.Plan.Gateway = netip.MustParseAddr("10.32.0.254")
	code, out, _ := run(t, environment("ADD", "CNI_NETNS="+path), strings.NewReader(conf(`"isDefaultGateway":true,"socket":"`+apitest.Serve(t, d)+`"`)))
	for _, want := range []string{`"address":"10.32.0.1/12","gateway":"10.32.0.254"`, `{"dst":"0.0.0.0/0","gw":"10.32.0.254"}`} {
		if text := strings.Join(strings.Fields(out), ""); code != 0 || !strings.Contains(text, want) || strings.Count(text, `"gateway"`) != 1 {
			t.Errorf("code %d: want %s in %s", code, want, text)
		}
	}
}

// standing is a daemon with an attachment of that namespace.
func standing(path string) *runtimestest.Daemon {
	return runtimestest.Standing(path, "cni:pods/c1/eth0")
}

// TestResults: the result in every version, alone and behind another plug-in.
func TestResults(t *testing.T) {
	path := runtimestest.Namespace(t)
	socket := apitest.Serve(t, standing(path))
	const dns = `"dns":{"domain":"ripstop.internal","nameservers":["169.254.83.53"],"search":["ripstop.internal","lab.example"]}`
	add := func(version, more, want string) {
		t.Helper()
		config := fmt.Sprintf(`{"cniVersion":%q,"name":"pods","type":"ripstop-cni","socket":%q%s}`, version, socket, strings.ReplaceAll(more, "PATH", path))
		code, out, errOut := run(t, environment("ADD", "CNI_NETNS="+path), strings.NewReader(config))
		var got, wanted any
		if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 || errOut != "" {
			t.Fatalf("version %s: code %d, %v: %s%s", version, code, err, out, errOut)
		}
		if err := json.Unmarshal([]byte(strings.ReplaceAll(want, "PATH", path)), &wanted); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, wanted) {
			t.Errorf("version %s%s:\n got %s\nwant %s", version, more, out, want)
		}
	}
	for _, v := range []string{"0.3.1", "0.4.0"} {
		add(v, "", `{"cniVersion":"`+v+`","interfaces":[{"name":"ripv0011223344"},{"name":"eth0","mac":"02:00:5e:00:53:01","sandbox":"PATH"}],
			"ips":[{"version":"4","interface":1,"address":"10.32.0.1/12"},{"version":"6","interface":1,"address":"fd12::1/64"}],
			"routes":[{"dst":"169.254.83.53/32"}],`+dns+`}`)
	}
	for _, v := range []string{"1.0.0", "1.1.0"} {
		add(v, "", `{"cniVersion":"`+v+`","interfaces":[{"name":"ripv0011223344"},{"name":"eth0","mac":"02:00:5e:00:53:01","mtu":1500,"sandbox":"PATH"}],
			"ips":[{"interface":1,"address":"10.32.0.1/12"},{"interface":1,"address":"fd12::1/64"}],
			"routes":[{"dst":"169.254.83.53/32"}],`+dns+`}`)
		add(v, `,"dns":{"nameservers":["192.0.2.1"]},"prevResult":{"cniVersion":"`+v+`","interfaces":[{"name":"eth0","sandbox":"PATH"}],"ips":[{"interface":0,"address":"192.0.2.9/24","gateway":"192.0.2.1"}],"routes":[{"dst":"0.0.0.0/0"}]}`,
			`{"cniVersion":"`+v+`","interfaces":[{"name":"eth0","sandbox":"PATH"},{"name":"ripv0011223344"},{"name":"eth0","mac":"02:00:5e:00:53:01","mtu":1500,"sandbox":"PATH"}],
			"ips":[{"interface":0,"address":"192.0.2.9/24","gateway":"192.0.2.1"},{"interface":2,"address":"10.32.0.1/12"},{"interface":2,"address":"fd12::1/64"}],
			"routes":[{"dst":"0.0.0.0/0"},{"dst":"169.254.83.53/32"}],"dns":{"nameservers":["192.0.2.1"]}}`)
	}
	add("0.3.1", `,"prevResult":{"ips":[{"version":"4","address":"192.0.2.9/24"}],"dns":{"domain":"before.example"}}`,
		`{"cniVersion":"0.3.1","interfaces":[{"name":"ripv0011223344"},{"name":"eth0","mac":"02:00:5e:00:53:01","sandbox":"PATH"}],
		"ips":[{"version":"4","address":"192.0.2.9/24"},{"version":"4","interface":1,"address":"10.32.0.1/12"},{"version":"6","interface":1,"address":"fd12::1/64"}],
		"routes":[{"dst":"169.254.83.53/32"}],"dns":{"domain":"before.example"}}`)
}

// TestCheckOfWhatIsKnown: what the daemon says of an attachment, before its namespace is
// looked at.
func TestCheckOfWhatIsKnown(t *testing.T) {
	path := runtimestest.Namespace(t)
	gateway := netip.MustParsePrefix("10.32.0.254/12")
	for _, c := range []struct {
		change func(*api.Endpoint)
		code   uint
		want   string
	}{
		{func(e *api.Endpoint) { e.Owner = "cni:pods/c2/eth0" }, 3, "not attached to network pods"},
		{func(e *api.Endpoint) { e.State = api.EndpointFenced }, 100, "fenced"},
		{func(*api.Endpoint) {}, 100, "no interface eth0"},
		{func(e *api.Endpoint) { e.Gateway = gateway.Addr() }, 100, "no interface eth0"},
		{func(e *api.Endpoint) { e.Gateway = gateway.Addr().Next() }, 100, "this host is no gateway any more"},
		{func(e *api.Endpoint) {
			e.Gateway, e.Masquerade, e.Fenced = gateway.Addr(), true, []netip.Prefix{gateway}
		}, 100, "this host is no gateway any more"},
	} {
		d := standing(path)
		d.State.Addresses, d.State.Masquerade = []netip.Prefix{gateway}, true
		c.change(&d.State.Endpoints[0])
		config := conf(`"prevResult":{"cniVersion":"1.1.0"},"socket":"` + apitest.Serve(t, d) + `"`)
		if code, out, _ := run(t, environment("CHECK", "CNI_NETNS="+path), strings.NewReader(config)); code != c.code || !strings.Contains(out, c.want) {
			t.Errorf("code %d, want %d with %q: %s", code, c.code, c.want, out)
		}
	}
}

func TestStatus(t *testing.T) {
	bridge := func(i api.IPAM) *runtimestest.Daemon {
		return &runtimestest.Daemon{State: api.Status{Bridge: "ripstop", IPAM: &i}}
	}
	for _, c := range []struct {
		d    *runtimestest.Daemon
		code uint
		want string
	}{
		{bridge(api.IPAM{Map: "00112233"}), 0, ""},
		{bridge(api.IPAM{Waiting: "there is no address map yet"}), 0, ""}, // asking for an address makes it
		{bridge(api.IPAM{Map: "00112233", Waiting: "this host has left the network"}), 50, "this host has left"},
		{bridge(api.IPAM{SaveError: "no space left"}), 50, "no space left"},
		{&runtimestest.Daemon{State: api.Status{Mode: "routed"}}, 50, "--mode bridge"},
		{&runtimestest.Daemon{Refusal: errors.New("a bug")}, 999, "a bug"},
	} {
		code, out, _ := run(t, environment("STATUS"), strings.NewReader(conf(`"socket":"`+apitest.Serve(t, c.d)+`"`)))
		if code != c.code || !strings.Contains(out, c.want) {
			t.Errorf("code %d, want %d with %q: %s", code, c.code, c.want, out)
		}
	}
}

// TestCollect: only what this network's runtime attached and has forgotten is detached.
func TestCollect(t *testing.T) {
	d := new(runtimestest.Daemon)
	for _, owner := range []string{"", "cni:pods/c1/eth0", "cni:pods/c1/eth1", "cni:pods/c2/eth0", "cni:pods2/c2/eth0", "docker:c2"} {
		d.State.Endpoints = append(d.State.Endpoints, api.Endpoint{Owner: owner})
	}
	socket := apitest.Serve(t, d)
	const valid = `[{"containerID":"c1","ifname":"eth1"},{"containerID":"c9","ifname":"eth0"}]`
	first, second, third := api.DetachRequest{Owner: "cni:pods/c1/eth0"}, api.DetachRequest{Owner: "cni:pods/c1/eth1"}, api.DetachRequest{Owner: "cni:pods/c2/eth0"}
	for said, want := range map[string][]any{
		`,"cni.dev/valid-attachments":` + valid: {first, third},
		`,"cni.dev/attachments":` + valid:       {first, third},
		`,"cni.dev/valid-attachments":null`:     {first, second, third}, // a Go program's empty list
		``:                                      nil,
	} {
		d.Asked = nil
		code, out, errOut := run(t, environment("GC"), strings.NewReader(conf(`"socket":"`+socket+`"`+said)))
		if code != 0 || out != "" || (errOut == "") != (said != "") {
			t.Errorf("%s: code %d: %s%s", said, code, out, errOut)
		}
		if !reflect.DeepEqual(d.Asked, want) {
			t.Errorf("%s: asked %+v, want %+v", said, d.Asked, want)
		}
	}
}

// FuzzConfig: no input makes the plug-in panic, and a configuration that is accepted can
// be answered in its version.
func FuzzConfig(f *testing.F) {
	f.Add(conf(`"mtu":1400,"ipam":{"subnet":"10.32.2.0/24","addresses":[{"address":"10.32.2.7/24"}],"routes":[{"dst":"10.40.0.0/16"}]}`), "IP=10.32.2.8;MAC=02:00:5e:00:53:01")
	f.Add(conf(`"prevResult":{"cniVersion":"1.1.0","interfaces":[{"name":"eth0"},null],"ips":[{"interface":7,"address":"192.0.2.9/24"}],"routes":[null]}`), "IgnoreUnknown=1;K8S_POD_NAME=web;K8S_POD_NAMESPACE=shop")
	f.Add(`{"cniVersion":"0.3.1","name":"a","prevResult":{"ips":[{"version":"4","address":"192.0.2.9/24"}],"routes":[{"dst":"0.0.0.0/0","gw":"192.0.2.1"}],"dns":{}}}`, ";;=")
	f.Add(conf(`"cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}],"capabilities":{"ips":true},"runtimeConfig":{"ips":["::1"]}`), "")
	f.Fuzz(func(t *testing.T, config, args string) {
		parseArguments(args)
		parseConfig([]byte(config), true)
		c, err := parseConfig([]byte(config), false)
		if err != nil {
			return
		}
		c.IPAM.subnets()
		c.IPAM.routes()
		r, err := c.previous()
		if err != nil {
			return
		}
		call := call{Stdio: runtimes.Stdio{Out: io.Discard}, version: c.CNIVersion}
		if err := call.print(extend(r, standing("/n").Plan, "/n", types.DNS{})); err != nil {
			t.Errorf("an accepted configuration has no answer: %v", err)
		}
	})
}
