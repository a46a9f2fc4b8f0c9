package netavark

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"ripstop/mesh/api"
	"ripstop/mesh/api/apitest"
	"ripstop/mesh/runtimes"
	"ripstop/mesh/runtimes/runtimestest"
)

// run is one call; refused is the error object's text, empty where it succeeds.
func run(t *testing.T, stdin io.Reader, args ...string) (out, errOut, refused string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := Main(t.Context(), args, runtimes.Stdio{In: stdin, Out: &stdout, Err: &stderr}, "1.2.3")
	if code == 0 {
		return stdout.String(), stderr.String(), ""
	}
	// Podman refuses an error object with anything else in it.
	var o struct{ Error string }
	d := json.NewDecoder(&stdout)
	d.DisallowUnknownFields()
	if err := d.Decode(&o); err != nil || code != 1 || o.Error == "" || d.More() {
		t.Fatalf("exit code %d, %v: no error object", code, err)
	}
	return "", stderr.String(), o.Error
}

// pods is a network as Podman gives it to create, with these fields beside.
func pods(more string) string {
	if more != "" {
		more = "," + more
	}
	return `{"name":"pods","id":"2f25","driver":"ripstop","created":"2026-01-01T00:00:00Z","ipv6_enabled":false,"internal":false,"dns_enabled":true` + more + `}`
}

// web is what netavark gives to setup and teardown for a container on a network, with
// these fields of the network and the container's wishes, and beside.
func web(network, wishes, beside string) string {
	comma := func(s string) string {
		if s != "" {
			s = "," + s
		}
		return s
	}
	return `{"container_id":"c1c1c1c1c1c1c1","container_name":"Web","port_mappings":null,"network":{"name":"pods","id":"2f25","driver":"ripstop",` +
		`"network_interface":null,"subnets":null,"routes":null,"network_dns_servers":null,"ipam_options":{"driver":"none"},"internal":true,"dns_enabled":false,"ipv6_enabled":false` + comma(network) +
		`},"network_options":{"interface_name":"eth0","static_ips":null,"static_mac":null,"options":null,"aliases":["c1c1c1c1c1c1"]` + comma(wishes) + `}` + comma(beside) + `}`
}

func options(pairs string) string { return `"options":{` + pairs + `}` }

func TestWithoutPodman(t *testing.T) {
	for _, args := range [][]string{nil, {"help"}, {"--help"}} {
		if out, _, refused := run(t, nil, args...); !strings.Contains(out, "ripstop help netavark") {
			t.Errorf("%v: %s%s", args, out, refused)
		}
	}
	if out, _, _ := run(t, nil, "info"); strings.Join(strings.Fields(out), "") != `{"version":"1.2.3","api_version":"1.0.0"}` {
		t.Errorf("info: %s", out)
	}
	if _, _, refused := run(t, nil, "fly"); !strings.Contains(refused, "create, setup, teardown and info") {
		t.Errorf("fly: %s", refused)
	}
}

// TestUnreachable: who gets no answer of a daemon is told what to do about it.
func TestUnreachable(t *testing.T) {
	denied := fmt.Errorf("%w: %w", api.ErrUnreachable, fs.ErrPermission)
	for _, c := range []struct {
		err      error
		rootless bool
		want     string
	}{
		{api.ErrUnreachable, false, "start one by `ripstop up`"},
		{denied, false, "has to run as root"},
		{api.ErrUnreachable, true, "and run Podman as root: without"},
		{denied, true, "and run Podman as root: without"},
	} {
		if got := refusal(c.err, c.rootless); !strings.Contains(got, c.want) {
			t.Errorf("%v, rootless %v: %s", c.err, c.rootless, got)
		}
	}
}

// TestHungCaller: a caller that keeps its end of stdin open holds nobody up for longer than
// the context lasts, which a signal ends.
func TestHungCaller(t *testing.T) {
	silent, end := io.Pipe()
	defer end.Close()
	for _, verb := range []string{"create", "setup", "teardown"} {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var stdout bytes.Buffer
		if code := Main(ctx, []string{verb, "/n"}, runtimes.Stdio{In: silent, Out: &stdout, Err: io.Discard}, ""); code != 1 || !strings.Contains(stdout.String(), "context canceled") {
			t.Errorf("%s: exit code %d: %s", verb, code, stdout.String())
		}
	}
}

