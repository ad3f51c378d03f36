package batch

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// maxLineBytes bounds one line of a file: far more than a conversation that fits any context.
const maxLineBytes = 32 << 20

// Line is one line of a file.
type Line struct {
	// Number counts from 1, blank lines included.
	Number int
	// Text is the line without its end; nil if it was longer than 32 MB.
	Text []byte
}

// Lines reads a file's lines that are not blank.
type Lines struct {
	r      *bufio.Reader
	number int
	held   *Line // returned by Next before anything else
}

// NewLines reads the lines of r.
func NewLines(r io.Reader) *Lines {
	return &Lines{r: bufio.NewReaderSize(r, 64<<10)}
}

// Next reads a line. It is not ok at the end of the file.
func (lr *Lines) Next() (l Line, ok bool, err error) {
	if lr.held != nil {
		l, lr.held = *lr.held, nil
		return l, true, nil
	}
	for {
		text, _, err := lr.read()
		if err == io.EOF {
			return Line{}, false, nil
		}
		if err != nil {
			return Line{}, false, err
		}
		lr.number++
		if text == nil || len(bytes.TrimSpace(text)) > 0 {
			return Line{lr.number, text}, true, nil
		}
	}
}

// read reads up to the next newline, which it takes but does not return. Whole says whether there
// was one. An overlong line is skipped and returned as nil.
func (lr *Lines) read() (text []byte, whole bool, err error) {
	text = []byte{}
	for {
		piece, err := lr.r.ReadSlice('\n')
		if text != nil && len(text)+len(piece) > maxLineBytes {
			text = nil
		}
		if text != nil {
			text = append(text, piece...)
		}
		switch {
		case err == nil:
			return bytes.TrimSuffix(text, []byte("\n")), true, nil
		case errors.Is(err, bufio.ErrBufferFull):
		case err == io.EOF && text != nil && len(text) == 0:
			return nil, false, io.EOF
		case err == io.EOF:
			return text, false, nil
		default:
			return nil, false, err
		}
	}
}

// countLines counts the lines that are not blank and goes back to the file's beginning.
func countLines(f *os.File) (int, error) {
	n := 0
	for lr := NewLines(f); ; n++ {
		_, ok, err := lr.Next()
		if err != nil {
			return 0, err
		}
		if !ok {
			break
		}
	}
	_, err := f.Seek(0, io.SeekStart)
	return n, err
}

// record is one line of the answers.
type record struct {
	ID     json.RawMessage `json:"id"`
	Text   string          `json:"text"`
	Tokens []int32         `json:"tokens"`
	Reason string          `json:"finish_reason"`
	Error  string          `json:"error"`

	unfinished bool // the run was cancelled before the record was complete
}

// line is the answer as it stands in the file.
func (a record) line() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(a); err != nil {
		return nil, fmt.Errorf("encode answer %s: %w", a.ID, err)
	}
	return b.Bytes(), nil
}

// resume finds the part of out that answers the first lines of in, cuts off the rest, and leaves
// both at the first line to ask.
func resume(out *os.File, in *Lines) (Summary, error) {
	var sum Summary
	keep := int64(0)
	for old := NewLines(out); ; {
		text, whole, err := old.read()
		if err != nil && err != io.EOF {
			return Summary{}, err
		}
		if !whole || text == nil {
			break
		}
		l, ok, err := in.Next()
		if err != nil {
			return Summary{}, err
		}
		if !ok {
			break
		}
		if !answers(text, l) {
			in.held = &l
			break
		}
		keep += int64(len(text)) + 1
		sum.Lines++
		sum.Resumed++
		if _, err := parsePrompt(l); err != nil {
			sum.Errors++
		}
	}
	if err := out.Truncate(keep); err != nil {
		return Summary{}, err
	}
	_, err := out.Seek(keep, io.SeekStart)
	return sum, err
}

// answers says whether an old answer stands for a prompt: its id is the prompt's, and its error
// is the one that the prompt's line still has, mostly none.
func answers(text []byte, l Line) bool {
	var a struct {
		ID     json.RawMessage `json:"id"`
		Text   *string         `json:"text"`
		Tokens []int32         `json:"tokens"`
		Reason *string         `json:"finish_reason"`
		Error  *string         `json:"error"`
	}
	err := json.Unmarshal(text, &a)
	if err != nil || a.Text == nil || a.Tokens == nil || a.Reason == nil || a.Error == nil {
		return false
	}
	want := ""
	p, err := parsePrompt(l)
	if err != nil {
		want = err.Error()
	}
	return bytes.Equal(a.ID, p.id) && *a.Error == want
}
