package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/diff"

	"ec2net/disk"
	"ec2net/facts"
	"ec2net/fault"
	"ec2net/hooks"
	"ec2net/render"
)

type renderFlags struct {
	only string
	root string
	diff bool
}

var renderCommand = command{
	name:  "render",
	args:  "IFACE...",
	short: "render the files of an ENI: to stdout, below a folder, or as a diff",
	long: `Renders every file that ec2net has for an ENI and prints it under a line that
names its path. Nothing on the machine is changed.

--root DIR writes the files below DIR instead: DIR/etc/network/interfaces.d/...
--diff prints how what is installed (below DIR, with --root) would change, and
exits with 1 if it would.`,
	examples: `ec2net render eth1
ec2net render eth1 --facts eth1.json --only cfg
ec2net render eth1 eth2 --diff
ec2net render eth1 --root /tmp/try`,
	flags: func(inv *invocation) {
		inv.flags.StringVar(&inv.render.only, "only", "", "render one file, without a header line: "+strings.Join(render.Kinds(), ", "))
		inv.flags.StringVar(&inv.render.root, "root", "", "write the files below this folder")
		inv.flags.BoolVar(&inv.render.diff, "diff", false, "print what would change, exit with 1 if anything would")
		inv.factsFlags()
		inv.settingsFlags()
	},
	run: runRender,
}

func runRender(inv *invocation) error {
	if inv.flags.Changed("root") && inv.render.root == "" {
		return usageError("--root takes the name of a folder", "ec2net help render")
	}
	only, err := inv.wantedKinds()
	if err != nil {
		return err
	}
	if err := inv.loadSettings(); err != nil {
		return err
	}
	ctx, cancel := inv.deadline()
	defer cancel()
	enis, err := inv.wantedENIs(ctx)
	if err != nil {
		return err
	}
	files, err := inv.renderAll(ctx, enis, only)
	if err != nil {
		return err
	}
	switch {
	case inv.render.diff:
		return inv.printDiff(files)
	case inv.flags.Changed("root"):
		return inv.writeBelow(files)
	}
	return inv.printFiles(files)
}

func (inv *invocation) wantedKinds() ([]string, error) {
	if !inv.flags.Changed("only") {
		return nil, nil
	}
	if !slices.Contains(render.Kinds(), inv.render.only) {
		return nil, usageError(fmt.Sprintf("--only %q: the files are %s", inv.render.only, strings.Join(render.Kinds(), ", ")), "ec2net help render")
	}
	if len(inv.args) > 1 && !inv.render.diff && !inv.flags.Changed("root") {
		return nil, usageError("--only prints one bare file, so it takes one interface", "ec2net help render")
	}
	return []string{inv.render.only}, nil
}

// renderAll renders the files of all ENIs, or none.
func (inv *invocation) renderAll(ctx context.Context, enis []facts.ENI, only []string) ([]render.File, error) {
	templates, err := inv.loadTemplates()
	if err != nil {
		return nil, err
	}
	var all []render.File
	for _, e := range enis {
		if why := render.Nothing(e); why != "" {
			inv.say("nothing to render: %s", why)
			continue
		}
		files, err := templates.Render(ctx, e, only...)
		if err != nil {
			return nil, err
		}
		all = append(all, files...)
	}
	return all, nil
}

func (inv *invocation) loadTemplates() (*render.Templates, error) {
	if inv.builtIn || inv.settings.templates == "" {
		return render.Load(nil)
	}
	if err := inv.checkFolder(); err != nil {
		return nil, err
	}
	t, err := render.Load(disk.Overrides{Dir: inv.settings.templates})
	var known *render.Error
	if err != nil && !errors.As(err, &known) {
		return nil, fault.As(fault.Template, fmt.Errorf("cannot read the templates: %w", err))
	}
	return t, err
}

func (inv *invocation) printFiles(files []render.File) error {
	var out bytes.Buffer
	for i, f := range files {
		if inv.render.only == "" {
			if i > 0 {
				out.WriteByte('\n')
			}
			fmt.Fprintf(&out, "# ==> %s <==\n", f.Path)
		}
		out.Write(f.Content)
	}
	_, err := inv.stdout.Write(out.Bytes())
	return system(err)
}

// change is what would become of one file.
type change struct {
	file      render.File
	installed []byte // nil: there is none
	kept      bool   // an administrator keeps the ENI from ec2net
}

func (c change) differs() bool {
	return !c.kept && (c.installed == nil || !bytes.Equal(c.installed, c.file.Content))
}

// compare finds what would change below a folder. Nothing is written.
func (inv *invocation) compare(tree *disk.Tree, files []render.File) ([]change, error) {
	kept := make(map[string]bool)
	var changes []change
	for _, f := range files {
		if _, known := kept[f.Interface]; !known {
			path, err := render.Path("cfg", f.Interface)
			if err != nil {
				return nil, err
			}
			cfg, err := tree.Read(path)
			if err != nil {
				return nil, system(fmt.Errorf("cannot read what is there for %s: %w", f.Interface, err))
			}
			if kept[f.Interface] = render.Unmanaged(cfg); kept[f.Interface] {
				inv.say("%s says EC2SYNC=no: nothing of %s is touched", path, f.Interface)
			}
		}
		installed, err := tree.Read(f.Path)
		if err != nil {
			return nil, system(fmt.Errorf("cannot read what is there for %s: %w", f.Interface, err))
		}
		changes = append(changes, change{f, installed, kept[f.Interface]})
	}
	return changes, nil
}

// statusOfKept is the status of a run that had nothing else to say.
func statusOfKept(changes []change) error {
	if slices.ContainsFunc(changes, func(c change) bool { return c.kept }) {
		return quietStatus(fault.NoRetry)
	}
	return nil
}

func (inv *invocation) printDiff(files []render.File) error {
	dir := inv.render.root
	if dir == "" {
		dir = "/"
	}
	tree, err := openTree(dir, false)
	if err != nil {
		return system(err)
	}
	defer tree.Close()
	changes, err := inv.compare(tree, files)
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
	if _, err := inv.stdout.Write(out.Bytes()); err != nil {
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

// writeBelow writes the files of every ENI that ec2net may touch: all of them,
// or none.
func (inv *invocation) writeBelow(files []render.File) error {
	if len(files) == 0 {
		return nil
	}
	tree, err := openTree(inv.render.root, true)
	if err != nil {
		return system(err)
	}
	defer tree.Close()
	changes, err := inv.compare(tree, files)
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
		what := "is as it should be"
		if slices.Contains(wrote, c.Path) {
			what = "is written"
		} else if err != nil {
			continue
		}
		inv.say("%s %s", filepath.Join(inv.render.root, c.Path), what)
	}
	if err != nil {
		return system(fmt.Errorf("cannot write: %w", err))
	}
	return statusOfKept(changes)
}
