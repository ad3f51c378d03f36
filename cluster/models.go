package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Coordinators say which weights they serve, since they have them: an expert node that has
// only the configuration and the headers learns from them what model it takes part in.

func (s Scope) models(form string) string { return s.prefix() + "models/" + form + "/" }

// announce keeps a coordinator's record of its model in the store until ctx ends.
func (p *Planner) announce(ctx context.Context) {
	scope := p.watcher.opts.Scope
	key := scope.models(p.opts.Form) + p.opts.ID
	for ctx.Err() == nil {
		tenure := p.session.current()
		wait := forever
		if tenure.lease != 0 {
			call, cancel := context.WithTimeout(ctx, callTimeout)
			_, err := p.store.Commit(call, Write{Put: []Put{{key, []byte(scope.Model), tenure.lease}}})
			cancel()
			if err != nil {
				wait = retryDelay
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-tenure.changed:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// ErrSeveralModels says that coordinators serve different weights of one form.
var ErrSeveralModels = errors.New("cluster: coordinators serve different weights of this model")

// LearnModel returns the digest of the model with a form that the cluster's coordinators
// serve, and the name of one of them. While there is none it waits until ctx ends, and calls
// waiting once. If there are several digests the error wraps ErrSeveralModels.
func LearnModel(ctx context.Context, store Store, cluster, form string, waiting func()) (
	digest, from string, err error) {
	scope := Scope{Cluster: cluster}
	scope.setDefaults()
	for _, name := range []struct{ what, text string }{
		{"cluster", scope.Cluster}, {"model form", form}} {
		if err := checkName(name.what, name.text); err != nil {
			return "", "", err
		}
	}
	for {
		served, err := readModels(ctx, store, scope, form)
		switch {
		case len(served) == 1:
			for digest, from = range served {
				return digest, from, nil
			}
		case len(served) > 1:
			text := ""
			for _, digest := range slices.Sorted(maps.Keys(served)) {
				text += fmt.Sprintf("; %s serves %s", served[digest], digest)
			}
			return "", "", fmt.Errorf("%w%s", ErrSeveralModels, text)
		}
		if waiting != nil {
			waiting()
			waiting = nil
		}
		if !pause(ctx, retryDelay) {
			if err == nil {
				err = context.Cause(ctx)
			}
			return "", "", fmt.Errorf("cluster: no coordinator has said which weights of the model"+
				" with the form %s it serves: %w", form, err)
		}
	}
}

// readModels returns a coordinator for each digest of a form. Names that cannot be part of a
// key do not count.
func readModels(ctx context.Context, store Store, scope Scope, form string) (
	map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	entries, _, err := store.List(ctx, scope.models(form))
	if err != nil {
		return nil, err
	}
	served := map[string]string{}
	for _, e := range entries {
		digest := string(e.Value)
		if checkName("model digest", digest) == nil {
			served[digest] = strings.TrimPrefix(e.Key, scope.models(form))
		}
	}
	return served, nil
}
