package cluster

import (
	"context"
	"errors"
	"sync"
	"time"
)

// session holds one lease for as long as its process lives, and gets another when the
// lease is lost. One goroutine runs it.
type session struct {
	store Store
	scope Scope
	ttl   time.Duration
	away  func(error) // called when the store does not answer, nil when it does again

	mu  sync.Mutex // guards the field below
	now tenure
}

// tenure is what a session holds at one time.
type tenure struct {
	lease    Lease     // zero while there is none
	returned time.Time // when the store first answered, or answered again
	changed  chan struct{}
}

func newSession(store Store, scope Scope, ttl time.Duration, away func(error)) *session {
	return &session{store: store, scope: scope, ttl: ttl, away: away,
		now: tenure{changed: make(chan struct{})}}
}

// current returns what the session holds; its channel is closed when that changes.
func (s *session) current() tenure {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *session) set(lease Lease, returned bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.lease = lease
	if returned {
		s.now.returned = time.Now()
	}
	close(s.now.changed)
	s.now.changed = make(chan struct{})
}

// run keeps a lease until ctx ends, and then gives it back.
func (s *session) run(ctx context.Context) {
	var lease Lease
	isAway, first := false, true
	for {
		err := s.renew(ctx, &lease)
		if ctx.Err() != nil {
			break
		}
		wait := s.ttl / 3
		switch {
		case errors.Is(err, ErrLeaseGone):
			s.set(0, false)
			continue
		case err != nil:
			if !isAway {
				isAway = true
				s.away(err)
			}
			wait = min(wait, retryDelay)
		default:
			if s.current().lease != lease || isAway {
				s.set(lease, isAway || first)
			}
			if isAway {
				isAway = false
				s.away(nil)
			}
			first = false
		}
		if !pause(ctx, wait) {
			break
		}
	}
	if lease != 0 {
		// Best effort: without it the lease ends by itself.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		_ = s.store.Revoke(ctx, lease)
		cancel()
	}
	s.set(0, false)
}

// renew keeps the lease alive, or takes one. A renewal must be quick, so that there is
// time for another; a new lease has no hurry, and a slow store would else never give one.
func (s *session) renew(ctx context.Context, lease *Lease) error {
	if *lease != 0 {
		ctx, cancel := context.WithTimeout(ctx, max(s.ttl/3, retryDelay))
		defer cancel()
		err := s.store.KeepAlive(ctx, *lease)
		if errors.Is(err, ErrLeaseGone) {
			*lease = 0
		}
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := ensureIdentity(ctx, s.store, s.scope); err != nil {
		return err
	}
	var err error
	*lease, err = s.store.Grant(ctx, s.ttl)
	return err
}
