package cli

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

const doctorText = `
Looks at this host and, where one runs, at the daemon, and says of each thing that often goes wrong
whether it is right: ok, warn or FAIL, with what was found and what helps. Nothing is changed, and
nothing is sent but to the daemon on this host. It takes a second or two, and never more than five.

What this user may not see is skipped; root sees most. Where no daemon answers the host alone is
looked at, as the flags say that it would be used.

The exit code is 4 when something failed, else 0.

Examples:
  ripstop doctor
  ripstop doctor --json
  ripstop doctor --secret-file secret    before the first ` + "`ripstop up --secret-file secret`"

// verdict is what a check says of what it found.
type verdict string

// The verdicts, as --json has them.
const (
	verdictOK      verdict = "ok"
	verdictWarn    verdict = "warn"    // works, but not as well or as safely as it might
	verdictFail    verdict = "fail"    // something does not work
	verdictSkipped verdict = "skipped" // could not be looked at
)

// shown is the verdict for people.
func (v verdict) shown() string {
	if v == verdictFail {
		return "FAIL"
	}
	return string(v)
}

// finding is one thing that a check found.
type finding struct {
	Check   string  `json:"check"`
	About   subject `json:"about"`
	Verdict verdict `json:"verdict"`
	Found   string  `json:"found"`
	Remedy  string  `json:"remedy,omitempty"` // of what is not ok
}

func good(format string, args ...any) finding {
	return finding{Verdict: verdictOK, Found: fmt.Sprintf(format, args...)}
}

func warning(remedy, format string, args ...any) finding {
	return finding{Verdict: verdictWarn, Found: fmt.Sprintf(format, args...), Remedy: remedy}
}

func failure(remedy, format string, args ...any) finding {
	return finding{Verdict: verdictFail, Found: fmt.Sprintf(format, args...), Remedy: remedy}
}

func skipped(remedy, format string, args ...any) finding {
	return finding{Verdict: verdictSkipped, Found: fmt.Sprintf(format, args...), Remedy: remedy}
}

// diagnosis is everything found, in the order of the checks.
type diagnosis struct {
	versioned
	Failed   int       `json:"failed"`
	Warnings int       `json:"warnings"`
	Skipped  int       `json:"skipped"`
	Findings []finding `json:"findings"`
}

// diagnose counts what was found.
func diagnose(findings []finding) diagnosis {
	d := diagnosis{versioned: head(), Findings: findings}
	for _, f := range findings {
		switch f.Verdict {
		case verdictFail:
			d.Failed++
		case verdictWarn:
			d.Warnings++
		case verdictSkipped:
			d.Skipped++
		}
	}
	return d
}

// print writes the findings for people, what helps below what is not ok.
func (d diagnosis) print(w io.Writer) error {
	var b strings.Builder
	var about subject
	for _, f := range d.Findings {
		if f.About != about {
			about = f.About
			fmt.Fprintf(&b, "%s\n", about)
		}
		fmt.Fprintf(&b, "  %-7s  %-12s  %s\n", f.Verdict.shown(), f.Check, printable(f.Found))
		if f.Remedy != "" {
			fmt.Fprintf(&b, "%25s-> %s\n", "", printable(f.Remedy))
		}
	}
	_, err := fmt.Fprintf(w, "%s%s\n", b.String(), d.sum())
	return err
}

// sum is the last line: how many of which verdict.
func (d diagnosis) sum() string {
	parts := []string{fmt.Sprintf("%d failed", d.Failed), plural(d.Warnings, "warning")}
	if d.Skipped > 0 {
		parts = append(parts, fmt.Sprintf("%d skipped", d.Skipped))
	}
	return strings.Join(append(parts, fmt.Sprintf("%d ok", len(d.Findings)-d.Failed-d.Warnings-d.Skipped)), ", ")
}

// plural is a number of things whose word takes an s.
func plural(n int, thing string) string { return counted(n, thing, thing+"s") }

// surroundings are what a daemon would be started with; a running one says itself.
type surroundings struct {
	state, secret  string // paths; secret may be empty
	bridge, device string
	port           uint16
	overlay        netip.Prefix // range of the overlay's addresses; zero: as stored, or the default
}

// declare makes flags of them.
func (s *surroundings) declare(flags *pflag.FlagSet) {
	flags.StringVar(&s.state, "state", DefaultState, "`DIR` the state directory, where no daemon runs")
	flags.StringVar(&s.secret, "secret-file", "", "`FILE` what `up` is to be given, where no daemon runs")
	flags.StringVar(&s.bridge, "bridge", "ripstop", "`NAME` the bridge, where no daemon runs")
	flags.StringVar(&s.device, "device", "ripstop0", "`NAME` its device, where no daemon runs")
	flags.Uint16Var(&s.port, "port", 6783, "`PORT` of the underlay, where no daemon runs")
	flags.Var(single[netip.Prefix]{&s.overlay, netip.ParsePrefix, "CIDR"}, "ipalloc-range", "the overlay's addresses, where no daemon runs (default as stored, or 10.32.0.0/12)")
}

func doctorCommand() command {
	return command{
		name: "doctor", args: "[flags]", short: "look for what is wrong here and say what helps", client: true, text: doctorText,
		setup: func(flags *pflag.FlagSet) action {
			var s surroundings
			s.declare(flags)
			return func(ctx context.Context, in *invocation, args []string) error {
				if err := noArguments(args); err != nil {
					return err
				}
				return doctor(ctx, in, thisHost(), s)
			}
		},
	}
}

// doctor examines and prints. Something that failed is an error that was said already.
func doctor(ctx context.Context, in *invocation, h host, s surroundings) error {
	client := in.client()
	defer client.Close()
	x := &examination{host: h, client: client, socket: in.socket, surroundings: s, now: time.Now()}
	d := diagnose(x.run(ctx))
	if err := ctx.Err(); err != nil {
		return err
	}
	show := d.print
	if in.json {
		show = func(w io.Writer) error { return printJSON(w, d) }
	}
	if err := show(in.Out); err != nil {
		return err
	}
	if d.Failed > 0 {
		return &exitError{code: ExitUnwell}
	}
	return nil
}
