package testcluster

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"drover/coordinator"
	"drover/kernel"
	droverv1 "drover/proto/drover/v1"
)

// question is one prompt of the metamorphic test: the first half is greedy, the
// second half samples with a seed.
type question struct {
	text string
	seed *uint64
}

// questions reads n different text prompts of the demo model's evaluation.
func questions(t testing.TB, n int) []question {
	t.Helper()
	f, err := os.Open(Path("models/tiny-maverick/eval.jsonl"))
	check(t, err)
	defer f.Close()
	var all []question
	for lines := bufio.NewScanner(f); lines.Scan() && len(all) < n; {
		var line struct {
			Messages []struct{ Content any }
		}
		check(t, json.Unmarshal(lines.Bytes(), &line))
		text, ok := line.Messages[0].Content.(string)
		if !ok || len(line.Messages) != 1 {
			continue // pictures and conversations
		}
		q := question{text: text}
		if len(all) >= n/2 {
			seed := uint64(len(all))
			q.seed = &seed
		}
		all = append(all, q)
	}
	if len(all) < n {
		t.Fatalf("there are only %d prompts", len(all))
	}
	return all
}

// ask returns the answer's tokens and text.
func (c *Cluster) ask(ctx context.Context, q question) (string, error) {
	sampling := &droverv1.Sampling{}
	if q.seed != nil {
		temperature, topP := float32(1.2), float32(0.95)
		sampling = &droverv1.Sampling{Seed: q.seed, Temperature: &temperature, TopP: &topP,
			FrequencyPenalty: 0.3}
	}
	stream, err := c.Generate(ctx, &droverv1.GenerateRequest{
		Prompt: &droverv1.GenerateRequest_Chat{Chat: &droverv1.Chat{
			Messages: []*droverv1.ChatMessage{{Role: "user", Content: q.text}}}},
		Sampling: sampling, MaxTokens: 24, IgnoreEos: true,
	})
	if err != nil {
		return "", err
	}
	var tokens []int32
	text := ""
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return fmt.Sprintf("%v %q", tokens, text), nil
		}
		if err != nil {
			return "", err
		}
		tokens = append(tokens, r.GetDelta().GetTokenIds()...)
		text += r.GetDelta().GetText()
	}
}

// answers asks all questions, so many at once, and returns a hash for each answer.
func (c *Cluster) answers(t testing.TB, all []question, atOnce int) [][32]byte {
	t.Helper()
	hashes, errs := make([][32]byte, len(all)), make([]error, len(all))
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i, q := range all {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			answer, err := c.ask(t.Context(), q)
			hashes[i], errs[i] = sha256.Sum256([]byte(answer)), err
		})
	}
	wg.Wait()
	check(t, errors.Join(errs...))
	return hashes
}

// TestSameBytes is promise P2: 64 prompts, greedy and sampled, in every numeric
// mode, give one hash each: in process and on 1, 2, 4 and 7 nodes, alone and 32 at
// once, prefilled in one piece and in pieces of 5 tokens, in one micro-batch and in up
// to four, with one thread and with three, whatever the placement.
func TestSameBytes(t *testing.T) {
	n := 64
	if raceEnabled {
		n = 12 // the race detector slows every step ten times
	}
	all := questions(t, n)
	mixed := kernel.Int4.With(kernel.RoleHead, kernel.PrecisionBF16).
		With(kernel.RoleKV, kernel.PrecisionInt8)
	for _, mode := range []kernel.Mode{kernel.Exact, kernel.BF16, kernel.Int8, kernel.Int4, kernel.FP8, mixed} {
		t.Run(mode.String(), func(t *testing.T) {
			var want [][32]byte
			for _, nodes := range []int{0, 1, 2, 4, 7} {
				for _, piece := range []int{0, 5} {
					if piece > 0 && nodes%2 == 1 && mode != kernel.BF16 {
						continue // enough with the others
					}
					o := Options{Mode: mode, Nodes: nodes, Threads: 1 + 2*(nodes/2%2)}
					o.Coordinator = coordinator.Options{MaxPrefillTokens: piece}
					if nodes > 1 {
						o.Coordinator.MicroBatches = min(nodes, coordinator.MaxMicroBatches)
						o.Router.Lanes = o.Coordinator.MicroBatches
					}
					if nodes == 4 {
						o.Place = scattered(uint64(piece))
					}
					name := fmt.Sprintf("nodes=%d,piece=%d", nodes, piece)
					t.Run(name, func(t *testing.T) {
						c := Start(t, o)
						for _, atOnce := range []int{1, 32} {
							got := c.answers(t, all, atOnce)
							if want == nil {
								want = got
							}
							compare(t, fmt.Sprintf("%d at once", atOnce), all, got, want)
						}
					})
				}
			}
			distinct(t, want)
		})
	}
}

func compare(t *testing.T, how string, all []question, got, want [][32]byte) {
	t.Helper()
	for i := range all {
		if got[i] != want[i] {
			t.Errorf("%s: %q: another answer than in process, alone", how, all[i].text)
		}
	}
}

// distinct guards the test itself: the answers are not all alike.
func distinct(t *testing.T, hashes [][32]byte) {
	t.Helper()
	seen := map[[32]byte]bool{}
	for _, h := range hashes {
		seen[h] = true
	}
	if len(seen) < len(hashes)*3/4 {
		t.Errorf("only %d different answers to %d prompts", len(seen), len(hashes))
	}
}

// scattered places each expert on one or two of four nodes at random.
func scattered(seed uint64) func(layer, expert int) []uint16 {
	r := rand.New(rand.NewPCG(seed, 1))
	return func(int, int) []uint16 {
		first := uint16(r.IntN(4))
		if r.IntN(2) == 0 {
			return []uint16{first}
		}
		return []uint16{first, (first + 1 + uint16(r.IntN(3))) % 4}
	}
}
