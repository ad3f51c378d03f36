package api

import (
	"net/http"
	"strings"
	"time"
)

// report calls Events.Answered after each request that next served.
func (s *server) report(next http.Handler) http.Handler {
	if s.opts.Events.Answered == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		seen := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(seen, r)
		// The pattern is "POST /path", or "/path" for a wrong method, or "/" for any other.
		_, route, _ := strings.Cut(r.Pattern, "/")
		if route != "" {
			route = "/" + route
		}
		s.opts.Events.Answered(Answered{Method: r.Method, Route: route, Status: seen.status,
			Duration: time.Since(start)})
	})
}

// statusWriter remembers the status that was sent.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets a ResponseController reach the deadlines and Flush of the writer within.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
