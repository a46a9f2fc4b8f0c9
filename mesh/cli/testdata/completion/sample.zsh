#compdef ripstop
# Completion of ripstop for zsh, printed by `ripstop completion zsh`.

_ripstop() {
  local curcontext=$curcontext state line ret=1
  typeset -A opt_args
  _arguments -C \
    '*--socket=[the daemon'\''s socket]:PATH:_files' \
    '*--json[print one JSON object]' \
    '*--help[say how it is used]' '*-h[say how it is used]' \
    '1:command:->command' \
    '*::argument:->argument' && ret=0
  case $state in
  command)
    local -a commands=(
      'plain:this host'\''s "own" [thing]: a\b'
      'verb:does one of two'
      'help:say how a command is used'
    )
    _describe -t commands command commands && ret=0
    ;;
  argument)
    case $line[1] in
    plain)
      _arguments \
        '*--help[say how it is used]' '*-h[say how it is used]' \
        '*:argument: ' && ret=0
      ;;
    verb)
      _arguments \
        '*--file=[a file'\''s name]:FILE:_files' \
        '*--dir=[\[a directory\]]:DIR:_files -/' \
        '*--at=[where: here]:ADDR[\:PORT]: ' \
        '*--level=[how much]:LEVEL:(low high)' \
        '*--yes[say "yes" \\ no]' '*-y[say "yes" \\ no]' \
        '*--socket=[the daemon'\''s socket]:PATH:_files' \
        '*--json[print one JSON object]' \
        '*--help[say how it is used]' '*-h[say how it is used]' \
        '1:word:(this that)' \
        '*:argument: ' && ret=0
      ;;
    help)
      _arguments \
        '1:word:(plain verb)' \
        '*:argument: ' && ret=0
      ;;
    esac
    ;;
  esac
  return ret
}

if [[ $funcstack[1] == _ripstop ]]; then
  _ripstop "$@"
else
  compdef _ripstop ripstop
fi
