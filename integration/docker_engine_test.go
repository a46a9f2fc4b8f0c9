package integration

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"ripstop/integration/lab"
)

// dockerd is Docker's own engine on a host, with the plug-in beside it.
type dockerd struct {
	*engine
	dir    string
	daemon *exec.Cmd
	log    bytes.Buffer
}

// dockerd starts plug-in and engine. The engine has a mount namespace of its own, since it
// looks for plug-ins at one path on every host.
func (s *story) dockerd(host string) *dockerd {
	s.Helper()
	dir := filepath.Join(s.Dir(), host, "docker")
	for _, name := range []string{"run/plugins", "data", "exec"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			s.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "daemon.json"), []byte("{}"), 0o644); err != nil {
		s.Fatal(err)
	}
	d := &dockerd{engine: s.engineAt(host, filepath.Join(dir, "run/plugins/ripstop.sock")), dir: dir}
	s.Cleanup(func() {
		if s.Failed() {
			s.Logf("log of Docker on %s:\n%s", host, tail(d.log.String()))
		}
		if d.daemon == nil {
			return
		}
		ids, err := d.try("ps", "--all", "--quiet")
		if err == nil && ids != "" {
			_, err = d.try(append([]string{"rm", "--force"}, strings.Fields(ids)...)...)
		}
		if err != nil {
			s.Error(err)
		}
		d.end()
	})
	d.begin()
	return d
}

// tail is the end of a long text.
func tail(text string) string { return text[max(0, len(text)-4000):] }

func (d *dockerd) begin() {
	d.Helper()
	const inside = `mount -t tmpfs tmpfs /run && mkdir /run/docker && mount --bind "$1/run" /run/docker &&
exec dockerd --config-file "$1/daemon.json" --data-root "$1/data" --exec-root "$1/exec" --pidfile "$1/pid" --host "unix://$1/docker.sock"`
	d.daemon = exec.Command("unshare", "--mount", "--propagation", "slave", "sh", "-c", inside, "sh", d.dir)
	d.daemon.Stdout, d.daemon.Stderr = &d.log, &d.log
	if err := d.Host(d.host).Do(d.daemon.Start); err != nil {
		d.Fatal(err)
	}
	d.eventually("Docker on "+d.host+" answers", func() error {
		_, err := d.try("version")
		return err
	})
}

func (d *dockerd) end() {
	d.Helper()
	d.daemon.Process.Signal(syscall.SIGTERM)
	if err := d.daemon.Wait(); err != nil {
		d.Errorf("Docker on %s: %v", d.host, err)
	}
	d.daemon = nil
}

// try runs docker's command line.
func (d *dockerd) try(args ...string) (string, error) { return d.feed(nil, args...) }

func (d *dockerd) feed(in io.Reader, args ...string) (string, error) {
	cmd := exec.CommandContext(d.ctx, "docker", append([]string{"--host", "unix://" + filepath.Join(d.dir, "docker.sock")}, args...)...)
	cmd.Stdin = in
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("docker %s: %w: %s%s", strings.Join(args, " "), err, &out, &complaint)
	}
	return strings.TrimSpace(out.String()), nil
}

// docker is try that has to succeed.
func (d *dockerd) docker(args ...string) string {
	d.Helper()
	out, err := d.try(args...)
	if err != nil {
		d.Fatalf("%s: %v", d.host, err)
	}
	return out
}

// image gives Docker an image with busybox alone.
func (d *dockerd) image() {
	d.Helper()
	program, err := exec.LookPath("busybox")
	if err != nil {
		d.Fatal(err)
	}
	body, err := os.ReadFile(program)
	if err != nil {
		d.Fatal(err)
	}
	var file bytes.Buffer
	w := tar.NewWriter(&file)
	w.WriteHeader(&tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(body))})
	w.Write(body)
	for _, name := range []string{"httpd", "ip", "nslookup", "ping", "sleep", "wget"} {
		w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox"})
	}
	w.WriteHeader(&tar.Header{Name: "www/index.html", Mode: 0o644, Size: 5})
	w.Write([]byte("hello"))
	if err := w.Close(); err != nil {
		d.Fatal(err)
	}
	if _, err := d.feed(&file, "import", "-", "busybox:lab"); err != nil {
		d.Fatal(err)
	}
}

