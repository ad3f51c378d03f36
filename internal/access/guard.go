package access

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"drover/internal/identity"
	"drover/internal/reload"
)

// Guard asks whoever calls a coordinator who they are. Health is for everybody; a
// certificate of the role client, or a key with the scope infer, asks the model; the rest
// needs a certificate of a coordinator or a key with the scope admin.
type Guard struct {
	keys   atomic.Pointer[Keys] // nil: certificates alone
	files  *reload.Files
	events Events
}

// Events report what happens to a Guard. Each may be nil.
type Events struct {
	reload.Events
	// Called is called for each call that is not for everybody: by whom ("key NAME" or
	// "role NAME", empty if unknown), and why it is refused.
	Called func(who, method string, refused error)
}

// Open makes a guard with a file of keys, which is followed, or with none if path is empty.
func Open(path string, events Events) (*Guard, error) {
	g := &Guard{events: events}
	if path == "" {
		return g, nil
	}
	var err error
	g.files, err = reload.Open([]string{path}, func(contents [][]byte) error {
		keys, err := Parse(contents[0])
		if err == nil {
			g.keys.Store(keys)
		}
		return err
	}, events.Events)
	if err != nil {
		return nil, fmt.Errorf("API keys in %s: %w", path, err)
	}
	return g, nil
}

// Close stops following the file.
func (g *Guard) Close() {
	if g.files != nil {
		g.files.Close()
	}
}

// Reload reads the file now.
func (g *Guard) Reload() error {
	_, err := g.files.Check()
	return err
}

// allow returns a status of refusal unless a caller may call a method.
func (g *Guard) allow(method string, need Scope, id identity.ID, authorization string) error {
	who, err := g.ask(need, id, authorization)
	if g.events.Called != nil {
		g.events.Called(who, method, err)
	}
	return err
}

func (g *Guard) ask(need Scope, id identity.ID, authorization string) (who string, err error) {
	if authorization != "" {
		return g.askKey(need, authorization)
	}
	switch {
	case id.Role == identity.Coordinator, id.Role == identity.Client && need == Infer:
		return "role " + string(id.Role), nil
	case id.Role != "":
		return "role " + string(id.Role), status.Errorf(codes.PermissionDenied,
			"a certificate of role %s may not do this", id.Role)
	case g.keys.Load() == nil:
		return "", status.Error(codes.Unauthenticated, "a client certificate is needed")
	}
	return "", status.Error(codes.Unauthenticated,
		"an API key is needed: send the header Authorization: Bearer KEY")
}

func (g *Guard) askKey(need Scope, authorization string) (who string, err error) {
	kind, text, _ := strings.Cut(authorization, " ")
	keys := g.keys.Load()
	if keys == nil || !strings.EqualFold(kind, "Bearer") {
		return "", status.Error(codes.Unauthenticated,
			"this kind of authorization is not known here")
	}
	key, err := keys.Check(strings.TrimSpace(text), time.Now())
	if err != nil {
		return "", status.Error(codes.Unauthenticated, err.Error())
	}
	who = "key " + key.Name
	if !key.Allows(need) {
		return who, status.Errorf(codes.PermissionDenied,
			"the API key %q lacks the scope %s", key.Name, need)
	}
	return who, nil
}

const (
	health      = "/grpc.health.v1.Health/"
	coordinator = "/drover.v1.CoordinatorService/"
)

// check is allow for a gRPC call.
func (g *Guard) check(ctx context.Context, method string) error {
	need := Admin
	switch {
	case strings.HasPrefix(method, health):
		return nil
	case strings.HasPrefix(method, coordinator):
		need = Infer
	}
	var authorization string
	if v := metadata.ValueFromIncomingContext(ctx, "authorization"); len(v) > 0 {
		authorization = v[0]
	}
	return g.allow(method, need, identity.Peer(ctx), authorization)
}

// ServerOptions have a gRPC server ask the guard.
func (g *Guard) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo,
			next grpc.UnaryHandler) (any, error) {
			if err := g.check(ctx, info.FullMethod); err != nil {
				return nil, err
			}
			return next(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream,
			info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := g.check(stream.Context(), info.FullMethod); err != nil {
				return err
			}
			return next(srv, stream)
		}),
	}
}

// open are the paths of HTTP that are for everybody.
var open = []string{"/healthz", "/readyz"}

// HTTP is allow for a request of the HTTP API.
func (g *Guard) HTTP(r *http.Request) error {
	if slices.Contains(open, r.URL.Path) {
		return nil
	}
	return g.allow(r.URL.Path, Infer, identity.PeerOf(r.TLS), r.Header.Get("Authorization"))
}
