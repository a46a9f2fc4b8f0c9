package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ripstop/integration/lab"
)

// Exit codes.
const (
	exitOK = iota
	exitFailed
	exitUsage
	exitInterrupted = 130
)

// benchMain is the program: build outside, measure inside, report.
func benchMain(ctx context.Context, args []string, out, errOut io.Writer) int {
	opt, err := parse(args, errOut)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		return exitUsage
	}
	code := exitOK
	if lab.InIsolation() && opt.inside != "" {
		code, err = inside(ctx, opt, out, errOut)
	} else {
		code, err = outside(ctx, opt, args, out, errOut)
	}
	switch {
	case ctx.Err() != nil:
		if opt.inside == "" {
			fmt.Fprintln(errOut, "bench: interrupted")
		}
		return exitInterrupted
	case err != nil:
		fmt.Fprintln(errOut, "bench:", err)
		return exitFailed
	}
	return code
}

// machineFile is the machine's description in the directory of programs.
const machineFile = "machine.json"

// outside builds the programs, describes the machine, and runs this program again
// where nothing it does can be left behind.
func outside(ctx context.Context, opt *options, args []string, out, errOut io.Writer) (code int, err error) {
	systems, lacking, err := choose(opt, onPath)
	if err != nil {
		return exitFailed, err
	}
	for _, m := range lacking {
		fmt.Fprintln(errOut, m)
	}
	dir, err := os.MkdirTemp("", "ripstop-bench-")
	if err != nil {
		return exitFailed, err
	}
	defer os.RemoveAll(dir)
	fmt.Fprintln(errOut, "building")
	wireguard := slices.ContainsFunc(systems, func(s *system) bool { return s.name == wireguardGo })
	if err := build(ctx, dir, wireguard); err != nil {
		return exitFailed, err
	}
	version := ""
	if wireguard {
		if version, err = wireguardVersion(ctx); err != nil {
			return exitFailed, err
		}
	}
	m := describe(ctx, systems, version)
	m.Versions[ripstop] = versionOf(ctx, []string{programsIn(dir).ripstop, "version"})
	text, err := json.Marshal(m)
	if err != nil {
		return exitFailed, err
	}
	if err := os.WriteFile(filepath.Join(dir, machineFile), text, 0o600); err != nil {
		return exitFailed, err
	}
	return lab.Isolated(ctx, append([]string{"-inside", dir}, args...), nil, out, errOut)
}

// inside measures, in namespaces of its own, and reports.
func inside(ctx context.Context, opt *options, out, errOut io.Writer) (int, error) {
	var m machine
	text, err := os.ReadFile(filepath.Join(opt.inside, machineFile))
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil {
		return exitFailed, err
	}
	// wireguard-go's sockets go where nobody else's are.
	if err := unix.Mount("bench", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return exitFailed, fmt.Errorf("mount a file system of our own: %w", err)
	}
	if err := hasCongestion(opt.Congestion); err != nil {
		return exitFailed, err
	}
	systems, lacking, err := choose(opt, onPath)
	if err != nil {
		return exitFailed, err
	}
	b := &bench{opt: opt, programs: programsIn(opt.inside), systems: systems, errOut: errOut, results: newResults()}
	b.run(ctx)
	report := newReport(opt, m, systems, lacking, b.results)
	if b.results.rounds == 0 {
		return exitFailed, errors.Join(append(b.results.failures, ctx.Err())...)
	}
	err = report.writeTable(out)
	if opt.json != "" {
		err = errors.Join(err, writeFile(opt.json, report.writeJSON))
	}
	if opt.svg != "" {
		err = errors.Join(err, writeFile(opt.svg, report.writeChart))
	}
	if len(b.results.failures) > 0 {
		return exitFailed, err // each has been told, and is in the report
	}
	return exitOK, err
}

func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

// bench is a run: every system in every round.
type bench struct {
	opt      *options
	programs programs
	systems  []*system
	errOut   io.Writer
	results  *results
}

// overheadOfTurn is about what a turn takes besides measuring.
const overheadOfTurn = 4 * time.Second

