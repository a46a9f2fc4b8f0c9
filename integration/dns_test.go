package integration

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"ripstop/integration/lab"
	"ripstop/mesh/api"
)

// nameServer is where every container asks.
const nameServer = "169.254.83.53:53"

// ask asks a server for a name from a place.
func (s *story) ask(from *lab.Place, server, name string, kind uint16, network string) (*dns.Msg, error) {
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), kind)
	var answer *dns.Msg
	err := from.Do(func() (err error) {
		c := dns.Client{Net: network, Timeout: 3 * time.Second, UDPSize: dns.DefaultMsgSize}
		answer, _, err = c.Exchange(q, server)
		return err
	})
	return answer, err
}

// told is the data of the records of one answer, sorted.
func told(records []dns.RR) []string {
	var all []string
	for _, r := range records {
		all = append(all, strings.TrimPrefix(r.String(), r.Header().String()))
	}
	slices.Sort(all)
	return all
}

// resolves waits until a question is answered with exactly that; nothing means that
// there is no such name.
func (s *story) resolves(from *lab.Place, name string, kind uint16, want ...string) {
	s.Helper()
	s.eventually(fmt.Sprintf("%s: %s %s is %v", from.Name(), name, dns.TypeToString[kind], want), func() error {
		answer, err := s.ask(from, nameServer, name, kind, "udp")
		if err != nil {
			return err
		}
		if got := told(answer.Answer); !slices.Equal(got, want) || len(want) == 0 && answer.Rcode != dns.RcodeNameError {
			return fmt.Errorf("%s %v", dns.RcodeToString[answer.Rcode], got)
		}
		return nil
	})
}

// dnsRoute is how a container without `attach --dns` reaches its host's server.
var dnsRoute = []string{"--route", "169.254.83.53/32"}

// TestNames: what is attached is found by name on every host, and no more when it is
// gone.
func TestNames(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a", "b"}, Links: []lab.LinkConfig{{Hosts: []string{"a", "b"}}}, Containers: 2})
	s.upAll()
	s.reach("a", "b")
	for i, name := range []string{"a1", "a2", "b1", "b2"} {
		c := s.Container(name)
		args := append([]string{"attach", c.Netns(), "--name", "Web" + name[1:], "--address", fmt.Sprintf("10.32.0.%d/24", i+1), "--address", fmt.Sprintf("fd00::%d/64", i+1), "--service", "http:8080/tcp"}, dnsRoute...)
		s.run(name[:1], args...)
	}
	s.run("a", "expose", "--address", "10.32.0.100/24")
	s.run("b", "dns", "add", "printer", "10.32.0.200", "fd00::200")
	s.known(5)
	for _, place := range []*lab.Place{s.Container("a1").Place, s.Container("b2").Place, s.Host("a").Place, s.Host("b").Place} {
		s.resolves(place, "web1.ripstop.internal", dns.TypeA, "10.32.0.1", "10.32.0.3")
		s.resolves(place, "WEB2.Ripstop.Internal", dns.TypeAAAA, "fd00::2", "fd00::4")
		s.resolves(place, "web1.b.ripstop.internal", dns.TypeA, "10.32.0.3")
		s.resolves(place, "a.ripstop.internal", dns.TypeA, "10.32.0.100")
		s.resolves(place, "printer.ripstop.internal", dns.TypeA, "10.32.0.200")
		s.resolves(place, "4.0.32.10.in-addr.arpa", dns.TypePTR, "web2.ripstop.internal.")
		s.resolves(place, "_http._tcp.web2.ripstop.internal", dns.TypeSRV, "0 0 8080 web2.a.ripstop.internal.", "0 0 8080 web2.b.ripstop.internal.")
		s.resolves(place, "nobody.ripstop.internal", dns.TypeA)
	}
	for _, h := range []string{"a", "b"} {
		if out := s.run(h, "status", "endpoints"); !strings.Contains(out, "\na  ") {
			t.Errorf("%s does not show the exposed host by its name:\n%s", h, out)
		}
	}
	if out := s.run("b", "dns", "lookup", "10.32.0.1"); out != "web1.ripstop.internal\n" {
		t.Errorf("lookup: %q", out)
	}
	first := make(map[string]int)
	for range 40 {
		answer, err := s.ask(s.Container("a1").Place, nameServer, "web1.ripstop.internal", dns.TypeA, "udp")
		if err != nil || len(answer.Answer) != 2 || answer.Answer[0].Header().Ttl != 1 {
			t.Fatalf("%v, %v", answer, err)
		}
		first[answer.Answer[0].(*dns.A).A.String()]++
	}
	if len(first) != 2 {
		t.Errorf("the first of two addresses was always %v", first)
	}
	s.run("b", "detach", s.Container("b1").Netns())
	s.run("b", "dns", "remove", "printer")
	for _, place := range []*lab.Place{s.Container("a1").Place, s.Host("b").Place} {
		s.resolves(place, "web1.ripstop.internal", dns.TypeA, "10.32.0.1")
		s.resolves(place, "printer.ripstop.internal", dns.TypeA)
	}
	if err := s.Host("a").Daemon().Kill(); err != nil {
		t.Fatal(err)
	}
	s.resolves(s.Container("b2").Place, "web1.ripstop.internal", dns.TypeA)
	s.resolves(s.Container("b2").Place, "web2.ripstop.internal", dns.TypeA, "10.32.0.4")
}

