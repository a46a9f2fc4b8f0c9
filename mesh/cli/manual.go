package cli

import (
	"context"
	"io"
	"strings"

	"github.com/spf13/pflag"
)

// manualAnswer is what --json prints.
type manualAnswer struct {
	versioned
	Page string `json:"page"`
}

// manualCommand prints what help prints of all commands as one page.
func manualCommand() command {
	return command{
		name: "manual", short: "print the manual page", text: `
Prints ripstop(8), the manual page, in the language of man(7). Packages bring it along.

Examples:
  ripstop manual | man -l -
  ripstop manual > /usr/local/share/man/man8/ripstop.8`,
		setup: func(*pflag.FlagSet) action {
			return func(_ context.Context, in *invocation, args []string) error {
				if err := noArguments(args); err != nil {
					return err
				}
				page := manual(commands())
				if in.json {
					return printJSON(in.Out, manualAnswer{head(), page})
				}
				_, err := io.WriteString(in.Out, page)
				return err
			}
		},
	}
}

// manualFiles are the files that an operator meets.
var manualFiles = []struct{ path, text string }{
	{DefaultState, "keys, peers, addresses and attachments of this host"},
	{DefaultSocket, "where the daemon answers"},
	{"/etc/ripstop/secret", "the secret that the service ripstop is started with: a token, a network file or a passphrase"},
	{"/etc/ripstop/ripstop.env", "its flags, as variables"},
	{"/etc/ripstop/peers", "the hosts that it dials, one a line"},
}

// manual is the manual page of those commands that help lists.
func manual(all []command) string {
	p := new(manualPage)
	p.line(`.TH RIPSTOP 8 "" ripstop "System Administration"`)
	p.line(".nh") // no word is parted: it may be one to type
	p.line(".ad l")
	p.line(".SH NAME")
	p.line(`ripstop \- an encrypted Ethernet network over many hosts, in user space`)
	p.line(".SH SYNOPSIS")
	p.line(`.B ripstop`)
	p.line(escaped("[--socket PATH] [--json] COMMAND [flags] [arguments]"))
	p.line(".SH DESCRIPTION")
	purpose, _, _ := strings.Cut(overviewHead, "\nUsage:")
	p.text(purpose)
	p.line(".SH COMMANDS")
	for _, c := range all {
		if !c.hidden {
			p.command(c)
		}
	}
	p.line(".SH ENVIRONMENT")
	p.text(environmentText)
	p.line(".SH EXIT STATUS")
	p.text(exitText)
	p.line(".SH FILES")
	for _, f := range manualFiles {
		p.item(f.path, f.text)
	}
	return p.b.String()
}

// manualPage is a manual page that grows line by line.
type manualPage struct{ b strings.Builder }

// line adds one that is in man's language already.
func (p *manualPage) line(s string) { p.b.WriteString(s + "\n") }

// command adds what help says of a command.
func (p *manualPage) command(c command) {
	p.line(".SS " + escaped(strings.TrimSpace("ripstop "+c.name+" "+c.args)))
	p.text(c.text)
	flags, _ := c.flags(new(invocation))
	flags.VisitAll(func(f *pflag.Flag) {
		takes, text := described(f)
		name := strings.TrimSpace("--" + f.Name + " " + takes)
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		p.item(name, text)
	})
}

// item adds a word in bold with its explanation below it.
func (p *manualPage) item(word, text string) {
	p.line(".TP")
	p.line(`\fB` + escaped(word) + `\fR`)
	p.line(prose(text))
}

// text adds paragraphs of help. Lines that are set in there, examples and lists, stay as
// they are; all others flow.
func (p *manualPage) text(s string) {
	var asIs, fresh bool
	for line := range strings.Lines(strings.TrimSpace(s)) {
		line = strings.TrimRight(line, "\n")
		if line == "" {
			fresh = true
			continue
		}
		if indented := strings.HasPrefix(line, "  "); indented != asIs {
			p.line(map[bool]string{true: ".nf", false: ".fi"}[indented])
			asIs = indented
		}
		if fresh {
			p.line(".PP")
			fresh = false
		}
		if asIs {
			p.line(escaped(line))
		} else {
			p.line(prose(line))
		}
	}
	if asIs {
		p.line(".fi")
	}
	p.line(".PP")
}

// prose is text in which what stands between back-quotes is bold.
func prose(s string) string {
	var b strings.Builder
	for {
		plain, rest, opened := strings.Cut(s, "`")
		bold, rest, closed := strings.Cut(rest, "`")
		if !opened || !closed {
			return b.String() + escaped(s)
		}
		b.WriteString(escaped(plain) + `\fB` + escaped(bold) + `\fR`)
		s = rest
	}
}

// escaped has man print s as it is, the signs of the shell too. A line that begins with a
// full stop or a quotation mark would be a request (groff_man_style(7)).
func escaped(s string) string {
	s = signs.Replace(s)
	if strings.HasPrefix(s, ".") {
		s = `\&` + s
	}
	return s
}

var signs = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`)
