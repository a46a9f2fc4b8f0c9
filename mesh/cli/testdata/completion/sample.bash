# Completion of ripstop for bash, printed by `ripstop completion bash`.

# Sets words and flags to what may stand behind a command; before one, with no argument.
_ripstop_command() {
    words= flags=
    case $1 in
    '')
        words='plain verb help'
        flags='--socket --json --help -h' ;;
    plain)
        words=''
        flags='--help -h' ;;
    verb)
        words='this that'
        flags='--file --dir --at --level --yes -y --socket --json --help -h' ;;
    help)
        words='plain verb'
        flags='' ;;
    esac
}

# Sets takes to what stands behind a flag of a command (file, dir, words, any, or nothing),
# and values to the words.
_ripstop_flag() {
    takes= values=
    case $1,$2 in
    ,--socket) takes=file ;;
    verb,--file) takes=file ;;
    verb,--dir) takes=dir ;;
    verb,--at) takes=any ;;
    verb,--level) takes=words values='low high' ;;
    verb,--socket) takes=file ;;
    esac
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