// TestNamesOfOthers: what stands below a host's name is that host's alone: another is
// refused it, and what it had before the host came is nobody's.
func TestNamesOfOthers(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a", "b"}, Links: []lab.LinkConfig{{Hosts: []string{"a", "b"}}}, Containers: 1})
	s.up("b", lab.StartConfig{})
	b1 := s.Container("b1")
	s.run("b", append([]string{"attach", b1.Netns(), "--name", "web.a", "--address", "10.32.0.2/24"}, dnsRoute...)...)
	s.run("b", "dns", "add", "db.a", "10.32.0.66")
	s.resolves(b1.Place, "web.a.ripstop.internal", dns.TypeA, "10.32.0.2")
	s.up("a", lab.StartConfig{Peers: []string{"b"}})
	s.reach("a", "b")
	s.run("a", "attach", s.Container("a1").Netns(), "--name", "web", "--address", "10.32.0.1/24")
	for _, place := range []*lab.Place{b1.Place, s.Host("a").Place} {
		s.resolves(place, "web.a.ripstop.internal", dns.TypeA, "10.32.0.1")
		s.resolves(place, "db.a.ripstop.internal", dns.TypeA)
	}
	for _, args := range [][]string{
		{"dns", "add", "more.a", "10.32.0.67"},
		{"attach", b1.Netns(), "--interface", "rip1", "--name", "Web.A", "--address", "10.32.0.3/24"},
	} {
		if r, err := s.Host("b").Ripstop(s.ctx, args...); err != nil || r.Code != 1 || !strings.Contains(r.Err, "are those of the host a: give it there") {
			t.Errorf("%v: %+v, %v", args, r, err)
		}
	}
	s.run("a", "dns", "add", "db.a", "10.32.0.68")
	s.resolves(b1.Place, "db.a.ripstop.internal", dns.TypeA, "10.32.0.68")
	s.run("b", "dns", "remove", "db.a")
}

// TestNamesRouted: a host without a bridge finds others by name, and they find it.
func TestNamesRouted(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a", "b"}, Links: []lab.LinkConfig{{Hosts: []string{"a", "b"}}}, Containers: 1})
	s.up("a", lab.StartConfig{Args: []string{"--mode", "routed", "--address", "10.32.0.1/24"}})
	s.up("b", lab.StartConfig{Peers: []string{"a"}})
	s.reach("a", "b")
	b1 := s.Container("b1")
	s.run("b", append([]string{"attach", b1.Netns(), "--name", "web", "--address", "10.32.0.2/24", "--service", "http:80"}, dnsRoute...)...)
	s.known(2)
	for _, place := range []*lab.Place{s.Host("a").Place, b1.Place} {
		s.resolves(place, "web.ripstop.internal", dns.TypeA, "10.32.0.2")
		s.resolves(place, "a.ripstop.internal", dns.TypeA, "10.32.0.1")
		s.resolves(place, "_http._tcp.web.b.ripstop.internal", dns.TypeSRV, "0 0 80 web.b.ripstop.internal.")
		s.resolves(place, "1.0.32.10.in-addr.arpa", dns.TypePTR, "a.ripstop.internal.")
	}
	s.eventually("b1 asks the routed host", func() error {
		answer, err := s.ask(b1.Place, "10.32.0.1:53", "web.ripstop.internal", dns.TypeA, "udp")
		if err != nil || !slices.Equal(told(answer.Answer), []string{"10.32.0.2"}) {
			return fmt.Errorf("%v, %v", answer, err)
		}
		return nil
	})
}

// shell is a container's process with files of its own: a resolver file laid over the
// machine's by a mount, as container engines do.
type shell struct {
	*story
	in   io.WriteCloser
	out  *bufio.Scanner
	pid  int
	file string
}

