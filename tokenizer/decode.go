package tokenizer

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// decoder says how the tokens' strings become text.
type decoder struct {
	kind    decoderKind
	replace []func(string) string // applied to each token
	strip   string                // a character taken away at the start of the text
	stripN  int                   // at most so often
}

type decoderKind int

const (
	decodeJoined    decoderKind = iota // no decoder: tokens with spaces between them
	decodeByteLevel                    // tokens are bytes, written in an alphabet of 256 characters
	decodePlain                        // tokens are text
	decodeFallback                     // tokens are text, or one byte written <0xAB>
)

// parseDecoder reads the decoder field.
func parseDecoder(raw json.RawMessage) (decoder, error) {
	const field = "decoder"
	var d decoder
	steps, err := flatten(field, raw, 0)
	if err != nil {
		return d, err
	}
	growth, fused := 1, false
	for i, s := range steps {
		switch {
		case s.Type == "ByteLevel" && len(steps) == 1:
			d.kind = decodeByteLevel
			return d, nil
		case s.Type == "Replace" && d.kind != decodeFallback && !fused:
			replace, err := newReplace(s, &growth)
			if err != nil {
				return d, fmt.Errorf("%s: %w", field, err)
			}
			d.kind, d.replace = decodePlain, append(d.replace, replace)
		case s.Type == "ByteFallback" && d.kind != decodeFallback && !fused:
			d.kind = decodeFallback
		case s.Type == "Fuse" && !fused:
			fused = true
			d.kind = max(d.kind, decodePlain)
		case s.Type == "Strip" && fused && d.strip == "" && s.Stop == 0 && s.Start >= 0:
			if utf8.RuneCountInString(s.Content) != 1 {
				return d, fmt.Errorf("%s: Strip: %.60q is not one character", field, s.Content)
			}
			d.strip, d.stripN = s.Content, s.Start
		default:
			return d, fmt.Errorf("%s: type %.60q as step %d is not supported", field, s.Type, i)
		}
	}
	return d, nil
}

// fill finds the bytes that each token stands for.
func (d *decoder) fill(v *vocab) {
	v.pieces = make([]string, len(v.tokens))
	for id, token := range v.tokens {
		if d.kind == decodeByteLevel {
			if text, ok := fromAlphabet(token); ok {
				token = text
			}
			v.pieces[id] = token
			continue
		}
		for _, replace := range d.replace {
			token = replace(token)
		}
		if b, ok := byteToken(token); ok && d.kind == decodeFallback {
			v.flags[id] |= flagByte
			token = string([]byte{b})
		}
		v.pieces[id] = token
	}
}

// byteToken reads <0xAB>.
func byteToken(token string) (byte, bool) {
	if len(token) != 6 || token[:3] != "<0x" || token[5] != '>' {
		return 0, false
	}
	b, err := strconv.ParseUint(token[3:5], 16, 8)
	return byte(b), err == nil
}

// alphabet maps the characters that byte-level files write for bytes back to these: visible
// Latin-1 characters stand for themselves, the others for U+0100 and so on, in order.
var alphabet = sync.OnceValue(func() map[rune]byte {
	chars := make(map[rune]byte, 256)
	extra := rune(256)
	for b := range rune(256) {
		if '!' <= b && b <= '~' || 0xa1 <= b && b <= 0xac || 0xae <= b {
			chars[b] = byte(b)
		} else {
			chars[extra] = byte(b)
			extra++
		}
	}
	return chars
})

// fromAlphabet is the bytes that a byte-level token stands for. It is not ok when the token has a
// character outside the alphabet; the token is then itself.
func fromAlphabet(token string) (string, bool) {
	chars := alphabet()
	out := make([]byte, 0, len(token))
	for _, r := range token {
		b, ok := chars[r]
		if !ok {
			return token, false
		}
		out = append(out, b)
	}
	return string(out), true
}

// Decode turns tokens into text. Bytes that are not UTF-8 become U+FFFD; ids that no token has
// are left out. With skipSpecial, control tokens are left out too.
func (t *Tokenizer) Decode(ids []int32, skipSpecial bool) string {
	var out strings.Builder
	s := t.NewStream(skipSpecial)
	for _, id := range ids {
		out.WriteString(s.Push(id))
	}
	out.WriteString(s.Flush())
	return out.String()
}

