package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"ec2net/lab"
)

// words are the candidates for a command line, without their descriptions.
func words(line string) []string {
	var found []string
	for _, c := range completions(strings.Split(line, " ")) {
		word, _, _ := strings.Cut(c, "\t")
		found = append(found, word)
	}
	return found
}

// Completions come from the tables; this tests only that all tables are asked.
func TestCandidates(t *testing.T) {
	var names []string
	for _, c := range commands() {
		names = append(names, c.name)
		flags, _ := c.flagSet()
		var all []string
		flags.VisitAll(func(f *pflag.Flag) { all = append(all, "--"+f.Name) })
		if offered := words(c.name + " --"); !slices.Equal(offered, all) {
			t.Errorf("%s: offered are the flags %s, there are %s", c.name, offered, all)
		}
	}
	for line, want := range map[string]string{
		"":                            strings.Join(names, " "),
		"-":                           "--help --version",
		"nothing ":                    "",
		"docker ":                     "up down wait",
		"docker up ":                  "",
		"docker --base 2000 ":         "up down wait",
		"hotplug ":                    "add remove",
		"hotplug add ":                "",
		"templates show ":             "cfg network iptables iptables-down rules ethN.cfg.tmpl ethN.network.tmpl ethN.iptables.tmpl ethN.iptables-down.tmpl ethN.rules.tmpl docker.iptables.tmpl blocks.tmpl",
		"help ":                       strings.Join(names, " ") + " settings facts-format status-format statuses",
		"render eth1 --only ":         "cfg network iptables iptables-down rules",
		"render eth1 --facts ":        ":files",
		"render --root ":              ":folders",
		"render --primary-table ":     "yes no",
		"facts --base ":               "",
		"lease ":                      "",
		"lease --ti":                  "",
		"lease --un":                  "--unmanaged",
		"complete ":                   "",
		"facts --imds-endpoint-mode ": "IPv4 IPv6",
		"render --only=ip":            "--only=iptables --only=iptables-down",
		"render --only = ip":          "iptables iptables-down", // as bash splits it
		"render --only =":             "cfg network iptables iptables-down rules",
		"render --facts=/tm":          ":files",
		"docker --base=2000 w":        "wait",
		"docker --base = 2000 w":      "wait",
		"docker --templates= ":        "up down wait",
		"docker --templates = ":       "up down wait",
		"docker --templates = --base": "--base",
	} {
		if got := strings.Join(words(line), " "); got != want {
			t.Errorf("%q: %s; want %s", line, got, want)
		}
	}
	if given := words("render --diff --"); slices.Contains(given, "--diff") || !slices.Contains(given, "--only") {
		t.Errorf("after --diff: %s", given)
	}
}

func TestInterfaces(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"lo", "docker0", "eth1", "ens6/device"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Join(interfacesIn(dir), " "); got != "ens6 eth1" {
		t.Errorf("%s", got)
	}
}

// typing makes a shell print its completions of a line. bash and zsh have a terminal,
// as a person's have: their prompt says that they read. DONE, typed after the line was
// deleted again, says that they have listed all.
const typing = `
cat >/tmp/type <<'END'
zmodload zsh/zpty
zpty typist "$1"
zpty -r typist out '*READY> '
zpty -w -n typist "$2"$'\C-t'
zpty -w -n typist $'\C-u'"echo DO''NE"$'\n'
zpty -r typist out '*DONE*'
print -r -- "$out"
zpty -d typist
END
cat >/tmp/bashrc <<'END'
PS1='READY> '
bind 'set completion-query-items 0'
bind 'set page-completions off'
bind '"\C-t": possible-completions'
. /usr/share/bash-completion/completions/ec2net
END
cat >/tmp/.zshrc <<'END'
PS1='READY> ' LISTMAX=1000
autoload -Uz compinit && compinit -u -D
bindkey '^T' list-choices
END
chmod 755 /usr/sbin/ec2net
ln -s ec2net /usr/sbin/ec2ifdown
cd /tmp/here
while IFS= read -r line; do
	echo "==> bash: $line"
	zsh -f /tmp/type "bash --rcfile /tmp/bashrc -i" "$line"
	echo "==> zsh: $line"
	ZDOTDIR=/tmp zsh -f /tmp/type "zsh -d -i" "$line"
	echo "==> fish: $line"
	echo
	fish --command 'complete --do-complete $argv' -- "$line"
done
`

