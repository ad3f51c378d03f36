package coordinator

import (
	"bytes"
	"strings"
)

// stopper lets text through until a stop string would appear in it. It holds back text
// that may be the beginning of one.
type stopper struct {
	stops []string
	held  []byte
	out   []byte // what push and flush returned last
}

// push takes more text and returns what is certain by now, valid until the next call.
// When a stop string is complete it returns the text before it and the string; of several,
// the one that is complete first, and of those the longest.
func (s *stopper) push(text string) (out []byte, stop string) {
	s.held = append(s.held, text...)
	end, begin := len(s.held)+1, 0
	for _, candidate := range s.stops {
		i := bytes.Index(s.held, []byte(candidate))
		if i < 0 {
			continue
		}
		if e := i + len(candidate); e < end || e == end && i < begin {
			begin, end, stop = i, e, candidate
		}
	}
	if stop == "" {
		begin = len(s.held) - s.tail()
	}
	s.out = append(s.out[:0], s.held[:begin]...)
	s.held = s.held[:copy(s.held, s.held[begin:])]
	return s.out, stop
}

// flush returns the text held back.
func (s *stopper) flush() []byte {
	s.out = append(s.out[:0], s.held...)
	s.held = s.held[:0]
	return s.out
}

// tail is the length of the longest end of the held text that begins a stop string.
func (s *stopper) tail() int {
	longest := 0
	for _, stop := range s.stops {
		n := min(len(stop)-1, len(s.held))
		for ; n > longest; n-- {
			if strings.HasPrefix(stop, string(s.held[len(s.held)-n:])) {
				longest = n
			}
		}
	}
	return longest
}
