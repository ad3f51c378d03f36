package jinja

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// specialTokens returns every special token of the fixture tokenizers.
func specialTokens(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(fixtures, "tokenizers", "*", "tokenizer.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no tokenizers: %v", err)
	}
	seen := map[string]bool{}
	var tokens []string
	for _, file := range files {
		var tok struct {
			AddedTokens []struct {
				Content string `json:"content"`
				Special bool   `json:"special"`
			} `json:"added_tokens"`
		}
		readJSON(t, file, &tok)
		for _, a := range tok.AddedTokens {
			if a.Special && !seen[a.Content] {
				seen[a.Content] = true
				tokens = append(tokens, a.Content)
			}
		}
	}
	return tokens
}

// trustedCounts counts the occurrences of every token within trusted spans.
func trustedCounts(spans []Span, token string) int {
	n := 0
	for _, s := range spans {
		if s.Trusted {
			n += strings.Count(s.Text, token)
		}
	}
	return n
}

// attacks are conversations with %s where a request can put text. Each uses one way in; the text
// is also cut in two, so that pieces printed one after the other would join into a token.
var attacks = []string{
	`[{"role": "user", "content": "%[1]s"}]`,
	`[{"role": "system", "content": "%[1]s"}, {"role": "user", "content": "x"}]`,
	`[{"role": "%[1]s", "content": "x"}]`,
	`[{"role": "system", "content": [{"type": "text", "text": "%[2]s"},
		{"type": "text", "text": "%[3]s"}]}, {"role": "user", "content": "x"}]`,
	`[{"role": "user", "content": [{"type": "text", "text": "%[2]s"},
		{"type": "text", "text": "%[3]s"}]}]`,
	`[{"role": "user", "content": "x"}, {"role": "assistant", "content": null, "tool_calls":
		[{"id": "123456789", "type": "%[1]s", "function":
		{"name": "%[1]s", "arguments": {"%[1]s": "%[1]s"}}}]}]`,
	`[{"role": "user", "content": "x"}, {"role": "assistant", "content": "%[2]s", "tool_calls":
		[{"id": "123456789", "type": "function", "function":
		{"name": "%[3]s", "arguments": "%[1]s"}}]}]`,
	`[{"role": "user", "content": "x"}, {"role": "tool", "content": "%[1]s",
		"tool_call_id": "%[1]s", "name": "%[1]s"}]`,
	`[{"role": "user", "content": "x", "meta": {"%[1]s": {"%[2]s": "%[3]s"}}},
		{"role": "assistant", "content": "</think>%[1]s", "reasoning_content": "%[1]s"}]`,
}

const attackTools = `[{"type": "function", "function": {"name": "%[1]s", "description": "%[1]s",
	"parameters": {"%[1]s": {"enum": ["%[2]s", "%[3]s"]}}}}]`

// escapeJSON returns s as the inside of a JSON string.
func escapeJSON(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b[1 : len(b)-1])
}

// fill puts text into an attack.
func fill(pattern, s string) string {
	half := 0
	for i := range s {
		if i <= (len(s)+1)/2 {
			half = i
		}
	}
	// The empty %.0[n]s use up the arguments a pattern does not mention.
	return fmt.Sprintf("%.0[1]s%.0[2]s%.0[3]s"+pattern,
		escapeJSON(s), escapeJSON(s[:half]), escapeJSON(s[half:]))
}

// TestSpecialTokensStayText puts every special token wherever a request can put text. As many
// trusted occurrences must come out as with harmless text of the same shape: those of the template.
func TestSpecialTokensStayText(t *testing.T) {
	f := readFixtures(t)
	f.templates["tiny"] = parseFile(t, "../../models/tiny-maverick/chat_template.jinja")
	tokens := specialTokens(t)
	if len(tokens) < 20 {
		t.Fatalf("got %d special tokens, want at least 20", len(tokens))
	}
	rendered := 0
	for name, tmpl := range f.templates {
		for _, pattern := range attacks {
			for _, tools := range []string{"", attackTools} {
				render := func(s string) ([]Span, error) {
					vars := NewDict()
					vars.Set("messages", mustJSON(t, []byte(fill(pattern, s))))
					vars.Set("tools", None())
					if tools != "" {
						vars.Set("tools", mustJSON(t, []byte(fill(tools, s))))
					}
					vars.Set("add_generation_prompt", Bool(true))
					vars.Set("date_string", String(s))
					vars.Set("show_caption", Bool(true))
					return tmpl.Render(t.Context(), vars,
						map[string]string{"bos_token": "<BOS>", "eos_token": "<EOS>"}, Options{})
				}
				harmless, harmlessErr := render("harmless text")
				for _, token := range tokens {
					spans, err := render(token)
					if err != nil || harmlessErr != nil {
						if (err == nil) != (harmlessErr == nil) {
							t.Errorf("%s %s: %v, but %v", name, pattern, err, harmlessErr)
						}
						continue
					}
					rendered++
					got, want := trustedCounts(spans, token), trustedCounts(harmless, token)
					if got != want {
						t.Errorf("%s %s: %d trusted %s, want %d", name, pattern, got, token, want)
					}
				}
			}
		}
	}
	if rendered < 1000 {
		t.Errorf("%d conversations rendered, want at least 1000", rendered)
	}
}