// TestCreate: what Podman keeps is what it gave, but for who chooses addresses.
func TestCreate(t *testing.T) {
	socket := options(`"socket":"` + apitest.Serve(t, new(runtimestest.Daemon)) + `"`)
	for _, more := range []string{
		"", `"labels":{"a":"<b>"},"later":{"n":12345678901234567890}`, `"ipam_options":{"driver":"none"}`, `"subnets":[]`,
		options(`"mtu":"1400","routes":"10.40.0.0/16, fd00:1::/64","socket":"/run/other.sock","ports":"ignore"`),
		`"subnets":[{"subnet":"10.32.2.0/24"},{"subnet":"10.33.0.0/16"}],` + socket,
	} {
		out, errOut, refused := run(t, strings.NewReader(pods(more)), "create")
		got, want := make(map[string]json.RawMessage), make(map[string]json.RawMessage)
		if err := errors.Join(json.Unmarshal([]byte(out), &got), json.Unmarshal([]byte(pods(more)), &want)); err != nil || errOut != "" {
			t.Fatalf("%s: %v: %s%s%s", more, err, out, errOut, refused)
		}
		want["ipam_options"], want["internal"], want["dns_enabled"] = json.RawMessage(`{"driver":"none"}`), json.RawMessage("true"), json.RawMessage("false")
		for _, fields := range []map[string]json.RawMessage{got, want} {
			for name, value := range fields {
				var b bytes.Buffer
				json.Compact(&b, value)
				fields[name] = b.Bytes()
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %s\nwant %s", more, got, want)
		}
	}
	out, errOut, _ := run(t, strings.NewReader(pods(`"subnets":[{"subnet":"192.0.2.0/24"}],`+options(`"socket":"/no/such/socket"`))), "create")
	if !strings.Contains(out, "192.0.2.0/24") || !strings.Contains(errOut, "nobody has looked") {
		t.Errorf("a subnet without a daemon: %s%s", out, errOut)
	}
}

// TestRefusals: whatever a call gets wrong, the answer is an error object that says what.
func TestRefusals(t *testing.T) {
	nowhere := options(`"socket":"/no/such/socket"`)
	answered := options(`"socket":"` + apitest.Serve(t, new(runtimestest.Daemon)) + `"`)
	subnets := func(s string) string { return `"subnets":[{` + s + `}]` }
	for _, c := range []struct{ verb, netns, stdin, want string }{
		{"create", "", "", "no network of Podman's"},
		{"create", "", `[]`, "no network of Podman's"},
		{"create", "", `null`, `network ""`},
		{"create", "", pods(options(`"mtu":1400`)), "no network of Podman's"},
		{"create", "", `{"name":"a/b"}`, "letters, digits"},
		{"create", "", `{"name":"` + strings.Repeat("a", 129) + `"}`, "128 at most"},
		{"create", "", pods(options(`"vlan":"7"`)), `"vlan": there is no such option: known are dns, gateway, mtu, ports, routes and socket`},
		{"create", "", pods(options(`"mtu":"big"`)), `mtu="big": a size in bytes`},
		{"create", "", pods(options(`"mtu":"0"`)), `mtu="0": a size in bytes`},
		{"create", "", pods(options(`"socket":"s"`)), "whole path"},
		{"create", "", pods(options(`"socket":"/` + strings.Repeat("s", 5000) + `"`)), "whole path"},
		{"create", "", pods(options(`"routes":"10.40.0.0"`)), "prefix length"},
		{"create", "", pods(options(`"ports":"yes"`)), "can only be ignore"},
		{"create", "", pods(options(`"gateway":"10.32.0.1"`)), "can only be true"},
		{"create", "", pods(options(`"dns":"192.0.2.53"`)), "can only be none"},
		{"create", "", pods(options(`"routes":"` + strings.Repeat("10.40.0.0/16,", 64) + `10.41.0.0/16"`)), "more than 64 routes"},
		{"create", "", pods(options(`"routes":"\u001b[2J"`)), `routes="\x1b[2J"`},
		{"create", "", pods(subnets(`"subnet":"10.32.2.0/24"},{"subnet":"10.32.0.0/16"`)), "subnets 10.32.2.0/24 and 10.32.0.0/16 overlap"},
		{"create", "", pods(subnets(strings.Repeat(`"subnet":"10.32.2.0/24"},{`, 8) + `"subnet":"10.32.3.0/24"`)), "9 subnets, 8 are the most"},
		{"create", "", pods(`"ipam_options":{"driver":"host-local"}`), "chooses addresses itself"},
		{"create", "", pods(`"network_interface":"br7"`), "ripstop up --bridge"},
		{"create", "", pods(`"routes":[{"destination":"10.40.0.0/16","gateway":"10.32.0.1"}]`), "-o routes="},
		{"create", "", pods(`"network_dns_servers":["192.0.2.1"]`), "-o dns=none"},
		{"create", "", pods(subnets(`"subnet":"10.32.2.1/24"`)), "without host bits"},
		{"create", "", pods(subnets(`"subnet":"fd12::/64"`)), "comes by itself"},
		{"create", "", pods(subnets(`"subnet":"10.32.2.0/24","gateway":"10.32.2.1"`)), "give -o gateway=true in its place"},
		{"create", "", pods(subnets(`"subnet":"10.32.2.0/24","lease_range":{}`)), "leave --ip-range out"},
		{"create", "", pods(subnets(`"subnet":"192.0.2.0/24"`) + "," + answered), "no part of ripstop's range 10.32.0.0/12"},
		{"create", "", pods(subnets(`"subnet":"10.0.0.0/8"`) + "," + answered), "no part of ripstop's range 10.32.0.0/12"},
		{"setup", "", web(nowhere, "", ""), "path of the container's network namespace"},
		{"setup", strings.Repeat("n", 5000), web(nowhere, "", ""), "path of the container's network namespace"},
		{"setup", "/no/such/netns", web(nowhere, "", ""), "start one by `ripstop up`"},
		{"setup", "/no/such/netns", web(answered, "", ""), "/no/such/netns"},
		{"setup", "/proc/self/ns/net", web(answered, "", ""), "own network namespace"},
		{"setup", "/dev/null", web(answered, "", ""), "not a network namespace"},
		{"setup", "/n", "", "no call of netavark"},
		{"setup", "/n", `{}`, `network ""`},
		{"setup", "/n", strings.Replace(web("", "", ""), "c1c1c1c1c1c1c1", "../x", 1), "container_id"},
		{"setup", "/n", strings.Replace(web("", "", ""), "eth0", "", 1), "interface_name"},
		{"setup", "/n", strings.Replace(web("", "", ""), "eth0", "a/b", 1), "interface_name"},
		{"setup", "/n", strings.Replace(web("", "", ""), "eth0", strings.Repeat("e", 129), 1), "interface_name"},
		{"setup", "/n", web(nowhere, `"static_mac":7`, ""), "no call of netavark"},
		{"setup", "/n", web(options(`"vlan":"7"`), "", ""), `network pods: -o "vlan"`},
		{"setup", "/n", web(`"ipam_options":{"driver":"host-local"}`, "", ""), "network pods: --ipam-driver"},
		{"setup", "/n", web(nowhere, `"options":{"mode":"bridge"}`, ""), `--network pods:"mode": there is no such option`},
		{"setup", "/n", web(nowhere, "", `"port_mappings":[{"container_port":80,"host_port":8080,"host_ip":"","protocol":"tcp","range":1}]`), "podman network create -o ports=ignore"},
		{"setup", "/n", web(answered, `"static_mac":"01:00:5e:00:53:01"`, ""), "unicast"},
		{"setup", "/n", web(answered, `"static_ips":["web"]`, ""), "an IP address"},
		{"setup", "/n", web(answered, `"static_ips":["192.0.2.1"]`, ""), "outside the network's range 10.32.0.0/12"},
		{"setup", "/n", web(answered+`,"subnets":[{"subnet":"10.32.4.0/24","gateway":null,"lease_range":null}]`, `"static_ips":["10.32.5.1"]`, ""), "in none of the network's subnets [10.32.4.0/24]"},
		{"teardown", "/n", "{", "no call of netavark"},
		{"teardown", "/n", `{"network":{"name":"a/b"}}`, "letters, digits"},
	} {
		if out, _, refused := run(t, strings.NewReader(c.stdin), c.verb, c.netns); !strings.Contains(refused, c.want) {
			t.Errorf("%s %.20s %.300s: want %q: %s%s", c.verb, c.netns, c.stdin, c.want, out, refused)
		}
	}
	for _, verb := range []string{"create", "setup", "teardown"} {
		if _, _, refused := run(t, strings.NewReader(strings.Repeat(" ", 2*maxInput)), verb, "/n"); !strings.Contains(refused, "more than 1048576 bytes") {
			t.Errorf("%s of a long call: %s", verb, refused)
		}
	}
}

// TestTeardownIsForgiving: neither a missing daemon, nor a missing namespace, nor what
// setup would refuse stands in the way of teardown.
func TestTeardownIsForgiving(t *testing.T) {
	const nowhere = `"socket":"/no/such/socket"`
	for _, network := range []string{
		options(nowhere), options(`"socket":"no path"`), options(nowhere + `,"vlan":"7"`), `"ipam_options":{"driver":"host-local"},` + options(nowhere),
		options(`"socket":"` + apitest.Serve(t, &runtimestest.Daemon{Refusal: api.Errorf(api.CodeNotFound, "none")}) + `"`),
		options(`"socket":"` + apitest.Serve(t, &runtimestest.Daemon{Refusal: api.Errorf(api.CodeStopping, "stopping")}) + `"`),
	} {
		for _, netns := range []string{"", "/no/such/netns", "/dev/null", "/proc/self/ns/net"} {
			stdin := web(network, `"static_mac":7`, `"port_mappings":[{"container_port":80}]`)
			if out, errOut, refused := run(t, strings.NewReader(stdin), "teardown", netns); out+errOut+refused != "" {
				t.Errorf("%s in %q: %s%s%s", network, netns, out, errOut, refused)
			}
		}
	}
	d := &runtimestest.Daemon{Refusal: errors.New("the disk is full")}
	stdin := web(options(`"socket":"`+apitest.Serve(t, d)+`"`), "", "")
	if _, _, refused := run(t, strings.NewReader(stdin), "teardown", "/n"); !strings.Contains(refused, "the disk is full") {
		t.Errorf("refused %q", refused)
	}
	if want := []any{api.DetachRequest{Owner: "netavark:pods/c1c1c1c1c1c1c1/eth0"}}; !reflect.DeepEqual(d.Asked, want) {
		t.Errorf("asked %+v, want %+v", d.Asked, want)
	}
}

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// TestRequests: what the daemon is asked for, by network and wishes.
func TestRequests(t *testing.T) {
	d := &runtimestest.Daemon{NoPlace: api.Errorf(api.CodeUnavailable, "not now")}
	server := netip.MustParseAddr("169.254.83.53")
	d.Named = api.Names{Domain: "ripstop.internal", Address: &server}
	socket, path := `"socket":"`+apitest.Serve(t, d)+`"`, runtimestest.Namespace(t)
	names := prefixes("169.254.83.53/32")
	const subnets = `"subnets":[{"subnet":"10.32.4.0/24","gateway":null,"lease_range":null},{"subnet":"10.32.5.0/24"}],`
	for _, c := range []struct {
		network, options, wishes, note string
		want                           api.AttachRequest
	}{
		{"", "", "", "", api.AttachRequest{Name: "web", Routes: names}},
		{"", `,"mtu":"1400","routes":"10.40.1.0/16"`, "", "", api.AttachRequest{Name: "web", MTU: 1400, Routes: append(prefixes("10.40.0.0/16"), names...)}},
		{subnets, "", "", "", api.AttachRequest{Name: "web", Subnets: prefixes("10.32.4.0/24", "10.32.5.0/24"), Routes: names}},
		{subnets, "", `"static_ips":["10.32.5.7"]`, "", api.AttachRequest{Name: "web", Subnets: prefixes("10.32.4.0/24"), Addresses: prefixes("10.32.5.7/24"), Routes: names}},
		{subnets, "", `"static_ips":["fd12::7"]`, "", api.AttachRequest{Name: "web", Subnets: prefixes("10.32.4.0/24", "10.32.5.0/24"), Addresses: prefixes("fd12::7/64"), Routes: names}},
		{"", "", `"static_ips":["10.32.2.7","10.40.0.9"],"static_mac":"02:00:5E:00:53:01"`, "", api.AttachRequest{Name: "web", MAC: "02:00:5e:00:53:01", Addresses: prefixes("10.32.2.7/24", "10.40.0.9/12"), Routes: names}},
		{"", "", `"static_ips":["fd12::7"]`, "", api.AttachRequest{Name: "web", Addresses: prefixes("fd12::7/64")}},
		{"", `,"dns":"none"`, "", "", api.AttachRequest{Name: "web"}},
		{"", `,"ports":"ignore"`, `"aliases":null},"port_mappings":[{"host_port":80}],"later":{"a":1`, "", api.AttachRequest{Name: "web", Routes: names}},
	} {
		d.Asked = nil
		stdin := web(c.network+options(socket+c.options), c.wishes, "")
		_, errOut, refused := run(t, strings.NewReader(stdin), "setup", path)
		if !strings.Contains(refused, "not now") || len(d.Asked) != 1 {
			t.Fatalf("%s: refused %q", stdin, refused)
		}
		if !strings.Contains(errOut, c.note) || (errOut == "") != (c.note == "") {
			t.Errorf("%s: stderr %q, want %q", stdin, errOut, c.note)
		}
		got := d.Asked[0].(api.AttachRequest)
		c.want.Netns, c.want.NetnsID, c.want.NoIPv6 = path, got.NetnsID, got.NoIPv6
		c.want.Owner, c.want.Interface = "netavark:pods/c1c1c1c1c1c1c1/eth0", "eth0"
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s:\n got %+v\nwant %+v", stdin, got, c.want)
		}
	}
}

