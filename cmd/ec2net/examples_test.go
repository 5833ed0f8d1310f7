package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Each folder of examples passes "templates check", and adds to and takes from
// the files of eth1 what its README says, and nothing else.
func TestExamples(t *testing.T) {
	const folder = "../../examples"
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	before := statements(t, "")
	tried := 0
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		tried++
		t.Run(entry.Name(), func(t *testing.T) {
			readme, templates := copyExample(t, filepath.Join(folder, entry.Name()))
			ec2net(t, "templates", "check", "--settings=", "--templates", templates)
			after := statements(t, templates)
			got := append(lacking("- ", before, after), lacking("+ ", after, before)...)
			var want []string
			for line := range strings.Lines(readme) {
				if text := strings.TrimSpace(line); strings.HasPrefix(line, "    ") && strings.ContainsAny(text[:1], "+-") {
					want = append(want, text)
				}
			}
			if !slices.Equal(got, want) || len(got) == 0 {
				t.Errorf("eth1 differs by\n    %s\nREADME.md says\n    %s", strings.Join(got, "\n    "), strings.Join(want, "\n    "))
			}
		})
	}
	if tried == 0 {
		t.Error("there is no example")
	}
}

// The line for cron(8) asks IMDS each minute, prints nothing that cron would mail, and is
// silent once ec2net is removed.
func TestCronExample(t *testing.T) {
	text, err := os.ReadFile("../../examples/ec2net.cron")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^\* \* \* \* \* root (.*)$`).FindAllStringSubmatch(string(text), -1)
	if len(found) != 1 {
		t.Fatalf("%d lines for cron:\n%s", len(found), text)
	}
	command, bin := found[0][1], t.TempDir()
	for _, script := range []string{"", "#!/bin/sh\necho \"$@\" >" + bin + "/ran\necho out\necho err >&2\nexit 3\n"} {
		if script != "" {
			if err := os.WriteFile(bin+"/ec2net", []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		out, _ := exec.Command("/bin/sh", "-c", strings.ReplaceAll(command, "/usr/sbin", bin)).CombinedOutput()
		ran, _ := os.ReadFile(bin + "/ran")
		if len(out) > 0 || strings.TrimSpace(string(ran)) != map[bool]string{true: "refresh"}[script != ""] {
			t.Errorf("%s: prints %q, runs %q", command, out, ran)
		}
	}
	for _, readme := range []string{"../../README.md", "../../examples/README.md"} {
		if text, err := os.ReadFile(readme); err != nil || !strings.Contains(string(text), "ec2net.cron") {
			t.Errorf("%s does not name it: %v", readme, err)
		}
	}
}

// copyExample copies the templates of an example to a trusted folder, whoever owns
// this tree.
func copyExample(t *testing.T, from string) (readme, templates string) {
	t.Helper()
	templates = t.TempDir()
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		text, err := os.ReadFile(filepath.Join(from, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if entry.Name() == "README.md" {
			readme = string(text)
		} else if err := os.WriteFile(filepath.Join(templates, entry.Name()), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return readme, templates
}

// statements returns the lines of all files of the example eth1, for systemd-networkd and
// for ifupdown, without comments and indents.
func statements(t *testing.T, templates string) []string {
	t.Helper()
	var lines []string
	render := []string{"render", "eth1", "--facts", "../../facts/examples/eth1.json", "--settings=", "--templates", templates, "--stack"}
	files := ec2net(t, append(render, "networkd", "--only", "network")...) + ec2net(t, append(render, "ifupdown")...)
	for line := range strings.Lines(files) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			lines = append(lines, line)
		}
	}
	return lines
}

// lacking returns the lines of one list that the other does not have, marked.
func lacking(mark string, lines, others []string) []string {
	var only []string
	for _, line := range lines {
		if !slices.Contains(others, line) {
			only = append(only, mark+line)
		}
	}
	return only
}

// ec2net runs a command that has to succeed, and returns its output.
func ec2net(t *testing.T, args ...string) string {
	t.Helper()
	var out, problems strings.Builder
	if s := Run(append([]string{"ec2net"}, args...), nil, &out, &problems, nil); s != 0 {
		t.Fatalf("ec2net %s: status %d: %s", strings.Join(args, " "), s, problems.String())
	}
	return out.String()
}
