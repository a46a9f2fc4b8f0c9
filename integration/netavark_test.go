package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"ripstop/integration/lab"
)

// podman calls the plug-in of a host as Podman and netavark do.
type podman struct {
	*story
	host    string
	plugin  string         // path
	network map[string]any // as create answered
}

// podman makes a network on a host; options are those of -o, more goes into it.
func (s *story) podman(host string, options map[string]string, more map[string]any) *podman {
	s.Helper()
	plugin := filepath.Join(s.TempDir(), "netavark", "ripstop")
	if err := errors.Join(os.Mkdir(filepath.Dir(plugin), 0o755), os.Symlink(program, plugin)); err != nil {
		s.Fatal(err)
	}
	p := &podman{story: s, host: host, plugin: plugin, network: map[string]any{
		"name": "pods", "id": strings.Repeat("2f", 32), "driver": "ripstop", "created": "2026-01-01T00:00:00Z",
		"ipv6_enabled": false, "internal": false, "dns_enabled": true,
	}}
	all := map[string]string{"socket": s.Host(host).Socket()}
	for name, value := range options {
		all[name] = value
	}
	p.network["options"] = all
	for name, value := range more {
		p.network[name] = value
	}
	out, err := p.call(p.network, "create")
	if err != nil {
		s.Fatal(err)
	}
	p.decode(out, &p.network)
	return p
}

