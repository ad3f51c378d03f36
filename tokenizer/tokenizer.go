// Package tokenizer turns text into tokens and back, from a checkpoint's tokenizer.json.
//
// It reads byte-pair encodings, with the bytes or the characters of the text as their first
// symbols, and gives the ids that the reference library gives for the same file. What a file asks
// for and this package does not do is an error that names it, never left out silently.
//
// The rule of this package (R1): text cannot become a control token. Encode never recognises a
// special token, EncodeSpans does so only inside trusted spans, and the merges and words of the
// model never produce one.
//
// Known differences from the reference, none of them in a file we have met: special tokens are
// searched for before normalising even if they ask for the contrary (R1); whitespace that an added
// token takes along (rstrip) is not searched for further added tokens; Unicode tables are Go's;
// a pre-tokenizer pattern without a scanner of ours stops splitting when it needs too much time.
package tokenizer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
)

// maxFileBytes bounds each file that Load reads; published tokenizers stay below 40 MB.
const maxFileBytes = 64 << 20

// Tokenizer is a loaded tokenizer. It does not change after loading, and many goroutines may use
// it at once.
type Tokenizer struct {
	vocab                           // tokens, their ids and their bytes
	added     addedTokens           // added tokens, searched for in the text as written
	addedNorm addedTokens           // added tokens that are searched for after normalising
	normalize []func(string) string // applied in order to the text between added tokens
	splits    []splitter            // applied in order; what is left is merged
	merger    merger                // joins a piece's symbols
	decoder   decoder               // how tokens become text again
	prefix    []int32               // what the post-processor puts before the text
	suffix    []int32               // and after it
	template  string                // chat template, or ""
	variables map[string]string     // special tokens by name, for the template
}

// Load reads dir/tokenizer.json and, when they are there, dir/tokenizer_config.json and
// dir/chat_template.jinja.
func Load(dir string) (*Tokenizer, error) {
	name := filepath.Join(dir, "tokenizer.json")
	text, err := readFile(name)
	if err != nil {
		return nil, err
	}
	t, err := Parse(name, text)
	if err != nil {
		return nil, err
	}
	name = filepath.Join(dir, "tokenizer_config.json")
	switch text, err = readFile(name); {
	case err == nil:
		if t.variables, t.template, err = parseConfig(text); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	switch text, err = readFile(filepath.Join(dir, "chat_template.jinja")); {
	case err == nil:
		t.template = string(text)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	return t, nil
}

// readFile reads a regular file of bounded size.
func readFile(name string) ([]byte, error) {
	st, err := os.Stat(name) // before it is opened: opening a pipe could block forever
	if err != nil {
		return nil, err // names the file
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", name)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFileBytes {
		return nil, fmt.Errorf("%s: larger than %d MB, refused", name, maxFileBytes>>20)
	}
	return text, nil
}

// VocabSize is the highest id plus one.
func (t *Tokenizer) VocabSize() int { return len(t.tokens) }

// ID finds a token by its raw vocabulary string.
func (t *Tokenizer) ID(token string) (int32, bool) {
	id, ok := t.ids[token]
	return id, ok
}

// Token is the raw vocabulary string of an id. It is not ok for an id that no token has.
func (t *Tokenizer) Token(id int32) (text string, ok bool) {
	if !t.known(id) {
		return "", false
	}
	return t.tokens[id], true
}

// Bytes are the bytes a token stands for: part of a character, when the token is that. For an
// added token they are its content. The slice is the caller's; nil means an unknown id.
func (t *Tokenizer) Bytes(id int32) []byte {
	if !t.known(id) {
		return nil
	}
	return []byte(t.pieces[id])
}

// IsSpecial says whether the id is a control token.
func (t *Tokenizer) IsSpecial(id int32) bool {
	return t.known(id) && t.flags[id]&flagSpecial != 0
}

// ChatTemplate is the text of chat_template.jinja, or else the chat_template of
// tokenizer_config.json; "" when there is none.
func (t *Tokenizer) ChatTemplate() string { return t.template }

// SpecialTokens are the tokens that tokenizer_config.json gives a name, such as bos_token, as
// strings: variables for the chat template. The map is the caller's.
func (t *Tokenizer) SpecialTokens() map[string]string {
	if t.variables == nil {
		return map[string]string{}
	}
	return maps.Clone(t.variables)
}
