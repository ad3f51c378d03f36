// Command drover serves mixture-of-experts models from a pool of machines: one
// binary for every role, for the client commands, and for a whole cluster on a laptop.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Exit codes; docs/cli.md promises them.
const (
	exitDone        = 0
	exitFailed      = 1 // a check failed, or the input was refused
	exitUsage       = 2
	exitInterrupted = 130
)

func main() {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup has it ignored
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	code := execute(ctx, os.Args[1:], &globals{in: os.Stdin, out: os.Stdout, err: os.Stderr})
	stop()
	os.Exit(code)
}

// execute runs one command line and returns its exit code.
func execute(ctx context.Context, args []string, g *globals) int {
	root := newRoot(g)
	root.SetArgs(args)
	c, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	var use usageError
	switch {
	case errors.Is(err, errSilent):
		return exitFailed
	case errors.As(err, &use):
		report(g.err, err, "see `"+c.CommandPath()+" --help`")
		return exitUsage
	case ctx.Err() != nil:
		report(g.err, errors.New("interrupted"), "")
		return exitInterrupted
	}
	report(g.err, err, hint(err))
	return exitFailed
}

// errSilent ends a command with exit code 1 when it has said why itself.
var errSilent = errors.New("failed")

// usageError is a command line that cannot be understood.
type usageError struct{ error }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// report writes an error in one line, and what to do about it in another.
func report(w io.Writer, err error, hint string) {
	text := err.Error()
	if s, ok := status.FromError(err); ok && s.Code() != codes.OK {
		text = s.Message()
	}
	// gRPC wraps what the operating system said of a failed connection.
	if _, dial, ok := strings.Cut(text, "transport: Error while dialing: "); ok {
		text = "no connection to a coordinator: " + strings.TrimSuffix(dial, "\"")
	}
	fmt.Fprintf(w, "drover: %s\n", strings.ReplaceAll(text, "\n", "; "))
	if hint != "" {
		fmt.Fprintf(w, "hint: %s\n", hint)
	}
}

// hints are what to do about errors that users meet often, by what these have in them.
var hints = []struct{ in, hint string }{
	{"no placement yet", "start `drover expertnode` with the coordinator's --etcd, --model and --mode, " +
		"as many as its --min-nodes; `drover nodes` lists who has joined"},
	{"no live replica", "the cluster is placing the expert elsewhere, or waits for nodes; try again " +
		"in a moment, or look at `drover nodes`"},
	{"etcd does not answer", "answers go on meanwhile; bring a majority of etcd's members back"},
	{"does not look like a TLS handshake",
		"it does not speak TLS: --plaintext reaches it, on loopback"},
	{"looked like an HTTP/1.1 header", "this is an HTTP port; --endpoint is a coordinator's gRPC " +
		"address"},
	{"error reading server preface", "it may speak TLS: leave out --plaintext, or give --ca FILE or " +
		"--tls DIR"},
	{"has no chat template", "--prompts FILE --out FILE goes on from text: a line of it is " +
		`{"prompt":"…"}`},
}

// hint says what to do about an error.
func hint(err error) string {
	if unknown := unknownError(""); errors.As(err, &unknown) {
		return "is a coordinator running? `drover up` starts one; --ca FILE or --tls DIR reaches " +
			"another by TLS, --plaintext one on loopback without"
	}
	code := status.Code(err)
	if code == codes.Unavailable || code == codes.FailedPrecondition {
		for _, h := range hints {
			if strings.Contains(err.Error(), h.in) {
				return h.hint
			}
		}
	}
	switch code {
	case codes.Unavailable:
		return "is a coordinator running? `drover up` starts one; --endpoint names another"
	case codes.DeadlineExceeded:
		return "the coordinator did not answer in time; `drover nodes` shows the cluster"
	}
	return ""
}
