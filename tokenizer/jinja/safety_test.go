package jinja

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// runSource renders a template without the request's variables, except one of each kind.
func runSource(t testing.TB, source string, opts Options) (string, error) {
	t.Helper()
	tmpl, err := Parse("t", source)
	if err != nil {
		return "", err
	}
	vars := NewDict()
	vars.Set("s", String("text"))
	vars.Set("l", List(Int(1), String("b"), None()))
	d := NewDict()
	d.Set("k", String("v"))
	vars.Set("d", d)
	spans, err := tmpl.Render(t.Context(), vars, nil, opts)
	return join(spans), err
}

// TestBudgets runs what must neither take long, nor much memory, nor much stack.
func TestBudgets(t *testing.T) {
	loop := func(s string) string {
		return "{% for a in range(99999) %}{% for b in range(99999) %}" + s + "{% endfor %}{% endfor %}"
	}
	grow := "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = "
	nest := "{% set n = namespace(x=[]) %}{% for i in range(9999) %}{% set n.x = "
	end := " %}{% endfor %}{{ n.x|length }}"
	for _, source := range []string{
		loop("x"), loop(""), loop("{{ loop.length }}"), loop("{% set x = 1 %}"),
		"{{ 'a' * 10**9 }}", "{{ 'a' * 10**30 }}", "{{ ('a' ~ s) * 10**8 }}", "{{ [0] * 10**10 }}",
		"{{ [0] * 10**30 }}", "{{ (0,) * 10**12 }}", "{{ range(10**12) }}", "{{ range(10**12)|list }}",
		"{{ 9 ** 99 ** 99 }}", "{{ 2 ** (10 ** 18) }}", "{{ 10 ** 4000 * 10 ** 4000 }}",
		"{{ 'a'|center(10**9) }}", "{{ 'a'.ljust(10**9) }}", "{{ 'a'.zfill(10**9) }}",
		"{{ '%1000000000d' % 1 }}", "{{ '%.1000000000f' % 1.0 }}", "{{ '{:1000000000}'.format(1) }}",
		"{{ 'a'|indent(10**9, true) }}", "{{ [1]|tojson(indent=10**9) }}",
		"{{ [1]|batch(10**9, 0)|list }}", "{{ [1]|slice(10**9)|list }}",
		grow + "n.x ~ n.x" + end, grow + "n.x + n.x" + end, grow + "n.x|replace('a', n.x)" + end,
		grow + "n.x|join(n.x)" + end, grow + "[n.x, n.x]|string" + end, grow + "n.x * 9" + end,
		nest + "[n.x]" + " %}{% endfor %}{{ n.x }}",
		nest + "[n.x]" + " %}{% endfor %}{{ n.x|tojson }}",
		nest + "(n.x,)" + " %}{% endfor %}{{ {n.x: 1} }}",
		nest + "[n.x]" + " %}{% endfor %}{{ n.x == [n.x] }}",
		nest + "[n.x, n.x]" + " %}{% endfor %}{{ n.x == n.x + [] }}",
		"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
		"{% macro m(a) %}{{ m(a + 1) ~ m(a) }}{% endmacro %}{{ m(1) }}",
		"{% macro m(a=m()) %}{% endmacro %}{{ m() }}",
		"{% macro m() %}{% call m() %}{{ caller() }}{% endcall %}{{ caller }}{% endmacro %}{{ m() }}",
		"{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
		"{{ 1" + strings.Repeat("+1", 10_000) + " }}",
		"{{ s" + strings.Repeat("|upper", 10_000) + " }}",
		"{{ s" + strings.Repeat("[0]", 10_000) + " }}",
		"{{ 1" + strings.Repeat(" if 1", 10_000) + " }}",
		"{% set n = namespace() %}{% set n.n = n %}{{ n }}",
	} {
		start := time.Now()
		_, err := runSource(t, source, Options{})
		if !errors.Is(err, ErrBudget) {
			t.Errorf("%.80s: got error %v, want a budget's", source, err)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%.80s: error has several lines", source)
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("%.80s: took %v", source, took)
		}
	}
}

