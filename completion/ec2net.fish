# Completion of ec2net for fish, by "ec2net complete".

function __ec2net_complete
    set -l last (commandline --current-token)
    set -l flag (string match --regex -- '^--[^=]+=' "$last")
    set -l value (string replace --regex -- '^--[^=]+=' '' "$last")
    for line in (ec2net complete -- (commandline --tokenize --cut-at-cursor --current-process) "$last" 2>/dev/null)
        switch $line
            case ':files'
                for path in (__fish_complete_path "$value")
                    echo -- "$flag$path"
                end
            case ':folders'
                for path in (__fish_complete_directories "$value")
                    echo -- "$flag$path"
                end
            case '*'
                echo $line
        end
    end
end

for name in ec2net ec2ifup ec2ifdown
    complete --command $name --no-files --arguments '(__ec2net_complete)'
end