// Stream decodes tokens one after the other. It is not safe for use by several goroutines.
type Stream struct {
	t           *Tokenizer
	skipSpecial bool
	begun       bool
	strip       int    // how many characters may still be taken away at the start
	held        []byte // bytes whose text is not yet settled
}

// NewStream begins a text.
func (t *Tokenizer) NewStream(skipSpecial bool) *Stream {
	return &Stream{t: t, skipSpecial: skipSpecial, strip: t.decoder.stripN}
}

// Push takes a token and returns the text that has become certain; "" when there is none yet.
// All that Push and then Flush return, joined, is what Decode gives for the same tokens.
//
// A vocabulary with one token per byte holds text back until a run of such tokens ends, because
// one wrong byte turns the whole run into U+FFFD.
func (s *Stream) Push(id int32) string {
	v := &s.t.vocab
	if !v.known(id) || s.skipSpecial && v.flags[id]&flagSpecial != 0 {
		return ""
	}
	piece := v.pieces[id]
	switch s.t.decoder.kind {
	case decodeByteLevel:
		if len(s.held) == 0 && utf8.ValidString(piece) {
			return piece
		}
		s.held = append(s.held, piece...)
		return s.settle(false)
	case decodeFallback:
		if v.flags[id]&flagByte != 0 {
			s.held = append(s.held, piece[0])
			return ""
		}
		return s.stripped(s.endRun() + piece)
	case decodeJoined:
		if s.begun {
			return " " + piece
		}
		s.begun = true
	}
	return s.stripped(piece)
}

// Flush ends the text and returns the rest of it.
func (s *Stream) Flush() string {
	if s.t.decoder.kind == decodeFallback {
		return s.stripped(s.endRun())
	}
	return s.settle(true)
}

// settle returns the text of the held bytes and keeps an unfinished character, unless it is the
// end of the text.
func (s *Stream) settle(end bool) string {
	var out []byte
	b := s.held
	for len(b) > 0 {
		n, whole, open := nextChar(b)
		if open && !end {
			break
		}
		if whole {
			out = append(out, b[:n]...)
		} else {
			out = append(out, "\uFFFD"...)
		}
		b = b[n:]
	}
	s.held = s.held[:copy(s.held, b)]
	return string(out)
}

// nextChar measures the character at the start of b. It is whole, or a prefix of one that the
// next byte breaks off, or open: a prefix that ends with b.
func nextChar(b []byte) (n int, whole, open bool) {
	lo, hi, want := byte(0x80), byte(0xbf), 0
	switch c := b[0]; {
	case c < utf8.RuneSelf:
		return 1, true, false
	case 0xc2 <= c && c <= 0xdf:
		want = 2
	case 0xe0 <= c && c <= 0xef:
		want = 3
	case 0xf0 <= c && c <= 0xf4:
		want = 4
	default:
		return 1, false, false
	}
	switch b[0] { // these leads narrow the second byte
	case 0xe0:
		lo = 0xa0
	case 0xed:
		hi = 0x9f
	case 0xf0:
		lo = 0x90
	case 0xf4:
		hi = 0x8f
	}
	for n = 1; n < want; n++ {
		if n == len(b) {
			return n, false, true
		}
		if b[n] < lo || b[n] > hi {
			return n, false, false
		}
		lo, hi = 0x80, 0xbf
	}
	return n, true, false
}

// endRun returns the text of a run of byte tokens: all of it, or one U+FFFD for each byte.
func (s *Stream) endRun() string {
	run := s.held
	s.held = s.held[:0]
	if utf8.Valid(run) {
		return string(run)
	}
	return strings.Repeat("\uFFFD", len(run))
}

// stripped takes away what the decoder wants gone at the start of the text.
func (s *Stream) stripped(text string) string {
	for s.strip > 0 && text != "" {
		rest, ok := strings.CutPrefix(text, s.t.decoder.strip)
		if !ok {
			s.strip = 0
			break
		}
		text = rest
		s.strip--
	}
	return text
}
