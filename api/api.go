// Package api serves OpenAI's HTTP API as one more gRPC client of a coordinator:
// chat completions, completions and models, with server-sent events.
//
// It decides nothing about the model. A request's JSON becomes GenerateRequests, one for
// each choice; what comes back becomes JSON. Three rules hold:
//
//   - A1, a field that would change the answer's meaning and is not supported is refused;
//     any other unknown field is ignored.
//   - A2, every error has OpenAI's shape, and toError alone chooses its HTTP status.
//   - A3, a client that goes away, or stops reading, cancels its choices.
package api

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	droverv1 "drover/proto/drover/v1"
)

// Options tunes a server. The zero value is ready for use.
type Options struct {
	// MaxBodyBytes bounds a request's body. Zero means 4 MiB.
	MaxBodyBytes int64
	// BodyTimeout bounds the time to read a request's body. Zero means 30 s.
	BodyTimeout time.Duration
	// WriteTimeout bounds each write of an answer, so that a client that stops reading
	// does not hold its sequences for ever. Zero means 30 s.
	WriteTimeout time.Duration
	// Unready says, for people who ask at /readyz, why the coordinator is not ready. It
	// may be nil, and return nil if it does not know.
	Unready func() error
	// Authorize returns an error with a gRPC status for requests that are refused. Nil
	// refuses none.
	Authorize func(*http.Request) error
	// Events reports what happens; it may be empty.
	Events Events
}

// Events are called from the goroutines that serve requests and must return soon. A nil
// one is not called.
type Events struct {
	// Answered is called when a request was answered or given up.
	Answered func(Answered)
}

// Answered describes a request that is over.
type Answered struct {
	// Method and Route are what was asked for; Route is empty for an unknown path.
	Method, Route string
	// Status is the HTTP status that was sent. A stream that broke keeps its 200.
	Status int
	// Duration is the time from the request's head to the last byte of the answer.
	Duration time.Duration
}

func (o *Options) setDefaults() {
	if o.MaxBodyBytes <= 0 {
		o.MaxBodyBytes = 4 << 20
	}
	if o.BodyTimeout <= 0 {
		o.BodyTimeout = 30 * time.Second
	}
	if o.WriteTimeout <= 0 {
		o.WriteTimeout = 30 * time.Second
	}
}

// maxChoices bounds the answers to one request: prompts times n.
const maxChoices = 64

// largeBodies bounds the bodies of largeBody bytes or more, or of a size that is not told, that
// are read and taken apart at a time.
const (
	largeBody   = 256 << 10
	largeBodies = 8
)

const headerTimeout = 10 * time.Second

type server struct {
	opts        Options
	started     time.Time
	coordinator droverv1.CoordinatorServiceClient
	health      healthv1.HealthClient
	large       chan struct{} // holds one for each large body
}

// New returns an HTTP server, with its timeouts set, for the coordinator that conn leads
// to. The caller gives it a listener and shuts it down.
func New(conn grpc.ClientConnInterface, opts Options) *http.Server {
	opts.setDefaults()
	s := &server{
		opts:        opts,
		started:     time.Now(),
		coordinator: droverv1.NewCoordinatorServiceClient(conn),
		health:      healthv1.NewHealthClient(conn),
		large:       make(chan struct{}, largeBodies),
	}
	mux := http.NewServeMux()
	for _, r := range []struct {
		method, path string
		serve        http.HandlerFunc
	}{
		{http.MethodPost, "/v1/chat/completions", s.chat},
		{http.MethodPost, "/v1/completions", s.completions},
		{http.MethodGet, "/v1/models", s.models},
		{http.MethodGet, "/v1/models/{model}", s.model},
		{http.MethodGet, "/healthz", s.healthz},
		{http.MethodGet, "/readyz", s.readyz},
	} {
		mux.HandleFunc(r.method+" "+r.path, r.serve)
		mux.HandleFunc(r.path, func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Allow", r.method)
			s.fail(w, invalid(http.StatusMethodNotAllowed, "", "%s %s: the method must be %s",
				q.Method, q.URL.Path, r.method))
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, q *http.Request) {
		s.fail(w, invalid(http.StatusNotFound, "", "%s is not served here", q.URL.Path))
	})
	// A web page of another origin must not spend this machine's time.
	foreign := http.NewCrossOriginProtection()
	foreign.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		s.fail(w, status.Error(codes.PermissionDenied, "pages of other origins are not served"))
	}))
	return &http.Server{
		Handler:           s.report(s.authorize(foreign.Handler(mux))),
		ReadHeaderTimeout: headerTimeout,
		// A body that no route reads is bounded too. There is no WriteTimeout, which would
		// bound whole streams: each write has its own deadline.
		ReadTimeout:    headerTimeout + opts.BodyTimeout,
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 64 << 10,
	}
}

// authorize refuses requests before anything looks at them.
func (s *server) authorize(next http.Handler) http.Handler {
	if s.opts.Authorize == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.opts.Authorize(r); err != nil {
			if status.Code(err) == codes.Unauthenticated {
				w.Header().Set("WWW-Authenticate", "Bearer")
			}
			s.fail(w, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

type modelList struct {
	Object string      `json:"object"`
	Data   []modelCard `json:"data"`
}

// modelCard is one entry of the list of models.
type modelCard struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
}

func (s *server) describe(ctx context.Context) (modelCard, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	d, err := s.coordinator.Describe(ctx, &droverv1.DescribeRequest{})
	if err != nil {
		return modelCard{}, err
	}
	return modelCard{d.GetModel(), "model", s.started.Unix(), "drover"}, nil
}

// fingerprint names what an answer's bytes depend on beside the request: the numeric mode
// and the checkpoint. It is nil if the coordinator does not tell; an answer needs no name.
func (s *server) fingerprint(ctx context.Context) *string {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	d, err := s.coordinator.Describe(ctx, &droverv1.DescribeRequest{})
	if err != nil {
		return nil
	}
	digest := d.GetModelDigest()
	name := fmt.Sprintf("%s-%x", d.GetNumericMode(), digest[:min(len(digest), 6)])
	return &name
}

func (s *server) models(w http.ResponseWriter, r *http.Request) {
	card, err := s.describe(r.Context())
	if err != nil {
		s.fail(w, err)
		return
	}
	s.reply(w, http.StatusOK, modelList{"list", []modelCard{card}})
}

func (s *server) model(w http.ResponseWriter, r *http.Request) {
	card, err := s.describe(r.Context())
	switch name := r.PathValue("model"); {
	case err != nil:
		s.fail(w, err)
	case name != card.ID:
		s.fail(w, unknownModel("model: %q is not served here; %q is", name, card.ID))
	default:
		s.reply(w, http.StatusOK, card)
	}
}

// healthz tells that this process lives.
func (s *server) healthz(w http.ResponseWriter, _ *http.Request) {
	s.reply(w, http.StatusOK, map[string]string{"status": "ok"})
}

// readyz tells whether the coordinator can answer prompts.
func (s *server) readyz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	h, err := s.health.Check(ctx, &healthv1.HealthCheckRequest{})
	if err != nil || h.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		s.reply(w, http.StatusServiceUnavailable, s.unready(err))
		return
	}
	s.reply(w, http.StatusOK, map[string]string{"status": "ready"})
}

// unready is the answer of a coordinator that is not ready, or whose health service
// answers with an error.
func (s *server) unready(err error) map[string]string {
	if err == nil && s.opts.Unready != nil {
		err = s.opts.Unready()
	}
	answer := map[string]string{"status": "not ready"}
	if err != nil {
		answer["reason"] = err.Error()
	}
	return answer
}
