package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"ripstop/integration/lab"
	"ripstop/mesh/api"
)

const demoText = `
Builds a small network on this machine out of network namespaces, with nothing but this program:
five hosts that are not all connected, containers on them, traffic between the two ends, and a cut.
It says what it does, takes less than a minute, and takes everything away again, also at Ctrl-C.
It needs root, or the right to make a user namespace, and /dev/net/tun.

--keep leaves the network up until Ctrl-C and prints how to look around in it.

Examples:
  ripstop demo
  ripstop demo --keep`

func demoCommand() command {
	return command{
		name: "demo", args: "[--keep]", short: "see a network run on this machine", text: demoText,
		setup: func(flags *pflag.FlagSet) action {
			keep := flags.Bool("keep", false, "leave it up until Ctrl-C")
			return func(ctx context.Context, in *invocation, args []string) error {
				if err := noArguments(args); err != nil {
					return err
				}
				if lab.InIsolation() {
					return runDemo(ctx, in, *keep)
				}
				return isolateDemo(ctx, in, *keep)
			}
		},
	}
}

// isolateDemo runs this program again where nothing it does can be left behind.
func isolateDemo(ctx context.Context, in *invocation, keep bool) error {
	args := []string{"demo", fmt.Sprintf("--keep=%v", keep), fmt.Sprintf("--json=%v", in.json)}
	code, err := lab.Isolated(ctx, args, in.In, in.Out, in.Err)
	if err != nil {
		return err
	}
	if code != ExitOK { // it has said why
		return &exitError{code: ExitFailed}
	}
	return nil
}

// demoFacts is what the demo found out; --json prints it.
type demoFacts struct {
	versioned
	Hosts      []string `json:"hosts"`
	Containers []string `json:"containers"`
	JoinMillis int64    `json:"join_ms"` // from the first start until everybody had a way to everybody
	Way        []string `json:"way"`     // of a frame from the first host to the last
	Ping       struct {
		Sent      int     `json:"sent"`
		Answered  int     `json:"answered"`
		TTL       int     `json:"ttl"`
		AverageMS float64 `json:"average_ms"`
	} `json:"ping"`
	BitsPerSecond float64 `json:"throughput_bits_per_second"`
	Sealed        struct {
		Frames  int `json:"underlay_frames"`    // that crossed the middle link meanwhile
		InClear int `json:"frames_with_marker"` // of them, with the marker that the pings carried
	} `json:"sealed"`
	Cut struct {
		Link       string   `json:"link"`
		PauseMS    int64    `json:"pause_ms"`
		Sent       int      `json:"sent"`
		Lost       int      `json:"lost"`
		Duplicates int      `json:"duplicates"`
		WayAfter   []string `json:"way_after"`
	} `json:"cut"`
	Seconds float64 `json:"seconds"`
}

// The demo's layout: the way from first to last leads over the middle link, and the
// second way round the middle over one more host.
//
//	a ─── b ═══ c ─── d
//	       \   /
//	         e
var (
	demoHosts = [...]string{"a", "b", "c", "d", "e"}
	demoLinks = [...][2]string{{"a", "b"}, {"b", "c"}, {"c", "d"}, {"b", "e"}, {"e", "c"}}
)

const (
	demoFirst, demoLast   = "a", "d"
	demoContainersPerHost = 2

	demoPings      = 5
	demoThroughput = 2 * time.Second
	demoSettle     = 20 * time.Second // for everybody to find everybody
	demoReroute    = 10 * time.Second // for traffic to come back after the cut
)

// demo is a running demonstration.
type demo struct {
	in    *invocation
	out   io.Writer // of the narration
	lab   *lab.Lab
	facts demoFacts
	// middle is the second link of the way between the first host and the last, which is
	// watched and cut: there are two, and which of them is taken their round trips say.
	middle [2]string
}