// address is what Docker says a container has in a network.
func (d *dockerd) address(container, network string) netip.Addr {
	d.Helper()
	var networks map[string]struct{ IPAddress string }
	if err := json.Unmarshal([]byte(d.docker("inspect", "--format", "{{json .NetworkSettings.Networks}}", container)), &networks); err != nil {
		d.Fatal(err)
	}
	a, err := netip.ParseAddr(networks[network].IPAddress)
	if err != nil {
		d.Fatalf("%s in %s: %v", container, network, err)
	}
	return a
}

// TestDockerEngine is TestDocker by Docker's own engine, with whatever version of it is
// installed. -long, because it needs that, and busybox built static.
func TestDockerEngine(t *testing.T) {
	if !*long {
		t.Skip("it needs Docker's engine and a static busybox: -long")
	}
	for _, tool := range []string{"dockerd", "docker", "busybox", "iptables", "unshare"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatal(err)
		}
	}
	s := tell(t, lab.Config{Hosts: []string{"a", "b"}, Links: []lab.LinkConfig{{Hosts: []string{"a", "b"}}}})
	s.upAll()
	s.reach("a", "b")
	a, b := s.dockerd("a"), s.dockerd("b")
	s.Logf("Docker %s", a.docker("version", "--format", "{{.Server.Version}}"))
	const subnet = "10.32.7.0/24"
	for _, d := range []*dockerd{a, b} {
		d.image()
		d.docker("network", "create", "--driver", "ripstop", "--ipam-driver", "ripstop", "--subnet", subnet, "shop")
	}
	run := []string{"run", "--detach", "--stop-signal", "KILL"}
	a.docker(append(run, "--name", "web", "--restart", "always", "--network", "name=shop,alias=shop-window,driver-opt=ripstop.name=web", "busybox:lab", "httpd", "-f", "-h", "/www")...)
	a.docker(append(run, "--name", "mate", "--network", "shop", "--ip", "10.32.7.77", "busybox:lab", "sleep", "10000")...)
	b.docker(append(run, "--name", "db", "--network", "shop", "--dns", strings.TrimSuffix(nameServer, ":53"), "busybox:lab", "sleep", "10000")...)
	served := func() {
		t.Helper()
		s.eventually("db has web's page by name", func() error {
			page, err := b.try("exec", "db", "wget", "-q", "-O", "-", "http://web.ripstop.internal/")
			if err == nil && page != "hello" {
				err = fmt.Errorf("%q", page)
			}
			return err
		})
		b.docker("exec", "db", "ping", "-c", "2", a.address("web", "shop").String())
	}
	served()
	b.docker("exec", "db", "ping", "-c", "2", "10.32.7.77")
	a.docker("exec", "mate", "ping", "-c", "2", "shop-window")
	if !a.passed() || !b.passed() {
		t.Error("Docker's firewall has no rule of ripstop's")
	}
	if out, err := b.try(append(run, "--network", "shop", "--ip", "10.32.7.77", "busybox:lab", "sleep", "10000")...); err == nil || !strings.Contains(err.Error(), "10.32.7.77 is in use on a") {
		t.Errorf("an address of another host: %s, %v", out, err)
	}

	if err := s.Host("a").Daemon().Kill(); err != nil {
		t.Fatal(err)
	}
	s.up("a", lab.StartConfig{})
	s.reach("a", "b")
	served()
	a.end() // and with it its containers
	a.begin()
	served()
	a.docker("start", "mate")
	a.docker("kill", "mate")
	a.docker("start", "mate")
	b.docker("exec", "db", "ping", "-c", "2", "10.32.7.77")

	// A second network of the same container.
	b.docker("network", "create", "--driver", "ripstop", "--ipam-driver", "ripstop", "--subnet", "10.32.8.0/24", "more")
	b.docker("network", "connect", "more", "db")
	served()
	b.docker("restart", "db")
	served()
	b.docker("network", "disconnect", "more", "db")
	served()

	a.docker("rm", "--force", "web", "mate")
	b.docker("rm", "--force", "db")
	for _, d := range []*dockerd{a, b} {
		s.owned(d.host)
		d.docker("network", "rm", "shop")
		if got := d.used(); !slices.Equal(got, nil) {
			t.Errorf("on %s addresses are for %q", d.host, got)
		}
		if got := d.lent(); len(got) != 0 {
			t.Errorf("interfaces left on %s: %v", d.host, got)
		}
	}
}