// TestGateway: with -o gateway=true the host is made a gateway first, in the container's
// networks, and the answer names it.
func TestGateway(t *testing.T) {
	path := runtimestest.Namespace(t)
	d := runtimestest.Standing(path, "netavark:pods/c1c1c1c1c1c1c1/eth0")
	d.NoPlace = api.Errorf(api.CodeUnavailable, "not now")
	gateway := options(`"gateway":"true","socket":"` + apitest.Serve(t, d) + `"`)
	subnets := `"subnets":[{"subnet":"10.32.4.0/24"},{"subnet":"10.32.5.0/24"}],`
	_, _, refused := run(t, strings.NewReader(web(subnets+gateway, `"static_ips":["10.32.5.7"]`, "")), "setup", path)
	if !strings.Contains(refused, "not now") || len(d.Asked) != 2 || !d.Asked[1].(api.AttachRequest).Gateway {
		t.Fatalf("refused %q, asked %+v", refused, d.Asked)
	}
	if want := (api.ExposeRequest{Subnets: prefixes("10.32.4.0/24", "10.32.5.0/24"), Masquerade: true}); !reflect.DeepEqual(d.Asked[0], want) {
		t.Errorf("asked %+v, want %+v", d.Asked[0], want)
	}
	d = runtimestest.Standing(path, "netavark:pods/c1c1c1c1c1c1c1/eth0")
	d.Plan.Gateway = netip.MustParseAddr("10.32.0.254")
	gateway = options(`"gateway":"true","socket":"` + apitest.Serve(t, d) + `"`)
	out, _, refused := run(t, strings.NewReader(web(gateway, "", "")), "setup", path)
	if text := strings.Join(strings.Fields(out), ""); !strings.Contains(text, `[{"ipnet":"10.32.0.1/12","gateway":"10.32.0.254"},{"ipnet":"fd12::1/64"}]`) {
		t.Errorf("%s%s", text, refused)
	}
}

