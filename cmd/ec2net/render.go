package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/pflag"

	"ec2net/disk"
	"ec2net/facts"
	"ec2net/fault"
	"ec2net/hooks"
	"ec2net/lines"
	"ec2net/render"
)

var renderCommand = command{
	name:  "render",
	args:  "IFACE...",
	short: "render the files of an ENI: to stdout, below a folder, or as a diff",
	long: `Renders every file of an ENI and prints it under a line that names its path. Nothing
on the machine changes.

If IMDS does not answer, render uses the remembered facts of the device, as the
commands that change the machine do; a line on standard error says how old they are.`,
	recalls: true,
	examples: `ec2net render eth1
ec2net render eth1 --facts eth1.json --only rules
ec2net render eth1 eth2 --diff
ec2net render eth1 --stack networkd
ec2net render eth1 --root /tmp/try`,
	settings: []string{"base", "mark-mask", "primary-table", "stack", "templates", "timeout", "imds-endpoint", "imds-endpoint-mode"},
	prepare: func(flags *pflag.FlagSet) action {
		r := &renderRun{}
		flags.Var(&textFlag{&r.only, "KIND", render.Kinds()}, "only",
			"print one file, without that line: "+strings.Join(render.Kinds(), ", "))
		flags.Var(&textFlag{&r.root, "FOLDER", []string{":folders"}}, "root",
			"write the files below this folder; FOLDER/etc/systemd/network/05-ec2net-eth1.network and so on. --root / writes the machine's own, and brings nothing up")
		flags.BoolVar(&r.diff, "diff", false,
			"print how the existing files would change, and exit with 1 if any would; with --root the files below that folder")
		r.facts = factsFlag(flags)
		return r.run
	},
}

// renderRun is a run of render, with its flags.
type renderRun struct {
	*invocation
	settings   settings
	only, root string
	diff       bool
	facts      *string
}

func (r *renderRun) run(inv *invocation) (err error) {
	r.invocation = inv
	if r.flags.Changed("root") && r.root == "" {
		return usageError("--root takes the name of a folder", "ec2net help render")
	}
	only, err := r.wantedKinds()
	if err != nil {
		return err
	}
	if r.settings, err = inv.settings(); err != nil {
		return err
	}
	ctx, cancel := r.settings.deadline()
	defer cancel()
	enis, err := inv.wantedENIs(ctx, r.settings, *r.facts)
	if err != nil {
		return err
	}
	files, err := r.renderAll(ctx, enis, only)
	if err != nil {
		return err
	}
	switch {
	case r.diff:
		return r.printDiff(files)
	case r.flags.Changed("root"):
		return r.writeBelow(files)
	}
	return r.printFiles(files)
}

func (r *renderRun) wantedKinds() ([]string, error) {
	if !r.flags.Changed("only") {
		return nil, nil
	}
	if !slices.Contains(render.Kinds(), r.only) {
		return nil, usageError(fmt.Sprintf("--only %q: the files are %s", r.only, strings.Join(render.Kinds(), ", ")), "ec2net help render")
	}
	if len(r.args) > 1 && !r.diff && !r.flags.Changed("root") {
		return nil, usageError("--only prints one bare file, so it takes one interface", "ec2net help render")
	}
	return []string{r.only}, nil
}

// stackOf returns the stack to render an ENI for: by the settings, else that of this machine
// if the ENI's primary is here, else ifupdown.
func (s settings) stackOf(e facts.ENI) (render.Stack, error) {
	if s.stack != "" {
		return s.stack, nil
	}
	all, err := net.Interfaces()
	if err != nil {
		return "", system(err)
	}
	i := slices.IndexFunc(all, func(one net.Interface) bool { return one.HardwareAddr.String() == e.PrimaryMAC.String() })
	if i < 0 {
		return render.Ifupdown, nil
	}
	tree, err := disk.OpenMachine()
	if err != nil {
		return "", system(err)
	}
	defer tree.Close()
	return hooks.StackOf(tree, all[i].Index), nil
}

