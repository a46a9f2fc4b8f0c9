package cli

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

var rewrite = flag.Bool("rewrite", false, "write what completion prints for the sample into testdata")

// sampleCommands have one of each thing that a script has to get right.
func sampleCommands() []command {
	return []command{
		{name: "plain", short: `this host's "own" [thing]: a\b`, mute: true, setup: func(*pflag.FlagSet) action { return nil }},
		{name: "verb", short: "does one of two", words: []string{"this", "that"}, client: true, setup: func(flags *pflag.FlagSet) action {
			flags.String("file", "", "`FILE` a file's name")
			flags.String("dir", "", "`DIR` [a directory]")
			flags.String("at", "", "`ADDR[:PORT]` where: here")
			flags.String("level", "", "`LEVEL` how much")
			choices(flags, "level", "low", "high")
			flags.BoolP("yes", "y", false, `say "yes" \ no`)
			return nil
		}},
		{name: "secret-one", short: "of nobody's concern", hidden: true, setup: func(*pflag.FlagSet) action { return nil }},
	}
}

// TestCompletionOfSample holds the scripts for a small table; -rewrite writes them anew.
func TestCompletionOfSample(t *testing.T) {
	for _, shell := range shells {
		got := completionScript(shell, completables(sampleCommands()))
		path := filepath.Join("testdata", "completion", "sample."+shell)
		if *rewrite {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s: got\n%s\nwant\n%s", shell, got, want)
		}
		if strings.Contains(got, "secret-one") {
			t.Errorf("%s: a hidden command is shown", shell)
		}
	}
}

// TestCompletionIsWhole: every command, every word and every flag of the program is in
// each script, at its command.
func TestCompletionIsWhole(t *testing.T) {
	all := completables(commands())
	plain := regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)
	for _, shell := range shells {
		script := completionScript(shell, all)
		for _, c := range all {
			block := blockOf(t, shell, script, c.name)
			has := func(what string, parts ...string) {
				t.Helper()
				if !slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(block, p) }) {
					t.Errorf("%s: %q has no %s in\n%s", shell, c.name, what, block)
				}
			}
			for _, f := range c.flags {
				if !plain.MatchString(f.name) {
					t.Errorf("--%s has letters that a script may take for its own", f.name)
				}
				has("--"+f.name, "--"+f.name+" ", "--"+f.name+"'", "'*--"+f.name+"[", "'*--"+f.name+"=[", " -l "+f.name+" ")
			}
			for _, word := range c.words {
				if !plain.MatchString(word) {
					t.Errorf("%s has letters that a script may take for its own", word)
				}
				has(word, " "+word+" ", " "+word+"'", "'"+word+" ", "("+word+" ", " "+word+")", "'"+word+":", " -a "+word+" ")
			}
		}
	}
	// The table itself is whole: what help shows is there.
	for _, c := range commands() {
		i := slices.IndexFunc(all, func(d completable) bool { return d.name == c.name })
		if i < 0 {
			t.Errorf("%s is not to be completed", c.name)
			continue
		}
		flags, _ := c.flags(new(invocation))
		count := 0
		flags.VisitAll(func(*pflag.Flag) { count++ })
		if len(all[i].flags) != count+1 { // and --help
			t.Errorf("%s: %d of %d flags", c.name, len(all[i].flags), count+1)
		}
		if words := regexp.MustCompile(`^\[?([a-z]+(\|[a-z]+)+)`).FindStringSubmatch(c.args); words == nil != (c.words == nil) || words != nil && words[1] != strings.Join(c.words, "|") {
			t.Errorf("%s: its usage is %q, its words are %q", c.name, c.args, c.words)
		}
	}
}

// blockOf is the part of a script that is about one command.
func blockOf(t *testing.T, shell, script, name string) string {
	t.Helper()
	var block string
	switch shell {
	case "bash":
		_, block, _ = strings.Cut(script, "\n    "+bashPattern(name)+")\n")
		block, _, _ = strings.Cut(block, ";;")
	case "zsh":
		if name == "" {
			block, _, _ = strings.Cut(script, "    case $line[1] in")
		} else {
			_, block, _ = strings.Cut(script, "\n    "+name+")\n")
			block, _, _ = strings.Cut(block, ";;")
		}
	case "fish":
		if name == "" {
			name = `\'\'`
		}
		for line := range strings.Lines(script) {
			if strings.Contains(line, "'__ripstop_at "+name+"'") || strings.Contains(line, "'__ripstop_at "+name+";") {
				block += line
			}
		}
	}
	if block == "" && name != "help" {
		t.Fatalf("%s: nothing about %q in\n%s", shell, name, script)
	}
	return block
}

