package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"drover/tokenizer"
	"drover/tokenizer/jinja"
)

// conversation is what a chat template is given.
type conversation struct {
	Name     string          `json:"name"`
	Messages json.RawMessage `json:"messages"`
	Tools    json.RawMessage `json:"tools"`
	// AddGenerationPrompt is true if it is absent.
	AddGenerationPrompt *bool `json:"add_generation_prompt"`
}

// render runs a template as the reference does: tools and documents are null when there are none.
func (cv conversation) render(
	ctx context.Context, t *jinja.Template, variables map[string]json.RawMessage,
	trusted map[string]string, now time.Time,
) ([]jinja.Span, error) {
	vars := jinja.NewDict()
	set := func(name string, text json.RawMessage) error {
		if len(text) == 0 {
			text = json.RawMessage("null")
		}
		value, err := jinja.ParseJSON(text)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		vars.Set(name, value)
		return nil
	}
	err := errors.Join(set("messages", cv.Messages), set("tools", cv.Tools), set("documents", nil))
	for name, text := range variables {
		err = errors.Join(err, set(name, text))
	}
	if err != nil {
		return nil, err
	}
	add := cv.AddGenerationPrompt == nil || *cv.AddGenerationPrompt
	vars.Set("add_generation_prompt", jinja.Bool(add))
	return t.Render(ctx, vars, trusted, jinja.Options{Now: now})
}

// joined is the rendered text.
func joined(spans []jinja.Span) string {
	var b strings.Builder
	for _, s := range spans {
		b.WriteString(s.Text)
	}
	return b.String()
}

// encode turns a rendered prompt into tokens.
func encode(t *tokenizer.Tokenizer, spans []jinja.Span) []int32 {
	pieces := make([]tokenizer.Span, len(spans))
	for i, s := range spans {
		pieces[i] = tokenizer.Span{Text: s.Text, Trusted: s.Trusted}
	}
	return t.EncodeSpans(pieces)
}

// parseClock reads the fixtures' time.
func parseClock(s string) (time.Time, error) { return time.Parse("2006-01-02T15:04:05", s) }

// templateCase is one template with one conversation: a text, or an error.
type templateCase struct {
	Template     string
	Conversation string
	Variables    map[string]json.RawMessage
	Text         *string
	Error        *string
	ErrorType    string `json:"error_type"`
}

// templateChecks is a folder of templates.
type templateChecks struct {
	f             fixture
	now           time.Time
	conversations map[string]conversation
	templates     map[string]*jinja.Template
}

// checkTemplates renders every conversation with every template, a case for each template.
func checkTemplates(ctx context.Context, v *verifier, f fixture) error {
	var want struct {
		Now   string
		Cases []templateCase
	}
	var list []conversation
	err := errors.Join(
		readJSON(f.beside("expected.json"), &want),
		readJSON(f.beside("conversations.json"), &list))
	if err != nil {
		v.report(Result{Name: f.name, Status: Failed, Detail: err.Error()})
		return nil
	}
	t := templateChecks{f: f, conversations: map[string]conversation{},
		templates: map[string]*jinja.Template{}}
	if t.now, err = parseClock(want.Now); err != nil {
		v.report(Result{Name: f.name, Status: Failed, Detail: err.Error()})
		return nil
	}
	for _, cv := range list {
		t.conversations[cv.Name] = cv
	}
	var names []string
	checks := map[string]*check{}
	for _, tc := range want.Cases {
		if checks[tc.Template] == nil {
			names = append(names, tc.Template)
			checks[tc.Template] = &check{}
		}
		c := checks[tc.Template]
		c.compared++
		if err := t.one(ctx, tc); err != nil {
			c.fail("%s: %v", tc.Conversation, err)
		}
	}
	for _, n := range names {
		v.done(f.name+"/"+n, checks[n])
	}
	if len(names) == 0 {
		v.done(f.name, &check{})
	}
	return nil
}

func (t templateChecks) one(ctx context.Context, tc templateCase) error {
	cv, ok := t.conversations[tc.Conversation]
	if !ok {
		return errors.New("conversations.json does not have it")
	}
	template, err := t.template(tc.Template)
	if err != nil {
		return err
	}
	spans, err := cv.render(ctx, template, tc.Variables, nil, t.now)
	switch {
	case tc.Text != nil && err != nil:
		return err
	case tc.Text != nil:
		return equalText(joined(spans), *tc.Text)
	case tc.Error == nil:
		return errors.New("expected.json has neither text nor error")
	case err == nil:
		return fmt.Errorf("rendered, want the error %q", *tc.Error)
	}
	var raised *jinja.RaiseError
	if tc.ErrorType == "TemplateError" && (!errors.As(err, &raised) || raised.Message != *tc.Error) {
		return fmt.Errorf("error %q, want %q", err, *tc.Error)
	}
	return nil
}

func (t templateChecks) template(name string) (*jinja.Template, error) {
	if parsed := t.templates[name]; parsed != nil {
		return parsed, nil
	}
	if name != filepath.Base(name) {
		return nil, fmt.Errorf("template %q is not in the folder", name)
	}
	text, err := os.ReadFile(t.f.beside(name + ".jinja"))
	if err != nil {
		return nil, err
	}
	t.templates[name], err = jinja.Parse(name+".jinja", string(text))
	return t.templates[name], err
}

// equalText says where two texts part.
func equalText(got, want string) error {
	if got == want {
		return nil
	}
	at := 0
	for at < min(len(got), len(want)) && got[at] == want[at] {
		at++
	}
	from := max(0, at-20)
	return fmt.Errorf("text differs at byte %d: %q, want %q", at,
		got[from:min(len(got), at+20)], want[from:min(len(want), at+20)])
}
