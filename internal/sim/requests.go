package sim

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"drover/coordinator"
	"drover/expertnode"
	droverv1 "drover/proto/drover/v1"
)

// prompts are what clients ask: some greedy, some with random numbers and penalties.
var prompts = func() (all []*droverv1.GenerateRequest) {
	for i := range 24 {
		ids := make([]int32, 2+i%7)
		for j := range ids {
			ids[j] = int32((i*11+j*5)%(vocabulary-3)) + 3
		}
		sampling := &droverv1.Sampling{}
		if i%2 == 1 {
			seed, temperature := uint64(i), float32(0.7)
			sampling.Seed, sampling.Temperature = &seed, &temperature
		}
		if i%4 == 3 {
			sampling.FrequencyPenalty = 0.5
		}
		all = append(all, &droverv1.GenerateRequest{
			Prompt:    &droverv1.GenerateRequest_Tokens{Tokens: &droverv1.Tokens{Ids: ids}},
			MaxTokens: uint32(4 + i%8), IgnoreEos: true, Sampling: sampling})
	}
	return all
}()

// references are the answers to prompts, one by one, by a coordinator with all experts in
// its own process. Call it outside of any bubble.
var references = sync.OnceValue(func() (all [][]int32) {
	host := expertnode.NewHost(source{}, mode, expertnode.HostOptions{})
	if err := host.LoadAll(context.Background()); err != nil {
		panic(err)
	}
	c, err := coordinator.New(newTiny(host, 0), nil, coordinator.Options{Name: "simulated",
		KVBytes: 1 << 20})
	if err != nil {
		panic(err)
	}
	defer c.Close()
	for _, p := range prompts {
		out := &client{ctx: context.Background()}
		if err := c.Generate(p, out); err != nil {
			panic(err)
		}
		all = append(all, out.ids)
	}
	return all
})

// client takes an answer in process.
type client struct {
	grpc.ServerStream // nil: methods that the coordinator leaves alone
	ctx               context.Context
	started           *droverv1.Started
	ids               []int32
	finished          bool
}

// resume is a request for what the client still lacks of its answer.
func (c *client) resume(ask *droverv1.GenerateRequest) *droverv1.GenerateRequest {
	if c.started == nil {
		return ask
	}
	next := proto.CloneOf(ask)
	next.Resume = &droverv1.Resume{RequestId: c.started.GetRequestId(), Seed: &c.started.Seed,
		Fingerprint: c.started.GetFingerprint(), TokenIds: slices.Clone(c.ids)}
	return next
}

// Context implements grpc.ServerStream.
func (c *client) Context() context.Context { return c.ctx }

// Send implements grpc.ServerStreamingServer.
func (c *client) Send(m *droverv1.GenerateResponse) error {
	if started := m.GetStarted(); started != nil {
		c.started = started
	}
	c.ids = append(c.ids, m.GetDelta().GetTokenIds()...)
	c.finished = c.finished || m.GetFinished() != nil
	return c.ctx.Err()
}

// request runs one request to its end and checks the answer.
func (w *world) request(n int, r Request) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if r.GoneAfter > 0 {
		w.running.Go(func() {
			if sleep(ctx, r.GoneAfter) {
				w.fired.fire(ClientGone)
				cancel()
			}
		})
	}
	name := fmt.Sprintf("request %d (%d)", n, r.Prompt)
	ask, out := prompts[r.Prompt], &client{ctx: ctx}
	for turn := r.Coordinator; ; turn++ {
		p := w.process(turn)
		if p == nil {
			if !sleep(ctx, resendAfter) {
				return
			}
			continue
		}
		w.say("%s begins at coordinator %s", name, p.id)
		err := p.engine.Generate(ask, out)
		w.say("%s ends with %v: %v", name, out.ids, err)
		want := references()[r.Prompt]
		switch {
		case len(out.ids) > len(want) || !slices.Equal(out.ids, want[:len(out.ids)]):
			w.problem("%s answers %v, want %v", name, out.ids, want)
		case ctx.Err() != nil:
		case err != nil && status.Code(err) == codes.Unavailable && !p.gate.alive():
			ask = out.resume(ask) // the coordinator ended; another one goes on
			continue
		case err != nil:
			w.problem("%s: %v", name, err)
		case len(out.ids) != len(want) || !out.finished:
			w.problem("%s answers %v, finished %t, want %v", name, out.ids, out.finished, want)
		}
		return
	}
}
