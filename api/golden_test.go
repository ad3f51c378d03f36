package api

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	droverv1 "drover/proto/drover/v1"
)

var rewrite = flag.Bool("rewrite", false, "write the answers that testdata/answers.txt shall have")

const answersPath = "testdata/answers.txt"

// TestAnswers plays the script in testdata/answers.txt. A case is
//
//	# name
//	say ["pieces", "of text"] | cut ["pieces"] | fail CODE message | refuse CODE message
//	METHOD /path
//	body
//	----
//	the answer's status, some of its head, and its body
//
// where the first line is what the coordinator does: fail comes after Started, refuse
// instead of it, and cut is out of tokens.
func TestAnswers(t *testing.T) {
	text, err := os.ReadFile(answersPath)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{}
	s := newFront(t, f, Options{})
	var out strings.Builder
	for _, c := range strings.Split("\n"+string(text), "\n# ")[1:] {
		command, want, ok := strings.Cut(c, "\n----\n")
		lines := strings.SplitN(command, "\n", 4)
		if !ok || len(lines) < 3 {
			t.Fatalf("%q is not a case", c)
		}
		body := strings.Join(lines[3:], "\n")
		f.answer, f.refuse = nil, nil
		f.play(t, lines[1])
		got := s.ask(t, lines[2], body)
		if want = strings.TrimRight(want, "\n"); got != want && !*rewrite {
			t.Errorf("%s: got\n%s\nwant\n%s", lines[0], got, want)
		}
		fmt.Fprintf(&out, "# %s\n----\n%s\n\n", command, got)
	}
	if *rewrite {
		text := strings.TrimSuffix(out.String(), "\n")
		if err := os.WriteFile(answersPath, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// play sets what the coordinator does.
func (f *fake) play(t *testing.T, line string) {
	t.Helper()
	verb, rest, _ := strings.Cut(line, " ")
	switch verb {
	case "say", "cut":
		var pieces []string
		if err := json.Unmarshal([]byte(rest), &pieces); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		f.answer = say(pieces...)
		if verb == "cut" {
			f.answer = sayUntil(droverv1.FinishReason_FINISH_REASON_LENGTH, pieces...)
		}
	case "fail", "refuse":
		name, message, _ := strings.Cut(rest, " ")
		var code codes.Code
		if err := code.UnmarshalJSON([]byte(`"` + name + `"`)); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		err := status.Error(code, message)
		if verb == "refuse" {
			f.refuse = err
			return
		}
		f.answer = func(grpc.ServerStreamingServer[droverv1.GenerateResponse]) error { return err }
	default:
		t.Fatalf("%s: unknown verb", line)
	}
}

var (
	randomIDs = regexp.MustCompile(`"(chatcmpl-|cmpl-|call_)[a-z2-7]{26}"`)
	times     = regexp.MustCompile(`"created":\d+`)
)

// ask returns an answer without what differs each time.
func (f *front) ask(t *testing.T, line, body string) string {
	t.Helper()
	method, path, _ := strings.Cut(line, " ")
	req, err := http.NewRequestWithContext(t.Context(), method, f.URL+path,
		strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var head strings.Builder
	fmt.Fprintln(&head, res.StatusCode)
	for _, name := range []string{"Content-Type", "Retry-After", "Allow"} {
		if v := res.Header.Get(name); v != "" {
			fmt.Fprintf(&head, "%s: %s\n", name, v)
		}
	}
	out := head.String() + strings.TrimRight(string(text), "\n")
	out = randomIDs.ReplaceAllString(out, `"${1}ID"`)
	return times.ReplaceAllString(out, `"created":0`)
}
