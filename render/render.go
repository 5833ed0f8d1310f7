// Package render turns the facts of an ENI into the bytes of files, with text/template.
// The same facts and templates give the same bytes: it uses no clock, environment or
// network.
package render

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"ec2net/facts"
	"ec2net/iprule"
	"ec2net/lines"
)

// File is one rendered file.
type File struct {
	// Interface is the interface that the file is for: eth1.
	Interface string
	// Kind is the name for --only: cfg, iptables, ...
	Kind string
	// Path is where the file goes on the machine; always absolute.
	Path    string
	Content []byte
}

// maxOutput bounds a rendered file, in bytes: fifty addresses make about 5 KiB.
const maxOutput = 1 << 20

// View is the dot of a template: the facts of one ENI, and what follows from them.
type View struct {
	facts.ENI
	// Template says where the template comes from.
	Template string
	// Protocol is the number on every ip rule of ec2net.
	Protocol int
}

// Chain is the ENI's own chain in iptables' mangle table: ec2net-eth1.
func (v View) Chain() string { return "ec2net-" + v.Name }

// Path returns where the file of a kind goes: /var/lib/ec2net/eth1.iptables.
func (v View) Path(kind string) (string, error) { return Path(kind, v.Name) }

// Path returns where the file of a kind goes for an interface.
func Path(kind, iface string) (string, error) {
	k, ok := kindNamed(kind)
	if !ok {
		return "", fmt.Errorf("there is no kind of file %q; the kinds are %s", kind, strings.Join(Kinds(), ", "))
	}
	return k.path(iface), nil
}

// Nothing says why e has no files; "" if it has some.
func Nothing(e facts.ENI) string {
	switch {
	case e.Primary && !e.Routed:
		return fmt.Sprintf("%s is the primary ENI: ec2net writes no files for it, and never brings it up or takes it down", e.Name)
	case !e.HasIPv4():
		return fmt.Sprintf("%s has no IPv4 address, and ec2net does not render IPv6", e.Name)
	}
	return ""
}

// Render renders the files of one ENI: those of a stack, in the order of kinds, or only
// the named ones, of whatever stack.
// It returns all of them or, with an *Error, none. If Nothing gives a reason, it returns
// no files and no error.
//
// Render returns when ctx ends. The template then ends at the next function that it
// calls. If it calls none (an empty loop), it goes on until the process ends.
func (t *Templates) Render(ctx context.Context, stack Stack, e facts.ENI, only ...string) ([]File, error) {
	if Nothing(e) != "" {
		return nil, nil
	}
	return inTime(ctx, func(now *atomic.Pointer[Error]) ([]File, error) {
		var files []File
		for _, k := range kinds {
			wanted := k.stack == "" || k.stack == stack
			if len(only) > 0 {
				wanted = slices.Contains(only, k.name)
			}
			if !wanted || (k.stack != "" && e.Primary) {
				continue
			}
			f, err := t.file(ctx, k, e, now, func(template string) any {
				return View{ENI: e.Clone(), Template: template, Protocol: iprule.Protocol}
			})
			if err != nil {
				return nil, err
			}
			files = append(files, f)
		}
		return files, nil
	})
}

// DockerChain is the host's chain in iptables' mangle table. It marks each answer of a
// container for the ENI by which the request came in.
const DockerChain = "ec2net-docker"

// DockerView is the dot of docker.iptables.tmpl.
type DockerView struct {
	// ENIs are the live ENIs.
	ENIs []facts.ENI
	// Group is the interface group of all ENIs.
	Group int
	// Chain is the chain to fill.
	Chain string
	// Path is where the file goes, Template where the template comes from.
	Path, Template string
}

// Docker renders the fragment that marks the answers of containers.
func (t *Templates) Docker(ctx context.Context, enis []facts.ENI, group int) (File, error) {
	files, err := inTime(ctx, func(now *atomic.Pointer[Error]) ([]File, error) {
		f, err := t.file(ctx, docker, facts.ENI{}, now, func(template string) any {
			return DockerView{ENIs: enis, Group: group, Chain: DockerChain, Path: docker.path(""), Template: template}
		})
		return []File{f}, err
	})
	if err != nil {
		return File{}, err
	}
	return files[0], nil
}

// inTime runs do, and returns without its end if ctx ends first. do stores the file that
// it is rendering in now.
func inTime(ctx context.Context, do func(now *atomic.Pointer[Error]) ([]File, error)) ([]File, error) {
	type result struct {
		files []File
		err   error
	}
	var now atomic.Pointer[Error]
	done := make(chan result, 1)
	go func() {
		files, err := do(&now)
		done <- result{files, err}
	}()
	select {
	case r := <-done:
		// Report an error of the template even if ctx has ended.
		if late := ctx.Err(); late == nil || !errors.Is(r.err, late) {
			return r.files, r.err
		}
	case <-ctx.Done():
	}
	late := Error{File: "the files"}
	if at := now.Load(); at != nil {
		late = *at
	}
	late.Err = errors.New("the template did not end in time")
	return nil, &late
}

// file renders one file. view returns the dot of its template.
func (t *Templates) file(ctx context.Context, k kind, e facts.ENI, now *atomic.Pointer[Error], view func(template string) any) (File, error) {
	p, err := t.lookup(k, e.Name)
	if err != nil {
		return File{}, err
	}
	from := p.from
	now.Store(&Error{File: k.file(e.Name), Template: from})
	var out capped
	tmpl, err := p.ready(ctx)
	if err == nil {
		err = tmpl.Execute(&out, view(from.shown()))
	}
	if err == nil && k.check != nil {
		err = k.check(out.content, e)
	}
	if err == nil && k.stack != "" && lines.Unmanaged(out.content) {
		err = &handsOffError{e.Name}
	}
	if err != nil {
		return File{}, &Error{File: k.file(e.Name), Template: from, Err: err}
	}
	return File{Interface: e.Name, Kind: k.name, Path: k.path(e.Name), Content: out.content}, nil
}

// capped collects the output of a template, up to maxOutput.
type capped struct{ content []byte }

func (c *capped) Write(p []byte) (int, error) {
	if len(c.content)+len(p) > maxOutput {
		return 0, fmt.Errorf("the output is longer than %d bytes", maxOutput)
	}
	c.content = append(c.content, p...)
	return len(p), nil
}
