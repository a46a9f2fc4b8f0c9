package cli

import (
	"context"
	"io"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

const completionText = `
Prints a script that has a shell complete commands, their words and their flags at the Tab key. It
belongs where the shell looks for such files; a new shell then finds it:

  bash  /etc/bash_completion.d/ripstop for all, where the package bash-completion is installed;
        for oneself ~/.local/share/bash-completion/completions/ripstop. Without that package, in
        ~/.bashrc: source <(ripstop completion bash)
  zsh   /usr/local/share/zsh/site-functions/_ripstop, or any other directory of $fpath, with compinit
        in ~/.zshrc; or there, behind compinit: source <(ripstop completion zsh)
  fish  /etc/fish/completions/ripstop.fish; for oneself ~/.config/fish/completions/ripstop.fish

Examples:
  ripstop completion bash > /etc/bash_completion.d/ripstop
  ripstop completion zsh > /usr/local/share/zsh/site-functions/_ripstop
  ripstop completion fish > ~/.config/fish/completions/ripstop.fish`

// shells are those that there is a script for.
var shells = []string{"bash", "zsh", "fish"}

// completionAnswer is what --json prints.
type completionAnswer struct {
	versioned
	Shell  string `json:"shell"`
	Script string `json:"script"`
}

func completionCommand() command {
	return command{
		name: "completion", args: strings.Join(shells, "|"), words: shells, short: "print a script for completion at the Tab key", text: completionText,
		setup: func(*pflag.FlagSet) action {
			return func(_ context.Context, in *invocation, args []string) error {
				if len(args) == 0 {
					return misuse("for which shell? It is one of %s", strings.Join(shells, ", "))
				}
				if err := oneOf("completion for", args[0], shells...); err != nil {
					return err
				}
				if err := noArguments(args[1:]); err != nil {
					return err
				}
				script := completionScript(args[0], completables(commands()))
				if in.json {
					return printJSON(in.Out, completionAnswer{head(), args[0], script})
				}
				_, err := io.WriteString(in.Out, script)
				return err
			}
		},
	}
}

// completionScript is the script for one of shells.
func completionScript(shell string, all []completable) string {
	switch shell {
	case "bash":
		return bashCompletion(all)
	case "zsh":
		return zshCompletion(all)
	}
	return fishCompletion(all)
}

// completable is a command as a script of completion sees it. The first of all has no
// name: what may stand before a command, its words being the commands.
type completable struct {
	name, short string
	words       []string // what the first argument may be
	flags       []completableFlag
}

// completableFlag is a flag with what may stand behind it.
type completableFlag struct {
	name, shorthand string
	text            string // what it does
	takes           string // what it takes, for people; empty: nothing
	kind            valueKind
	words           []string // of valueWords
}

// valueKind is what a flag's value can be completed to.
type valueKind int

const (
	valueNone  valueKind = iota // the flag takes none
	valueAny                    // nobody knows
	valueFile                   // a path
	valueDir                    // a directory's
	valueWords                  // one of a few
)

// completables are the commands that help lists, and help itself.
func completables(all []command) []completable {
	root := newFlags("ripstop")
	globalFlags(root, new(invocation))
	first := completable{flags: completableFlags(root)}
	help := completable{name: "help", short: "say how a command is used"} // the only one without flags
	list := []completable{first}
	for _, c := range all {
		if c.hidden {
			continue
		}
		flags, _ := c.flags(new(invocation))
		list = append(list, completable{c.name, c.short, c.words, completableFlags(flags)})
		help.words = append(help.words, c.name)
	}
	list[0].words = append(slices.Clone(help.words), help.name)
	return append(list, help)
}

// completableFlags are a command's flags, and --help.
func completableFlags(flags *pflag.FlagSet) (all []completableFlag) {
	flags.VisitAll(func(f *pflag.Flag) {
		takes, text := meaning(f)
		c := completableFlag{name: f.Name, shorthand: f.Shorthand, text: text, takes: takes, kind: valueAny, words: f.Annotations[annotationChoices]}
		switch {
		case f.NoOptDefVal != "": // may stand alone: on or off
			c.kind, c.takes = valueNone, ""
		case len(c.words) > 0:
			c.kind = valueWords
		case takes == "FILE" || takes == "PATH":
			c.kind = valueFile
		case takes == "DIR":
			c.kind = valueDir
		}
		all = append(all, c)
	})
	return append(all, completableFlag{name: "help", shorthand: "h", text: "say how it is used"})
}

// spelled are a flag's forms: --yes, and -y where it has that.
func (f completableFlag) spelled() []string {
	if f.shorthand == "" {
		return []string{"--" + f.name}
	}
	return []string{"--" + f.name, "-" + f.shorthand}
}

// singleQuoted is s between single quotation marks, as bash and zsh read it.
func singleQuoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
