package cluster

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A node without weights learns from the coordinators which ones they serve: it waits for the
// first, follows no two that differ, and believes none whose lease has ended.
func TestLearnModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, &Memory{}, PlannerOptions{Form: "form"})
		defer w.close()
		digest, from, err := LearnModel(t.Context(), w.store, "", "form", nil)
		if err != nil || digest != testModel || from != "c1" {
			t.Errorf("learnt %q from %q: %v", digest, from, err)
		}
		waited := 0
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, _, err = LearnModel(ctx, w.store, "", "another", func() { waited++ })
		if !errors.Is(err, context.DeadlineExceeded) || waited != 1 {
			t.Errorf("nobody serves it: %v, waited %d times", err, waited)
		}
		if _, _, err := LearnModel(ctx, w.store, "", "a/b", nil); err == nil {
			t.Error("a form that is no part of a key is accepted")
		}
		scope := Scope{}
		scope.setDefaults()
		lease, err := w.store.Grant(t.Context(), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.store.Commit(t.Context(), Write{Put: []Put{
			{Key: scope.models("form") + "c2", Value: []byte("sha256:other"), Lease: lease}}}); err != nil {
			t.Fatal(err)
		}
		if _, _, err := LearnModel(t.Context(), w.store, "", "form", nil); !errors.Is(err, ErrSeveralModels) {
			t.Errorf("two models: %v, want %v", err, ErrSeveralModels)
		}
		time.Sleep(6 * time.Second) // the other one's lease ends
		digest, _, err = LearnModel(t.Context(), w.store, "", "form", nil)
		if err != nil || digest != testModel {
			t.Errorf("after the other has gone: %q, %v", digest, err)
		}
	})
}