// TestBashCompletes has bash check the script and complete lines by it.
func TestBashCompletes(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		if os.Getenv("RIPSTOP_CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir := t.TempDir()
	script := filepath.Join(t.TempDir(), "ripstop")
	if err := os.WriteFile(script, []byte(completionScript("bash", completables(commands()))), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"secret.txt", "secret two.txt"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), bash, append([]string{"--noprofile", "--norc"}, args...)...)
		cmd.Dir = dir
		var out, errOut bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errOut
		if err := cmd.Run(); err != nil || errOut.Len() > 0 {
			t.Fatalf("bash %q: %v: %s", args, err, errOut.String())
		}
		return out.String()
	}
	run("-n", script)
	if got := run("-c", `source "$0" && complete -p ripstop`, script); got != "complete -F _ripstop ripstop\n" {
		t.Errorf("bash is told %q", got)
	}
	complete := func(words ...string) []string {
		t.Helper()
		out := run(append([]string{"-c", `set -u; source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _ripstop; printf '%s\n' "${COMPREPLY[@]}"`, script}, words...)...)
		return slices.DeleteFunc(strings.Split(out, "\n"), func(s string) bool { return s == "" })
	}
	for _, c := range []struct{ line, want string }{
		{"ripstop|st", "stop,status"},
		{"ripstop|--s", "--socket"},
		{"ripstop|status|", "peers,links,routes,endpoints,ipam,dns"},
		{"ripstop|status|li", "links"},
		{"ripstop|status|links|", ""},
		{"ripstop|status|links|--w", "--wait"},
		{"ripstop|status|--wait|", ""},
		{"ripstop|status|--wait|5s|ro", "routes"},
		{"ripstop|status|--wait|=|5s|ro", "routes"},
		{"ripstop|--socket|/run/s|--json|ipam|al", "allocate"},
		{"ripstop|--socket|se", "secret.txt,secret two.txt"},
		{"ripstop|up|--mode|", "bridge,routed"},
		{"ripstop|up|--mode|=", "bridge,routed"},
		{"ripstop|up|--mode|=|r", "routed"},
		{"ripstop|up|--mode|routed|--mtu|1400|--no-off", "--no-offload"},
		{"ripstop|up|--no-offload|t", "tso,tunnel"},
		{"ripstop|up|--state|s", "state"},
		{"ripstop|up|--secret-file|=|secr", "secret.txt,secret two.txt"},
		{"ripstop|up|--port|", ""},
		{"ripstop|up|vm1|--metr", "--metrics"},
		{"ripstop|reset|-", "--state,--bridge,--device,--yes,-y,--socket,--json,--help,-h"},
		{"ripstop|completion|", "bash,zsh,fish"},
		{"ripstop|help|rm", "rmpeer"},
		{"ripstop|frobnicate|", ""},
		{"ripstop|frobnicate|--", ""},
	} {
		got, want := complete(strings.Split(c.line, "|")...), strings.Split(c.want, ",")
		slices.Sort(got) // files come in the directory's order
		slices.Sort(want)
		if strings.Join(got, ",") != strings.Join(want, ",") {
			t.Errorf("%s: %q, want %q", c.line, got, want)
		}
	}
	for _, c := range completables(commands()) {
		line := []string{"ripstop"}
		if c.name != "" {
			line = append(line, c.name)
		}
		var forms []string
		for _, f := range c.flags {
			forms = append(forms, f.spelled()...)
		}
		if got := complete(append(line, "-")...); !slices.Equal(got, forms) {
			t.Errorf("%q: flags %v, want %v", c.name, got, forms)
		}
		if got := complete(append(line, "")...); !slices.Equal(got, c.words) {
			t.Errorf("%q: words %v, want %v", c.name, got, c.words)
		}
	}
}