// enter starts a shell in a container.
func (s *story) enter(container, resolver string) *shell {
	s.Helper()
	file := filepath.Join(s.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte(resolver), 0o644); err != nil {
		s.Fatal(err)
	}
	cmd := exec.CommandContext(s.ctx, "unshare", "--mount", "sh", "-c", "mount --bind "+file+" /etc/resolv.conf && exec sh")
	in, err := cmd.StdinPipe()
	if err != nil {
		s.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.Fatal(err)
	}
	if err := s.Container(container).Do(cmd.Start); err != nil {
		s.Fatal(err)
	}
	sh := &shell{story: s, in: in, out: bufio.NewScanner(out), pid: cmd.Process.Pid, file: file}
	s.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	sh.do("true")
	return sh
}

// do runs one command and returns what it prints.
func (sh *shell) do(command string) string {
	sh.Helper()
	const end = "=== end of the answer"
	fmt.Fprintf(sh.in, "%s 2>&1; echo '%s'\n", command, end)
	var lines []string
	for sh.out.Scan() && sh.out.Text() != end {
		lines = append(lines, sh.out.Text())
	}
	return strings.Join(lines, "\n")
}

// TestResolverFile: `attach --dns` is all it takes for a container's own programs to
// find others by their bare names; detach puts its file back.
func TestResolverFile(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a", "b"}, Links: []lab.LinkConfig{{Hosts: []string{"a", "b"}}}, Containers: 1})
	s.upAll()
	s.reach("a", "b")
	const old = "nameserver 192.0.2.9\noptions timeout:1 attempts:2\n"
	sh := s.enter("a1", old)
	netns := fmt.Sprintf("pid:%d", sh.pid)
	s.run("a", "attach", netns, "--name", "a1", "--address", "10.32.0.1/24", "--dns")
	s.run("b", "attach", s.Container("b1").Netns(), "--name", "web", "--address", "10.32.0.2/24")
	s.eventually("the container's getent finds web", func() error {
		if got := sh.do("getent ahostsv4 web"); !strings.HasPrefix(got, "10.32.0.2 ") {
			return fmt.Errorf("%q; the file: %s", got, sh.do("cat /etc/resolv.conf"))
		}
		return nil
	})
	if got := sh.do("getent hosts 10.32.0.2"); !strings.Contains(got, "web.ripstop.internal") {
		t.Errorf("the address's name: %q", got)
	}
	s.run("a", "detach", netns)
	if got, err := os.ReadFile(sh.file); err != nil || string(got) != old {
		t.Errorf("after detach the file holds %q, %v", got, err)
	}
	r, err := s.Host("a").Ripstop(s.ctx, "attach", s.Container("a1").Netns(), "--name", "a1", "--address", "10.32.0.1/24", "--dns")
	if err != nil || r.Code != 1 || !strings.Contains(r.Err, "pid:NUMBER") {
		t.Errorf("a namespace without files: %+v, %v", r, err)
	}
	s.run("a", "attach", netns, "--address", "10.32.0.1/24") // nothing is left of the try
	s.run("a", "detach", netns)
	s.run("a", "attach", netns, "--address", "10.32.0.1/24", "--dns")
	s.run("a", "reset", "--yes")
	if got, err := os.ReadFile(sh.file); err != nil || string(got) != old {
		t.Errorf("after reset the file holds %q, %v", got, err)
	}
}

// upstreamAt answers every question in a place with one text, over UDP and TCP.
func (s *story) upstreamAt(p *lab.Place, address string) *atomic.Int64 {
	s.Helper()
	asked := new(atomic.Int64)
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
		asked.Add(1)
		a := new(dns.Msg).SetReply(m)
		a.Answer = append(a.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{"from " + address}})
		w.WriteMsg(a)
	})
	var packet net.PacketConn
	var stream net.Listener
	err := p.Do(func() (err error) {
		if packet, err = net.ListenPacket("udp", address+":53"); err == nil {
			stream, err = net.Listen("tcp", address+":53")
		}
		return err
	})
	if err != nil {
		s.Fatal(err)
	}
	var wg sync.WaitGroup
	s.Cleanup(wg.Wait)
	for _, server := range []*dns.Server{{PacketConn: packet, Handler: handler}, {Listener: stream, Handler: handler}} {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		wg.Go(func() { server.ActivateAndServe() })
		<-started
		s.Cleanup(func() { server.Shutdown() })
	}
	return asked
}

