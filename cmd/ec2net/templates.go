package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"

	"ec2net/disk"
	"ec2net/facts"
	"ec2net/fault"
	"ec2net/render"
)

var templatesCommand = command{
	name:  "templates",
	args:  "list | show NAME | check",
	short: "list, show or check the templates",
	long:  `ec2net-templates(5) and "ec2net help templates" describe how to write one.`,
	words: []item{
		{"list", "Prints where every template comes from, and what overrides it."},
		{"show", "Prints the text of one, by its file (ethN.network.tmpl, blocks.tmpl) or by what it renders (network)."},
		{"check", "Renders all templates and overrides for example ENIs, and names the files in the folder that nothing reads."},
	},
	examples: `ec2net templates list
ec2net templates show --built-in network
ec2net templates check --templates ./my-templates`,
	settings: []string{"base", "mark-mask", "templates", "timeout"},
	prepare: func(flags *pflag.FlagSet) action {
		builtIn := flags.Bool("built-in", false, "show the built-in text, whatever overrides it; begin an override with it")
		return func(inv *invocation) error { return inv.runTemplates(*builtIn) }
	},
}

func (inv *invocation) runTemplates(builtIn bool) error {
	sub := ""
	if len(inv.args) > 0 {
		sub = inv.args[0]
	}
	run, args := map[string]func(settings, *render.Templates) error{
		"list": inv.listTemplates, "show": inv.showTemplate, "check": inv.checkTemplates,
	}[sub], map[string]int{"list": 1, "show": 2, "check": 1}[sub]
	if run == nil || len(inv.args) != args {
		return usageError("templates takes "+inv.command.args, "ec2net help templates")
	}
	s, err := inv.settings()
	if err != nil {
		return err
	}
	if builtIn {
		s.templates = ""
	}
	t, err := s.loadTemplates()
	if err != nil {
		return err
	}
	return run(s, t)
}

// loadTemplates reads the built-in templates, and their overrides.
func (s settings) loadTemplates() (*render.Templates, error) {
	if s.templates == "" {
		return render.Load(nil)
	}
	if err := s.checkFolder(); err != nil {
		return nil, err
	}
	t, err := render.Load(disk.Overrides{Dir: s.templates})
	var known *render.Error
	if err != nil && !errors.As(err, &known) {
		return nil, fault.As(fault.Template, fmt.Errorf("cannot read the templates: %w", err))
	}
	return t, err
}

func (inv *invocation) listTemplates(_ settings, t *render.Templates) error {
	w := tabwriter.NewWriter(inv.stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "TEMPLATE\tFOR\tFROM")
	for _, row := range t.List() {
		fmt.Fprintf(w, "%s\t%s\t%s\n", row.Name, row.For, row.From)
	}
	if err := w.Flush(); err != nil {
		return system(err)
	}
	inv.warnUnused(t)
	return nil
}

func (inv *invocation) warnUnused(t *render.Templates) {
	for _, path := range t.Unused() {
		inv.say("%s is not used: no template has this name", path)
	}
}

func (inv *invocation) showTemplate(_ settings, t *render.Templates) error {
	text, err := t.Text(inv.args[1])
	var unknown *render.UnknownTemplateError
	if errors.As(err, &unknown) {
		return usage(err)
	} else if err != nil {
		return err
	}
	_, err = inv.stdout.Write(text)
	return system(err)
}

// checkTemplates renders every override for an example ENI: an override for eth7
// alone needs an ENI of that name.
func (inv *invocation) checkTemplates(s settings, t *render.Templates) error {
	ctx, cancel := s.deadline()
	defer cancel()
	examples, err := facts.Examples(s.numbers)
	if err != nil {
		return err
	}
	renamed := slices.Clone(examples)
	for _, row := range t.List() {
		if row.Interface == "" {
			continue
		}
		e, err := facts.Renamed(examples[0], row.Interface, s.numbers)
		if err != nil {
			return usage(fmt.Errorf("%s: %w", row.From, err))
		}
		renamed = append(renamed, e)
	}
	var names []string
	for _, e := range renamed {
		if _, err := t.Render(ctx, "", e, render.Kinds()...); err != nil {
			return err
		}
		if !slices.Contains(names, e.Name) {
			names = append(names, e.Name)
		}
	}
	if _, err := t.Docker(ctx, examples, s.numbers.Base); err != nil {
		return err
	}
	if unused := t.Unused(); len(unused) > 0 {
		return &fault.Error{Kind: fault.Template, Err: fmt.Errorf("never used: %s", strings.Join(unused, ", ")),
			Try: fmt.Sprintf("an override is called ethN.KIND.tmpl or eth1.KIND.tmpl, KIND being %s, or %s", strings.Join(render.Kinds(), ", "), render.BlocksFile)}
	}
	_, err = fmt.Fprintf(inv.stdout, "all templates render for the examples %s\n", strings.Join(names, ", "))
	return system(err)
}
