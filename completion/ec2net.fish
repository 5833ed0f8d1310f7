# Completion of ec2net for fish: ec2net itself says what may come next.

function __ec2net_complete
    set -l last (commandline --current-token)
    for line in (ec2net complete -- (commandline --tokenize --cut-at-cursor --current-process) "$last" 2>/dev/null)
        switch $line
            case ':files'
                __fish_complete_path "$last"
            case ':folders'
                __fish_complete_directories "$last"
            case '*'
                echo $line
        end
    end
end

for name in ec2net ec2ifup ec2ifdown
    complete --command $name --no-files --arguments '(__ec2net_complete)'
end
