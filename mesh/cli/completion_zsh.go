package cli

import (
	"fmt"
	"strings"
)

// zshCompletion is a file for a directory of $fpath; read by `source` it does as well.
// The specifications are those of _arguments (zshcompsys(1)).
func zshCompletion(all []completable) string {
	var b strings.Builder
	b.WriteString(`#compdef ripstop
# Completion of ripstop for zsh, printed by ` + "`ripstop completion zsh`" + `.

_ripstop() {
  local curcontext=$curcontext state line ret=1
  typeset -A opt_args
  _arguments -C \
`)
	for _, f := range all[0].flags {
		fmt.Fprintf(&b, "    %s \\\n", zshFlag(f))
	}
	b.WriteString(`    '1:command:->command' \
    '*::argument:->argument' && ret=0
  case $state in
  command)
    local -a commands=(
`)
	for _, c := range all[1:] {
		fmt.Fprintf(&b, "      %s\n", singleQuoted(c.name+":"+c.short))
	}
	b.WriteString(`    )
    _describe -t commands command commands && ret=0
    ;;
  argument)
    case $line[1] in
`)
	for _, c := range all[1:] {
		fmt.Fprintf(&b, "    %s)\n      _arguments \\\n", c.name)
		for _, f := range c.flags {
			fmt.Fprintf(&b, "        %s \\\n", zshFlag(f))
		}
		if len(c.words) > 0 {
			fmt.Fprintf(&b, "        %s \\\n", singleQuoted("1:word:("+strings.Join(c.words, " ")+")"))
		}
		b.WriteString("        '*:argument: ' && ret=0\n      ;;\n")
	}
	b.WriteString(`    esac
    ;;
  esac
  return ret
}

if [[ $funcstack[1] == _ripstop ]]; then
  _ripstop "$@"
else
  compdef _ripstop ripstop
fi
`)
	return b.String()
}

// zshFlag is one flag's specification: it may be given several times, its value may
// stand behind an equals sign or as the next word.
func zshFlag(f completableFlag) string {
	text := zshTextEscapes.Replace(f.text)
	value := ""
	switch f.kind {
	case valueAny:
		value = " "
	case valueFile:
		value = "_files"
	case valueDir:
		value = "_files -/"
	case valueWords:
		value = "(" + strings.Join(f.words, " ") + ")"
	}
	var specs []string
	for _, form := range f.spelled() {
		spec := "*" + form
		if value != "" {
			if strings.HasPrefix(form, "--") {
				spec += "="
			}
			value := ":" + strings.ReplaceAll(f.takes, ":", `\:`) + ":" + value
			specs = append(specs, singleQuoted(spec+"["+text+"]"+value))
			continue
		}
		specs = append(specs, singleQuoted(spec+"["+text+"]"))
	}
	return strings.Join(specs, " ")
}

// zshTextEscapes are for what stands in brackets.
var zshTextEscapes = strings.NewReplacer(`\`, `\\`, `[`, `\[`, `]`, `\]`)
