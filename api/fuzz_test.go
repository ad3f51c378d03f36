package api

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// FuzzChatRequest checks that any body is answered by the coordinator, or refused with an
// error in OpenAI's shape, on both endpoints.
func FuzzChatRequest(f *testing.F) {
	for _, s := range []string{`{"messages":[{"role":"user","content":"hi"}],"n":2,"seed":-3}`,
		`{"messages":[{"role":"tool","content":[{"type":"text","text":"x"}]}],"tools":[` + weather +
			`],"stream":true}`,
		`{"prompt":[[1,2],[3]],"logit_bias":{"1":2},"stop":["a"],"logprobs":1}`,
		`{"prompt":"\ud800","stream":true,"stream_options":{"include_usage":true}}`,
		`{"prompt":[null]}`, `[`, "\xff"} {
		f.Add([]byte(s))
	}
	coordinator := &fake{}
	s := newFront(f, coordinator, Options{MaxBodyBytes: 1 << 16})
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, path := range []string{chatPath, "/v1/completions"} {
			coordinator.mu.Lock()
			coordinator.requests = nil
			coordinator.mu.Unlock()
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path,
				strings.NewReader(string(body)))
			w := httptest.NewRecorder()
			s.Config.Handler.ServeHTTP(w, r)
			coordinator.mu.Lock()
			asked := len(coordinator.requests)
			coordinator.mu.Unlock()
			checkReply(t, w, asked)
		}
	})
}

// checkReply checks the answer to a request that the coordinator was asked for asked times.
func checkReply(t *testing.T, w *httptest.ResponseRecorder, asked int) {
	t.Helper()
	text := w.Body.String()
	if w.Code == http.StatusOK {
		streamed := w.Header().Get("Content-Type") == "text/event-stream"
		complete := json.Valid([]byte(text))
		if streamed {
			complete = strings.HasSuffix(text, "\n\ndata: [DONE]\n\n")
		}
		if asked < 1 || asked > maxChoices || !complete {
			t.Errorf("the coordinator was asked %d times; answer %q", asked, text)
		}
		return
	}
	var refusal struct{ Error apiError }
	err := json.Unmarshal([]byte(text), &refusal)
	if err != nil || refusal.Error.Message == "" ||
		refusal.Error.Type != "invalid_request_error" || asked != 0 ||
		(w.Code != http.StatusBadRequest && w.Code != http.StatusRequestEntityTooLarge) {
		t.Errorf("status %d after asking %d times: %q", w.Code, asked, text)
	}
}