func runDemo(ctx context.Context, in *invocation, keep bool) (err error) {
	d := &demo{in: in, out: in.Out, facts: demoFacts{versioned: head()}}
	if in.json {
		d.out = in.Err
	}
	started := time.Now()
	if err := checkTUN(); err != nil {
		return err
	}
	if err := d.build(); err != nil {
		return err
	}
	defer func() {
		if closeErr := d.lab.Close(); closeErr != nil {
			err = errors.Join(err, closeErr)
			return
		}
		d.say("\nEverything is gone again: daemons, containers, hosts, files.")
		if err == nil && in.json {
			d.facts.Seconds = time.Since(started).Seconds()
			err = printJSON(in.Out, d.facts)
		}
	}()
	for _, step := range []func(context.Context) error{d.join, d.attach, d.ping, d.throughput, d.cut} {
		if err := step(ctx); err != nil {
			if ctx.Err() != nil {
				return errors.New("interrupted")
			}
			return err
		}
	}
	if keep {
		d.lookAround()
		<-ctx.Done()
	}
	return nil
}

// checkTUN tells early, and once, what every daemon would stumble over.
func checkTUN() error {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return errors.New("there is no /dev/net/tun: load it by `modprobe tun`; in a container, start that with --device /dev/net/tun")
	case errors.Is(err, os.ErrPermission):
		return errors.New("/dev/net/tun may not be opened: run it as root, or as root `chmod 666 /dev/net/tun`, which is safe: what may be done with it is decided by namespaces")
	case err != nil:
		return err
	}
	return f.Close()
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }

// build lays hosts and links out.
func (d *demo) build() error {
	cfg := lab.Config{Hosts: demoHosts[:], Containers: demoContainersPerHost}
	for _, link := range demoLinks {
		cfg.Links = append(cfg.Links, lab.LinkConfig{Hosts: link[:]})
	}
	d.say("Five hosts, each a network namespace of this machine. They are wired like this, and know\nof no other way:\n")
	d.say("    a ─── b ─── c ─── d\n           \\   /\n             e\n")
	l, err := lab.New(cfg)
	d.lab = l
	d.facts.Hosts = demoHosts[:]
	return err
}

// status asks a host's daemon.
func (d *demo) status(ctx context.Context, host string) (api.Status, error) {
	client := api.NewClient(d.lab.Host(host).Socket())
	defer client.Close()
	s, err := client.Status(ctx)
	if err != nil {
		return s, fmt.Errorf("host %s: %w", host, err)
	}
	return s, nil
}

// way follows the routes from host to host.
func (d *demo) way(ctx context.Context, from, to string) ([]string, error) {
	way := []string{from}
	for at := from; at != to; {
		s, err := d.status(ctx, at)
		if err != nil {
			return nil, err
		}
		next := ""
		nick := nicknames(s)
		for _, r := range s.Routes {
			if r.Nickname == to {
				next = nick[r.Next]
			}
		}
		if next == "" || len(way) > len(demoHosts) {
			return nil, fmt.Errorf("host %s knows no way to %s", at, to)
		}
		way = append(way, next)
		at = next
	}
	return way, nil
}

// arrows is a way for people.
func arrows(way []string) string { return strings.Join(way, " → ") }

// address is the overlay address of a host's n-th container.
func (d *demo) address(host, n int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 32, byte(host + 1), byte(n + 1)})
}

// container is one end of the demo's traffic, and its address.
func (d *demo) container(host string) (*lab.Container, netip.Addr) {
	for i, name := range demoHosts {
		if name == host {
			return d.lab.Container(host + "1"), d.address(i, 0)
		}
	}
	return nil, netip.Addr{}
}

// lookAround says what to try in a network that is kept.
func (d *demo) lookAround() {
	dir, pid := d.lab.Dir(), os.Getpid()
	d.say("\nThe network stays up until Ctrl-C. From another terminal:\n")
	for _, part := range []string{"status", "status routes", "status endpoints"} {
		d.say("  %s --socket %s %s", d.lab.Binary(), d.lab.Host(demoFirst).Socket(), part)
	}
	user := ""
	if os.Getuid() == 0 && !d.machineRoot() {
		user = "--user --preserve-credentials "
	}
	c, _ := d.container(demoFirst)
	_, to := d.container(demoLast)
	d.say("  nsenter %s--target %d --net=/proc/%d/root%s ping %s", user, pid, pid, c.Netns(), to)
	d.say("\nLogs: %s/*/log. The link %s–%s is still cut.", dir, d.middle[0], d.middle[1])
}

// machineRoot reports whether this is root of the machine's own user namespace.
func (d *demo) machineRoot() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && len(strings.Fields(string(b))) == 3 && strings.Fields(string(b))[2] == "4294967295"
}
