package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"

	"ripstop/integration/lab"
)

// orchestrator calls the plug-in of a host as a container runtime does.
type orchestrator struct {
	*story
	host    string
	plugin  string // path
	version string // of the configuration
}

// orchestrator is a container runtime on a host, whose network has that version of CNI.
func (s *story) orchestrator(host, version string) *orchestrator {
	s.Helper()
	plugin := filepath.Join(s.TempDir(), "ripstop-cni")
	if err := os.Symlink(program, plugin); err != nil {
		s.Fatal(err)
	}
	return &orchestrator{story: s, host: host, plugin: plugin, version: version}
}

// call runs the plug-in for a container of the runtime's own naming; more goes into the
// configuration. The error is the plug-in's error object.
func (r *orchestrator) call(verb, id, netns string, more map[string]any, args ...string) (out []byte, err error) {
	r.Helper()
	conf := map[string]any{"cniVersion": r.version, "name": "pods", "type": "ripstop-cni", "socket": r.Host(r.host).Socket()}
	for key, value := range more {
		conf[key] = value
	}
	text, err := json.Marshal(conf)
	if err != nil {
		r.Fatal(err)
	}
	cmd := exec.CommandContext(r.ctx, r.plugin)
	cmd.Env = []string{"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + id, "CNI_IFNAME=eth0", "CNI_PATH=" + filepath.Dir(r.plugin), "CNI_ARGS=" + strings.Join(args, ";")}
	if netns != "" {
		cmd.Env = append(cmd.Env, "CNI_NETNS="+netns)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(text), &stdout, &stderr
	if err := r.Host(r.host).Do(cmd.Start); err != nil {
		r.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		return stdout.Bytes(), nil
	}
	refusal := new(types.Error)
	if err := json.Unmarshal(stdout.Bytes(), refusal); err != nil || refusal.Code == 0 {
		r.Fatalf("%s: %v: %v: stdout %q, stderr %q", verb, cmd.ProcessState, err, stdout.String(), stderr.String())
	}
	return stdout.Bytes(), refusal
}

// must is call that has to succeed.
func (r *orchestrator) must(verb, id, netns string, more map[string]any, args ...string) []byte {
	r.Helper()
	out, err := r.call(verb, id, netns, more, args...)
	if err != nil {
		r.Fatalf("%s of %s on %s: %v", verb, id, r.host, err)
	}
	return out
}

// refused is call that has to fail with that code.
func (r *orchestrator) refused(code uint, verb, id, netns string, more map[string]any) {
	r.Helper()
	_, err := r.call(verb, id, netns, more)
	var refusal *types.Error
	if !errors.As(err, &refusal) || refusal.Code != code {
		r.Errorf("%s of %s on %s: %v, want code %d", verb, id, r.host, err, code)
		return
	}
	r.Logf("%s is refused with code %d: %v", verb, code, err)
}

// prevResult is what a runtime has kept of ADD.
func prevResult(out []byte) map[string]any { return map[string]any{"prevResult": json.RawMessage(out)} }

// interfaces are those of a container.
func (s *story) interfaces(container string) []string {
	s.Helper()
	names, err := s.Container(container).Interfaces()
	if err != nil {
		s.Fatal(err)
	}
	return names
}

// owned waits until a host's daemon has attachments of just those owners.
func (s *story) owned(host string, want ...string) {
	s.Helper()
	s.eventually(fmt.Sprintf("%s has attached %v", host, want), func() error {
		var got []string
		for _, e := range s.status(host).Endpoints {
			if e.HostPort != "" {
				got = append(got, e.Owner)
			}
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			return fmt.Errorf("%q", got)
		}
		return nil
	})
}

// TestCNI: a container runtime on each of two hosts gives containers their place by the
// plug-in; they find each other by address and by name, and everything ends as the
// runtime says, also while no daemon runs.
func TestCNI(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a", "b"}, Links: []lab.LinkConfig{{Hosts: []string{"a", "b"}}}, Containers: 2})
	s.upAll()
	s.reach("a", "b")
	a, b := s.orchestrator("a", "1.1.0"), s.orchestrator("b", "0.4.0")
	a.must("STATUS", "", "", nil)
	if out := string(a.must("VERSION", "", "", nil)); !strings.Contains(out, `["0.3.1","0.4.0","1.0.0","1.1.0"]`) {
		t.Errorf("VERSION: %s", out)
	}

	a1, b1 := s.Container("a1"), s.Container("b1")
	pod := []string{"IgnoreUnknown=1", "K8S_POD_NAMESPACE=shop", "K8S_POD_NAME=Web", "K8S_POD_UID=7"}
	added := a.must("ADD", "c1", a1.Netns(), nil, pod...)
	t.Logf("ADD in version 1.1.0: %s", added)
	if again := a.must("ADD", "c1", a1.Netns(), nil, pod...); !bytes.Equal(again, added) {
		t.Errorf("ADD once more: %s", again)
	}
	var result types100.Result
	if err := json.Unmarshal(added, &result); err != nil || len(result.IPs) != 2 || len(result.Interfaces) != 2 || result.Interfaces[1].Sandbox != a1.Netns() || result.DNS.Domain != "ripstop.internal" {
		t.Fatalf("%v: %s", err, added)
	}
	addedB := b.must("ADD", "c2", b1.Netns(), map[string]any{"mtu": 1400}, "IP=10.32.77.1", "MAC=02:00:5e:00:53:77", "K8S_POD_NAME=db")
	if !strings.Contains(string(addedB), `"version": "4"`) || !strings.Contains(string(addedB), `"10.32.77.1/12"`) || !strings.Contains(string(addedB), "02:00:5e:00:53:77") {
		t.Errorf("ADD in version 0.4.0: %s", addedB)
	}
	s.known(2)
	web, _ := netip.AddrFromSlice(result.IPs[0].Address.IP)
	s.answered("b1", web.Unmap(), s.ping("b1", web.Unmap(), lab.PingConfig{Count: 3}))
	s.resolves(b1.Place, "web.shop.ripstop.internal", dns.TypeA, web.Unmap().String())
	s.resolves(a1.Place, "db.ripstop.internal", dns.TypeA, "10.32.77.1")
	db := netip.MustParseAddr("10.32.77.1")
	s.answered("a1", db, s.ping("a1", db, lab.PingConfig{Count: 3}))

	a.must("CHECK", "c1", a1.Netns(), prevResult(added))
	b.must("CHECK", "c2", b1.Netns(), prevResult(addedB))
	err := a1.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.AddrDel(link, &netlink.Addr{IPNet: &result.IPs[0].Address})
	})
	if err != nil {
		t.Fatal(err)
	}
	a.refused(100, "CHECK", "c1", a1.Netns(), prevResult(added))
	a.refused(3, "CHECK", "c9", a1.Netns(), prevResult(added))
	b.refused(1, "STATUS", "", "", nil)

	a.must("DEL", "c1", a1.Netns(), prevResult(added))
	a.must("DEL", "c1", "", nil) // as containerd does
	a.must("DEL", "c1", filepath.Join(s.Dir(), "none"), nil)
	if got := s.interfaces("a1"); len(got) != 0 {
		t.Errorf("interfaces after DEL: %v", got)
	}
	s.owned("a")
	a.refused(3, "CHECK", "c1", a1.Netns(), prevResult(added))

	// GC takes what this network's runtime has forgotten, and nothing else.
	a.must("ADD", "kept", a1.Netns(), nil)
	a.must("ADD", "stale", s.Container("a2").Netns(), nil)
	s.run("a", "attach", s.Container("a2").Netns(), "--interface", "rip0")
	a.must("GC", "", "", nil) // says nothing of what is valid
	a.must("GC", "", "", map[string]any{"cni.dev/valid-attachments": []types.GCAttachment{{ContainerID: "kept", IfName: "eth0"}}, "cni.dev/other": 1})
	s.owned("a", "", "cni:pods/kept/eth0")
	if got := s.interfaces("a2"); !slices.Equal(got, []string{"rip0"}) {
		t.Errorf("interfaces after GC: %v", got)
	}

	// Behind another plug-in the interface has a name of its own, and the result grows.
	chain := map[string]any{"interface": "rip1", "prevResult": map[string]any{"cniVersion": "1.1.0", "interfaces": []types100.Interface{{Name: "rip0"}}}}
	a2 := s.Container("a2")
	chained := a.must("ADD", "c3", a2.Netns(), chain)
	var whole types100.Result
	if err := json.Unmarshal(chained, &whole); err != nil || len(whole.Interfaces) != 3 || whole.Interfaces[0].Name != "rip0" || whole.Interfaces[2].Name != "rip1" || *whole.IPs[0].Interface != 2 {
		t.Errorf("%v: %s", err, chained)
	}
	chain["prevResult"] = json.RawMessage(chained)
	a.must("CHECK", "c3", a2.Netns(), chain)
	a.must("DEL", "c3", a2.Netns(), chain)
	for _, taken := range []string{"lo", "rip0"} { // by the kernel, and by hand
		a.refused(101, "ADD", "c4", a2.Netns(), map[string]any{"interface": taken})
	}
	if got := s.interfaces("a2"); !slices.Equal(got, []string{"rip0"}) {
		t.Errorf("interfaces after a chain: %v", got)
	}

	// Owners are kept over restarts.
	if err := s.Host("a").Daemon().Kill(); err != nil {
		t.Fatal(err)
	}
	a.refused(51, "STATUS", "", "", nil)
	a.refused(11, "ADD", "new", s.Container("a2").Netns(), nil)
	s.up("a", lab.StartConfig{})
	s.owned("a", "", "cni:pods/kept/eth0")
	if err := s.Host("a").Daemon().Stop(); err != nil {
		t.Fatal(err)
	}
	a.must("DEL", "kept", a1.Netns(), nil)
	a.must("DEL", "kept", a1.Netns(), nil)
	if got := s.interfaces("a1"); len(got) != 0 {
		t.Errorf("interfaces after DEL without a daemon: %v", got)
	}
	s.up("a", lab.StartConfig{})
	s.owned("a", "")
	s.eventually("addresses are given out again", func() error {
		_, err := a.call("STATUS", "", "", nil)
		return err
	})
}
