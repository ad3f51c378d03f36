package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"drover/internal/answer"
	droverv1 "drover/proto/drover/v1"
)

func newChatCommand(g *globals) *cobra.Command {
	var t target
	var system string
	c := &cobra.Command{
		Use:   "chat",
		Short: "Hold a conversation in the terminal",
		Long: `Chat reads a line, prints the answer as it comes, and remembers the conversation.

  /reset        forget the conversation
  /system TEXT  set the system message and forget the conversation
  /quit         end (so does the end of the input)

Exit codes: 0 done, 1 an error, 2 wrong usage, 130 interrupted.`,
		Example: `  drover chat
  drover chat --model models/tiny-maverick
  echo "What is the capital of Italy?" | drover chat`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			service, stop, err := t.open(c.Context(), g)
			if err != nil {
				return err
			}
			defer stop()
			chat := &conversation{g: g, client: service, system: system}
			return chat.loop(c.Context())
		},
	}
	t.flags(c)
	c.Flags().StringVar(&system, "system", "", "system message")
	return c
}

// conversation is a chat's state.
type conversation struct {
	g        *globals
	client   droverv1.CoordinatorServiceClient
	system   string
	messages []*droverv1.ChatMessage
}

// loop answers lines until the input ends or ctx does.
func (v *conversation) loop(ctx context.Context) error {
	prompt := ""
	if isTerminal(v.g.out) {
		prompt = "> "
		fmt.Fprintln(v.g.out, "/quit ends, /reset forgets, /system TEXT sets the system message.")
	}
	lines := readLines(v.g.in)
	for {
		fmt.Fprint(v.g.out, prompt)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case line, ok := <-lines:
			if !ok {
				return nil
			}
			if done, err := v.turn(ctx, strings.TrimSpace(line)); done || err != nil {
				return err
			}
		}
	}
}

// readLines reads in the background, since a terminal's read cannot be interrupted:
// its goroutine ends with the process.
func readLines(r io.Reader) <-chan string {
	lines := make(chan string)
	go func() {
		defer close(lines)
		in := bufio.NewScanner(r)
		in.Buffer(nil, 1<<20)
		for in.Scan() {
			lines <- in.Text()
		}
	}()
	return lines
}

// turn handles one line.
func (v *conversation) turn(ctx context.Context, line string) (done bool, err error) {
	command, rest, _ := strings.Cut(line, " ")
	switch {
	case line == "":
		return false, nil
	case command == "/quit":
		return true, nil
	case command == "/reset":
		v.messages = nil
		return false, nil
	case command == "/system":
		v.system, v.messages = strings.TrimSpace(rest), nil
		return false, nil
	case strings.HasPrefix(command, "/"):
		fmt.Fprintf(v.g.err, "unknown command %s: /quit, /reset and /system TEXT exist\n", command)
		return false, nil
	}
	return false, v.say(ctx, line)
}

// say sends a message and prints the answer. An answer that fails leaves the
// conversation as it was, so that it can go on.
func (v *conversation) say(ctx context.Context, text string) error {
	messages := append(v.messages[:len(v.messages):len(v.messages)],
		&droverv1.ChatMessage{Role: "user", Content: text})
	all := messages
	if v.system != "" {
		all = append([]*droverv1.ChatMessage{{Role: "system", Content: v.system}}, messages...)
	}
	got, err := answer.Stream(ctx, v.client, answer.Conversation(all),
		func(text string) { _, _ = io.WriteString(v.g.out, text) })
	fmt.Fprintln(v.g.out)
	if err != nil {
		if ctx.Err() != nil || !isTerminal(v.g.out) {
			return errors.Join(err, ctx.Err())
		}
		report(v.g.err, err, hint(err))
		return nil
	}
	v.messages = append(messages, &droverv1.ChatMessage{Role: "assistant", Content: got.Text})
	return nil
}
