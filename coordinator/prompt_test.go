package coordinator

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// TestLongPromptsTakeTurns asks for tokens while all turns are taken: a long text waits, until
// there is one again or its client goes, and short ones and tokens do not.
func TestLongPromptsTakeTurns(t *testing.T) {
	p := newPrompter(loadTokenizer(t), 2016, 2048)
	long := strings.Repeat("the cat ", longPrompt/8)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range longPromptTurns {
		p.turns <- struct{}{}
	}
	for name, tc := range map[string]struct {
		req   *genReq
		waits bool
	}{
		"long text":  {textRequest(long), true},
		"long chat":  {sayRequest(&message{Role: "user", Content: long}), true},
		"short text": {textRequest("the cat"), false},
		"tokens":     {tokensRequest(make([]int32, longPrompt), 4), false},
	} {
		_, err := p.tokens(gone, tc.req)
		if waits := errors.Is(err, context.Canceled); waits != tc.waits {
			t.Errorf("%s: %v, want to wait: %v", name, err, tc.waits)
		}
	}
	<-p.turns
	ids, err := p.tokens(t.Context(), textRequest(long))
	if want := longPrompt / 8 * 2; err != nil || len(ids) < want {
		t.Errorf("with a turn: %d tokens, %v; want %d or more", len(ids), err, want)
	}
	if got, want := len(p.turns), longPromptTurns-1; got != want {
		t.Errorf("%d turns are taken after that, want %d", got, want)
	}
}