// renderAll renders the files of all ENIs, or none.
func (r *renderRun) renderAll(ctx context.Context, enis []facts.ENI, only []string) ([]render.File, error) {
	loaded, err := r.settings.loadTemplates()
	if err != nil {
		return nil, err
	}
	var all []render.File
	for _, e := range enis {
		if why := render.Nothing(e); why != "" {
			r.say("nothing to render: %s", why)
			continue
		}
		stack, err := r.settings.stackOf(e)
		if err != nil {
			return nil, err
		}
		files, err := loaded.Render(ctx, stack, e, only...)
		if err != nil {
			return nil, err
		}
		all = append(all, files...)
	}
	return all, nil
}

func (r *renderRun) printFiles(files []render.File) error {
	var out bytes.Buffer
	for i, f := range files {
		if r.only == "" {
			if i > 0 {
				out.WriteByte('\n')
			}
			fmt.Fprintf(&out, "# ==> %s <==\n", f.Path)
		}
		out.Write(f.Content)
	}
	_, err := r.stdout.Write(out.Bytes())
	return system(err)
}

// change is what would change in one file.
type change struct {
	file      render.File
	installed []byte // nil if there is no such file
	kept      bool   // the ENI is left alone, by EC2SYNC=no
}

func (c change) differs() bool {
	return !c.kept && (c.installed == nil || !bytes.Equal(c.installed, c.file.Content))
}

// compare finds what would change below a folder. Nothing is written.
func (r *renderRun) compare(tree *disk.Tree, files []render.File) ([]change, error) {
	kept := make(map[string]bool)
	var changes []change
	for _, f := range files {
		if !slices.ContainsFunc(changes, func(c change) bool { return c.file.Interface == f.Interface }) {
			for _, path := range render.StackFiles(f.Interface) {
				text, err := tree.Read(path)
				if err != nil {
					return nil, system(fmt.Errorf("cannot read the files of %s: %w", f.Interface, err))
				}
				if lines.Unmanaged(text) {
					kept[f.Interface] = true
					r.say("%s says EC2SYNC=no: leaving %s alone", path, f.Interface)
				}
			}
		}
		installed, err := tree.Read(f.Path)
		if err != nil {
			return nil, system(fmt.Errorf("cannot read the files of %s: %w", f.Interface, err))
		}
		changes = append(changes, change{f, installed, kept[f.Interface]})
	}
	return changes, nil
}

// statusOfKept returns the status of a run that has nothing else to report.
func statusOfKept(changes []change) error {
	if slices.ContainsFunc(changes, func(c change) bool { return c.kept }) {
		return quietStatus(fault.NoRetry)
	}
	return nil
}

func (r *renderRun) printDiff(files []render.File) error {
	dir := r.root
	if dir == "" {
		dir = "/"
	}
	tree, err := openTree(dir, false)
	if err != nil {
		return system(err)
	}
	defer tree.Close()
	changes, err := r.compare(tree, files)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	for _, c := range changes {
		if c.differs() {
			out.Write(diff.Diff("installed"+c.file.Path, c.installed, "rendered"+c.file.Path, c.file.Content))
		}
	}
	if out.Len() == 0 {
		return statusOfKept(changes)
	}
	if _, err := r.stdout.Write(out.Bytes()); err != nil {
		return system(err)
	}
	return quietStatus(fault.Differs)
}

// openTree opens the folder that --root names, or the machine's own root.
func openTree(dir string, create bool) (*disk.Tree, error) {
	if filepath.Clean(dir) == "/" {
		return disk.OpenMachine(hooks.OwnFolders...)
	}
	return disk.OpenTree(dir, create)
}

// writeBelow writes all files, or none. It leaves out ENIs that are left alone.
func (r *renderRun) writeBelow(files []render.File) error {
	if len(files) == 0 {
		return nil
	}
	tree, err := openTree(r.root, true)
	if err != nil {
		return system(err)
	}
	defer tree.Close()
	changes, err := r.compare(tree, files)
	if err != nil {
		return err
	}
	var free []render.File
	for _, c := range changes {
		if !c.kept {
			free = append(free, c.file)
		}
	}
	contents := hooks.Contents(free)
	wrote, err := tree.WriteAll(contents)
	for _, c := range contents {
		what := "unchanged"
		if slices.Contains(wrote, c.Path) {
			what = "wrote"
		} else if err != nil {
			continue
		}
		r.say("%s %s", what, filepath.Join(r.root, c.Path))
	}
	if err != nil {
		return system(fmt.Errorf("cannot write: %w", err))
	}
	return statusOfKept(changes)
}
