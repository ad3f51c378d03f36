package bench

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"drover/internal/answer"
	"drover/internal/batch"
	"drover/internal/testcluster"
	"drover/internal/verify"
	droverv1 "drover/proto/drover/v1"
)

var rewrite = flag.Bool("rewrite", false, "write expert_rows.txt")

// tracedExperts is the experts that each MoE layer of the demo model chooses, by token.
type tracedExperts [][]uint32

// conversation is a conversation of eval.jsonl, as it was traced.
type conversation struct {
	experts  tracedExperts // (tokens, layers)
	answer   int           // tokens of the answer
	language string        // of the question
}

// TestExpertRows traces the demo model's conversations and compares the rows of its experts with
// expert_rows.txt. With -rewrite it writes the file.
func TestExpertRows(t *testing.T) {
	const conversations, promptTokens = 64, 512
	all := trace(t, 2, conversations)
	layerCount := len(all[0].experts[0])
	decode, prefill := counts(layerCount), counts(layerCount)
	left := promptTokens
	for i, c := range all {
		// Answers have begun at different times: conversation i is at one of its first tokens.
		at := len(c.experts) - c.answer + i%min(c.answer, 8)
		decode.add(c.experts[at : at+1])
		n := min(left, len(c.experts)-c.answer)
		prefill.add(c.experts[:n])
		left -= n
	}
	if left > 0 {
		t.Fatalf("%d tokens of prompts are missing", left)
	}
	text := decode.text() + prefill.text()
	if *rewrite {
		if err := os.WriteFile("expert_rows.txt", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if text != expertRowsText {
		t.Errorf("expert_rows.txt is not what the model does; -rewrite writes\n%s", text)
	}
	for _, rows := range stepRows {
		step, total := expertStep(rows), 0
		for _, n := range step {
			total += n
		}
		if total != rows || slices.Contains(step, 0) || len(step) < 40 {
			t.Errorf("a step of %d rows has %v", rows, step)
		}
	}
}

// trace runs n conversations through the model: one in every so many of those without images.
func trace(t *testing.T, every, n int) []conversation {
	dir := testcluster.Path("models/tiny-maverick")
	p, err := verify.NewPrompter(dir, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(testcluster.Path("models/tiny-maverick/eval.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	client := testcluster.Start(t, testcluster.Options{})
	var all []conversation
	lines, seen := bufio.NewScanner(f), 0
	for lines.Scan() && len(all) < n {
		var q struct {
			Messages, Tools json.RawMessage
			Expected, Lang  string
		}
		if err := json.Unmarshal(lines.Bytes(), &q); err != nil {
			t.Fatal(err)
		}
		if _, err := batch.ParseChat(q.Messages, q.Tools); err != nil {
			continue // has images
		}
		if seen++; seen%every != 1%every {
			continue
		}
		prompt, err := p.Dialogue(t.Context(), q.Messages, q.Tools, "")
		if err != nil {
			t.Fatal(err)
		}
		ids, err := p.Dialogue(t.Context(), q.Messages, q.Tools, q.Expected)
		if err != nil {
			t.Fatal(err)
		}
		scored, err := answer.Score(t.Context(), client, ids, true)
		if err != nil {
			t.Fatal(err)
		}
		c := conversation{answer: len(ids) - len(prompt), language: q.Lang[:min(2, len(q.Lang))]}
		for _, s := range scored {
			c.experts = append(c.experts, chosen(s.Layers))
		}
		all = append(all, c)
	}
	if len(all) < n {
		t.Fatalf("%d conversations, want %d", len(all), n)
	}
	return all
}

// chosen is the first expert of each layer.
func chosen(layers []*droverv1.LayerExperts) []uint32 {
	var ids []uint32
	for _, l := range layers {
		ids = append(ids, l.ExpertIds[0])
	}
	return ids
}

// rowCounts counts the rows of each expert by layer.
type rowCounts [][experts]int

func counts(layers int) rowCounts { return make(rowCounts, layers) }

func (r rowCounts) add(tokens tracedExperts) {
	for _, layers := range tokens {
		for l, e := range layers {
			r[l][e]++
		}
	}
}

func (r rowCounts) text() string {
	var b strings.Builder
	for _, layer := range r {
		fmt.Fprintln(&b, strings.Trim(fmt.Sprint(layer), "[]"))
	}
	return b.String()
}
