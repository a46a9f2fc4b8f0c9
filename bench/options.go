package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// options is what a run was asked to do.
type options struct {
	Rounds       int           `json:"rounds"`
	Time         time.Duration `json:"-"`
	Seconds      float64       `json:"seconds_per_measurement"`
	Only         []string      `json:"only"` // of tcp, udp, latency
	Systems      []string      `json:"systems,omitempty"`
	MTU          int           `json:"underlay_mtu"`
	Segmentation bool          `json:"underlay_segmentation_offload"`
	ContainerMTU int           `json:"ripstop_container_mtu,omitempty"` // 0 = ripstop's default
	Congestion   string        `json:"tcp_congestion_control"`
	Nice         int           `json:"others_niceness"` // of the other networks' daemons
	UDPRate      float64       `json:"udp_fixed_rate"`  // datagrams a second at which CPU per datagram is measured
	UDPSizes     []int         `json:"udp_sizes"`       // payloads in bytes
	Smoke        bool          `json:"smoke,omitempty"`
	Variants     variants      `json:"variants,omitempty"`

	json, svg string // files to write; empty = none
	inside    string // directory of programs and machine description, in the isolated process
}

// The groups of measurements.
const (
	groupTCP     = "tcp"
	groupUDP     = "udp"
	groupLatency = "latency"
)

var allGroups = [...]string{groupTCP, groupUDP, groupLatency}

// The time of a measurement: by default, in the smoke run, at least and at most.
const (
	defaultTime = 2 * time.Second
	smokeTime   = 200 * time.Millisecond
	minTime     = 100 * time.Millisecond
	maxTime     = time.Minute
)

const defaultRounds, maxRounds = 7, 1000

// defaultCongestion is Linux's own default.
const defaultCongestion = "cubic"

// errUsage is what parse returns after it has told on its output what is wrong.
var errUsage = errors.New("usage")

// parse reads the command line; errors and help go to out.
func parse(args []string, out io.Writer) (*options, error) {
	o := &options{}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.IntVar(&o.Rounds, "rounds", defaultRounds, "`N` rounds, each with every system")
	flags.Float64Var(&o.Seconds, "time", defaultTime.Seconds(), "`SECONDS` per measurement; iperf3 takes whole ones, rounded up")
	only := flags.String("only", "", "`GROUPS` of tcp,udp,latency (default all)")
	systems := flags.String("systems", "", "`NAMES` of systems to measure (default all that are installed): "+strings.Join(systemNames(nil), ","))
	flags.IntVar(&o.MTU, "mtu", 1500, "`BYTES` MTU of the underlay, 1280 to 65000")
	flags.BoolVar(&o.Segmentation, "segmentation", true, "segmentation offload on the underlay; =false needs ethtool")
	flags.IntVar(&o.ContainerMTU, "container-mtu", 0, "`BYTES` MTU of ripstop's containers (default its own; on larger underlays what fits)")
	flags.StringVar(&o.Congestion, "congestion", defaultCongestion, "`NAME` of the congestion control of the TCP streams, whatever this machine's default is")
	flags.IntVar(&o.Nice, "nice", 0, "`N` niceness of the other networks' daemons; ripstop's workers have -10 while super-frames go by, unless a -variant says --nice")
	flags.Float64Var(&o.UDPRate, "udp-rate", 20000, "`PPS` rate at which CPU per datagram is measured")
	sizes := flags.String("udp-sizes", "64,100,1200", fmt.Sprintf("`BYTES` payloads of the UDP datagrams, each of %d to %d", headerSize, maxDatagram))
	flags.BoolVar(&o.Smoke, "smoke", false, "one short round, to see that everything works; figures mean nothing")
	flags.Var(&o.Variants, "variant", "`NAME=ARGS` measure ripstop a further time, as ripstop:NAME, with these arguments of `up`;\nif the first has a slash it is another build of ripstop to run (repeatable)")
	flags.StringVar(&o.json, "json", "", "`FILE` write everything as JSON")
	flags.StringVar(&o.svg, "svg", "", "`FILE` write a chart")
	flags.StringVar(&o.inside, "inside", "", "`DIR` used by the program itself")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil, err
		}
		return nil, errUsage
	}
	if o.Smoke {
		given := make(map[string]bool)
		flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
		if !given["rounds"] {
			o.Rounds = 1
		}
		if !given["time"] {
			o.Seconds = smokeTime.Seconds()
		}
	}
	o.Only, o.Systems = split(*only), split(*systems)
	var err error
	if o.UDPSizes, err = parseSizes(*sizes); err == nil {
		err = o.check(flags.Args())
	}
	if err != nil {
		fmt.Fprintln(out, "bench:", err)
		return nil, errUsage
	}
	o.Time = time.Duration(o.Seconds * float64(time.Second))
	if len(o.Only) == 0 {
		o.Only = allGroups[:]
	}
	return o, nil
}