// offered returns the words that a shell printed after the line itself.
func offered(printed string) []string {
	var words []string
	_, listed, _ := strings.Cut(printed, "\n")
	for line := range strings.Lines(listed) {
		if strings.HasPrefix(line, "READY> ") || strings.HasPrefix(line, "DONE") {
			break
		}
		line, _, _ = strings.Cut(line, " -- ") // zsh's descriptions
		line, _, _ = strings.Cut(line, "\t")   // fish's
		words = append(words, strings.Fields(line)...)
	}
	slices.Sort(words)
	return words
}

func TestShells(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root: the shells are in a Debian tree")
	}
	t.Parallel()
	lines := map[string]string{
		"ec2net ren":                        "render",
		"ec2net docker ":                    "down up wait",
		"ec2net docker --base 2000 w":       "wait",
		"ec2net help s":                     "scan settings status status-format statuses",
		"ec2net render eth1 --imds":         "--imds-endpoint --imds-endpoint-mode",
		"ec2net render --only iptables":     "iptables iptables-down",
		"ec2net render --only=ip":           "iptables iptables-down",
		"ec2net render --only=":             "cfg iptables iptables-down network rules",
		"ec2net docker --base=2000 w":       "wait",
		"ec2net render --facts ":            "facts.json folder/",
		"ec2net render --facts=":            "facts.json folder/",
		"ec2net render --root=f":            "folder/",
		"ec2net render --root ":             "folder/",
		"/usr/sbin/ec2net templates show r": "rules",
		"ec2ifdown --te":                    "--templates",
		"ec2net nothing ":                   "",
	}
	files := map[string]string{"/tmp/here/facts.json": "{}", "/tmp/here/folder/.x": ""}
	for to, from := range map[string]string{
		"/usr/sbin/ec2net": filepath.Join(os.Getenv(toolDir), "ec2net"),
		"/usr/share/bash-completion/completions/ec2net":       "../../completion/ec2net.bash",
		"/usr/share/zsh/vendor-completions/_ec2net":           "../../completion/_ec2net",
		"/usr/share/fish/vendor_completions.d/ec2net.fish":    "../../completion/ec2net.fish",
		"/usr/share/fish/vendor_completions.d/ec2ifdown.fish": "../../completion/ec2net.fish",
	} {
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		files[to] = string(text)
	}
	r := lab.Debian(t, "bookworm-shells").Run(t, lab.Cmd{
		Args: []string{"sh", "-euc", typing}, Files: files, Env: []string{"TERM=dumb"},
		Stdin: strings.Join(slices.Sorted(maps.Keys(lines)), "\n") + "\n",
	})
	if r.Status != 0 {
		t.Fatalf("status %d: %s", r.Status, r.Stderr)
	}
	answers := strings.Split(r.Stdout, "==> ")[1:]
	if len(answers) != 3*len(lines) {
		t.Fatalf("%d answers:\n%s", len(answers), r.Stdout)
	}
	for _, answer := range answers {
		question, printed, _ := strings.Cut(answer, "\n")
		shell, line, _ := strings.Cut(question, ": ")
		words := offered(printed)
		if flag, _, joined := strings.Cut(line[strings.LastIndex(line, " ")+1:], "="); joined && shell != "bash" {
			// These shells take a flag and its value as one word.
			for i := range words {
				words[i] = strings.TrimPrefix(words[i], flag+"=")
			}
		}
		if got := strings.Join(words, " "); got != lines[line] {
			t.Errorf("%s, %q: %q; want %q in\n%q", shell, line, got, lines[line], printed)
		}
	}
}
