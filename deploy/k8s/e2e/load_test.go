//go:build kube

package e2e

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"drover/client"
	"drover/internal/identity"
	"drover/internal/load"
	"drover/internal/role"
	"drover/kernel"
	droverv1 "drover/proto/drover/v1"
)

const (
	modelDir = "../../../models/tiny-maverick"
	// clients ask one question after the other each.
	clients = 3
	// askLimit bounds one question, however often its answer is resumed.
	askLimit = 10 * time.Minute
)

// answers are what the model says in this process, without a cluster, by question.
type answers [][sha256.Size]byte

func quietAnswers(t *testing.T, questions []load.Question) answers {
	t.Helper()
	conn, stop, err := role.InProcess(t.Context(), modelDir, role.InProcessOptions{
		Mode: kernel.BF16, Compute: role.Compute{Threads: 1}})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	all := make(answers, len(questions))
	different := map[[sha256.Size]byte]bool{}
	for i, q := range questions {
		r := load.Ask(t.Context(), droverv1.NewCoordinatorServiceClient(conn), q.Request, time.Now())
		if r.Err != nil {
			t.Fatalf("%s: %v", q.ID, r.Err)
		}
		all[i], different[r.Answer] = r.Answer, true
	}
	if len(different) < len(questions)/2 {
		t.Fatalf("%d questions have %d answers: to compare them shows little", len(questions),
			len(different))
	}
	return all
}

// asking is load that lasts until it is stopped.
type asking struct {
	questions []load.Question
	quiet     answers
	pool      *client.Client
	id        *identity.Source // that of the clients, in a folder of its own
	stop      context.CancelFunc
	running   sync.WaitGroup

	mu       sync.Mutex // guards the fields below
	answered int
	lost     int // streams that went on elsewhere
	slowest  time.Duration
	wrong    []string
}

// ask begins to ask all questions again and again.
func ask(t *testing.T, questions []load.Question, quiet answers) *asking {
	t.Helper()
	id := as(t, identity.Client)
	a := &asking{questions: questions, quiet: quiet, id: id}
	// Each address is a connection of its own, to any coordinator that is ready.
	pool, err := client.New(client.Options{
		Addresses: []string{"passthrough:///service-1", "passthrough:///service-2"},
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(dialReady),
			grpc.WithTransportCredentials(credentials.NewTLS(id.Client(identity.Coordinator)))},
		Patience: patience,
		Events: client.Events{Resumed: func(client.Resumed) {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.lost++
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	a.pool = pool
	ctx, stop := context.WithCancel(context.Background())
	a.stop = stop
	for c := range clients {
		a.running.Go(func() {
			for i := c; ctx.Err() == nil; i += clients {
				a.one(i % len(questions))
			}
		})
	}
	t.Cleanup(a.end)
	return a
}

// one asks a question and compares the answer. It is not broken off by stop.
func (a *asking) one(i int) {
	ctx, cancel := context.WithTimeout(context.Background(), askLimit)
	defer cancel()
	began := time.Now()
	r := load.Ask(ctx, a.pool.Service(), a.questions[i].Request, began)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answered++
	a.slowest = max(a.slowest, time.Since(began))
	switch {
	case r.Err != nil:
		a.wrong = append(a.wrong, fmt.Sprintf("%s: %s failed: %v",
			time.Now().Format(time.TimeOnly), a.questions[i].ID, r.Err))
	case r.Answer != a.quiet[i]:
		a.wrong = append(a.wrong, fmt.Sprintf("%s: %s: other bytes than in a quiet process",
			time.Now().Format(time.TimeOnly), a.questions[i].ID))
	}
}

// follow gives the clients the certificates that the cluster has now.
func (a *asking) follow(t *testing.T) {
	t.Helper()
	if err := fetch(identity.Client, a.id.Dir()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.id.Reload(); err != nil {
		t.Fatal(err)
	}
}

// more waits until every client has had an answer since, so that a fault has met requests.
func (a *asking) more(t *testing.T) {
	t.Helper()
	a.mu.Lock()
	want := a.answered + 2*clients
	a.mu.Unlock()
	within(t, patience, "answers go on", func() error {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.answered < want {
			return fmt.Errorf("%d answers, want %d", a.answered, want)
		}
		return nil
	})
}

// check fails the test if an answer was wrong so far.
func (a *asking) check(t *testing.T) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, w := range a.wrong {
		if i < 10 {
			t.Error(w)
		}
	}
	if len(a.wrong) > 0 {
		t.Errorf("%d of %d requests failed or differ", len(a.wrong), a.answered)
	}
	a.wrong = nil
}

// end waits for the last answers.
func (a *asking) end() {
	a.stop()
	a.running.Wait()
	a.pool.Close()
}