// TestForwarding: names of others are asked of the host's resolvers, a dead one costs
// little, the file may change; and two hosts that name each other do not go round.
func TestForwarding(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a", "b"}, Links: []lab.LinkConfig{{Hosts: []string{"a", "b"}}}, Containers: 1})
	file := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("nameserver 127.0.0.7\nnameserver 127.0.0.8\nsearch lab.example\n")
	s.upAll("--resolv-conf", file)
	s.reach("a", "b")
	asked := s.upstreamAt(s.Host("a").Place, "127.0.0.8")
	c := s.Container("a1")
	s.run("a", append([]string{"attach", c.Netns(), "--name", "a1", "--address", "10.32.0.1/24"}, dnsRoute...)...)
	for _, network := range []string{"udp", "tcp"} {
		answer, err := s.ask(c.Place, nameServer, "example.org", dns.TypeTXT, network)
		if err != nil || !slices.Equal(told(answer.Answer), []string{`"from 127.0.0.8"`}) {
			t.Errorf("%s: %v, %v", network, answer, err)
		}
	}
	before := asked.Load()
	s.resolves(c.Place, "nobody.ripstop.internal", dns.TypeA)
	if asked.Load() != before {
		t.Error("a name of ours was asked of somebody else")
	}
	var status api.Names
	if err := json.Unmarshal([]byte(s.run("a", "status", "dns", "--json")), &status); err != nil {
		t.Fatal(err)
	}
	if want := []api.Upstream{{Address: netip.MustParseAddr("127.0.0.7"), Resting: true}, {Address: netip.MustParseAddr("127.0.0.8")}}; !slices.Equal(status.Upstreams, want) || !slices.Equal(status.Search, []string{"lab.example"}) {
		t.Errorf("status: %+v", status)
	}
	s.upstreamAt(s.Host("a").Place, "127.0.0.9")
	write("nameserver 127.0.0.9\n")
	s.eventually("the new resolver is asked", func() error {
		answer, err := s.ask(c.Place, nameServer, "example.org", dns.TypeTXT, "udp")
		if err != nil || !slices.Equal(told(answer.Answer), []string{`"from 127.0.0.9"`}) {
			return fmt.Errorf("%v, %v", answer, err)
		}
		return nil
	})
	s.run("a", "expose", "--address", "10.32.0.100/24")
	s.run("b", "expose", "--address", "10.32.0.101/24")
	s.known(3)
	write("nameserver 10.32.0.100\nnameserver 10.32.0.101\n")
	s.eventually("a question that goes in a circle ends soon", func() error {
		answer, err := s.ask(c.Place, nameServer, "circle.example", dns.TypeTXT, "udp")
		if err != nil {
			return err
		}
		if answer.Rcode != dns.RcodeServerFailure {
			return fmt.Errorf("%v", answer)
		}
		if counters := s.status("a").Counters; counters["dns_loops"]+s.status("b").Counters["dns_loops"] == 0 {
			return fmt.Errorf("no loop was noticed: %v", counters)
		}
		return nil
	})
	if n := s.status("b").Counters["dns_forwarded"]; n > 100 {
		t.Errorf("b passed %d questions on", n)
	}
}

// TestBadNames: what cannot be a name, and a name of somebody else, is refused in words.
func TestBadNames(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a"}, Containers: 1})
	s.upAll()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"dns", "add", "a_b", "10.32.0.1"}, "only letters, digits, hyphens and dots"},
		{[]string{"dns", "add", "a-", "10.32.0.1"}, "hyphen"},
		{[]string{"dns", "add", "a..b", "10.32.0.1"}, "two dots"},
		{[]string{"dns", "add", strings.Repeat("a", 64), "10.32.0.1"}, "63 are the most"},
		{[]string{"dns", "add", "a.example.", "10.32.0.1"}, "outside the domain ripstop.internal"},
		{[]string{"dns", "add", "a", "127.0.0.1"}, "not an address"},
		{[]string{"dns", "add", "a", "224.0.0.1"}, "not an address"},
		{[]string{"dns", "remove", "a"}, "was not added on this host"},
		{[]string{"dns", "lookup", "a"}, "there is no a.ripstop.internal"},
		{[]string{"attach", s.Container("a1").Netns(), "--address", "10.32.0.1/24", "--service", "http:80/tcp"}, "needs the --name"},
	} {
		r, err := s.Host("a").Ripstop(s.ctx, c.args...)
		if err != nil || r.Code != 1 || !strings.Contains(r.Err, c.want) {
			t.Errorf("%v: %+v, %v", c.args, r, err)
		}
	}
	s.run("a", "dns", "add", "Kept.ripstop.internal", "10.32.0.9")
	if err := s.Host("a").Daemon().Kill(); err != nil {
		t.Fatal(err)
	}
	s.up("a", lab.StartConfig{})
	s.eventually("an added name is there after a restart", func() error {
		if r, err := s.Host("a").Ripstop(s.ctx, "dns", "lookup", "kept"); err != nil || r.Out != "10.32.0.9\n" {
			return fmt.Errorf("%+v, %v", r, err)
		}
		return nil
	})
}
