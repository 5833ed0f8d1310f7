package render

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"text/template"
	"text/template/parse"

	"ec2net/facts"
	"ec2net/fault"
	"ec2net/templates"
)

// BlocksFile is the override that redefines blocks of the other templates.
const BlocksFile = "blocks" + suffix

// Overrides has the texts of an administrator's templates, by file name. It is render's
// only way to the disk.
type Overrides interface {
	// Names lists the files.
	Names() ([]string, error)
	// Read returns the text of a file, or fails if others could have written it.
	Read(name string) ([]byte, error)
	// Path returns the path of a file, for messages.
	Path(name string) string
}

// Source says where the text of a template comes from.
type Source struct {
	// Name is the name of the template's file: ethN.cfg.tmpl.
	Name string
	// Path is the path of the override; empty if the template is built in.
	Path string
	// Blocks is the path of blocks.tmpl, if that redefines blocks of the template.
	Blocks string
}

func (s Source) shown() string {
	from := s.Path
	if from == "" {
		from = "its built-in template " + s.Name
	}
	if s.Blocks != "" {
		from += " and " + s.Blocks
	}
	return from
}

// Templates has the built-in templates and an administrator's overrides. It is safe for
// concurrent use.
type Templates struct {
	overrides Overrides
	names     []string
	blocks    []byte // the text of blocks.tmpl, nil without one

	mu     sync.Mutex
	parsed map[string]parsed // by the name of the template's file
}

type parsed struct {
	tmpl *template.Template
	from Source
	// functions are those that tmpl may call; empty if it calls only text/template's own.
	functions template.FuncMap
}

// ready returns the template to execute once. Its functions fail when ctx has ended.
func (p parsed) ready(ctx context.Context) (*template.Template, error) {
	if len(p.functions) == 0 {
		return p.tmpl, nil
	}
	tmpl, err := p.tmpl.Clone()
	if err != nil {
		return nil, err
	}
	return tmpl.Funcs(bounded(ctx, p.functions)), nil
}

// Load loads the templates; if o is nil, only the built-in ones.
func Load(o Overrides) (*Templates, error) {
	t := &Templates{overrides: o, parsed: make(map[string]parsed)}
	if o == nil {
		return t, nil
	}
	var err error
	if t.names, err = o.Names(); err != nil {
		return nil, err
	}
	if slices.Contains(t.names, BlocksFile) {
		if t.blocks, err = o.Read(BlocksFile); err != nil {
			return nil, &Error{Template: t.overridden(BlocksFile), Err: err}
		}
		if err := t.checkBlocks(); err != nil {
			return nil, &Error{Template: t.overridden(BlocksFile), Err: err}
		}
	}
	return t, nil
}

func (t *Templates) overridden(name string) Source {
	return Source{Name: name, Path: t.overrides.Path(name)}
}

// resolve chooses the template of a kind for an interface: the override for this
// interface, else the override for all, else the built-in template.
func (t *Templates) resolve(k kind, iface string) Source {
	for _, name := range []string{k.template(iface), k.template(every)} {
		if slices.Contains(t.names, name) {
			return t.overridden(name)
		}
	}
	return Source{Name: k.template(every)}
}

// text returns the text of a template.
func (t *Templates) text(from Source) ([]byte, error) {
	if from.Path != "" {
		return t.overrides.Read(from.Name)
	}
	return templates.Read(from.Name)
}

// lookup returns the parsed template of a kind for an interface.
func (t *Templates) lookup(k kind, iface string) (parsed, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	from := t.resolve(k, iface)
	if p, ok := t.parsed[from.Name]; ok {
		return p, nil
	}
	fail := func(err error) (parsed, error) {
		return parsed{}, &Error{File: k.file(iface), Template: from, Err: err}
	}
	text, err := t.text(from)
	if err != nil {
		return fail(err)
	}
	// text/template has this name in its messages, with line and column.
	name := from.Path
	if name == "" {
		name = from.Name
	}
	overridden := from.Path != "" || t.blocks != nil
	set, err := emptySet(overridden)
	if err != nil {
		return fail(err)
	}
	tmpl, err := set.New(name).Parse(string(text))
	if err != nil {
		return fail(err)
	}
	if t.blocks != nil {
		before := definitions(tmpl)
		if _, err := tmpl.New(t.overrides.Path(BlocksFile)).Parse(string(t.blocks)); err != nil {
			return fail(err)
		}
		if slices.ContainsFunc(t.Blocks(), func(b string) bool { return slices.Contains(before, b) }) {
			from.Blocks = t.overrides.Path(BlocksFile)
		}
	}
	p := parsed{tmpl: tmpl, from: from}
	if overridden {
		p.functions = mentioned(string(text), string(t.blocks))
	}
	t.parsed[from.Name] = p
	return p, nil
}

