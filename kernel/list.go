package kernel

import "errors"

// tries is how often a list is asked for that changes each time while it is read.
const tries = 10

// list reads a list, again if it changed meanwhile. On a machine on which something
// changes all the time that may never end, so after some tries list returns what
// they saw together, and ErrInterrupted: an entry that was there all the time may be
// missing in one of them, or be there twice, but not in all. Each entry of it was
// there at some moment.
func list[T comparable](k *Kernel, what string, dump func(each func(T)) error) ([]T, error) {
	var seen []T
	fewest := make(map[T]int)
	for try := range tries {
		if err := k.before(what); errors.Is(err, ErrInterrupted) {
			continue
		} else if err != nil {
			return nil, err
		}
		var all []T
		err := dump(func(one T) { all = append(all, one) })
		if err == nil || !errors.Is(err, ErrInterrupted) {
			return all, err
		}
		times := make(map[T]int)
		for _, one := range all {
			if times[one]++; fewest[one] == 0 {
				seen = append(seen, one)
				fewest[one] = len(all)
				if try > 0 {
					fewest[one] = 1 // it was missing before
				}
			}
		}
		for _, one := range seen {
			fewest[one] = min(fewest[one], max(times[one], 1))
		}
	}
	if seen == nil {
		return nil, ErrInterrupted
	}
	var together []T
	for _, one := range seen {
		for range fewest[one] {
			together = append(together, one)
		}
	}
	return together, ErrInterrupted
}

// settled takes what several tries saw together for the list.
func settled[T any](all []T, err error) ([]T, error) {
	if errors.Is(err, ErrInterrupted) && len(all) > 0 {
		return all, nil
	}
	return all, err
}