func (o *options) check(rest []string) error {
	if len(rest) > 0 {
		return fmt.Errorf("%q: there are flags only; see -help", rest[0])
	}
	for _, g := range o.Only {
		if !slices.Contains(allGroups[:], g) {
			return fmt.Errorf("-only %s: it is of %s", g, strings.Join(allGroups[:], ","))
		}
	}
	names := systemNames(o.Variants)
	for _, s := range o.Systems {
		if !slices.Contains(names, s) {
			return fmt.Errorf("-systems %s: it is of %s", s, strings.Join(names, ","))
		}
	}
	switch {
	case o.Rounds < 1 || o.Rounds > maxRounds:
		return fmt.Errorf("-rounds %d: 1 to %d", o.Rounds, maxRounds)
	case !(o.Seconds >= minTime.Seconds() && o.Seconds <= maxTime.Seconds()):
		return fmt.Errorf("-time %g: %g to %g seconds", o.Seconds, minTime.Seconds(), maxTime.Seconds())
	case o.MTU < 1280 || o.MTU > 65000:
		return fmt.Errorf("-mtu %d: 1280 to 65000", o.MTU)
	case o.ContainerMTU != 0 && (o.ContainerMTU < 576 || o.ContainerMTU > 65000):
		return fmt.Errorf("-container-mtu %d: 576 to 65000", o.ContainerMTU)
	case o.Congestion == "" || len(o.Congestion) >= maxCongestion:
		return fmt.Errorf("-congestion %q: a name of up to %d bytes, such as %s", o.Congestion, maxCongestion-1, defaultCongestion)
	case o.Nice < -20 || o.Nice > 19:
		return fmt.Errorf("-nice %d: -20 to 19", o.Nice)
	case !(o.UDPRate >= 100 && o.UDPRate <= maxRate):
		return fmt.Errorf("-udp-rate %g: 100 to %d", o.UDPRate, maxRate)
	}
	return nil
}

// parseSizes reads a list of payloads, ascending and each once.
func parseSizes(list string) ([]int, error) {
	var sizes []int
	for _, text := range split(list) {
		n, err := strconv.Atoi(text)
		if err != nil || n < headerSize || n > maxDatagram {
			return nil, fmt.Errorf("-udp-sizes %s: each is %d to %d", text, headerSize, maxDatagram)
		}
		sizes = append(sizes, n)
	}
	if len(sizes) == 0 {
		return nil, errors.New("-udp-sizes: none are given")
	}
	slices.Sort(sizes)
	return slices.Compact(sizes), nil
}

// split reads a list with commas.
func split(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

// variant is ripstop once more, started otherwise.
type variant struct {
	Name    string   `json:"name"`
	Program string   `json:"program,omitempty"` // empty = the one built here
	Args    []string `json:"args,omitempty"`    // of `ripstop up`
}

// variants collects the -variant flags.
type variants []variant

func (v *variants) String() string { return "" }

// Set reads NAME=ARGS.
func (v *variants) Set(s string) error {
	name, args, ok := strings.Cut(s, "=")
	if !ok || name == "" || strings.ContainsAny(name, ", ") {
		return errors.New("it is NAME=ARGS")
	}
	for _, other := range *v {
		if other.Name == name {
			return fmt.Errorf("there are two of the name %s", name)
		}
	}
	one := variant{Name: name, Args: strings.Fields(args)}
	if len(one.Args) > 0 && strings.Contains(one.Args[0], "/") && !strings.HasPrefix(one.Args[0], "-") {
		one.Program, one.Args = one.Args[0], one.Args[1:]
	}
	*v = append(*v, one)
	return nil
}
