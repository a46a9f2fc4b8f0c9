package cli

import (
	"fmt"
	"strings"
)

// fishCompletion is a file for fish's directory of completions: a line for each thing
// that can be completed, with the condition under which it can (complete(1)).
func fishCompletion(all []completable) string {
	var b strings.Builder
	b.WriteString(`# Completion of ripstop for fish, printed by ` + "`ripstop completion fish`" + `.

# The command on the line; nothing while there is none. --socket has a value behind it.
function __ripstop_command
    set -l value no
    for word in (commandline -opc)[2..]
        if test $value = yes
            set value no
            continue
        end
        switch $word
            case --socket
                set value yes
            case '-*'
            case '*'
                echo $word
                return
        end
    end
end

function __ripstop_at
    set -l command (__ripstop_command)
    test "$command" = "$argv[1]"
end

complete -c ripstop -f
`)
	for _, c := range all {
		fmt.Fprintf(&b, "\n")
		condition := "__ripstop_at " + c.name
		if c.name == "" {
			condition = "__ripstop_at ''"
			for _, command := range all[1:] {
				fmt.Fprintf(&b, "complete -c ripstop -n %s -a %s -d %s\n", fishQuoted(condition), command.name, fishQuoted(command.short))
			}
		} else if len(c.words) > 0 {
			words := strings.Join(c.words, " ")
			fmt.Fprintf(&b, "complete -c ripstop -n %s -a %s\n", fishQuoted(condition+"; and not __fish_seen_subcommand_from "+words), fishQuoted(words))
		}
		for _, f := range c.flags {
			fmt.Fprintf(&b, "complete -c ripstop -n %s %s -d %s\n", fishQuoted(condition), fishFlag(f), fishQuoted(f.text))
		}
	}
	return b.String()
}

// fishFlag is the part of a line that says what a flag is and takes.
func fishFlag(f completableFlag) string {
	flag := "-l " + f.name
	if f.shorthand != "" {
		flag = "-s " + f.shorthand + " " + flag
	}
	switch f.kind {
	case valueAny:
		flag += " -x"
	case valueFile:
		flag += " -r -F"
	case valueDir:
		flag += " -x -a '(__fish_complete_directories)'"
	case valueWords:
		flag += " -x -a " + fishQuoted(strings.Join(f.words, " "))
	}
	return flag
}

// fishQuoted is s between single quotation marks, inside which two characters are escaped.
func fishQuoted(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}