// TestNames: what a container is found by, of its name, its aliases and what Podman adds.
func TestNames(t *testing.T) {
	for _, c := range []struct {
		name    string
		aliases []string
		want    string
		note    string
	}{
		{"Web", []string{"c1c1c1c1c1c1"}, "web", ""},
		{"web", []string{"shop", "Web", "shop", "in.shop", "c1c1c1c1c1c1"}, "web shop in.shop", ""},
		{"infallible_galileo", nil, "infallible-galileo", ""},
		{"proj_db_1", []string{"db", "c1"}, "proj-db-1 db c1", ""}, // an ID may begin like an alias
		{"_web", []string{"db"}, "db", `"_web" is no name`},
		{"web..1", nil, "", `"web..1" is no name`},
		{"web", []string{"a", "b", "c", "d", "e", "f", "g", "h", "a"}, "web a b c d e f g", "8 names are the most for a container: it is not found by h"},
	} {
		var stderr bytes.Buffer
		call := call{Stdio: runtimes.Stdio{Err: &stderr}}
		r := request{Container: c.name}
		r.Wishes.Aliases = c.aliases
		name, aliases := call.names(place{Container: "c1c1c1c1c1c1c1"}, r)
		if got := strings.Join(append([]string{name}, aliases...), " "); got != c.want {
			t.Errorf("%s, %q: got %q, want %q", c.name, c.aliases, got, c.want)
		}
		if text := stderr.String(); !strings.Contains(text, c.note) || (text == "") != (c.note == "") {
			t.Errorf("%s, %q: stderr %q, want %q", c.name, c.aliases, text, c.note)
		}
	}
}