// Blocks returns the names that blocks.tmpl defines.
func (t *Templates) Blocks() []string {
	if t.blocks == nil {
		return nil
	}
	trees, err := parseTrees(BlocksFile, string(t.blocks))
	if err != nil {
		return nil // Load has reported it
	}
	return sortedKeys(trees, BlocksFile)
}

// checkBlocks fails if something in blocks.tmpl has no effect: text outside of definitions,
// or a definition that no template and no other definition uses, most likely because its
// name is misspelt.
func (t *Templates) checkBlocks() error {
	path := t.overrides.Path(BlocksFile)
	trees, err := parseTrees(path, string(t.blocks))
	if err != nil {
		return err
	}
	if main := trees[path]; main != nil && !parse.IsEmptyTree(main.Root) {
		return errors.New(`text outside of {{define "..."}}...{{end}} has no effect here`)
	}
	known := DefaultBlocks()
	usable := slices.Clone(known)
	for _, tree := range trees {
		usable = append(usable, calls(tree.Root)...)
	}
	for _, name := range t.names {
		if kindOf, _ := t.Owner(name); kindOf == "" {
			continue
		}
		// blocks.tmpl can redefine a block of an administrator's own template too.
		if text, err := t.overrides.Read(name); err == nil {
			if own, err := parseTrees(name, string(text)); err == nil {
				usable = append(usable, sortedKeys(own, name)...)
			}
		}
	}
	for _, name := range sortedKeys(trees, path) {
		if !slices.Contains(usable, name) {
			return &unknownBlockError{name: name, known: known}
		}
	}
	return nil
}

// DefaultBlocks returns the blocks of the built-in templates.
func DefaultBlocks() []string {
	var names []string
	for _, k := range allKinds() {
		file := k.template(every)
		text, err := templates.Read(file)
		if err != nil {
			continue
		}
		if trees, err := parseTrees(file, string(text)); err == nil {
			names = append(names, sortedKeys(trees, file)...)
		}
	}
	return names
}

// Owner returns the kind of file that an override with this name is for, and the
// interface, "ethN" for all. Both are empty if nothing uses the name.
func (t *Templates) Owner(name string) (kindName, iface string) {
	base, ok := strings.CutSuffix(name, suffix)
	if !ok {
		return "", ""
	}
	if name == docker.template("") {
		return docker.name, every
	}
	for _, k := range kinds {
		if iface, ok := strings.CutSuffix(base, "."+k.name); ok && (iface == every || facts.CheckName(iface) == nil) {
			return k.name, iface
		}
	}
	return "", ""
}

// parseTrees parses a text without checking that its functions exist.
func parseTrees(name, text string) (map[string]*parse.Tree, error) {
	trees := make(map[string]*parse.Tree)
	tree := parse.New(name)
	tree.Mode = parse.SkipFuncCheck
	_, err := tree.Parse(text, "", "", trees)
	return trees, err
}

// calls returns the names that {{template}} and {{block}} call below a node.
func calls(node parse.Node) []string {
	var names []string
	var walk func(n parse.Node)
	branch := func(b *parse.BranchNode) {
		walk(b.List)
		if b.ElseList != nil {
			walk(b.ElseList)
		}
	}
	walk = func(n parse.Node) {
		switch n := n.(type) {
		case *parse.ListNode:
			for _, child := range n.Nodes {
				walk(child)
			}
		case *parse.TemplateNode:
			names = append(names, n.Name)
		case *parse.IfNode:
			branch(&n.BranchNode)
		case *parse.RangeNode:
			branch(&n.BranchNode)
		case *parse.WithNode:
			branch(&n.BranchNode)
		}
	}
	walk(node)
	return names
}

func definitions(tmpl *template.Template) []string {
	var names []string
	for _, d := range tmpl.Templates() {
		names = append(names, d.Name())
	}
	return names
}

func sortedKeys(trees map[string]*parse.Tree, but string) []string {
	var names []string
	for name := range trees {
		if name != but {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// unknownBlockError says that nothing uses a definition in blocks.tmpl.
type unknownBlockError struct {
	name  string
	known []string
}

func (e *unknownBlockError) Error() string {
	return fmt.Sprintf("no template has a block %q", e.name)
}

// Status is the status of an unusable template.
func (*unknownBlockError) Status() fault.Status { return fault.Template }
