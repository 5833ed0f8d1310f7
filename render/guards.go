package render

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"text/template"
)

// The functions here replace those of sprig and text/template whose results differ from
// run to run, or that can crash the process: text/template itself has no limits.

// keys returns the keys of dicts, sorted in each; sprig's are in random order.
func keys(dicts ...map[string]any) []string {
	names := []string{}
	for _, d := range dicts {
		start := len(names)
		for name := range d {
			names = append(names, name)
		}
		slices.Sort(names[start:])
	}
	return names
}

func values(d map[string]any) []any {
	list := []any{}
	for _, name := range keys(d) {
		list = append(list, d[name])
	}
	return list
}

// printf refuses the verbs that print pointers, and prints addresses and blocks as text
// whatever the verb.
func printf(format string, args ...any) (string, error) {
	verbs := strings.ReplaceAll(format, "%%", "")
	for _, part := range strings.Split(verbs, "%")[1:] {
		verb := strings.TrimLeft(part, "+-# 0123456789.[]*")
		if strings.HasPrefix(verb, "p") || (strings.HasPrefix(verb, "v") && strings.Contains(part[:len(part)-len(verb)], "#")) {
			return "", errors.New("printf: the output of %p and %#v differs from run to run")
		}
	}
	return fmt.Sprintf(format, inWords(args)...), nil
}

// inWords replaces values that have a String method by their text, since %d of an address
// would print its fields, including a pointer.
func inWords(args []any) []any {
	words := make([]any, len(args))
	for i, a := range args {
		words[i] = a
		v := reflect.ValueOf(a)
		if s, ok := a.(fmt.Stringer); ok {
			// A mark stays as it is, so that %d prints a number.
			if !v.CanInt() && !v.CanUint() {
				words[i] = s.String()
			}
			continue
		}
		if v.Kind() == reflect.Slice && v.Type().Elem().Implements(reflect.TypeFor[fmt.Stringer]()) {
			list := make([]string, v.Len())
			for j := range list {
				list[j] = fmt.Sprint(v.Index(j).Interface())
			}
			words[i] = list
		}
	}
	return words
}

// maxMade bounds the results of all function calls in one rendering, in bytes: sixteen
// files of the maximal length.
const maxMade = 16 << 20

// multiply are functions whose result may be as large as the product of their arguments.
// bounded checks the product before the call.
var multiply = []string{"indent", "nindent", "join", "replace", "regexReplaceAll", "regexReplaceAllLiteral",
	"mustRegexReplaceAll", "mustRegexReplaceAllLiteral", "wrapWith"}

// bounded wraps functions so that a template ends: nothing can stop text/template from
// outside, but it stops at a function that returns an error. A wrapped function returns
// one when ctx has ended, and when all have made too much together. bounded counts what
// they make and does not measure memory, so that a template always stops at the same
// place.
func bounded(ctx context.Context, functions template.FuncMap) template.FuncMap {
	left := maxMade
	wrapped := make(template.FuncMap, len(functions))
	tooMuch := fmt.Errorf("the functions of the template have made more than %d MiB", maxMade>>20)
	for name, f := range functions {
		before := func([]reflect.Value) error { return nil }
		if slices.Contains(multiply, name) {
			before = func(args []reflect.Value) error {
				product := 1
				for _, a := range args {
					if product *= factor(a); product > maxMade {
						return tooMuch
					}
				}
				return nil
			}
		}
		wrapped[name] = checked(f, before, func(_, results []reflect.Value) error {
			if left -= size(results[0], left); left < 0 {
				return tooMuch
			}
			return ctx.Err()
		})
	}
	return wrapped
}

// factor returns how many times an argument may repeat another: for a number its value,
// for a text its length, for a list the length of all its texts.
func factor(v reflect.Value) int {
	if v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	if v.CanInt() {
		return int(max(1, min(v.Int(), maxMade+1)))
	}
	return max(1, size(v, maxMade)-each)
}

// each is what size counts for a value, without its text.
const each = 16

