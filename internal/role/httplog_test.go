package role

import (
	"bytes"
	stdlog "log"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"drover/internal/identity"
)

// TestHTTPLog says what kind of event is what in a log.
func TestHTTPLog(t *testing.T) {
	for line, want := range map[string]string{
		"http: TLS handshake error from 127.0.0.1:1: EOF":              "level=DEBUG",
		"http: panic serving 127.0.0.1:1: boom\ngoroutine 1 [running]": "level=ERROR",
		"http: Accept error: too many open files; retrying in 5ms":     "level=WARN",
	} {
		var out bytes.Buffer
		errorLog(slog.New(slog.NewTextHandler(&out,
			&slog.HandlerOptions{Level: slog.LevelDebug}))).Print(line)
		if got := out.String(); !strings.Contains(got, want) || strings.Count(got, "\n") != 1 {
			t.Errorf("%q gives %q, want one line with %s", line, got, want)
		}
	}
}

// TestAdminHandshake lets somebody without TLS come to a port with it: the log hears of it where
// it says more, and standard error gets no line of another form.
func TestAdminHandshake(t *testing.T) {
	said := make(saidLines, 16)
	stdlog.SetOutput(said)
	defer stdlog.SetOutput(os.Stderr)
	admin := Admin{Listener: loopback(t), Identity: newGuild(t, "x").as(t, identity.ExpertNode)}
	stop, err := admin.Serve(prometheus.NewRegistry(), func() error { return nil },
		slog.New(slog.NewTextHandler(said, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	reply, err := http.Get("http://" + admin.Listener.Addr().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	if err := reply.Body.Close(); err != nil {
		t.Fatal(err)
	}
	<-said // serving health and metrics
	if got := <-said; !strings.Contains(got, `level=DEBUG msg="a connection was refused"`) {
		t.Errorf("got %q, want a line of the log", got)
	}
}

// saidLines gets what is written, piece by piece.
type saidLines chan string

func (l saidLines) Write(text []byte) (int, error) {
	l <- string(text)
	return len(text), nil
}