// estimate is about how long a turn of one system takes.
func (o *options) estimate() time.Duration {
	d := overheadOfTurn
	for _, group := range o.Only {
		switch group {
		case groupTCP:
			d += time.Duration(2*len(streamCounts)*iperfSeconds(o.Time)) * time.Second
		case groupUDP:
			const trials = 10
			d += time.Duration(len(o.UDPSizes)) * (trials*o.Time/2 + o.Time)
		case groupLatency:
			d += 5*o.Time + time.Second
		}
	}
	return d
}

// run makes the rounds. What fails is told, kept, and does not end the run.
func (b *bench) run(ctx context.Context) {
	total := time.Duration(b.opt.Rounds*len(b.systems)) * b.opt.estimate()
	fmt.Fprintf(b.errOut, "%d rounds of %d systems, about %v\n", b.opt.Rounds, len(b.systems), total.Round(time.Minute/4))
	for round := range b.opt.Rounds {
		for i := range b.systems {
			// Another one begins each time.
			s := b.systems[(i+round)%len(b.systems)]
			t := &turn{round: round, system: s.name, results: b.results}
			t.say = func(format string, args ...any) {
				fmt.Fprintf(b.errOut, "[%d/%d %s] %s\n", round+1, b.opt.Rounds, s.name, fmt.Sprintf(format, args...))
			}
			err := b.measure(ctx, s, t)
			if ctx.Err() != nil {
				if err != nil && !errors.Is(err, ctx.Err()) {
					fmt.Fprintln(b.errOut, "bench:", err)
				}
				return
			}
			if err != nil {
				t.say("failed: %v", err)
				b.results.failures = append(b.results.failures, fmt.Errorf("round %d, %s: %w", round+1, s.name, err))
			}
		}
		b.results.rounds = round + 1
	}
}

// measure lays one system out, measures it, and takes it away.
func (b *bench) measure(ctx context.Context, s *system, t *turn) (err error) {
	r, err := lay(ctx, s, b.opt, b.programs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	for _, group := range b.opt.Only {
		measure := map[string]func(context.Context, *rig, *turn) error{
			groupTCP: measureTCP, groupUDP: measureUDP, groupLatency: measureLatency,
		}[group]
		if err := measure(ctx, r, t); err != nil {
			return err
		}
	}
	for _, kind := range []struct {
		key  string
		pids []int
	}{{"memory.end", r.ends}, {"memory.relay", r.relays}} {
		if len(kind.pids) == 0 {
			continue
		}
		peak, err := peakMemory(kind.pids)
		if err != nil {
			return fmt.Errorf("a daemon is gone: %w%s", err, r.said())
		}
		t.set(kind.key, peak/1e6)
	}
	return nil
}

// results are the figures of a run.
type results struct {
	rounds   int                                   // completed
	values   map[string]map[string]map[int]float64 // system, figure, round
	pools    map[string]map[string][]uint32        // system, figure: round trips of all rounds, ns
	failures []error
}

func newResults() *results {
	return &results{values: make(map[string]map[string]map[int]float64), pools: make(map[string]map[string][]uint32)}
}

// series are a figure's values by round; nil if there are none.
func (r *results) series(system, key string) map[int]float64 { return r.values[system][key] }

// turn is one system's part of one round.
type turn struct {
	round   int
	system  string
	results *results
	say     func(format string, args ...any) // tells whoever waits
}

// set notes a figure of this turn.
func (t *turn) set(key string, value float64) {
	of := t.results.values
	if of[t.system] == nil {
		of[t.system] = make(map[string]map[int]float64)
	}
	if of[t.system][key] == nil {
		of[t.system][key] = make(map[int]float64)
	}
	of[t.system][key][t.round] = value
}

// last is the figure of the latest round before this one.
func (t *turn) last(key string) (float64, bool) {
	for round := t.round - 1; round >= 0; round-- {
		if v, ok := t.results.series(t.system, key)[round]; ok {
			return v, true
		}
	}
	return 0, false
}

// pool adds round trips to those of the other rounds.
func (t *turn) pool(key string, samples []uint32) {
	if t.results.pools[t.system] == nil {
		t.results.pools[t.system] = make(map[string][]uint32)
	}
	key = strings.TrimSuffix(key, ".")
	t.results.pools[t.system][key] = append(t.results.pools[t.system][key], samples...)
}
