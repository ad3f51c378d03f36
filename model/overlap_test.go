package model_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"

	"drover/checkpoint"
	"drover/kernel"
	"drover/model"
	"drover/moe"
)

// apart computes experts beside the model, one call after the other, as a node does.
type apart struct {
	away     atomic.Int32 // calls that have not returned
	failFrom atomic.Int32 // calls that are left before one fails; 0: none does

	mu sync.Mutex // guards what follows
	*local
	meet    int           // so many calls wait for each other
	waiting int           // of them
	met     chan struct{} // closed when they have met
}

var errApart = errors.New("the node is gone")

func (a *apart) Forward(ctx context.Context, b *moe.Batch, meanwhile func()) error {
	a.away.Add(1)
	defer a.away.Add(-1)
	if meanwhile != nil {
		meanwhile()
	}
	if a.failFrom.Load() > 0 && a.failFrom.Add(-1) == 0 {
		return errApart
	}
	if err := a.meetOthers(ctx); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.local.Forward(ctx, b, nil)
}

// meetOthers returns when as many calls wait here as are to meet.
func (a *apart) meetOthers(ctx context.Context) error {
	a.mu.Lock()
	if a.waiting++; a.waiting == 1 {
		a.met = make(chan struct{})
	}
	met := a.met
	if a.waiting >= a.meet {
		a.waiting = 0
		close(met)
	}
	a.mu.Unlock()
	select {
	case <-met:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// expect makes so many calls wait for each other.
func (a *apart) expect(meet int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.meet, a.waiting = meet, 0
}

func openApart(t *testing.T, mode kernel.Mode) (model.Model, *apart) {
	t.Helper()
	ck, err := checkpoint.Open("../models/tiny-maverick")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ck.Close() })
	opts := model.Options{Mode: mode, Device: kernel.NewCPU(nil)}
	src, err := model.OpenExperts(ck, opts)
	if err != nil {
		t.Fatal(err)
	}
	a := &apart{local: loadAll(t, src, mode, kernel.NewCPU(nil))}
	m, err := model.Open(ck, opts, a)
	if err != nil {
		t.Fatal(err)
	}
	return m, a
}

// TestMicroBatches is promise P2 for overlapped steps: any number of micro-batches
// gives the bytes of one.
func TestMicroBatches(t *testing.T) {
	for _, mode := range []kernel.Mode{kernel.Exact, kernel.BF16, kernel.Int8, kernel.Int4, kernel.FP8} {
		t.Run(mode.String(), func(t *testing.T) {
			m, a := openApart(t, mode)
			prompts := promptsFor(m)
			want := alone(t, m, prompts)
			for _, parts := range []int{2, 3, 4, 7, 99} {
				a.expect(parts) // the step ends only if all of them are away at a time
				got, err := inParts(t, m, prompts, parts)
				if err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(got, want) {
					t.Errorf("%d micro-batches give other logits than one", parts)
				}
			}
		})
	}
}

// TestMicroBatchFails checks that the loss of one micro-batch ends the step with the
// error when no call is left, and that the next step is as if nothing had been.
func TestMicroBatchFails(t *testing.T) {
	m, a := openApart(t, kernel.BF16)
	prompts := promptsFor(m)
	want := together(t, m, prompts)
	for _, parts := range []int{1, 2, 4} {
		for _, call := range []int{1, parts, parts + 1, 2*parts + 1} {
			t.Run(fmt.Sprintf("parts=%d,call=%d", parts, call), func(t *testing.T) {
				a.failFrom.Store(int32(call))
				if _, err := inParts(t, m, prompts, parts); !errors.Is(err, errApart) {
					t.Errorf("error %v, want %v", err, errApart)
				}
				if n := a.away.Load(); n != 0 {
					t.Errorf("%d calls go on after the step", n)
				}
				a.failFrom.Store(0)
				got, err := inParts(t, m, prompts, parts)
				if err != nil || !reflect.DeepEqual(got, want) {
					t.Errorf("after a failed step: other logits, or error %v", err)
				}
			})
		}
	}
}