// TestSourceDepth nests deeper than any template; the parser must refuse, not overflow.
func TestSourceDepth(t *testing.T) {
	const n = 50_000
	for _, source := range []string{
		"{{ " + strings.Repeat("(", n), "{{ " + strings.Repeat("[", n), "{{ " + strings.Repeat("-", n),
		"{{ " + strings.Repeat("not ", n), "{{ " + strings.Repeat("{1:", n),
		"{{ " + strings.Repeat("a(", n), "{{ " + strings.Repeat("a[", n),
		"{{ 1" + strings.Repeat(" if 1 else 1", n), strings.Repeat("{% if 1 %}", n),
		strings.Repeat("{% for a in b %}", n), "{% set " + strings.Repeat("(", n),
		strings.Repeat("{% macro a() %}", n), "{{ " + strings.Repeat("a is b ", n),
	} {
		if _, err := Parse("deep", source); err == nil {
			t.Errorf("%.40s... parsed", source)
		}
	}
	if _, err := Parse("big", strings.Repeat("a", maxSourceBytes+1)); err == nil {
		t.Error("a source above the limit parsed")
	}
	if _, err := Parse("bytes", "a\xffb"); err == nil {
		t.Error("a source that is not UTF-8 parsed")
	}
	chain := "{% if 0 %}" + strings.Repeat("{% elif 0 %}", 20_000) + "{% else %}x{% endif %}"
	if got, err := runSource(t, chain, Options{}); err != nil || got != "x" {
		t.Errorf("a long elif chain: got %q, %v", got, err)
	}
}

// TestClosedWorld asks for what a template must not reach.
func TestClosedWorld(t *testing.T) {
	for _, source := range []string{
		"{% include '/etc/hostname' %}", "{% import 'os' as os %}", "{% from 'os' import path %}",
		"{% extends 'base' %}", "{% block b %}{% endblock %}", "{% set x = d.update({'a': 1}) %}",
		"{{ l.append(1) }}", "{{ l.pop() }}", "{{ l.sort() }}", "{{ d.pop('k') }}", "{{ d.clear() }}",
		"{% set d.k = 2 %}", "{% set l.x = 2 %}", "{{ s.__class__.__mro__ }}",
		"{{ ''['__class__']['__base__'] }}", "{{ d.__init__.__globals__ }}", "{{ s.__len__() }}",
		"{{ range.__self__.x }}", "{{ '{0.__class__.x}'.format(1) }}", "{{ open('/etc/passwd') }}",
		"{{ s|attr('__class__') }}", "{{ lipsum.__globals__ }}", "{{ loop.x }}", "{{ exec('1') }}",
	} {
		if got, err := runSource(t, source, Options{}); err == nil {
			t.Errorf("%s: got %q, want an error", source, got)
		}
	}
}

func TestDeadline(t *testing.T) {
	tmpl, err := Parse("slow", "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}"+
		"{% endfor %}")
	if err != nil {
		t.Fatal(err)
	}
	cause := errors.New("the client went away")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err = tmpl.Render(ctx, NewDict(), nil, Options{}); !errors.Is(err, cause) {
		t.Errorf("got %v, want %v", err, cause)
	}
}

func TestOptions(t *testing.T) {
	for name, tc := range map[string]struct {
		opts Options
		ok   bool
	}{
		"zero":           {Options{}, true},
		"enough":         {Options{MaxSteps: 100, MaxOutputBytes: 100, MaxDepth: 20}, true},
		"few steps":      {Options{MaxSteps: 3}, false},
		"few bytes":      {Options{MaxOutputBytes: 5}, false},
		"flat":           {Options{MaxDepth: 2}, false},
		"negative steps": {Options{MaxSteps: -1}, false},
		"negative bytes": {Options{MaxOutputBytes: -1}, false},
		"negative depth": {Options{MaxDepth: -1}, false},
		"absurd depth":   {Options{MaxDepth: 1 << 40}, false},
		"absurd bytes":   {Options{MaxOutputBytes: 1 << 40}, false},
	} {
		if _, err := runSource(t, "{% if s %}{{ s ~ '12' }}{% endif %}", tc.opts); (err == nil) != tc.ok {
			t.Errorf("%s: got error %v, want ok %v", name, err, tc.ok)
		}
	}
}

