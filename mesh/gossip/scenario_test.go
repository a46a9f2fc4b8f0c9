package gossip

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"ripstop/crypto"
)

var rewrite = flag.Bool("rewrite", false, "write what scenarios print into testdata")

// TestScenarios runs each testdata/*.txt. A line "> command" is run, and what
// it prints must stand on the lines behind it; "#" begins a remark.
//
//	period DURATION           of anti-entropy, for hosts that start from now on
//	hosts NAME...             start hosts that link only as told
//	dialling NAME...          start hosts that link as State.Dial says
//	target HOST TO            HOST dials TO until it is there
//	link A B | unlink A B     a control connection, and the link 50 ms later
//	partition A B | C D       cut the sides from each other; heal ends it
//	publish HOST KEY CLAIM    an endpoint record
//	withdraw HOST KEY
//	stop HOST | start HOST    end it; start it with its keys and nothing else
//	run DURATION
//	show HOST                 members (+ has links, - no member now) and the endpoints it holds of them
//	version HOST ORIGIN       complete, and how many live records
//	stats HOST                the counters that are not zero and no plain traffic
//	converged                 what differs, or "all agree"
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scenarios", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := runScenario(t, want)
			if *rewrite {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s: printed\n%s", file, got)
			}
		})
	}
}

func runScenario(t *testing.T, text []byte) []byte {
	w := newWorld(t, 3)
	named := make(map[string]*host)
	var out bytes.Buffer
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		line := lines.Text()
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
			fmt.Fprintln(&out, line)
		case strings.HasPrefix(line, "> "):
			fmt.Fprintln(&out, line)
			fields := strings.Fields(line[2:])
			w.command(&out, named, fields[0], fields[1:])
		}
	}
	return out.Bytes()
}

func (w *world) command(out *bytes.Buffer, named map[string]*host, verb string, args []string) {
	w.t.Helper()
	at := func(i int) *host {
		if i >= len(args) || named[args[i]] == nil {
			w.t.Fatalf("scenario: %s %v: no host there", verb, args)
		}
		return named[args[i]]
	}
	switch verb {
	case "hosts", "dialling":
		for _, nick := range args {
			named[nick] = w.add(nick, verb == "dialling")
		}
	case "target":
		at(0).targets = append(at(0).targets, at(1))
		at(0).redial()
	case "period":
		d, err := time.ParseDuration(args[0])
		if err != nil {
			w.t.Fatal(err)
		}
		w.cfg.Period = d
	case "link":
		w.connect(at(0), at(1))
	case "unlink":
		w.disconnect(at(0), at(1))
	case "partition":
		bar := slices.Index(args, "|")
		w.partition(func(h *host) int {
			if slices.Index(args, h.nick) < bar {
				return 0
			}
			return 1
		})
	case "heal":
		w.heal()
	case "publish":
		claim, err := strconv.ParseUint(args[2], 10, 64)
		if err != nil {
			w.t.Fatal(err)
		}
		at(0).endpoint(args[1], claim)
	case "withdraw":
		at(0).withdraw(KindEndpoint, args[1])
	case "stop":
		at(0).stop()
	case "start":
		at(0).boot()
	case "run":
		d, err := time.ParseDuration(args[0])
		if err != nil {
			w.t.Fatal(err)
		}
		w.run(d)
	case "show":
		at(0).show(out)
	case "version":
		if o := at(0).origins[at(1).id.Name()]; o != nil {
			fmt.Fprintf(out, "complete %d, %d live\n", o.complete(), o.live)
		} else {
			fmt.Fprintln(out, "nothing")
		}
	case "stats":
		at(0).counters(out)
	case "converged":
		list := w.differences()
		if len(list) == 0 {
			list = []string{"all agree"}
		}
		fmt.Fprintln(out, strings.Join(list, "\n"))
	default:
		w.t.Fatalf("scenario: unknown command %q", verb)
	}
}

// show prints what the host knows, by nickname, and checks that Changed told
// the same story.
func (h *host) show(out *bytes.Buffer) {
	held := make(map[string][]string)
	live := make(map[Change]bool)
	for kind := KindPeer; kind <= KindHint; kind++ {
		for r := range h.Records(kind) {
			live[Change{Kind: kind, Origin: r.Origin, Key: r.Key}] = true
			if kind == KindEndpoint {
				e, err := ParseEndpointBody(r.Body)
				if err != nil {
					h.w.t.Fatal(err)
				}
				nick := h.w.byName[r.Origin].nick
				held[nick] = append(held[nick], fmt.Sprintf("%s/%d", r.Key, e.Claim))
			}
		}
	}
	if !maps.Equal(live, h.shown) {
		h.w.t.Errorf("%s: Changed told of %v, held are %v", h.nick, h.shown, live)
	}
	var list []string
	for _, m := range h.Members() {
		nick := h.w.byName[m.Name].nick
		if m.Alive != m.Gone.IsZero() {
			h.w.t.Errorf("%s: %s is alive %v, and is gone since %v", h.nick, nick, m.Alive, m.Gone)
		}
		mark := ""
		if m.HasLinks {
			mark = "+"
		}
		if !m.Alive {
			mark = "-"
		}
		if !m.Known {
			mark += "?"
		}
		list = append(list, strings.TrimSpace(fmt.Sprintf("%s%s %s", nick, mark, strings.Join(held[nick], " "))))
	}
	slices.Sort(list)
	fmt.Fprintln(out, strings.Join(list, "; "))
}

func (h *host) counters(out *bytes.Buffer) {
	st := h.Stats()
	for _, c := range []struct {
		name string
		n    uint64
	}{
		{"refused deleted", st.RefusedDeleted}, {"refused version", st.RefusedVersion},
		{"refused signature", st.RefusedSignature}, {"refused size", st.RefusedSize},
		{"refused origin", st.RefusedOrigin}, {"equivocations", st.Equivocations},
		{"recoveries", st.Recoveries}, {"malformed", st.Malformed}, {"purged", st.Purged},
		{"excess members", uint64(st.ExcessMembers)}, {"origins", uint64(st.Origins)},
	} {
		if c.n != 0 {
			fmt.Fprintf(out, "%s %d\n", c.name, c.n)
		}
	}
}

// nickOf is for messages of tests.
func (w *world) nickOf(n crypto.Name) string {
	if h := w.byName[n]; h != nil {
		return h.nick
	}
	return n.String()
}
