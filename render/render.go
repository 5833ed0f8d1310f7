// Package render turns the facts of an ENI into the bytes of files, through
// text/template: facts and templates in, bytes out. No clock, environment or
// network has a say, so the same facts and templates give the same bytes.
package render

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"ec2net/facts"
)

// File is one rendered file.
type File struct {
	// Interface is whose file it is: eth1.
	Interface string
	// Kind is what the file is, as in --only: cfg, iptables, ...
	Kind string
	// Path is where it belongs on the machine; always absolute.
	Path string
	// Template says where its template comes from.
	Template string
	Content  []byte
}

// maxOutput bounds a rendered file: fifty addresses make about 5 KiB.
const maxOutput = 1 << 20

// RuleProtocol is written on every ip rule, so that "ip rule" shows whose it
// is. The number is ec2net's own and does not change; 0xEC is free in
// /etc/iproute2/rt_protos.
const RuleProtocol = 236

// View is what a template sees as its dot: the facts of one ENI, and what
// follows from them.
type View struct {
	facts.ENI
	// Template says where this template comes from.
	Template string
	// Protocol is the number on every ip rule of ec2net.
	Protocol int
}

// Chain is the ENI's own chain in iptables' mangle table: ec2net-eth1.
func (v View) Chain() string { return "ec2net-" + v.Name }

// Path is where the file of a kind belongs: /var/lib/ec2net/eth1.iptables.
func (v View) Path(kind string) (string, error) { return Path(kind, v.Name) }

// Path is where the file of a kind belongs for an interface.
func Path(kind, iface string) (string, error) {
	k, ok := kindNamed(kind)
	if !ok {
		return "", fmt.Errorf("no file is called %q; there are %s", kind, strings.Join(Kinds(), ", "))
	}
	return k.path(iface), nil
}

// Nothing says why there is nothing to render for e, and is empty if there is
// something.
func Nothing(e facts.ENI) string {
	switch {
	case e.Primary:
		return fmt.Sprintf("%s is the primary ENI: ec2net writes no files for it and never takes it up or down", e.Name)
	case !e.HasIPv4():
		return fmt.Sprintf("%s has no IPv4 address, and ec2net does not render IPv6", e.Name)
	}
	return ""
}

// Render renders the files of one ENI, all kinds in their order, or only those
// named. It gives all of them or, with an *Error, none. There are no files for
// an ENI that Nothing has a reason for.
//
// A template can run for ever, and text/template cannot be stopped from
// outside. When ctx ends, Render returns, says why if ctx does (context.Cause), and leaves the template running: the
// caller is expected to end the process soon.
func (t *Templates) Render(ctx context.Context, e facts.ENI, only ...string) ([]File, error) {
	if Nothing(e) != "" {
		return nil, nil
	}
	type result struct {
		files []File
		err   error
	}
	var now atomic.Pointer[Error]
	done := make(chan result, 1)
	go func() {
		files, err := t.render(e, only, &now)
		done <- result{files, err}
	}()
	select {
	case r := <-done:
		return r.files, r.err
	case <-ctx.Done():
		late := Error{File: e.Name}
		if at := now.Load(); at != nil {
			late = *at
		}
		late.Err = errors.New("the template did not come to its end in time")
		if cause := context.Cause(ctx); !errors.Is(cause, context.DeadlineExceeded) {
			late.Err = cause
		}
		return nil, &late
	}
}

// render does the work of Render, and says in now which file it is at.
func (t *Templates) render(e facts.ENI, only []string, now *atomic.Pointer[Error]) ([]File, error) {
	var files []File
	for _, k := range kinds {
		if len(only) > 0 && !slices.Contains(only, k.name) {
			continue
		}
		tmpl, from, err := t.lookup(k, e.Name)
		if err != nil {
			return nil, err
		}
		now.Store(&Error{File: k.file(e.Name), Template: from})
		var out capped
		err = tmpl.Execute(&out, View{ENI: e.Clone(), Template: from.shown(), Protocol: RuleProtocol})
		if err == nil && k.check != nil {
			err = k.check(out.content, e)
		}
		if err != nil {
			return nil, &Error{File: k.file(e.Name), Template: from, Err: err}
		}
		files = append(files, File{Interface: e.Name, Kind: k.name, Path: k.path(e.Name), Template: from.shown(), Content: out.content})
	}
	return files, nil
}

// capped takes what a template writes, up to maxOutput.
type capped struct{ content []byte }

func (c *capped) Write(p []byte) (int, error) {
	if len(c.content)+len(p) > maxOutput {
		return 0, fmt.Errorf("the output is longer than %d bytes", maxOutput)
	}
	c.content = append(c.content, p...)
	return len(p), nil
}