func TestErrors(t *testing.T) {
	for source, want := range map[string]string{
		"a\n{{ 1 + }}":                  "template t: line 2: expected an expression, got '}}'",
		"a\nb\n{{ x.y }}":               "template t: line 3: 'x' is undefined",
		"{% if 1 %}\n{{ d.x.y }}":       "template t: line 2: template ends, expected '{% endif %}'",
		"{{ d.x.y }}":                   "template t: line 1: 'dict object' has no attribute 'x'",
		"{{ raise_exception('a\nb') }}": "template t: line 1: a b",
		"{{ s|frob }}":                  "template t: line 1: no filter named 'frob'",
		"{{ 'abc":                       "template t: line 1: string is not closed",
	} {
		_, err := runSource(t, source, Options{})
		if err == nil || err.Error() != want {
			t.Errorf("%q:\ngot  %v\nwant %s", source, err, want)
		}
	}
	var raised *RaiseError
	_, err := runSource(t, "{{ raise_exception('a\nb' ~ s) }}", Options{})
	if !errors.As(err, &raised) || raised.Message != "a\nbtext" {
		t.Errorf("got %v, want a RaiseError with its message", err)
	}
}

// TestCallersValues checks that a Dict serves many renders unchanged, also at once.
func TestCallersValues(t *testing.T) {
	vars := mustJSON(t, []byte(`{"l": [3, 1, 2], "d": {"b": 1}}`)).(*Dict)
	tmpl, err := Parse("t", "{% set l = l|sort + [9] %}{% set l2 = (l|reverse|list)[1:] + [1] %}"+
		"{% set d = dict(d, c=2) %}{{ l }}{{ l2 }}{{ d }}")
	if err != nil {
		t.Fatal(err)
	}
	const want = "[1, 2, 3, 9][3, 2, 1, 1]{'b': 1, 'c': 2}"
	failures := make(chan string, 8)
	for range cap(failures) {
		go func() {
			spans, err := tmpl.Render(t.Context(), vars, nil, Options{})
			if got := join(spans); err != nil || got != want {
				failures <- fmt.Sprintf("got %q, %v", got, err)
				return
			}
			failures <- ""
		}()
	}
	for range cap(failures) {
		if s := <-failures; s != "" {
			t.Error(s)
		}
	}
	after, err := runSource(t, "{{ l }}{{ d }}", Options{})
	if err != nil || after != "[1, 'b', None]{'k': 'v'}" {
		t.Errorf("got %q, %v", after, err)
	}
}

// FuzzParse runs whatever parses, with tiny budgets: nothing may panic, hang or print two lines
// of error.
func FuzzParse(f *testing.F) {
	fixture := readFixtures(f)
	for name := range fixture.templates {
		f.Add(readSource(f, name))
	}
	var table struct {
		Cases []struct {
			Template string `json:"template"`
		} `json:"cases"`
	}
	readJSON(f, "testdata/jinja2.json", &table)
	for _, c := range table.Cases {
		f.Add(c.Template)
	}
	vars := fixture.conversations["tool_call_text_content"].variables(f)
	vars.Set("s", String("a b<é>"))
	vars.Set("l", List(Int(3), Float(1.5), String("x")))
	f.Fuzz(func(t *testing.T, source string) {
		tmpl, err := Parse("fuzz", source)
		var spans []Span
		if err == nil {
			spans, err = tmpl.Render(t.Context(), vars, map[string]string{"bos_token": "<s>"},
				Options{Now: fixture.now, MaxSteps: 20_000, MaxOutputBytes: 1 << 12, MaxDepth: 200})
		}
		if err != nil && strings.ContainsAny(err.Error(), "\n\r") {
			t.Errorf("error has several lines: %q", err)
		}
		if n := len(join(spans)); n > 1<<12 {
			t.Errorf("output has %d bytes", n)
		}
	})
}