// size estimates the bytes of a value when it is printed, so a value that a dict has twice
// counts twice. It stops counting once it reaches most.
func size(v reflect.Value, most int) int {
	if v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	n := each
	switch v.Kind() {
	case reflect.String:
		n += v.Len()
	case reflect.Slice, reflect.Array:
		for i := 0; i < v.Len() && n <= most; i++ {
			n += size(v.Index(i), most-n)
		}
	case reflect.Map:
		for of := v.MapRange(); n <= most && of.Next(); {
			n += size(of.Key(), most-n)
			n += size(of.Value(), most-n)
		}
	}
	return n
}

// withoutCycles wraps a function that changes a dict: printing a dict that holds itself
// would crash the process.
func withoutCycles(f any) any {
	return checked(f, func([]reflect.Value) error { return nil }, func(args, _ []reflect.Value) error {
		if holdsItself(args[0], nil) {
			return errors.New("a dict cannot hold itself")
		}
		return nil
	})
}

// checked wraps a function for templates. The wrapped one fails if before refuses the
// arguments, or after the results.
func checked(f any, before func(args []reflect.Value) error, after func(args, results []reflect.Value) error) any {
	fn := reflect.ValueOf(f)
	wrapped := func(args []reflect.Value) []reflect.Value {
		call := fn.Call
		if fn.Type().IsVariadic() {
			call = fn.CallSlice
		}
		if err := before(args); err != nil {
			return []reflect.Value{reflect.Zero(fn.Type().Out(0)), reflect.ValueOf(&err).Elem()}
		}
		results := call(args)
		if len(results) == 1 {
			results = append(results, reflect.Zero(reflect.TypeFor[error]()))
		}
		if err := after(args, results); err != nil && results[1].IsNil() {
			results[1] = reflect.ValueOf(&err).Elem()
		}
		return results
	}
	in := make([]reflect.Type, fn.Type().NumIn())
	for i := range in {
		in[i] = fn.Type().In(i)
	}
	out := []reflect.Type{fn.Type().Out(0), reflect.TypeFor[error]()}
	return reflect.MakeFunc(reflect.FuncOf(in, out, fn.Type().IsVariadic()), wrapped).Interface()
}

func holdsItself(v reflect.Value, above []uintptr) bool {
	if v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	switch v.Kind() {
	case reflect.Map:
		if slices.Contains(above, v.Pointer()) {
			return true
		}
		above = append(above, v.Pointer())
		for _, key := range v.MapKeys() {
			if holdsItself(v.MapIndex(key), above) {
				return true
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			if holdsItself(v.Index(i), above) {
				return true
			}
		}
	}
	return false
}

// maxList bounds how many numbers one call of a function makes.
const maxList = 1 << 16

func repeat(count int, s string) (string, error) {
	if count < 0 || (len(s) > 0 && count > maxOutput/len(s)) {
		return "", fmt.Errorf("repeat: the text would be longer than %d bytes", maxOutput)
	}
	return strings.Repeat(s, count), nil
}

func until(sprigs func(int) []int) func(int) ([]int, error) {
	return func(count int) ([]int, error) {
		if count > maxList || count < -maxList {
			return nil, fmt.Errorf("until: more than %d numbers", maxList)
		}
		return sprigs(count), nil
	}
}

func untilStep(sprigs func(int, int, int) []int) func(int, int, int) ([]int, error) {
	return func(start, stop, step int) ([]int, error) {
		if step != 0 && (stop-start)/step > maxList {
			return nil, fmt.Errorf("untilStep: more than %d numbers", maxList)
		}
		return sprigs(start, stop, step), nil
	}
}

func seq(sprigs func(...int) string) func(...int) (string, error) {
	return func(bounds ...int) (string, error) {
		for _, b := range bounds {
			if b > maxList || b < -maxList {
				return "", fmt.Errorf("seq: a number beyond %d", maxList)
			}
		}
		return sprigs(bounds...), nil
	}
}
