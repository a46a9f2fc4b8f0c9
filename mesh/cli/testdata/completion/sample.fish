# Completion of ripstop for fish, printed by `ripstop completion fish`.

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

complete -c ripstop -n '__ripstop_at \'\'' -a plain -d 'this host\'s "own" [thing]: a\\b'
complete -c ripstop -n '__ripstop_at \'\'' -a verb -d 'does one of two'
complete -c ripstop -n '__ripstop_at \'\'' -a help -d 'say how a command is used'
complete -c ripstop -n '__ripstop_at \'\'' -l socket -r -F -d 'the daemon\'s socket'
complete -c ripstop -n '__ripstop_at \'\'' -l json -d 'print one JSON object'
complete -c ripstop -n '__ripstop_at \'\'' -s h -l help -d 'say how it is used'

complete -c ripstop -n '__ripstop_at plain' -s h -l help -d 'say how it is used'

complete -c ripstop -n '__ripstop_at verb; and not __fish_seen_subcommand_from this that' -a 'this that'
complete -c ripstop -n '__ripstop_at verb' -l file -r -F -d 'a file\'s name'
complete -c ripstop -n '__ripstop_at verb' -l dir -x -a '(__fish_complete_directories)' -d '[a directory]'
complete -c ripstop -n '__ripstop_at verb' -l at -x -d 'where: here'
complete -c ripstop -n '__ripstop_at verb' -l level -x -a 'low high' -d 'how much'
complete -c ripstop -n '__ripstop_at verb' -s y -l yes -d 'say "yes" \\ no'
complete -c ripstop -n '__ripstop_at verb' -l socket -r -F -d 'the daemon\'s socket'
complete -c ripstop -n '__ripstop_at verb' -l json -d 'print one JSON object'
complete -c ripstop -n '__ripstop_at verb' -s h -l help -d 'say how it is used'

complete -c ripstop -n '__ripstop_at help; and not __fish_seen_subcommand_from plain verb' -a 'plain verb'