// deaf is stdout of a caller that is gone.
type deaf struct{}

func (deaf) Write([]byte) (int, error) { return 0, syscall.EPIPE }

// TestCallerGone: what stood before stays attached when nobody hears the answer.
func TestCallerGone(t *testing.T) {
	path := runtimestest.Namespace(t)
	d := runtimestest.Standing(path, "netavark:pods/c1c1c1c1c1c1c1/eth0")
	stdin := web(options(`"socket":"`+apitest.Serve(t, d)+`"`), "", "")
	code := Main(t.Context(), []string{"setup", path}, runtimes.Stdio{In: strings.NewReader(stdin), Out: deaf{}, Err: io.Discard}, "")
	if len(d.Asked) != 1 || code != 1 {
		t.Errorf("exit code %d, asked %+v", code, d.Asked)
	}
}

// TestAnswer: what setup tells netavark of what stands.
func TestAnswer(t *testing.T) {
	path := runtimestest.Namespace(t)
	d := runtimestest.Standing(path, "netavark:pods/c1c1c1c1c1c1c1/eth0")
	stdin := web(options(`"socket":"`+apitest.Serve(t, d)+`"`), "", "")
	setup := func(want string) {
		t.Helper()
		out, errOut, refused := run(t, strings.NewReader(stdin), "setup", path)
		if got := strings.Join(strings.Fields(out), ""); got != want || errOut != "" {
			t.Errorf("got %s%s%s\nwant %s", got, errOut, refused, want)
		}
	}
	const interfaces = `{"interfaces":{"eth0":{"mac_address":"02:00:5e:00:53:01","subnets":[{"ipnet":"10.32.0.1/12"},{"ipnet":"fd12::1/64"}]}}`
	setup(interfaces + `,"dns_server_ips":["169.254.83.53"],"dns_search_domains":["ripstop.internal","lab.example"]}`)
	d.Named = api.Names{}
	setup(interfaces + `}`)
}

