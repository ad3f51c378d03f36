// Package jinja renders chat templates: the part of Jinja2 that model repositories use, with the
// text a sandboxed Jinja2 prints, and with three properties of its own.
//
// Taint: every string knows which of its bytes the model's own files wrote (trusted) and which the
// request brought (untrusted). Render returns spans, so that a user who writes the text of a
// special token gets text, not the token (R1: a byte that came from the request is never in a
// trusted span; where an operation cannot follow the bytes, its whole result is untrusted).
//
// Bounds: steps, bytes, nesting and the context's deadline end any template (R2: whatever a
// template or a request sizes is checked before it is allocated or recursed into).
//
// Closed world: a template sees the values it was given and a fixed list of functions. There is no
// loader, no reflection, and no operation that changes a value except setting a namespace's
// attribute (R3), so one Dict may be rendered by several goroutines at once.
package jinja

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// maxSourceBytes bounds a template's source; published chat templates are below 64 KiB.
const maxSourceBytes = 1 << 20

// Template is a compiled template. It never changes and may be rendered concurrently.
type Template struct {
	name string
	body []stmt
}

// Span is a piece of output. Trusted is true for the template's own text, for numbers and for
// values passed as trusted; it is false for anything that came from the caller's variables.
type Span struct {
	Text    string
	Trusted bool
}

// Options bounds one Render. The zero value fits a conversation of a million characters.
type Options struct {
	// Now is what strftime_now formats. Zero means the current local time.
	Now time.Time
	// MaxSteps bounds the work: about one step for each expression, statement, element or 64
	// bytes of text touched. Zero means 5 million, about a second.
	MaxSteps int
	// MaxOutputBytes bounds the output and every string made on the way; all strings made in one
	// Render together may have 64 times as much. Zero means 16 MiB.
	MaxOutputBytes int
	// MaxDepth bounds the nesting of expressions, blocks and macro calls while they run; one
	// macro call takes about ten. Zero means 4000.
	MaxDepth int
}

func (o *Options) setDefaults() {
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	if o.MaxSteps == 0 {
		o.MaxSteps = 5_000_000
	}
	if o.MaxOutputBytes == 0 {
		o.MaxOutputBytes = 16 << 20
	}
	if o.MaxDepth == 0 {
		o.MaxDepth = 4000
	}
}

func (o *Options) validate() error {
	const maxBytes, maxDepth = 1 << 30, 20_000
	switch {
	case o.MaxSteps < 0:
		return fmt.Errorf("jinja: MaxSteps is %d, must not be negative", o.MaxSteps)
	case o.MaxOutputBytes < 0 || o.MaxOutputBytes > maxBytes:
		return fmt.Errorf("jinja: MaxOutputBytes is %d, must be 0 to %d", o.MaxOutputBytes, maxBytes)
	case o.MaxDepth < 0 || o.MaxDepth > maxDepth:
		return fmt.Errorf("jinja: MaxDepth is %d, must be 0 to %d", o.MaxDepth, maxDepth)
	}
	return nil
}

// ErrBudget is wrapped by errors that end a template because it reached a bound in Options.
var ErrBudget = errors.New("template budget exceeded")

// RaiseError is what a template's raise_exception(message) returns.
type RaiseError struct {
	Message string // as the template wrote it; may hold the request's text and newlines
}

// Error returns the message on one line.
func (e *RaiseError) Error() string { return oneLine(e.Message) }

// lineError adds where in a template something went wrong.
type lineError struct {
	name string
	line int
	err  error
}

func (e *lineError) Error() string {
	return fmt.Sprintf("template %s: line %d: %s", oneLine(e.name), e.line, oneLine(e.err.Error()))
}

func (e *lineError) Unwrap() error { return e.err }

// oneLine makes a message fit one line of a log: control characters become spaces, and the rest
// of an overlong message is cut.
func oneLine(s string) string {
	const maxBytes = 400
	if len(s) > maxBytes {
		s = strings.ToValidUTF8(s[:maxBytes], "") + "..."
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0x85 || r == 0x2028 || r == 0x2029 {
			return ' '
		}
		return r
	}, s)
}

// Parse compiles a template as Hugging Face does: trim_blocks and lstrip_blocks on, with break,
// continue and the generation tag. The name only serves error messages.
func Parse(name, source string) (*Template, error) {
	if len(source) > maxSourceBytes {
		return nil, &lineError{name, 1, fmt.Errorf("source has %d bytes, limit %d",
			len(source), maxSourceBytes)}
	}
	if !utf8.ValidString(source) {
		return nil, &lineError{name, 1, errors.New("source is not valid UTF-8")}
	}
	tokens, line, err := lex(source)
	if err != nil {
		return nil, &lineError{name, line, err}
	}
	p := &parser{tokens: tokens}
	body, err := p.parseBody()
	if err != nil {
		return nil, &lineError{name, p.peek().line, err}
	}
	return &Template{name: name, body: body}, nil
}

// Render runs the template. The values in vars come from the request and are untrusted; trusted
// holds strings from the model's own files (bos_token, eos_token) and wins over a variable of the
// same name. The spans joined are the output; neighbours differ in trust.
func (t *Template) Render(
	ctx context.Context, vars *Dict, trusted map[string]string, opts Options,
) ([]Span, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	opts.setDefaults()
	m := &machine{
		ctx: ctx, vars: vars, trusted: trusted, now: opts.Now, line: 1,
		stepsLeft: opts.MaxSteps, maxBytes: opts.MaxOutputBytes,
		bytesLeft: 64 * opts.MaxOutputBytes, maxDepth: opts.MaxDepth,
		frame: &frame{},
	}
	m.out = &builder{m: m}
	if err := m.execAll(t.body); err != nil {
		return nil, &lineError{t.name, m.line, err}
	}
	return m.out.spans(), nil
}