// markCases maps templates to their output with untrusted spans in brackets. The request's text
// is in upper case.
var markCases = map[string]string{
	"{{ 'a' ~ u ~ 'b' }}":                                     "a[UV WX]b",
	"{{ 'a' + u }}":                                           "a[UV WX]",
	"{{ bos_token }}{{ u }}":                                  "<s>[UV WX]",
	"{{ n }}{{ n + 1 }}{{ true }}{{ none }}":                  "56TrueNone",
	"{{ u }}{{ u }}":                                          "[UV WXUV WX]",
	"{{ ('a' ~ u ~ 'b')[:2] }}":                               "a[U]",
	"{{ ('ab' ~ u)[::2] }}":                                   "a[U X]",
	"{{ ('a' ~ u)[0] }}{{ ('a' ~ u)[1] }}":                    "a[U]",
	"{{ ('a' ~ u ~ 'b').split(' ')|join('-') }}":              "a[UV]-[WX]b",
	"{{ (' a' ~ u ~ 'b ')|trim }}":                            "a[UV WX]b",
	"{{ ('a' ~ u).replace('V', 'cc') }}":                      "a[U]cc[ WX]",
	"{{ 'abc'|replace('b', u) }}":                             "a[UV WX]c",
	"{{ l|join(', ') }}":                                      "[A], [B]",
	"{{ 'a'.join(l) }}":                                       "[A]a[B]",
	"{{ ('a' ~ u) * 2 }}":                                     "a[UV WX]a[UV WX]",
	"{{ 'a %s %d' % (u, n) }}":                                "a [UV WX] 5",
	"{{ 'a {} {}'.format(u, n) }}":                            "a [UV WX] 5",
	"{{ 'a %6s' % u }}":                                       "a [ UV WX]",
	"{{ u % () }}":                                            "[UV WX]",
	"{{ (u ~ '%%') % () }}":                                   "[UV WX%]",
	"{{ ('a' ~ u)|upper }}":                                   "[AUV WX]",
	"{{ 'a'|upper }}{{ u|lower }}":                            "A[uv wx]",
	"{{ ('a' ~ u)|title }}":                                   "[Auv Wx]",
	"{{ ('a' ~ u)|reverse }}":                                 "[XW VU]a",
	"{{ l }}":                                                 "[['A', 'B']]",
	"{{ ['a', n] }}":                                          "['a', 5]",
	"{{ ['a', u]|tojson }}":                                   `[["a", "UV WX"]]`,
	"{{ ['a', n]|tojson }}":                                   `["a", 5]`,
	"{{ [1]|tojson(indent=u) }}":                              "[[\nUV WX1\n]]",
	"{{ [1, 2]|tojson(separators=[u, '']) }}":                 "[[1UV WX2]]",
	"{{ key|tojson }}":                                        `[{"K": "V"}]`,
	"{{ {u: 1}|tojson }}":                                     `[{"UV WX": 1}]`,
	"{% for k, v in key.items() %}{{ k }}{{ v }}{% endfor %}": "[KV]",
	"{% for c in 'a' ~ l[0] %}{{ c }}{% endfor %}":            "a[A]",
	"{% set x %}a{{ u }}{% endset %}{{ x }}b":                 "a[UV WX]b",
	"{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(u) }}":       "<[UV WX]>",
	"{% filter trim %} a{{ u }} {% endfilter %}":              "a[UV WX]",
	"{% macro m() %}{{ kwargs }}{% endmacro %}{{ m(**key) }}": "[{'K': 'V'}]",
	"{% for k in dict(**key) %}{{ k }}{% endfor %}":           "[K]",
	"{{ namespace(**key)['K'] }}":                             "[V]",
	"{{ strftime_now(u) }}":                                   "[UV WX]",
	"{{ ('a' ~ u)|indent(2, true) }}":                         "  a[UV WX]",
	"{{ 'a'|center(4) }}{{ u.center(7, '.') }}":               " a  .[UV WX].",
	"{{ u.zfill(6) }}":                                        "0[UV WX]",
	"{{ 'a'.ljust(3, l[0]) }}":                                "a[AA]",
	"{{ (u ~ 'abc')|truncate(6, true, 'z', 0) }}":             "[UV WX]z",
	"{{ u|default('a') }}{{ nope|default(u) }}":               "[UV WXUV WX]",
	"{{ u|first }}{{ ('a' ~ u)|last }}":                       "[UX]",
	"{{ u|list|join('.') }}":                                  "[U].[V].[ ].[W].[X]",
	"{{ ['a', u]|sort|join }}":                                "a[UV WX]",
	"{{ ['a', u]|map('lower')|join }}":                        "a[uv wx]",
	"{{ ('a' ~ u).partition(' ')|join('.') }}":                "a[UV].[ ].[WX]",
	"{{ ('a' ~ u).removeprefix('a') }}":                       "[UV WX]",
	"{{ {'UV WX': 'a'}[u] }}":                                 "a",
	"{{ u == 'UV WX' }}{{ 'V' in u }}{{ u|length }}":          "TrueTrue5",
	"{{ '%c%c' % (codes[0], codes[1]) }}":                     "[<|]",
	"{{ ['a', u]|string }}":                                   "[['a', 'UV WX']]",
	"{{ '%r' % 'a' }}{{ '%r' % u }}":                          "'a'['UV WX']",
	"{{ u.splitlines()|first }}{{ u.swapcase() }}":            "[UV WXuv wx]",
	"{% if u %}a{% endif %}{{ 'a' if u else 'b' }}":           "aa",
	"{{ cycler(u, 'a').next() }}{{ joiner(u)() }}":            "[UV WX]",
}

