package kernel

import "errors"

// tries is how often a list is asked for that changes each time while it is read.
const tries = 10

// list reads a list, again if it changed meanwhile. On a machine on which something
// changes all the time that may never end, so after some tries list returns what
// they saw together: an entry that was there all the time may be missing in one of
// them, or be there twice, but not in all. Each entry of it was there at some moment.
// The error is ErrInterrupted only if nothing could be read.
func list[T comparable](k *Kernel, what string, dump func(each func(T)) error) (all []T, together bool, err error) {
	var seen []T
	fewest := make(map[T]int) // times that it was there in one list, and once if in none
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
