package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"drover/internal/batch"
	droverv1 "drover/proto/drover/v1"
)

// runBatch answers a file of prompts, with a progress bar on a terminal.
func runBatch(ctx context.Context, service droverv1.CoordinatorServiceClient,
	opts batch.Options) error {
	var clear func()
	opts.Progress, clear = progress(&globals{err: os.Stderr}, "prompts")
	sum, err := batch.Run(ctx, service, opts)
	clear()
	if err != nil {
		return err
	}
	if sum.Errors > 0 {
		return fmt.Errorf("%d of %d lines in %s hold an error", sum.Errors, sum.Lines, opts.Out)
	}
	return nil
}

// progress draws a bar on standard error while it is a terminal, and returns what takes it away.
func progress(g *globals, what string) (update func(done, total int), clear func()) {
	if !isTerminal(g.err) {
		return nil, func() {}
	}
	bar := &bar{w: g.err, what: what, begun: time.Now()}
	return bar.update, bar.clear
}

// bar is a line that is drawn over itself. Its calls do not overlap.
type bar struct {
	w           io.Writer
	what        string
	begun, last time.Time
}

const barWidth = 30

// update draws the bar, at most ten times a second, and at the end.
func (b *bar) update(done, total int) {
	now := time.Now()
	if total <= 0 || done < total && now.Sub(b.last) < 100*time.Millisecond {
		return
	}
	b.last = now
	full := barWidth * done / total
	fmt.Fprintf(b.w, "\r\x1b[K[%s%s] %d/%d %s, %s", strings.Repeat("=", full),
		strings.Repeat(" ", barWidth-full), done, total, b.what,
		now.Sub(b.begun).Round(time.Second))
}

func (b *bar) clear() { fmt.Fprint(b.w, "\r\x1b[K") }
