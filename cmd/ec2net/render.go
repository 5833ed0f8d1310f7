package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/diff"

	"ec2net/facts"
	"ec2net/render"
	"ec2net/render/disk"
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
			fmt.Fprintf(inv.stderr, "ec2net: nothing to render: %s\n", why)
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
	t, err := render.Load(disk.Overrides{Dir: inv.settings.templates})
	var known *render.Error
	if err != nil && !errors.As(err, &known) {
		return nil, withStatus(statusTemplate, fmt.Errorf("cannot read the templates: %w", err))
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

func (inv *invocation) printDiff(files []render.File) error {
	dir := inv.render.root
	if dir == "" {
		dir = "/"
	}
	tree, err := disk.OpenTree(dir, false)
	if err != nil {
		return system(err)
	}
	defer tree.Close()
	var out bytes.Buffer
	for _, f := range files {
		installed, err := tree.Read(f.Path)
		if err != nil {
			return system(fmt.Errorf("cannot compare with %s: %w", f.Path, err))
		}
		out.Write(diff.Diff("installed"+f.Path, installed, "rendered"+f.Path, f.Content))
	}
	if out.Len() == 0 {
		return nil
	}
	if _, err := inv.stdout.Write(out.Bytes()); err != nil {
		return system(err)
	}
	return quietStatus(statusDiffers)
}

// writeBelow writes the files of every ENI that ec2net may touch.
func (inv *invocation) writeBelow(files []render.File) error {
	tree, err := disk.OpenTree(inv.render.root, true)
	if err != nil {
		return system(err)
	}
	defer tree.Close()
	kept := make(map[string]bool)
	for _, f := range files {
		if _, known := kept[f.Interface]; !known {
			if kept[f.Interface], err = inv.isKept(tree, f.Interface); err != nil {
				return err
			}
		}
		if kept[f.Interface] {
			continue
		}
		wrote, err := tree.Write(f.Path, f.Content)
		if err != nil {
			return system(fmt.Errorf("cannot write %s: %w", f.Path, err))
		}
		if wrote {
			fmt.Fprintf(inv.stderr, "ec2net: wrote %s\n", f.Path)
		} else {
			fmt.Fprintf(inv.stderr, "ec2net: %s is as it should be\n", f.Path)
		}
	}
	for _, k := range kept {
		if k {
			return quietStatus(statusNoRetry)
		}
	}
	return nil
}

// isKept says whether an administrator keeps an ENI from ec2net.
func (inv *invocation) isKept(tree *disk.Tree, iface string) (bool, error) {
	path, err := render.View{ENI: facts.ENI{Name: iface}}.Path("cfg")
	if err != nil {
		return false, err
	}
	cfg, err := tree.Read(path)
	if err != nil {
		return false, system(fmt.Errorf("cannot write for %s: %w", iface, err))
	}
	kept := render.Unmanaged(cfg)
	if kept {
		fmt.Fprintf(inv.stderr, "ec2net: %s says EC2SYNC=no: nothing of %s is touched\n", path, iface)
	}
	return kept, nil
}
