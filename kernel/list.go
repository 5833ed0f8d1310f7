package kernel

import "errors"

// tries bounds how often list asks again because the list changed while it was read.
const tries = 10

// list reads a list, and again if it changed meanwhile. On a busy machine it may change
// every time, so after some tries list combines what they saw, and together is true. A
// try may miss an entry that was there all the time, or see it twice, but not every try
// does. Each entry in the outcome existed at some moment. The error is ErrInterrupted
// only if no try read anything.
func list[T comparable](k *Kernel, what string, dump func(each func(T)) error) (all []T, together bool, err error) {
	var seen []T
	fewest := make(map[T]int) // the least often that a list had an entry, but at least 1
	lists := 0
	for range tries {
		if err := k.before(what); errors.Is(err, ErrInterrupted) {
			continue
		} else if err != nil {
			return nil, false, err
		}
		all = nil
		err := dump(func(one T) { all = append(all, one) })
		if err == nil {
			return all, false, nil
		} else if !errors.Is(err, ErrInterrupted) {
			return nil, false, err
		}
		times := make(map[T]int)
		for _, one := range all {
			times[one]++
		}
		for _, one := range all {
			if _, there := fewest[one]; !there {
				seen = append(seen, one)
				fewest[one] = times[one]
				if lists > 0 {
					fewest[one] = 1
				}
			}
		}
		for _, one := range seen {
			fewest[one] = min(fewest[one], max(times[one], 1))
		}
		lists++
	}
	if lists == 0 {
		return nil, false, ErrInterrupted
	}
	all = nil
	for _, one := range seen {
		for range fewest[one] {
			all = append(all, one)
		}
	}
	return all, true, nil
}
