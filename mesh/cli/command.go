package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"ripstop/mesh/api"
)

// invocation is one call of the program.
type invocation struct {
	Stdio
	socket string
	json   bool
}

// client asks the daemon.
func (in *invocation) client() *api.Client { return api.NewClient(in.socket) }

// action runs a command whose flags are parsed.
type action func(ctx context.Context, in *invocation, args []string) error

// command describes one command. setup declares its flags and returns what runs it.
type command struct {
	name   string
	args   string   // behind the name in the usage line
	words  []string // what the first argument may be, where it is one of a few
	short  string   // one line, for the list of commands
	text   string   // what it does, examples
	client bool     // asks the daemon: has --socket
	mute   bool     // prints no answer: has no --json
	hidden bool
	setup  func(flags *pflag.FlagSet) action
}

// commands are all commands in the order in which help lists them.
func commands() []command {
	return []command{
		upCommand(), stopCommand(), resetCommand(),
		secretCommand(),
		connectCommand(), forgetCommand(),
		attachCommand(), detachCommand(), exposeCommand(), hideCommand(), cniCommand(), dockerCommand(), netavarkCommand(),
		ipamCommand(), leaveCommand(), rmpeerCommand(),
		dnsCommand(),
		statusCommand(), pingCommand(), explainCommand(), doctorCommand(), reportCommand(), webCommand(), demoCommand(), completionCommand(), versionCommand(), manualCommand(),
	}
}

// dispatch finds the command and runs it.
func dispatch(ctx context.Context, args []string, stdio Stdio) error {
	in := &invocation{Stdio: stdio}
	root := newFlags("ripstop")
	root.SetInterspersed(false)
	globalFlags(root, in)
	help := root.BoolP("help", "h", false, "")
	if err := root.Parse(args); err != nil {
		return usageError("", err)
	}
	args = root.Args()
	if *help || len(args) == 0 {
		printOverview(stdio.Out)
		return nil
	}
	name, args := args[0], args[1:]
	if name == "help" {
		return printHelp(stdio.Out, args)
	}
	c, err := find(name)
	if err != nil {
		return err
	}
	// What was given before the command holds as if it were given behind it. It is
	// noted first: declaring the command's flags sets the same variables to defaults.
	given := make(map[string]string)
	root.Visit(func(f *pflag.Flag) { given[f.Name] = f.Value.String() })
	flags, run := c.flags(in)
	for name, value := range given {
		if flags.Lookup(name) != nil {
			flags.Set(name, value)
		}
	}
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			printCommand(stdio.Out, c)
			return nil
		}
		return usageError(c.name, err)
	}
	if err := fromEnvironment(flags, stdio.LookupEnv); err != nil {
		return usageError(c.name, err)
	}
	return advise(c, in, run(ctx, in, flags.Args()))
}

// advise adds to an error what helps.
func advise(c command, in *invocation, err error) error {
	if err == nil {
		return nil
	}
	var e *exitError
	if !errors.As(err, &e) {
		e = classify(err)
	}
	switch {
	case e.hint != "" || e.err == nil:
	case e.code == ExitMisuse:
		e.hint = hintFor(c.name)
	case errors.Is(err, api.ErrUnreachable) && errors.Is(err, fs.ErrPermission):
		e.hint = "be root or in the socket's group, which `ripstop up --socket-group` sets"
	case errors.Is(err, api.ErrUnreachable):
		e.hint = "start one by `ripstop up`, or say by --socket where it listens"
	}
	return e
}

func hintFor(name string) string {
	if name == "" {
		return "`ripstop help` lists the commands"
	}
	return fmt.Sprintf("`ripstop help %s` says how it is used", name)
}

// usageError makes pflag's errors misuse.
func usageError(name string, err error) error {
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		err = fmt.Errorf("--%s %q: %s", invalid.GetFlag().Name, invalid.GetValue(), wanted(invalid))
	}
	return &exitError{code: ExitMisuse, err: err, hint: hintFor(name)}
}

// wanted says what a flag takes, in the place of what its parser says.
func wanted(err *pflag.InvalidValueError) string {
	switch kind := err.GetFlag().Value.Type(); kind {
	case "bool":
		return "true or false"
	case "int":
		return "a whole number"
	case "uint16":
		return "a whole number from 0 to 65535"
	case "duration":
		return "a time, such as 500ms, 10s or 2m"
	case "ADDR":
		return "an IP address, such as 192.0.2.7"
	case "SUBNET":
		return "a subnet without host bits, such as 10.32.2.0/24"
	case "CIDR":
		if err.GetFlag().Name != "address" {
			return "a range with its prefix length, such as 10.32.0.0/12"
		}
		return "an IP address with a prefix length, such as 10.32.0.1/12"
	default:
		return err.Unwrap().Error()
	}
}