// TestCalled: the program is the plug-in where install puts it, by its whole path.
func TestCalled(t *testing.T) {
	for _, dir := range searched {
		if link, err := Link(dir + "/"); err != nil || !Called(link) {
			t.Errorf("%s has the link %s, %v", dir, link, err)
		}
	}
	for _, path := range []string{"ripstop", "/usr/local/bin/ripstop", "netavark/ripstop", "/opt/netavark/ripstop-cni", "/opt/netavark/x/ripstop", ""} {
		if Called(path) {
			t.Errorf("%q is the plug-in", path)
		}
	}
	if link, err := Link("/opt/plugins"); err == nil || !strings.Contains(err.Error(), "as in /opt/netavark") {
		t.Errorf("a link that is no plug-in: %s, %v", link, err)
	}
}

// TestOtherNetworks: what a container has of another network of this driver is to be in
// another subnet, and takes the place of IPv6.
func TestOtherNetworks(t *testing.T) {
	path := runtimestest.Namespace(t)
	d := runtimestest.Standing(path, "netavark:pods/c1c1c1c1c1c1c1/eth0")
	d.Plan.Addresses = prefixes("10.32.5.1/24")
	stdin := web(options(`"socket":"`+apitest.Serve(t, d)+`"`), "", "")
	own := d.State.Endpoints[0]
	for _, c := range []struct {
		netns, owner, address string
		second, refused       bool
	}{
		{path, "netavark:other/c1c1c1c1c1c1c1/eth1", "10.32.6.1/24", true, false},
		{path, "netavark:other/c1c1c1c1c1c1c1/eth1", "10.32.0.1/12", true, true},
		{path, own.Owner, "10.32.0.1/12", false, false},
		{"/run/netns/old", "netavark:other/c1c1c1c1c1c1c1/eth1", "10.32.0.1/12", false, false},
		{"", "", "10.32.0.1/12", false, false},
	} {
		d.Asked = nil
		d.State.Endpoints = []api.Endpoint{own, {Netns: c.netns, Owner: c.owner, Addresses: prefixes(c.address), Interface: "eth1"}}
		_, _, refused := run(t, strings.NewReader(stdin), "setup", path)
		if strings.Contains(refused, "in the subnet 10.32.0.0/12 already, by eth1") != c.refused || (refused == "") == c.refused {
			t.Errorf("%+v: refused %q", c, refused)
		}
		if q := d.Asked[0].(api.AttachRequest); c.second && !q.NoIPv6 {
			t.Errorf("%+v: asked %+v", c, q)
		}
	}
}

