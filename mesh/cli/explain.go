package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/spf13/pflag"

	"ripstop/mesh/api"
)

const explainText = `
Says step by step how a frame from this host, or from an endpoint of it, gets to a place, or why it
does not: what a name stands for, who has the address and on which host, the hosts to pass, the
link, the keys, and what goes in one datagram. Nothing is sent: it is what the daemon would do with
the frame now.

TO is an overlay address, a MAC, a name as ` + "`ripstop dns lookup`" + ` takes it, the name of an endpoint, or a
host by nickname or name; what it is first, in this order, counts. FROM is what is attached here, by
name, address, MAC or namespace; then it is said too what its port may send.

The exit code is 0 if the frame gets there and 1 if not, or if nobody knows; the reason is on stderr.

Examples:
  ripstop explain web1
  ripstop explain 10.32.0.7 --json
  ripstop explain db web1.ripstop.internal
  ripstop explain 02:00:5e:00:53:01`

func explainCommand() command {
	return command{
		name: "explain", args: "[FROM] TO", short: "say how a frame gets to an endpoint, or why not", client: true, text: explainText,
		setup: func(*pflag.FlagSet) action {
			return func(ctx context.Context, in *invocation, args []string) error {
				q, err := explainRequest(args)
				if err != nil {
					return err
				}
				client := in.client()
				defer client.Close()
				e, err := client.Explain(ctx, q)
				if err != nil {
					return err
				}
				return showExplanation(in, e)
			}
		},
	}
}

// explainRequest takes one or two places.
func explainRequest(args []string) (q api.ExplainRequest, err error) {
	switch len(args) {
	case 0:
		return q, misuse("explain the way to what? TO is missing")
	case 1:
		q.To = args[0]
	case 2:
		q.From, q.To = args[0], args[1]
	default:
		return q, noArguments(args[2:])
	}
	for _, word := range args {
		if word == "" {
			return q, misuse("an empty place: give an address, a MAC or a name")
		}
		if err := checkWord("place", word); err != nil {
			return q, err
		}
	}
	return q, nil
}

// checkWord refuses what the daemon would have to repeat and no place or host is called.
func checkWord(what, word string) error {
	switch {
	case len(word) > api.MaxPlace:
		return misuse("a %s of %d characters: %d are the most", what, len(word), api.MaxPlace)
	case !utf8.ValidString(word) || printable(word) != word:
		return misuse("%q: no %s has such characters in it", word, what)
	}
	return nil
}

// showExplanation prints e; one that does not get there is an error, too.
func showExplanation(in *invocation, e api.Explanation) error {
	if in.json {
		if err := printJSON(in.Out, e); err != nil {
			return err
		}
	} else if err := printExplanation(in.Out, e); err != nil {
		return err
	}
	if !e.Arrives {
		return fmt.Errorf("%s", printable(fmt.Sprintf("from %s to %s: %s", e.From, e.To, e.Verdict)))
	}
	return nil
}

// printExplanation lists the steps, what helps under each that is not as it should be,
// and the verdict.
func printExplanation(w io.Writer, e api.Explanation) error {
	var b strings.Builder
	row := func(what, state, text, advice string) {
		fmt.Fprintf(&b, "%10s  %-4s  %s\n", printable(what), printable(state), printable(text))
		if advice != "" {
			fmt.Fprintf(&b, "%16s  > %s\n", "", printable(advice))
		}
	}
	row("to", "", fmt.Sprintf("%s, from %s", e.To, e.From), "")
	for _, s := range e.Steps {
		state := s.State
		if state != api.StepOK {
			state = strings.ToUpper(state)
		}
		advice := s.Advice
		if advice == e.Advice {
			advice = "" // the verdict's
		}
		row(s.What, state, s.Text, advice)
	}
	verdict := "NO"
	if e.Arrives {
		verdict = "yes"
	}
	row("VERDICT", verdict, e.Verdict, e.Advice)
	_, err := io.WriteString(w, b.String())
	return err
}
