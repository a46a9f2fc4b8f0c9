package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"ripstop/mesh/api"
)

const reportText = `
Writes one document with what a report of a fault needs: versions, kernel, what ` + "`ripstop doctor`" + ` and all
parts of ` + "`ripstop status`" + ` say, counters and metrics, the sizes of the daemon's tables, its settings and its
last log lines. --stacks adds what its goroutines do. Nothing is changed, and nothing is sent but what
doctor sends; it takes a few seconds, and never more than ten.

No secret and no key is in it. Nicknames, names and addresses of the overlay and of the underlay are;
--redact puts numbers in the place of underlay addresses and of host names that are dialled, the same
number for the same address everywhere in one report. Read it before you give it away.

Where no daemon answers, or one of another version, the rest is written, and what is missing is said.
Long lists are cut. --output writes to a new file that its owner alone may read.

Examples:
  ripstop report
  ripstop report --redact -o report.txt
  ripstop report --json --stacks`

// Bounds of a report.
const (
	partTime      = 4 * time.Second // for each thing that the daemon is asked
	maxReportList = 1000            // entries of one list
	maxReportText = 512 << 10       // bytes of metrics, and of stacks
)

// report is everything, as --json prints it.
type report struct {
	versioned
	Made      time.Time      `json:"made"`
	Redacted  bool           `json:"redacted"` // underlay addresses are numbers
	Missing   []missingPart  `json:"missing"`
	Program   versionAnswer  `json:"program"`
	Host      hostFacts      `json:"host"`
	Doctor    diagnosis      `json:"doctor"`
	Status    *api.Status    `json:"status,omitempty"`
	IPAM      *api.IPAM      `json:"ipam,omitempty"`
	Names     *api.Names     `json:"dns,omitempty"`
	Internals *api.Internals `json:"internals,omitempty"`
	Metrics   string         `json:"metrics,omitempty"`

	overlay netip.Prefix // range of the overlay, as far as the host knows without a daemon
}

// missingPart says what is not in a report, and why.
type missingPart struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// hostFacts are what is known of the host without a daemon.
type hostFacts struct {
	Kernel       string `json:"kernel"`
	Machine      string `json:"machine"`
	Distribution string `json:"distribution,omitempty"`
	Processors   int    `json:"processors"`
	MemoryBytes  uint64 `json:"memory_bytes"`
	User         int    `json:"user"` // effective, of who made the report
}

// reportPlan is how a report is wanted.
type reportPlan struct {
	surroundings
	output         string
	redact, stacks bool
}

func reportCommand() command {
	return command{
		name: "report", args: "[flags]", short: "write down all that a report of a fault needs", client: true, text: reportText,
		setup: func(flags *pflag.FlagSet) action {
			var p reportPlan
			flags.StringVarP(&p.output, "output", "o", "", "`FILE` write to this file, which must not be there yet")
			flags.BoolVar(&p.redact, "redact", false, "hide underlay addresses and the host names that are dialled")
			flags.BoolVar(&p.stacks, "stacks", false, "tell what the daemon's goroutines do, too")
			p.declare(flags)
			return func(ctx context.Context, in *invocation, args []string) error {
				if err := noArguments(args); err != nil {
					return err
				}
				return runReport(ctx, in, thisHost(), p)
			}
		},
	}
}

// runReport makes a report and writes it.
func runReport(ctx context.Context, in *invocation, h host, p reportPlan) error {
	r := collect(ctx, in, h, p)
	if err := ctx.Err(); err != nil {
		return err
	}
	hide := newHider(r) // before names are cut off by which it knows what to hide
	r.cut()
	r.shortenOwners()
	r.scrub()
	if p.redact {
		r.redact(hide)
	}
	var b bytes.Buffer
	var err error
	if in.json {
		err = printJSON(&b, r)
	} else {
		err = r.print(&b)
	}
	if err != nil {
		return err
	}
	if p.output == "" {
		_, err = in.Out.Write(b.Bytes())
		return err
	}
	if err := writePrivate(p.output, b.Bytes()); err != nil {
		return err
	}
	for _, m := range r.Missing {
		fmt.Fprintf(in.Err, "missing: %s: %s\n", printable(m.What), printable(m.Why))
	}
	return nil
}

// writePrivate writes a file that must not be there yet, and that its owner alone may read.
func writePrivate(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already: remove it, or choose another file by --output", path)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(path)
	}
	return err
}

