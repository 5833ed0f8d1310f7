package hooks

import (
	"context"
	"errors"
	"path"
	"slices"
	"strings"

	"ec2net/facts"
	"ec2net/hooks/mangle"
	"ec2net/render"
)

// chains returns the chains that should exist; none if packets are to get no marks. The
// chain for answers comes first, so that it is there for the answer to the first packet that
// gets a mark. An error says that a template is broken; then chains uses what was rendered
// last.
func (h *Host) chains(ctx context.Context, l *look, n marking) ([]mangle.Chain, error) {
	if !n.wanted {
		return nil, nil
	}
	enis := l.Marked(n.going)
	if n.soon != nil {
		enis = slices.DeleteFunc(enis, func(e facts.ENI) bool { return e.Name == n.soon.Name })
	}
	if n.soon != nil && n.soon.Routed {
		enis = append(enis, *n.soon)
	}
	if len(enis) == 0 {
		return nil, nil
	}
	slices.SortFunc(enis, func(a, b facts.ENI) int { return a.Number - b.Number })
	files, broken := h.renderAnswers(ctx, enis)
	answers, err := h.chain(n, render.DockerChain, "", answersPath, files)
	if broken = errors.Join(broken, err); answers.Text == "" {
		return nil, broken
	}
	all := []mangle.Chain{answers}
	for _, e := range enis {
		own, err := h.ownChain(ctx, l, n, e)
		broken = errors.Join(broken, err)
		if own.Text != "" {
			all = append(all, own)
		}
	}
	return all, broken
}

var answersPath = path.Join(stateDir, "docker.iptables")

// renderAnswers renders the fragment that marks answers.
func (h *Host) renderAnswers(ctx context.Context, enis []facts.ENI) ([]render.File, error) {
	ctx, cancel := context.WithTimeout(ctx, renderLimit)
	defer cancel()
	f, err := h.Templates.Docker(ctx, enis, h.Numbers.Base)
	if err != nil {
		return nil, err
	}
	return []render.File{f}, nil
}

// ownChain returns the chain of an ENI, without a text if it should have none.
func (h *Host) ownChain(ctx context.Context, l *look, n marking, e facts.ENI) (mangle.Chain, error) {
	link, _ := l.State.LinkNamed(e.Name)
	k, _ := l.Of(e.Name)
	soon := n.soon != nil && n.soon.Name == e.Name
	if !soon && (k.Left != "" || !link.Up) {
		return mangle.Chain{}, nil
	}
	fragment, err := render.Path("iptables", e.Name)
	if err != nil {
		return mangle.Chain{}, err
	}
	var files []render.File
	if e.Primary { // nothing else writes its files
		files, err = h.render(ctx, l.kind, e)
	} else if says, there := l.stanzas[e.Name]; l.unread[e.Name] != nil || there && !says.Marks {
		return mangle.Chain{}, l.unread[e.Name]
	}
	own, unread := h.chain(n, render.View{ENI: e}.Chain(), e.Name, fragment, files)
	return own, errors.Join(err, unread)
}

// chain returns a chain with its fragment. files were rendered anew for it, if any: chain
// writes them, unless the event only looks.
func (h *Host) chain(n marking, name, iface, path string, files []render.File) (mangle.Chain, error) {
	c := mangle.Chain{Name: name, Iface: iface, Path: path}
	i := slices.IndexFunc(files, func(f render.File) bool { return f.Path == path })
	if n.looks && i >= 0 {
		c.Text = string(files[i].Content)
		return c, nil
	}
	unwritten := h.write(c.Of(), files)
	text, unread := h.Tree.Read(path)
	c.Text = string(text)
	return c, errors.Join(unwritten, unread)
}

// isStale reports whether a chain that is not wanted has to go. The chain of an interface
// that is left alone stays, as does that of one of which nothing is known.
func (h *Host) isStale(l *look, n marking, chain string) bool {
	name := strings.TrimPrefix(chain, mangle.Prefix)
	link, there := l.State.LinkNamed(name)
	k, _ := l.Of(name)
	e, known := k.FactsOf(link)
	switch {
	case chain == render.DockerChain, name == n.going, !there:
		return true
	case k.Left != "":
		return false
	}
	// The primary's goes with that of the last other ENI.
	alone := !slices.ContainsFunc(l.Marked(n.going), func(m facts.ENI) bool { return m.Name == name })
	return !n.wanted || !link.Up || known && (!e.Routed || e.Primary && alone)
}