// call runs the plug-in with input on stdin. The error is the plug-in's.
func (p *podman) call(input any, args ...string) (out []byte, err error) {
	p.Helper()
	text, err := json.Marshal(input)
	if err != nil {
		p.Fatal(err)
	}
	cmd := exec.CommandContext(p.ctx, p.plugin, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(text), &stdout, &stderr
	if err := p.Host(p.host).Do(cmd.Start); err != nil {
		p.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		return stdout.Bytes(), nil
	}
	var refusal struct{ Error string }
	if p.decode(stdout.Bytes(), &refusal); refusal.Error == "" {
		p.Fatalf("%v: %v: stdout %q, stderr %q", args, cmd.ProcessState, stdout.String(), stderr.String())
	}
	return nil, errors.New(refusal.Error)
}

func (p *podman) decode(b []byte, to any) {
	p.Helper()
	if err := json.Unmarshal(b, to); err != nil {
		p.Fatalf("%v: %s", err, b)
	}
}

// container is what netavark says of a container of that name; wishes are those for its
// network.
func (p *podman) container(name string, wishes map[string]any) map[string]any {
	options := map[string]any{"interface_name": "eth0", "aliases": []string{"0123456789ab"}}
	for key, value := range wishes {
		options[key] = value
	}
	return map[string]any{"container_id": "0123456789abcdef" + name, "container_name": name, "port_mappings": nil, "network": p.network, "network_options": options}
}

// deaf is a call whose caller reads no answer: it ends by itself, and as a failure.
func (p *podman) deaf(input any, args ...string) {
	p.Helper()
	text, err := json.Marshal(input)
	if err != nil {
		p.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		p.Fatal(err)
	}
	r.Close()
	defer w.Close()
	cmd := exec.CommandContext(p.ctx, p.plugin, args...)
	cmd.Stdin, cmd.Stdout = bytes.NewReader(text), w
	if err := p.Host(p.host).Do(cmd.Start); err != nil {
		p.Fatal(err)
	}
	if cmd.Wait(); cmd.ProcessState.ExitCode() != 1 {
		p.Errorf("%v without a reader: %v", args, cmd.ProcessState)
	}
}

// setup attaches a container, which has to succeed, and returns its addresses.
func (p *podman) setup(netns string, container map[string]any) (all []netip.Prefix) {
	p.Helper()
	out, err := p.call(container, "setup", netns)
	if err != nil {
		p.Fatalf("setup on %s: %v", p.host, err)
	}
	p.Logf("setup on %s: %s", p.host, out)
	var answer struct {
		Interfaces map[string]struct {
			Subnets []struct{ Ipnet netip.Prefix }
		}
		Servers []netip.Addr `json:"dns_server_ips"`
		Search  []string     `json:"dns_search_domains"`
	}
	p.decode(out, &answer)
	for _, s := range answer.Interfaces["eth0"].Subnets {
		all = append(all, s.Ipnet)
	}
	if len(answer.Servers) != 1 || len(answer.Search) == 0 || answer.Search[0] != "ripstop.internal" || len(all) == 0 {
		p.Fatalf("setup on %s: %s", p.host, out)
	}
	return all
}

// teardown takes a container off, which has to succeed without a word.
func (p *podman) teardown(netns string, container map[string]any) {
	p.Helper()
	if out, err := p.call(container, "teardown", netns); err != nil || len(out) > 0 {
		p.Fatalf("teardown on %s: %v: %s", p.host, err, out)
	}
}

// refused wants a call refused with those words.
func (p *podman) refused(want string, input any, args ...string) {
	p.Helper()
	if out, err := p.call(input, args...); err == nil || !strings.Contains(err.Error(), want) {
		p.Errorf("%v on %s: %v, want %q: %s", args, p.host, err, want, out)
	}
}

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// within are networks of Podman's that give addresses out of that part of the range.
func within(subnet string) map[string]any {
	return map[string]any{"subnets": []any{map[string]any{"subnet": subnet}}}
}

// TestNetavark: Podman on each of two hosts gives containers their place by the plug-in;
// they find each other by address and by name, and everything ends as Podman says, also
// while no daemon runs.
func TestNetavark(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a", "b"}, Links: []lab.LinkConfig{{Hosts: []string{"a", "b"}}}, Containers: 2})
	s.upAll()
	s.reach("a", "b")
	a := s.podman("a", nil, within("10.32.64.0/18"))
	b := s.podman("b", map[string]string{"mtu": "1400"}, within("10.32.64.0/18"))
	a.refused("no part of ripstop's range", map[string]any{"name": "far", "subnets": []any{map[string]any{"subnet": "192.0.2.0/24"}}, "options": a.network["options"]}, "create")
	if options, _ := a.network["ipam_options"].(map[string]any); options["driver"] != "none" || a.network["internal"] != true {
		t.Errorf("a network that has Podman choose addresses, or a gateway: %v", a.network)
	}

	a1, b1 := s.Container("a1"), s.Container("b1")
	web := a.container("shop_web_1", map[string]any{"aliases": []string{"0123456789ab", "web"}})
	chosen := a.setup(a1.Netns(), web)
	if again := a.setup(a1.Netns(), web); len(chosen) != 2 || !slices.Equal(again, chosen) {
		t.Errorf("setup gives %v, once more %v", chosen, again)
	}
	db := b.container("db", map[string]any{"static_ips": []string{"10.32.77.1"}, "static_mac": "02:00:5e:00:53:77"})
	if got := b.setup(b1.Netns(), db); !slices.Equal(got, prefixes("10.32.77.1/18")) {
		t.Errorf("setup with an address gives %v", got)
	}
	s.known(2)
	to := chosen[0].Addr()
	s.answered("b1", to, s.ping("b1", to, lab.PingConfig{Count: 3}))
	for _, name := range []string{"web.ripstop.internal", "shop-web-1.ripstop.internal"} {
		s.resolves(b1.Place, name, dns.TypeA, to.String())
	}
	for _, line := range []string{"web endpoint", "shop-web-1 endpoint", "db endpoint"} {
		if text := strings.Join(strings.Fields(s.run("b", "status", "dns")), " "); strings.Count(text, line) != 1 {
			t.Errorf("status dns has no %s: %s", line, text)
		}
	}
	s.resolves(a1.Place, "db.ripstop.internal", dns.TypeA, "10.32.77.1")
	to = netip.MustParseAddr("10.32.77.1")
	s.answered("a1", to, s.ping("a1", to, lab.PingConfig{Count: 3}))

	// What cannot be is refused without a trace.
	a2 := s.Container("a2").Netns()
	published := a.container("published", nil)
	published["port_mappings"] = []any{map[string]any{"container_port": 80, "host_port": 8080, "host_ip": "", "protocol": "tcp", "range": 1}}
	a.refused("-o ports=ignore", published, "setup", a2)
	a.refused("10.32.77.1", a.container("twin", map[string]any{"static_ips": []string{"10.32.77.1"}}), "setup", a2)
	a.refused("interface_name=", a.container("taken", map[string]any{"interface_name": "lo"}), "setup", a2)
	a.refused("of the host b", a.container("web", map[string]any{"aliases": []string{"web.b"}}), "setup", a2)
	if got := s.interfaces("a2"); len(got) != 0 {
		t.Errorf("interfaces after refusals: %v", got)
	}
	s.owned("a", "netavark:pods/0123456789abcdefshop_web_1/eth0")

	a.teardown(a1.Netns(), web)
	a.teardown(a1.Netns(), web)
	a.teardown(filepath.Join(s.Dir(), "none"), web)
	if got := s.interfaces("a1"); len(got) != 0 {
		t.Errorf("interfaces after teardown: %v", got)
	}
	s.owned("a")
	s.resolves(b1.Place, "web.ripstop.internal", dns.TypeA)

	// A second network is one of another subnet, or none: what would not work is undone.
	second := s.podman("b", nil, nil)
	twice := second.container("db", map[string]any{"interface_name": "eth1"})
	second.network["name"] = "second"
	second.refused("by eth0: all networks of this driver are one Ethernet", twice, "setup", b1.Netns())
	if got := s.interfaces("b1"); !slices.Equal(got, []string{"eth0"}) {
		t.Errorf("interfaces after a second network was refused: %v", got)
	}

	// Other subnets are reached where both say so.
	routes := map[string]string{"routes": "10.32.0.0/12"}
	a, b = s.podman("a", routes, within("10.32.128.0/24")), s.podman("b", routes, within("10.32.129.0/24"))
	to = a.setup(a2, a.container("far", nil))[0].Addr()
	b.setup(s.Container("b2").Netns(), b.container("near", nil))
	s.known(3)
	s.answered("b2", to, s.ping("b2", to, lab.PingConfig{Count: 3}))
}

// TestNetavarkAlone: containers come and go beside a daemon that is killed, stopped and
// started again, and beside callers that die.
func TestNetavarkAlone(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a"}, Containers: 2})
	s.upAll()
	a := s.podman("a", nil, nil)
	a1, a2 := s.Container("a1"), s.Container("a2")
	web := a.container("web", map[string]any{"static_ips": []string{"10.32.77.1"}})
	const owner = "netavark:pods/0123456789abcdefweb/eth0"

	// A caller that died, so that nobody hears the answer, will not call teardown.
	a.deaf(web, "setup", a1.Netns())
	s.owned("a")
	if got := s.interfaces("a1"); len(got) != 0 {
		t.Errorf("interfaces after a setup that nobody heard of: %v", got)
	}

	a.setup(a1.Netns(), web)
	if err := s.Host("a").Daemon().Kill(); err != nil {
		t.Fatal(err)
	}
	a.refused("ripstop up", a.container("late", nil), "setup", a2.Netns())
	s.up("a", lab.StartConfig{})
	s.owned("a", owner)

	// One who repeats setup, too, does not end what stands.
	a.deaf(web, "setup", a1.Netns())
	s.owned("a", owner)
	if err := s.Host("a").Daemon().Stop(); err != nil {
		t.Fatal(err)
	}
	a.teardown(a1.Netns(), web)
	a.teardown(a1.Netns(), web)
	if got := s.interfaces("a1"); len(got) != 0 {
		t.Errorf("interfaces after teardown without a daemon: %v", got)
	}
	s.up("a", lab.StartConfig{})
	s.owned("a")

	// A container whose namespace ended without teardown has its address in the next one.
	a.setup(a1.Netns(), web)
	s.ip(a1.Place, "link", "del", "eth0")
	a.setup(a2.Netns(), web)
	s.owned("a", owner)
}