// TestSetting: only a directory where Podman does not look has to be told to it.
func TestSetting(t *testing.T) {
	if !slices.Contains(searched, DefaultDir) || Setting(DefaultDir) != "" || Setting("/usr/lib/netavark") != "" {
		t.Error("a directory where Podman looks by itself has a setting")
	}
	if got, want := Setting("/opt/p"), "[network]\nnetavark_plugin_dirs = [\"/opt/p\"]\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// FuzzInput: no input makes the plug-in panic, and what is accepted has an owner that is
// nobody else's.
func FuzzInput(f *testing.F) {
	f.Add(pods(options(`"mtu":"1400","routes":"10.40.0.0/16,fd00::/8"`) + `,"subnets":[{"subnet":"10.32.2.0/24"}]`))
	f.Add(web(options(`"socket":"/s","ports":"ignore"`), `"static_ips":["10.32.0.1"],"static_mac":"02:00:5e:00:53:01"`, `"port_mappings":[{"host_port":1}]`))
	f.Add(`{"container_id":"c","network":{"name":"n","subnets":[null],"routes":[null]},"network_options":{"interface_name":"e"}}`)
	f.Fuzz(func(t *testing.T, input string) {
		var n network
		if json.Unmarshal([]byte(input), &n) == nil {
			n.settings()
		}
		r, _, err := parseRequest([]byte(input))
		p, placed := parsePlace([]byte(input))
		if placed != nil {
			return
		}
		if strings.Count(p.owner(), "/") != 2 || len(p.owner()) > 512 || !isPath(p.socket()) {
			t.Errorf("owner %q, socket %q", p.owner(), p.socket())
		}
		if err == nil {
			c := call{Stdio: runtimes.Stdio{Err: io.Discard}}
			name, aliases := c.names(p, r)
			if len(aliases) > api.MaxAliases || name == "" && len(aliases) > 0 {
				t.Errorf("name %q, aliases %q", name, aliases)
			}
			for _, given := range append(aliases, name) {
				if given != "" && !api.ValidName(given) {
					t.Errorf("name %q", given)
				}
			}
		}
	})
}
