package api

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	droverv1 "drover/proto/drover/v1"
)

// shape is the JSON of one endpoint's choices. A value that is nil is not sent.
type shape interface {
	// names returns the prefix of ids and the object's type.
	names(stream bool) (id, object string)
	// whole is a choice with all of its answer.
	whole(c *choice) any
	// start is a stream's first choice, more what can be sent of the text so far, and
	// end what is left, with the reason why it ended.
	start(c *choice) any
	more(c *choice) any
	end(c *choice) []any
}

// envelope is what surrounds the choices.
type envelope struct {
	ID      string          `json:"id"`
	Object  string          `json:"object"`
	Created int64           `json:"created"`
	Model   string          `json:"model"`
	Choices []any           `json:"choices"`
	Usage   json.RawMessage `json:"usage,omitempty"`
	// Fingerprint changes when the same request and seed may give another answer.
	Fingerprint *string `json:"system_fingerprint"`
}

type usage struct {
	PromptTokens     uint64 `json:"prompt_tokens"`
	CompletionTokens uint64 `json:"completion_tokens"`
	TotalTokens      uint64 `json:"total_tokens"`
}

// exchange is one request being answered.
type exchange struct {
	server  *server
	request *http.Request
	writer  http.ResponseWriter
	params  *params
	shape   shape
	prompts []*droverv1.GenerateRequest // n in a row have the same prompt
	choices []choice
	begun   int // choices that have started
	frame   envelope
}

func (s *server) serve(w http.ResponseWriter, r *http.Request, p *params,
	requests []*droverv1.GenerateRequest, sh shape) {
	prefix, object := sh.names(p.Stream)
	x := &exchange{server: s, request: r, writer: w, params: p, shape: sh, prompts: requests,
		choices: make([]choice, len(requests)),
		frame: envelope{ID: prefix + strings.ToLower(rand.Text()), Object: object,
			Created: time.Now().Unix(), Model: p.Model, Fingerprint: s.fingerprint(r.Context())}}
	for i := range x.choices {
		x.choices[i].index = i
	}
	if p.Stream {
		x.stream()
		return
	}
	x.collect()
}

// begin takes the start of a choice.
func (x *exchange) begin(s *droverv1.Started) {
	x.frame.Model = s.GetModel()
	if x.begun++; x.begun == len(x.choices) {
		x.params.begun()
	}
}

// collect answers with one JSON object.
func (x *exchange) collect() {
	err := x.server.generate(x.request.Context(), x.prompts,
		func(index int, r *droverv1.GenerateResponse) error {
			c := &x.choices[index]
			switch e := r.GetEvent().(type) {
			case *droverv1.GenerateResponse_Started:
				x.begin(e.Started)
			case *droverv1.GenerateResponse_Delta:
				c.take(e.Delta)
			case *droverv1.GenerateResponse_Finished:
				c.finish = e.Finished
			}
			return nil
		})
	if err != nil {
		x.fail(err)
		return
	}
	for i := range x.choices {
		x.frame.Choices = append(x.frame.Choices, x.shape.whole(&x.choices[i]))
	}
	x.frame.Usage = x.usage()
	x.server.reply(x.writer, http.StatusOK, x.frame)
}

// fail answers with an error; nothing may have been written yet. What a coordinator calls the
// prompt are the messages of a chat.
func (x *exchange) fail(err error) {
	e := toError(err)
	if e.Param != nil && *e.Param == "prompt" && x.prompts[0].GetChat() != nil {
		param := "messages"
		e.Param, e.Message = &param, param+strings.TrimPrefix(e.Message, "prompt")
	}
	x.server.fail(x.writer, e)
}

// usage counts a prompt once, however many choices it has.
func (x *exchange) usage() json.RawMessage {
	n := 1
	if x.params.N != nil {
		n = *x.params.N
	}
	var u usage
	for i := range x.choices {
		f := x.choices[i].finish
		u.CompletionTokens += uint64(f.GetTokenCount())
		if i%n == 0 {
			u.PromptTokens += uint64(f.GetPromptTokenCount())
		}
	}
	u.TotalTokens = u.PromptTokens + u.CompletionTokens
	raw, _ := json.Marshal(u) // three numbers always encode
	return raw
}