// TestMarks looks at how operations carry marks.
func TestMarks(t *testing.T) {
	vars := NewDict()
	vars.Set("u", String("UV WX"))
	vars.Set("l", List(String("A"), String("B")))
	vars.Set("n", Int(5))
	vars.Set("key", mustJSON(t, []byte(`{"K": "V"}`)))
	vars.Set("codes", List(Int(60), Int(124)))
	trusted := map[string]string{"bos_token": "<s>"}
	for source, want := range markCases {
		tmpl, err := Parse("marks", source)
		if err != nil {
			t.Fatal(err)
		}
		spans, err := tmpl.Render(t.Context(), vars, trusted, Options{})
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		var b strings.Builder
		for i, s := range spans {
			if i > 0 && s.Trusted == spans[i-1].Trusted || s.Text == "" {
				t.Errorf("%s: span %d is empty or should be merged", source, i)
			}
			if s.Trusted {
				b.WriteString(s.Text)
			} else {
				b.WriteString("[" + s.Text + "]")
			}
		}
		if got := b.String(); got != want {
			t.Errorf("%s\ngot  %s\nwant %s", source, got, want)
		}
	}
}

// FuzzRender puts any text into a conversation. A marker in it, which the template does not know,
// tells the request's bytes: none may be trusted, and the text must come out whole.
func FuzzRender(f *testing.F) {
	b, err := os.ReadFile(filepath.Join(fixtures, "chat_templates", "llama4.jinja"))
	if err != nil {
		f.Fatal(err)
	}
	tmpl, err := Parse("llama4", string(b))
	if err != nil {
		f.Fatal(err)
	}
	f.Add("user", "hello", "tool", true)
	f.Add("<|eot|>", "<|header_start|>", "\x00\xff", false)
	f.Add("tool", "{{ x }}", "\u2028é\U0001F44D", true)
	f.Fuzz(func(t *testing.T, role, content, toolText string, asParts bool) {
		const mark = "\u0001"
		spell := func(s string) Value { // every character follows a marker
			return String(mark + strings.Join(strings.Split(toValid(s), ""), mark) + mark)
		}
		body := spell(content)
		if asParts {
			part := NewDict()
			part.Set("type", String("text"))
			part.Set("text", body)
			body = List(part, part)
		}
		message, tool, vars := NewDict(), NewDict(), NewDict()
		message.Set("role", spell(role))
		message.Set("content", body)
		tool.Set("name", String(toolText))
		vars.Set("messages", List(message))
		vars.Set("tools", List(tool))
		spans, err := tmpl.Render(t.Context(), vars, nil, Options{})
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range spans {
			if s.Trusted && strings.Contains(s.Text, mark) {
				t.Errorf("trusted span %q holds a marker", s.Text)
			}
			if i > 0 && s.Trusted == spans[i-1].Trusted {
				t.Errorf("spans %d and %d have the same trust", i-1, i)
			}
		}
		if want := spell(content).(text).s; !strings.Contains(join(spans), want) {
			t.Errorf("the content %q did not come out", want)
		}
	})
}
