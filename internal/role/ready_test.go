package role

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"drover/coordinator"
	"drover/expertnode"
	"drover/kernel"
	"drover/model"
	"drover/moe"
	droverv1 "drover/proto/drover/v1"
)

// switched are experts that can be switched off, or get stuck until they are switched off.
type switched struct {
	moe.Experts
	off   atomic.Bool
	stuck atomic.Bool
}

func (s *switched) Forward(ctx context.Context, b *moe.Batch, meanwhile func()) error {
	for s.stuck.Load() && !s.off.Load() {
		time.Sleep(time.Millisecond)
	}
	if s.off.Load() {
		return errors.New("the experts are switched off")
	}
	return s.Experts.Forward(ctx, b, meanwhile)
}

// TestReady checks that a coordinator with more requests than it can run at once is ready
// as long as its steps go well, and not when they hang or fail.
func TestReady(t *testing.T) {
	m, err := OpenModel(filepath.Join("..", "..", "models", "tiny-maverick"),
		model.Options{Mode: kernel.BF16})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	host := expertnode.NewHost(m.Source, m.Mode, expertnode.HostOptions{})
	if err := host.LoadAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	experts := &switched{Experts: host}
	engine, err := m.engine(experts, coordinator.Options{MaxSequences: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	conn, stop, err := connect(engine.Register)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	c := &Coordinator{Conn: conn, engine: engine}
	ready := func(limit time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		return c.Ready(ctx)
	}
	if err := ready(10 * time.Second); err != nil {
		t.Errorf("idle: %v", err)
	}

	// One endless answer takes the only place, so that the canary waits in vain.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := droverv1.NewCoordinatorServiceClient(conn).Generate(ctx,
		&droverv1.GenerateRequest{IgnoreEos: true, Prompt: &droverv1.GenerateRequest_Tokens{
			Tokens: &droverv1.Tokens{Ids: []int32{1}}}})
	if err != nil {
		t.Fatal(err)
	}
	received := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for n := 0; ; n++ {
			if _, err := stream.Recv(); err != nil {
				return
			}
			if n == 1 {
				close(received)
			}
		}
	}()
	<-received
	if err := ready(200 * time.Millisecond); err != nil {
		t.Errorf("busy: %v", err)
	}
	select {
	case <-ended:
		t.Error("the answer ended too soon for this test to say anything")
	default:
	}

	// Stuck, no step ends and the canary waits in vain.
	experts.stuck.Store(true)
	await(t, "not ready", func() (bool, string) { // the step that ran may have ended meanwhile
		err := ready(200 * time.Millisecond)
		return status.Code(err) == codes.DeadlineExceeded, fmt.Sprint(err)
	})
	experts.off.Store(true)
	<-ended
	if err := ready(10 * time.Second); err == nil || !strings.Contains(err.Error(), "switched off") {
		t.Errorf("without experts: %v", err)
	}
}
