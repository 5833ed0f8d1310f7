package lab

import (
	"context"
	"fmt"
	"runtime"
	"slices"
)

// Program runs f as a test would: so a program, such as a demonstration, can use the
// lab. When f has ended, by Fatalf or not, Program runs the functions of Cleanup. The
// error is that of Fatalf or Skipf.
func Program(ctx context.Context, f func(TB)) error {
	ctx, cancel := context.WithCancel(ctx)
	p := &program{ctx: ctx}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(p)
	}()
	<-done
	cancel()
	for _, clean := range slices.Backward(p.cleanups) {
		clean()
	}
	return p.err
}

// program is a TB without a test.
type program struct {
	ctx      context.Context
	cleanups []func()
	err      error
}

func (p *program) Helper()                  {}
func (p *program) Context() context.Context { return p.ctx }
func (p *program) Cleanup(f func())         { p.cleanups = append(p.cleanups, f) }

func (p *program) Fatalf(format string, args ...any) {
	p.err = fmt.Errorf(format, args...)
	runtime.Goexit()
}

func (p *program) Skipf(format string, args ...any) {
	p.err = fmt.Errorf(format, args...)
	runtime.Goexit()
}
