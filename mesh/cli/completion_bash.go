package cli

import (
	"fmt"
	"strings"
)

// bashCompletion is a function for `complete -F`. It needs nothing of the package
// bash-completion: it walks over the words before the cursor itself. The shell takes
// --flag=value apart at the equals sign.
func bashCompletion(all []completable) string {
	var b strings.Builder
	b.WriteString(`# Completion of ripstop for bash, printed by ` + "`ripstop completion bash`" + `.

# Sets words and flags to what may stand behind a command; before one, with no argument.
_ripstop_command() {
    words= flags=
    case $1 in
`)
	for _, c := range all {
		var flags []string
		for _, f := range c.flags {
			flags = append(flags, f.spelled()...)
		}
		fmt.Fprintf(&b, "    %s)\n        words=%s\n        flags=%s ;;\n", bashPattern(c.name), singleQuoted(strings.Join(c.words, " ")), singleQuoted(strings.Join(flags, " ")))
	}
	b.WriteString(`    esac
}

# Sets takes to what stands behind a flag of a command (file, dir, words, any, or nothing),
# and values to the words.
_ripstop_flag() {
    takes= values=
    case $1,$2 in
`)
	for _, c := range all {
		for _, f := range c.flags {
			if f.kind != valueNone {
				b.WriteString(bashValue(c.name, f))
			}
		}
	}
	b.WriteString(`    esac
}

_ripstop() {
    local cur=${COMP_WORDS[COMP_CWORD]} command= argument= words flags takes values word i
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        case $word in
        -*)
            _ripstop_flag "$command" "$word"
            if [[ $takes ]]; then
                [[ ${COMP_WORDS[i + 1]} == = ]] && i=$((i + 1))
                i=$((i + 1))
            fi ;;
        =) ;;
        *)
            if [[ $command ]]; then
                argument=$word
            else
                command=$word
            fi ;;
        esac
    done
    if ((i > COMP_CWORD)); then # at a flag's value
        [[ $cur == = ]] && cur=
        case $takes in
        file)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
        dir)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -d -- "$cur") ;;
        words)
            mapfile -t COMPREPLY < <(compgen -W "$values" -- "$cur") ;;
        esac
        return
    fi
    _ripstop_command "$command"
    if [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$flags" -- "$cur")
    elif [[ ! $argument ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
    fi
}

complete -F _ripstop ripstop
`)
	return b.String()
}

// bashPattern is a command's name in a case, the empty one's too.
func bashPattern(name string) string {
	if name == "" {
		return "''"
	}
	return name
}

// bashValue is the line about what a flag takes.
func bashValue(command string, f completableFlag) string {
	var forms []string
	for _, form := range f.spelled() {
		forms = append(forms, command+","+form)
	}
	takes := map[valueKind]string{valueAny: "any", valueFile: "file", valueDir: "dir", valueWords: "words values=" + singleQuoted(strings.Join(f.words, " "))}[f.kind]
	return fmt.Sprintf("    %s) takes=%s ;;\n", strings.Join(forms, "|"), takes)
}
