package load

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"drover/internal/batch"
	droverv1 "drover/proto/drover/v1"
)

// Question is one request that may be asked many times. It is greedy or has a seed, so that
// there is one answer to it.
type Question struct {
	ID      string
	Request *droverv1.GenerateRequest
}

// maxQuestions bounds a file of them.
const maxQuestions = 1 << 16

//go:embed mix.jsonl
var mix []byte

// Mix is the questions that are asked if there are no others: greedy and sampled, short and
// long, conversations and calls of tools.
func Mix() ([]Question, error) { return read("the built-in mix", bytes.NewReader(mix)) }

// ReadQuestions reads a file of prompts in the form that `drover run --prompts` takes.
func ReadQuestions(path string) ([]Question, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return read(path, f)
}

// read gives a seed to every question that has none: its number.
func read(name string, r io.Reader) ([]Question, error) {
	requests, err := batch.Requests(r, batch.Defaults{}, maxQuestions)
	if err == nil && len(requests) == 0 {
		err = errors.New("no prompts in it")
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	all := make([]Question, len(requests))
	for i, q := range requests {
		all[i] = Question{q.ID, q.GenerateRequest}
		if s := q.GenerateRequest.Sampling; s.Seed == nil {
			seed := uint64(i)
			s.Seed = &seed
		}
	}
	return all, nil
}

// Answers remembers the first answer to each question and counts those that differ from it.
type Answers struct {
	first  [][sha256.Size]byte
	known  []bool
	Differ int
}

// NewAnswers makes room for the answers to so many questions.
func NewAnswers(questions int) *Answers {
	return &Answers{first: make([][sha256.Size]byte, questions), known: make([]bool, questions)}
}

// Add takes an answer without an error and says whether it is as the first one.
func (a *Answers) Add(r *Record) bool {
	if !a.known[r.Question] {
		a.first[r.Question], a.known[r.Question] = r.Answer, true
	}
	same := a.first[r.Question] == r.Answer
	if !same {
		a.Differ++
	}
	return same
}

// Known counts the questions that have an answer.
func (a *Answers) Known() int {
	n := 0
	for _, k := range a.known {
		if k {
			n++
		}
	}
	return n
}

// Hash is over the questions and their first answers, in the order of the questions: equal for
// two runs only if all that was answered is the same, byte for byte.
func (a *Answers) Hash(questions []Question) string {
	h := sha256.New()
	for i, q := range questions {
		if a.known[i] {
			fmt.Fprintf(h, "%d %q %x\n", i, q.ID, a.first[i])
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}
