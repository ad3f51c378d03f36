package api

import (
	"bytes"
	"encoding/json"
	"net/http"
	"time"

	droverv1 "drover/proto/drover/v1"
)

// stream answers with server-sent events. Until the first choice has started, an error is
// an ordinary HTTP error; after that it is an event and the end.
func (x *exchange) stream() {
	out := &events{writer: x.writer, timeout: x.server.opts.WriteTimeout}
	if x.params.StreamOptions.IncludeUsage {
		x.frame.Usage = json.RawMessage("null")
	}
	err := x.server.generate(x.request.Context(), x.prompts,
		func(index int, r *droverv1.GenerateResponse) error {
			return x.pass(out, &x.choices[index], r)
		})
	switch {
	case err != nil && !out.started:
		x.fail(err)
		return
	case err != nil:
		_ = out.send(map[string]*apiError{"error": toError(err)}) // the client may be gone
		return
	}
	if x.params.StreamOptions.IncludeUsage {
		x.frame.Choices, x.frame.Usage = []any{}, x.usage()
		if out.send(x.frame) != nil {
			return
		}
	}
	_ = out.write([]byte("[DONE]")) // as above
}

// pass sends what a message adds to a choice.
func (x *exchange) pass(out *events, c *choice, r *droverv1.GenerateResponse) error {
	var chunks []any
	switch e := r.GetEvent().(type) {
	case *droverv1.GenerateResponse_Started:
		out.start()
		x.begin(e.Started)
		chunks = []any{x.shape.start(c)}
	case *droverv1.GenerateResponse_Delta:
		c.take(e.Delta)
		chunks = []any{x.shape.more(c)}
	case *droverv1.GenerateResponse_Finished:
		c.finish = e.Finished
		chunks = x.shape.end(c)
	}
	for _, chunk := range chunks {
		if chunk == nil {
			continue
		}
		x.frame.Choices = []any{chunk}
		if err := out.send(x.frame); err != nil {
			return err
		}
	}
	return nil
}

// events writes server-sent events, each flushed at once.
type events struct {
	writer  http.ResponseWriter
	timeout time.Duration
	started bool
	buffer  bytes.Buffer
}

// start writes the head of the answer, once.
func (e *events) start() {
	if e.started {
		return
	}
	e.started = true
	h := e.writer.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Accel-Buffering", "no") // a proxy would collect the events
	e.writer.WriteHeader(http.StatusOK)
}

func (e *events) send(v any) error {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	return e.write(bytes.TrimSuffix(text.Bytes(), []byte("\n")))
}

func (e *events) write(text []byte) error {
	rc := http.NewResponseController(e.writer)
	_ = rc.SetWriteDeadline(time.Now().Add(e.timeout)) // not all writers can
	e.buffer.Reset()
	e.buffer.WriteString("data: ")
	e.buffer.Write(text)
	e.buffer.WriteString("\n\n")
	if _, err := e.writer.Write(e.buffer.Bytes()); err != nil {
		return err
	}
	return rc.Flush()
}
