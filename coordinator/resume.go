package coordinator

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"unicode/utf8"

	droverv1 "drover/proto/drover/v1"
)

// errOtherBytes says that an answer began where other bytes are given.
var errOtherBytes = errors.New("resume.fingerprint: the answer began on a coordinator that " +
	"serves another checkpoint, chat template, mode, kernel class or context")

// maxRequestID bounds a request id in bytes.
const maxRequestID = 128

// fingerprint names what answers depend on beside their requests.
func (c *Coordinator) fingerprint() string {
	h := sha256.New()
	template := ""
	if c.prompts.tok != nil {
		template = c.prompts.tok.ChatTemplate()
	}
	fmt.Fprintf(h, "%x %q %q %d %d %+v %q", c.opts.ModelDigest, c.opts.NumericMode,
		c.opts.KernelClass, c.spec.Vocabulary, c.context, c.opts.Defaults, template)
	name := fmt.Sprintf("%x", h.Sum(nil)[:8])
	if c.opts.NumericMode != "" {
		name = c.opts.NumericMode + "-" + name
	}
	return name
}

// checkResume checks what can be checked before the rest of the request is known.
func (c *Coordinator) checkResume(req *droverv1.GenerateRequest) error {
	s := req.GetResume()
	if s == nil {
		return nil
	}
	if len(s.GetRequestId()) > maxRequestID {
		return badField("resume.request_id", "has %d bytes, at most %d are allowed",
			len(s.GetRequestId()), maxRequestID)
	}
	for i, b := range []byte(s.GetRequestId()) {
		if !plainByte(b) {
			return badField("resume.request_id",
				"byte %d is %q; want letters, digits, \"-\" and \"_\"", i, b)
		}
	}
	given := req.GetSampling()
	if s.Seed != nil && given != nil && given.Seed != nil && *s.Seed != *given.Seed {
		return badField("resume.seed", "is %d, but sampling.seed is %d", *s.Seed, *given.Seed)
	}
	if s.GetFingerprint() != "" && s.GetFingerprint() != c.print {
		return errOtherBytes
	}
	return checkTokens("resume.token_ids", s.GetTokenIds(), c.spec.Vocabulary)
}

func plainByte(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' ||
		b == '-' || b == '_'
}

// resumedSeed is the seed that a request's answer began with, or that it begins with.
func resumedSeed(req *droverv1.GenerateRequest, p *params) (uint64, error) {
	s, given := req.GetResume(), req.GetSampling()
	switch {
	case s == nil || given != nil && given.Seed != nil:
		return p.seed, nil
	case s.Seed != nil:
		return *s.Seed, nil
	case p.temperature != 0:
		return 0, badField("resume.seed", "is missing; Started tells it")
	}
	return p.seed, nil
}

// resume brings a new answer's state to where its client's copy ends, and returns the text
// that the client has yet to get. When the client lacks only the end, that text is all of
// the rest, and the answer has its reason.
func (g *generation) resume(s *droverv1.Resume) (text []byte, err error) {
	ids := s.GetTokenIds()
	if len(ids) > g.maxTokens {
		return nil, badField("resume.token_ids", "has %d tokens, the whole answer may have %d",
			len(ids), g.maxTokens)
	}
	for i, id := range ids {
		switch {
		case g.stops[id]:
			return nil, badField("resume.token_ids", "entry %d is token %d, which ends this answer "+
				"and is no part of it", i, id)
		case g.reason != 0:
			return nil, badField("resume.token_ids", "entry %d comes after the end of the answer, "+
				"stop string %q", i, g.stop)
		}
		text = append(text, g.accept(id)...)
	}
	if g.reason != 0 {
		text = append(text, g.rest()...)
	}
	return g.unsent(text, s)
}

// unsent returns what comes after the text that the client has, and remembers how much of
// the text to come it has already: text that is held back here may have been sent there,
// if the answer ended then.
func (g *generation) unsent(text []byte, s *droverv1.Resume) ([]byte, error) {
	has, whole := s.GetTextBytes(), text
	if has > uint64(len(text)) && g.reason == 0 && g.stream != nil {
		whole = []byte(g.tokenizer.Decode(s.GetTokenIds(), true))
	}
	switch {
	case has > uint64(len(whole)):
		return nil, badField("resume.text_bytes", "is %d, but resume.token_ids give %d bytes of text",
			has, len(whole))
	case has < uint64(len(whole)) && !utf8.RuneStart(whole[has]):
		return nil, badField("resume.text_bytes", "%d is inside of a character", has)
	case has > uint64(len(text)):
		g.skip = int(has) - len(text)
		return nil, nil
	}
	return text[has:], nil
}