// find finds a command by name.
func find(name string) (command, error) {
	all := commands()
	for _, c := range all {
		if c.name == name {
			return c, nil
		}
	}
	hint := hintFor("")
	for _, c := range all {
		if !c.hidden && distance(c.name, name) <= 2 {
			hint = fmt.Sprintf("did you mean `ripstop %s`? %s", c.name, hint)
			break
		}
	}
	return command{}, &exitError{code: ExitMisuse, err: fmt.Errorf("there is no command %q", name), hint: hint}
}

// distance is how many letters must be put in, taken out or changed to make b of a
// (Levenshtein's).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// flags are the command's own flags and the ones that all have.
func (c command) flags(in *invocation) (*pflag.FlagSet, action) {
	flags := newFlags(c.name)
	run := c.setup(flags)
	if c.client {
		socketFlag(flags, in)
	}
	if !c.mute {
		jsonFlag(flags, in)
	}
	return flags, run
}

func newFlags(name string) *pflag.FlagSet {
	flags := pflag.NewFlagSet(name, pflag.ContinueOnError)
	flags.SortFlags = false
	flags.Usage = func() {} // help is printed by us, misuse prints two lines
	return flags
}

func globalFlags(flags *pflag.FlagSet, in *invocation) {
	socketFlag(flags, in)
	jsonFlag(flags, in)
}

func jsonFlag(flags *pflag.FlagSet, in *invocation) {
	flags.BoolVar(&in.json, "json", false, "print one JSON object")
}

func socketFlag(flags *pflag.FlagSet, in *invocation) {
	flags.StringVar(&in.socket, "socket", DefaultSocket, "`PATH` the daemon's socket")
}

// Variable is the environment variable of a flag: --log-level is RIPSTOP_LOG_LEVEL.
func Variable(flag string) string {
	return "RIPSTOP_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// fromEnvironment sets every flag that was not given and whose variable is not empty.
func fromEnvironment(flags *pflag.FlagSet, lookup func(string) (string, bool)) error {
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		value, _ := lookup(Variable(f.Name))
		if f.Changed || value == "" {
			return
		}
		if err := flags.Set(f.Name, value); err != nil {
			var invalid *pflag.InvalidValueError
			if errors.As(err, &invalid) {
				err = errors.New(wanted(invalid))
			}
			errs = append(errs, fmt.Errorf("%s=%s: %w", Variable(f.Name), value, err))
		}
	})
	return errors.Join(errs...)
}

// list is a flag that may be given several times, or once with commas.
type list[T fmt.Stringer] struct {
	values *[]T
	parse  func(string) (T, error)
	kind   string
}

// Set adds what s holds.
func (l list[T]) Set(s string) error {
	for part := range strings.SplitSeq(s, ",") {
		v, err := l.parse(strings.TrimSpace(part))
		if err != nil {
			return err
		}
		*l.values = append(*l.values, v)
	}
	return nil
}

// String is what help shows as the default: nothing.
func (l list[T]) String() string {
	if l.values == nil {
		return ""
	}
	texts := make([]string, len(*l.values))
	for i, v := range *l.values {
		texts[i] = v.String()
	}
	return strings.Join(texts, ",")
}

// Type is what help shows behind the flag.
func (l list[T]) Type() string { return l.kind }

// text is a string with a String method, for lists of them.
type text string

func (t text) String() string { return string(t) }

func stringsOf(ts []text) []string {
	var out []string
	for _, t := range ts {
		out = append(out, string(t))
	}
	return out
}

// noArguments refuses arguments where a command has none.
func noArguments(args []string) error {
	if len(args) > 0 {
		return misuse("unexpected argument %q", args[0])
	}
	return nil
}

// choices says which words a flag takes, for who completes them.
func choices(flags *pflag.FlagSet, name string, words ...string) {
	flags.SetAnnotation(name, annotationChoices, words)
}

// annotationChoices is where choices keeps the words.
const annotationChoices = "choices"

// oneOf refuses a word that is not among those.
func oneOf(what, word string, words ...string) error {
	if !slices.Contains(words, word) {
		return misuse("%s %q: it is one of %s", what, word, strings.Join(words, ", "))
	}
	return nil
}

// single is a flag that holds one value with a form of its own.
type single[T interface {
	comparable
	fmt.Stringer
}] struct {
	value *T
	parse func(string) (T, error)
	kind  string
}

// Set takes s.
func (f single[T]) Set(s string) (err error) {
	*f.value, err = f.parse(s)
	return err
}

// String is what help shows as the default: nothing.
func (f single[T]) String() string {
	var none T
	if f.value == nil || *f.value == none {
		return ""
	}
	return (*f.value).String()
}

// Type is what help shows behind the flag.
func (f single[T]) Type() string { return f.kind }
