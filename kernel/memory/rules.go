package memory

import (
	"slices"

	"golang.org/x/sys/unix"

	"ec2net/plan"
)

// AddRule adds somebody else's rule, which may be odd.
func (k *Kernel) AddRule(r plan.Rule) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	defer k.changed()
	return k.addRule(r)
}

// addRule adds a rule behind those of its priority, unless it exists.
func (k *Kernel) addRule(r plan.Rule) error {
	if slices.Contains(k.rules, r) {
		return unix.EEXIST
	}
	k.insertRule(r)
	return nil
}

func (k *Kernel) insertRule(r plan.Rule) {
	behind := 0
	for i, o := range k.rules {
		if o.Priority <= r.Priority {
			behind = i + 1
		}
	}
	k.rules = slices.Insert(k.rules, behind, r)
}

// DelRule acts as "ip rule del": it deletes the first rule that has all attributes of r,
// and perhaps more.
func (k *Kernel) DelRule(r plan.Rule) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	i := slices.IndexFunc(k.rules, func(o plan.Rule) bool { return says(o, r) })
	if i < 0 {
		return unix.ENOENT
	}
	k.rules = slices.Delete(k.rules, i, i+1)
	k.changed()
	return nil
}

// FlushRules deletes all rules but the kernel's own. ("ip rule flush" also deletes most
// of those.)
func (k *Kernel) FlushRules() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.rules = slices.DeleteFunc(k.rules, func(r plan.Rule) bool { return r.Protocol != unix.RTPROT_KERNEL })
	k.changed()
}

// delRule deletes this rule and no other. Earlier rules that the request would hit end up
// behind the others of their priority.
func (k *Kernel) delRule(r plan.Rule) error {
	i := slices.Index(k.rules, r)
	if i < 0 {
		return unix.ENOENT
	}
	var moved []plan.Rule
	for _, o := range k.rules[:i] {
		if says(o, r) {
			moved = append(moved, o)
		}
	}
	k.rules = slices.Delete(k.rules, i, i+1)
	for _, o := range moved {
		i := slices.Index(k.rules, o)
		k.rules = slices.Delete(k.rules, i, i+1)
		k.insertRule(o)
	}
	return nil
}

// unmistakable reports whether the last look saw this rule, nobody has deleted it through
// k since, and a request to delete it would hit no other rule of that look: then it need
// not list the rules again.
func (k *Kernel) unmistakable(r plan.Rule) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	at := slices.Index(k.looked, r)
	if at < 0 || slices.ContainsFunc(k.looked, func(o plan.Rule) bool { return o != r && says(o, r) }) {
		return false
	}
	k.looked = slices.Delete(k.looked, at, at+1)
	return true
}

// says reports whether a rule has all attributes in a request to delete one: rule_find of
// net/core/fib_rules.c.
func says(has, named plan.Rule) bool {
	switch {
	case has.Priority != named.Priority,
		named.Table != 0 && has.Table != named.Table,
		named.From.IsValid() && has.From != named.From,
		named.To.IsValid() && has.To != named.To,
		named.Mark != 0 && has.Mark != named.Mark,
		named.MarkMask != 0 && has.MarkMask != named.MarkMask,
		named.IIF != "" && has.IIF != named.IIF,
		named.OIF != "" && has.OIF != named.OIF,
		named.Protocol != 0 && has.Protocol != named.Protocol,
		named.SuppressPrefixLength >= 0 && has.SuppressPrefixLength != named.SuppressPrefixLength,
		named.SuppressGroup >= 0 && has.SuppressGroup != named.SuppressGroup:
		return false
	}
	return named.Extra == "" || has.Extra == named.Extra
}