// collect asks for everything at once. What does not come in time is missing.
func collect(ctx context.Context, in *invocation, h host, p reportPlan) *report {
	client := in.client()
	defer client.Close()
	now := time.Now()
	r := &report{versioned: head(), Made: now.UTC().Truncate(time.Second), Redacted: p.redact, Missing: []missingPart{}, Program: versionOf(), Host: factsOf(h), overlay: p.overlay}
	if !r.overlay.IsValid() {
		r.overlay, _, _ = h.storedRange(p.state)
	}
	parts := []struct {
		name string
		ask  func(context.Context) error
	}{
		{"status", func(ctx context.Context) error { return keep(&r.Status)(client.Status(ctx)) }},
		{"ipam", func(ctx context.Context) error { return keep(&r.IPAM)(client.IPAM(ctx)) }},
		{"dns", func(ctx context.Context) error { return keep(&r.Names)(client.Names(ctx)) }},
		{"internals", func(ctx context.Context) error {
			return keep(&r.Internals)(client.Internals(ctx, api.InternalsRequest{Stacks: p.stacks}))
		}},
		{"metrics", func(ctx context.Context) (err error) { r.Metrics, err = client.Metrics(ctx); return err }},
	}
	failed := make([]error, len(parts))
	var wg sync.WaitGroup
	for i, part := range parts {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, partTime)
			defer cancel()
			failed[i] = part.ask(ctx)
		})
	}
	wg.Go(func() {
		x := &examination{host: h, client: client, socket: in.socket, surroundings: p.surroundings, now: now}
		r.Doctor = diagnose(x.run(ctx))
	})
	wg.Wait()
	for i, part := range parts {
		if failed[i] != nil {
			r.miss(part.name, why(failed[i]))
		}
	}
	return r
}

// keep sets a part to an answer that is no error.
func keep[T any](part **T) func(T, error) error {
	return func(answer T, err error) error {
		if err == nil {
			*part = &answer
		}
		return err
	}
}

// why is the reason for which there is no answer.
func why(err error) string {
	switch {
	case errors.Is(err, api.ErrUnreachable) && errors.Is(err, fs.ErrPermission):
		return "this user may not open the daemon's socket: " + asRoot
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("the daemon gave no answer within %v", partTime)
	case api.IsCode(err, api.CodeNotFound):
		return "the daemon's version does not know this question"
	}
	return strings.TrimPrefix(err.Error(), "api: ")
}

// miss notes what is missing, together with what is missing for the same reason.
func (r *report) miss(what, why string) {
	for i := range r.Missing {
		if r.Missing[i].Why == why {
			r.Missing[i].What += ", " + what
			return
		}
	}
	r.Missing = append(r.Missing, missingPart{what, why})
}

// cut bounds what grows with the network.
func (r *report) cut() {
	if s := r.Status; s != nil {
		cutList(r, "status peers", &s.Peers)
		cutList(r, "status links", &s.Links)
		cutList(r, "status targets", &s.Targets)
		cutList(r, "status routes", &s.Routes)
		cutList(r, "status endpoints", &s.Endpoints)
		if r.IPAM != nil {
			s.IPAM = nil // all of it is there
		}
	}
	if i := r.IPAM; i != nil {
		cutList(r, "ipam hosts", &i.Hosts)
		cutList(r, "ipam ranges", &i.Ranges)
		cutList(r, "ipam uses", &i.Uses)
	}
	if n := r.Names; n != nil {
		cutList(r, "dns names", &n.Names)
	}
	if i := r.Internals; i != nil {
		cutList(r, "log", &i.Log)
		cutText(r, "stacks", &i.Stacks)
	}
	cutText(r, "metrics", &r.Metrics)
}

func cutList[T any](r *report, what string, list *[]T) {
	if n := len(*list); n > maxReportList {
		*list = (*list)[:maxReportList]
		r.miss(what, fmt.Sprintf("%d of %d are left out", n-maxReportList, n))
	}
}

// cutText cuts behind a line.
func cutText(r *report, what string, text *string) {
	if n := len(*text); n > maxReportText {
		*text = (*text)[:strings.LastIndexByte((*text)[:maxReportText], '\n')+1]
		r.miss(what, fmt.Sprintf("%d of %d bytes are left out", n-len(*text), n))
	}
}

// factsOf asks the kernel, and the distribution for its name.
func factsOf(h host) hostFacts {
	f := hostFacts{Processors: runtime.NumCPU(), User: os.Geteuid(), Distribution: distribution()}
	f.Kernel, _ = h.release()
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		f.Machine = unix.ByteSliceToString(u.Machine[:])
	}
	var s unix.Sysinfo_t
	if unix.Sysinfo(&s) == nil {
		f.MemoryBytes = uint64(s.Totalram) * uint64(s.Unit)
	}
	return f
}

// distribution is what os-release(5) calls this system; empty where it has no such file.
func distribution() string {
	text, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			return printable(strings.Trim(strings.TrimSpace(name), `"'`))
		}
	}
	return ""
}
