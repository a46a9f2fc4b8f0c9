package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"
)

const overviewHead = `ripstop joins containers, VMs and network namespaces on many hosts into one encrypted
Ethernet network.

  ripstop demo                           see it run on this machine
  ripstop secret new > secret            make a network; bring the file to every host
  ripstop up --secret-file secret vm1 vm2 vm3
                                         the same line on each of the three
  ripstop attach pid:4711                give a container its place on the network
  ripstop status                         see who is there

Usage: ripstop [--socket PATH] [--json] COMMAND [flags] [arguments]

Commands:
`

const overviewTail = "\n`ripstop help COMMAND` says more. " + environmentText + "\n" + exitText

const environmentText = `Every flag can be given as an environment variable too:
--log-level as RIPSTOP_LOG_LEVEL. The secret is taken from RIPSTOP_SECRET first.
`

const exitText = `Exit codes: 0 done, 1 failed, 2 misuse, 3 no daemon answers, 4 doctor found a failure,
6 another host has this identity.
`

func printOverview(w io.Writer) {
	io.WriteString(w, overviewHead)
	for _, c := range commands() {
		if !c.hidden {
			fmt.Fprintf(w, "  %-10s %s\n", c.name, c.short)
		}
	}
	io.WriteString(w, overviewTail)
}

// printHelp is `ripstop help [COMMAND]`.
func printHelp(w io.Writer, args []string) error {
	switch len(args) {
	case 0:
		printOverview(w)
		return nil
	case 1:
		c, err := find(args[0])
		if err != nil {
			return err
		}
		printCommand(w, c)
		return nil
	}
	return &exitError{code: ExitMisuse, err: fmt.Errorf("unexpected argument %q", args[1]), hint: hintFor("")}
}

func printCommand(w io.Writer, c command) {
	usage := "ripstop " + c.name
	if c.args != "" {
		usage += " " + c.args
	}
	fmt.Fprintf(w, "Usage: %s\n\n%s\n", usage, strings.TrimSpace(c.text))
	flags, _ := c.flags(new(invocation))
	io.WriteString(w, "\nFlags:\n")
	printFlags(w, flags)
}

// meaning is what a flag takes and what it does. What it takes stands in back-quotes
// before its text, or is its type's name; nothing for one that is on or off.
func meaning(f *pflag.Flag) (takes, text string) {
	takes, _ = pflag.UnquoteUsage(f)
	text = f.Usage
	if strings.HasPrefix(text, "`") {
		_, text, _ = strings.Cut(text[1:], "`")
		text = strings.TrimSpace(text)
	}
	return takes, text
}

// described is meaning with the flag's default behind the text.
func described(f *pflag.Flag) (takes, text string) {
	takes, text = meaning(f)
	switch f.DefValue {
	case "", "false", "0", "0s":
	default:
		text += " (default " + f.DefValue + ")"
	}
	return takes, text
}

// printFlags lists flags with what they take, what they do, and their default.
func printFlags(w io.Writer, flags *pflag.FlagSet) {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	flags.VisitAll(func(f *pflag.Flag) {
		takes, text := described(f)
		short := "    "
		if f.Shorthand != "" {
			short = "-" + f.Shorthand + ", "
		}
		fmt.Fprintf(tw, "  %s--%s\t%s\n", short, strings.TrimSpace(f.Name+" "+takes), text)
	})
	tw.Flush()
}
