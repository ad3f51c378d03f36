package scheduler

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write the scripts' outputs anew")

// TestScripts runs testdata/*.txt: a command, "----", and all that it prints.
//
//	new block=4 blocks=8,4 chunk=0,8 sequences=4 waiting=8 batch=16 prefill=8 score=2
//	add ID prompt=N limit=N [score]
//	cancel|hold|release ID
//	next               shows the batch
//	commit [ID=done]   the others go on with token 100+ID
//	fail
//	run N              next and commit, N times, one line each
func TestScripts(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("scripts: %v, %v", paths, err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := runScript(t, string(want))
			if *rewrite {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

// runScript executes a script and returns it with the outputs that it should have.
func runScript(t *testing.T, script string) string {
	t.Helper()
	var out strings.Builder
	var m machine
	skip := false
	sc := bufio.NewScanner(strings.NewReader(script))
	for sc.Scan() {
		line := sc.Text()
		switch {
		case line == "----":
			skip = true
		case line == "":
			skip = false
		case skip:
		case strings.HasPrefix(line, "#"):
			fmt.Fprintln(&out, line)
		default:
			fmt.Fprintf(&out, "%s\n----\n%s", line, m.do(t, strings.Fields(line)))
			if m.s != nil {
				st := m.s.Stats()
				fmt.Fprintf(&out, "(running %d, waiting %d, blocks %d/%d, preempted %d)\n",
					st.Running, st.Waiting, st.BlocksUsed, st.Blocks, st.Preemptions)
			}
			out.WriteByte('\n')
		}
	}
	return out.String()
}

// machine is the state of one script.
type machine struct {
	s     *Scheduler
	batch *Batch
}

func (m *machine) do(t *testing.T, words []string) string {
	t.Helper()
	args := map[string]string{}
	for _, w := range words[1:] {
		k, v, _ := strings.Cut(w, "=")
		args[k] = v
	}
	id := func() uint64 {
		n, err := strconv.ParseUint(words[1], 10, 64)
		if err != nil {
			t.Fatalf("%q: %v", words, err)
		}
		return n
	}
	switch words[0] {
	case "new":
		var err error
		if m.s, err = New(scriptOptions(t, args)); err != nil {
			return err.Error() + "\n"
		}
	case "add":
		_, score := args["score"]
		q := Sequence{ID: id(), Limit: number(t, args["limit"]), Score: score,
			Prompt: make([]int32, number(t, args["prompt"]))}
		if err := m.s.Add(q); err != nil {
			return fmt.Sprintf("%v (full %v, too long %v)\n", err,
				errors.Is(err, ErrFull), errors.Is(err, ErrTooLong))
		}
	case "cancel":
		return fmt.Sprintln(m.s.Cancel(id()))
	case "hold":
		m.s.Hold(id())
	case "release":
		m.s.Release(id())
	case "next":
		return m.next()
	case "commit":
		m.commit(args)
	case "fail":
		m.s.Fail(m.batch)
	case "run":
		var out strings.Builder
		for range number(t, words[1]) {
			out.WriteString(m.next())
			if m.batch == nil {
				break
			}
			m.commit(nil)
		}
		return out.String()
	default:
		t.Fatalf("unknown command %q", words)
	}
	return ""
}

func (m *machine) next() string {
	b, ok := m.s.Next()
	if !ok {
		m.batch = nil
		return "nothing\n"
	}
	m.batch = b
	var parts []string
	for _, p := range b.Parts {
		parts = append(parts, fmt.Sprintf("%d: %d+%d logits %d %v",
			p.ID, p.Start, len(p.Tokens), p.Logits, p.Tables))
	}
	return strings.Join(parts, "; ") + "\n"
}

func (m *machine) commit(done map[string]string) {
	results := make([]Result, len(m.batch.Parts))
	for i, p := range m.batch.Parts {
		_, finish := done[strconv.FormatUint(p.ID, 10)]
		results[i] = Result{Token: 100 + int32(p.ID), Finish: finish}
	}
	m.s.Commit(m.batch, results)
}

func scriptOptions(t *testing.T, args map[string]string) Options {
	o := Options{
		BlockTokens:      number(t, args["block"]),
		MaxSequences:     number(t, args["sequences"]),
		MaxWaiting:       number(t, args["waiting"]),
		MaxBatchTokens:   number(t, args["batch"]),
		MaxPrefillTokens: number(t, args["prefill"]),
		MaxScoreTokens:   number(t, args["score"]),
	}
	chunks := strings.Split(args["chunk"], ",")
	for i, b := range strings.Split(args["blocks"], ",") {
		g := Group{Blocks: number(t, b)}
		if i < len(chunks) {
			g.Chunk = number(t, chunks[i])
		}
		o.Groups = append(o.Groups, g)
	}
	return o
}

func number(t *testing.T, s string) int {
	t.Helper()
	if s == "" {
		return 0
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
