package render

import (
	"fmt"
	"slices"
	"strings"

	"ec2net/fault"
	"ec2net/templates"
)

// Row is a template in the list of all.
type Row struct {
	Name string
	// Interface is the one interface that the template is for, or empty; For says in
	// words what the template is for.
	Interface, For string
	// From says where the template comes from, for people.
	From string
}

// List returns the templates in use, in the order of kinds: overrides, and the
// built-in ones that nothing overrides; then blocks.tmpl.
func (t *Templates) List() []Row {
	var rows []Row
	for _, k := range allKinds() {
		from := t.resolve(k, every)
		row := Row{Name: from.Name, For: "every ENI", From: from.Path}
		switch {
		case k.host != "":
			row.For = "the host"
		case k.stack != "":
			row.For += ", by " + string(k.stack)
		}
		if from.Path == "" {
			row.From = "built in"
		}
		rows = append(rows, row)
		for _, name := range t.names {
			if owner, iface := t.Owner(name); k.host == "" && owner == k.name && iface != every {
				rows = append(rows, Row{Name: name, Interface: iface, For: iface, From: t.overrides.Path(name)})
			}
		}
	}
	if t.blocks != nil {
		rows = append(rows, Row{Name: BlocksFile, For: "every template",
			From: fmt.Sprintf("%s: redefines %s", t.overrides.Path(BlocksFile), strings.Join(t.Blocks(), ", "))})
	}
	return rows
}

// Unused returns the paths of templates (*.tmpl) in the folder of overrides that nothing
// uses, most likely because their name is misspelt.
func (t *Templates) Unused() []string {
	var paths []string
	for _, name := range t.names {
		kindName, _ := t.Owner(name)
		if kindName == "" && name != BlocksFile && strings.HasSuffix(name, suffix) {
			paths = append(paths, t.overrides.Path(name))
		}
	}
	return paths
}

// Text returns the text of a template, by its file name (ethN.cfg.tmpl), or by its kind
// (cfg) for the template of all interfaces.
func (t *Templates) Text(name string) ([]byte, error) {
	if k, ok := kindNamed(name); ok {
		name = k.template(every)
	}
	from := Source{Name: name}
	owner, _ := t.Owner(name)
	if slices.Contains(t.names, name) && (owner != "" || name == BlocksFile) {
		from = t.overridden(name)
	} else if _, err := templates.Read(name); err != nil {
		return nil, &UnknownTemplateError{name}
	}
	text, err := t.text(from)
	if err != nil {
		return nil, &Error{Template: from, Err: err}
	}
	return text, nil
}

// UnknownTemplateError says that no template has this name.
type UnknownTemplateError struct{ Name string }

func (e *UnknownTemplateError) Error() string {
	return fmt.Sprintf("there is no template %.60q", e.Name)
}

// Status is the status of wrong usage.
func (*UnknownTemplateError) Status() fault.Status { return fault.Usage }

// Hint says where to look.
func (e *UnknownTemplateError) Hint() string { return `"ec2net templates list" lists them` }
