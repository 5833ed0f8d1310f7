package kernel

import "errors"

// again lists again when the list changed while it was read: it may lack entries
// then, which would look like entries to add. what is the name of the list.
func (k *Kernel) again(what string, list func() error) error {
	const tries = 10
	for try := 1; ; try++ {
		err := k.before(what)
		if err == nil {
			err = list()
		}
		if !errors.Is(err, ErrInterrupted) || try == tries {
			return err
		}
	}
}
