package coordinator

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"drover/model"
	"drover/moe"
	droverv1 "drover/proto/drover/v1"
	"drover/tensor"
	"drover/tokenizer"
)

// fakeModel's logits are a hash of the sequence's tokens, which it keeps in KV blocks and
// reads back through the tables: a block that is lost or shared shows in the answer.
type fakeModel struct {
	spec   model.Spec
	before func(*model.Batch) error // may fail, wait or panic
	after  func(*model.Batch)       // may spoil the logits

	blockTokens int
	kv          [][]int32 // per group: token+1 at each position of each block
	logits      []float32
}

// fakeChunk makes chunks begin inside of blocks.
const fakeChunk = 24

func newFake(vocabulary int) *fakeModel {
	return &fakeModel{spec: model.Spec{
		Architecture: "fake", Vocabulary: vocabulary, Layers: 2, MaxTokens: 64, BOS: 1,
		EOS: []int32{2},
		MoE: moe.Spec{Layers: []int{0, 1}, Experts: 8, TopK: 2},
		KV: []model.KVGroup{{Layers: []int{0}, RowBytes: 4},
			{Layers: []int{1}, Chunk: fakeChunk, RowBytes: 8}},
	}}
}

func (f *fakeModel) Spec() model.Spec { return f.spec }

func (f *fakeModel) NewCache(blocks []int, blockTokens int) (*model.Cache, error) {
	f.blockTokens = blockTokens
	for _, n := range blocks {
		f.kv = append(f.kv, make([]int32, n*blockTokens))
	}
	return &model.Cache{}, nil
}

func (f *fakeModel) Forward(ctx context.Context, _ *model.Cache, b *model.Batch) error {
	if f.before != nil {
		if err := f.before(b); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	f.logits = f.logits[:0]
	at := 0
	rows := 0
	for _, s := range b.Sequences {
		if s.Trace != nil {
			for layer := range f.spec.MoE.Layers {
				experts, weights := fakeExperts(b.Tokens[at:at+s.Count], layer)
				s.Trace(layer, experts, weights)
			}
		}
		for i := range s.Count {
			p := s.Start + i
			for g := range f.kv {
				f.kv[g][int(s.Tables[g][p/f.blockTokens])*f.blockTokens+p%f.blockTokens] = b.Tokens[at+i] + 1
			}
			if i < s.Count-s.Logits {
				continue
			}
			all, chunk := f.history(s.Tables[0], 0, 0, p), f.history(s.Tables[1], 1, p-p%fakeChunk, p)
			f.logits = append(f.logits, f.row(all, chunk)...)
			rows++
		}
		at += s.Count
	}
	b.Logits = tensor.Rows{Data: f.logits, N: rows, Dim: f.spec.Vocabulary}
	if f.after != nil {
		f.after(b)
	}
	return nil
}

func fakeExperts(tokens []int32, layer int) (experts []int32, weights []float32) {
	for _, t := range tokens {
		experts = append(experts, (t+int32(layer))%8, (t+1+int32(layer))%8)
		weights = append(weights, float32(t), float32(layer))
	}
	return experts, weights
}

// history hashes the tokens of positions first to last.
func (f *fakeModel) history(table []int32, group, first, last int) uint64 {
	h := uint64(14695981039346656037)
	for p := first; p <= last; p++ {
		at := int(table[p/f.blockTokens])*f.blockTokens + p%f.blockTokens
		h = (h ^ uint64(f.kv[group][at])) * 1099511628211
	}
	return h
}

func (f *fakeModel) row(a, b uint64) []float32 {
	row := make([]float32, f.spec.Vocabulary)
	for i := range row {
		row[i] = float32(8*uniform(a^b<<1, uint64(i))) - 4
	}
	return row
}

// want is the row of logits after tokens, computed without a cache.
func (f *fakeModel) want(tokens []int32) []float32 {
	hash := func(tokens []int32) uint64 {
		h := uint64(14695981039346656037)
		for _, t := range tokens {
			h = (h ^ uint64(t+1)) * 1099511628211
		}
		return h
	}
	last := len(tokens) - 1
	return f.row(hash(tokens), hash(tokens[last-last%fakeChunk:]))
}

// greedy is the answer of up to n tokens without the engine, and whether it ended by EOS.
func (f *fakeModel) greedy(prompt []int32, n int) (answer []int32, eos bool) {
	tokens := append([]int32(nil), prompt...)
	for range n {
		next := int32(argmax(f.want(tokens)))
		if next == f.spec.EOS[0] {
			return answer, true
		}
		answer = append(answer, next)
		tokens = append(tokens, next)
	}
	return answer, false
}

// start makes a coordinator that closes with the test.
func start(t testing.TB, f model.Model, tok *tokenizer.Tokenizer, o Options) *Coordinator {
	t.Helper()
	if o.Name == "" {
		o.Name = "fake"
	}
	c, err := New(f, tok, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// client is the client's end of a call, in process.
type client[M any] struct {
	grpc.ServerStream // nil: methods that the coordinator leaves alone
	ctx               context.Context
	gate              func() error // called before each message is taken, if not nil
	mu                sync.Mutex
	got               []*M
}

func (c *client[M]) Context() context.Context { return c.ctx }

func (c *client[M]) Send(m *M) error {
	if c.gate != nil {
		if err := c.gate(); err != nil {
			return err
		}
	}
	if err := c.ctx.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got = append(c.got, m)
	return nil
}

// answer is a whole Generate call.
type answer struct {
	started  *droverv1.Started
	ids      []int32
	text     string
	logprobs []*droverv1.TokenLogprobs
	deltas   int
	finished *droverv1.Finished
	err      error
}

func generate(ctx context.Context, c *Coordinator, req *droverv1.GenerateRequest) answer {
	return generateTo(&client[droverv1.GenerateResponse]{ctx: ctx}, c, req)
}

func generateTo(
	cl *client[droverv1.GenerateResponse], c *Coordinator, req *droverv1.GenerateRequest,
) (a answer) {
	a.err = c.Generate(req, cl)
	for i, m := range cl.got {
		switch e := m.Event.(type) {
		case *droverv1.GenerateResponse_Started:
			if i != 0 {
				panic("Started is not the first")
			}
			a.started = e.Started
		case *droverv1.GenerateResponse_Delta:
			a.deltas++
			a.ids = append(a.ids, e.Delta.TokenIds...)
			a.text += e.Delta.Text
			a.logprobs = append(a.logprobs, e.Delta.Logprobs...)
		case *droverv1.GenerateResponse_Finished:
			if i != len(cl.got)-1 {
				panic("Finished is not the last")
			}
			a.finished = e.Finished
		}
	}
	return a
}

func tokensRequest(ids []int32, maxTokens uint32) *droverv1.GenerateRequest {
	return &droverv1.GenerateRequest{
		Prompt:    &droverv1.GenerateRequest_Tokens{Tokens: &droverv1.Tokens{Ids: ids}},
		MaxTokens: maxTokens,
	}
}

// slow makes each step take a while of the bubble's time.
func slow(*model.Batch) error {
	time.Sleep(time.Millisecond)
	return nil
}

func promptOf(n int) []int32 {
	ids := make([]int32, 3+n%9)
	for i := range ids {
		ids[i] = int32((n*7+i*3)%29 + 3)
	}
	return ids
}

func (a answer) String() string {
	return fmt.Sprintf("ids %v text %q finished {%v} err %v", a.ids, a.text, a.finished, a.err)
}
