package role

import (
	stdlog "log"
	"log/slog"
	"strings"
)

// httpLog takes what an HTTP server says of itself, a line or a panic's lines at a time.
type httpLog struct{ log *slog.Logger }

// errorLog is for an http.Server, which else writes lines of a form of its own to standard
// error.
func errorLog(log *slog.Logger) *stdlog.Logger { return stdlog.New(httpLog{log}, "", 0) }

// Write implements io.Writer. What strangers do to connections is for who wants to know more:
// anybody who connects could fill a log with it.
func (h httpLog) Write(text []byte) (int, error) {
	line, stack, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	switch {
	case strings.HasPrefix(line, "http: panic serving"):
		h.log.Error("serving a request panicked: this is a bug", "error", line, "stack", stack)
	case strings.HasPrefix(line, "http: TLS handshake error"):
		h.log.Debug("a connection was refused", "reason", line)
	default:
		h.log.Warn("serving HTTP", "error", line)
	}
	return len(text), nil
}
