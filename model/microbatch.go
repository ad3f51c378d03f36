package model

// split cuts a batch into its micro-batches, in order and with equally many tokens, give
// or take one. They share the tokens and tables of b, and use the memory that parts has.
//
// A sequence may be cut between two. Then the second part starts where the first ends,
// and the tokens that need logits stay the sequence's last ones.
func (b *Batch) split(parts []Batch) []Batch {
	parts = parts[:0]
	n := min(max(b.MicroBatches, 1), len(b.Tokens))
	for i := range b.Sequences {
		if b.Sequences[i].Trace != nil {
			n = 1 // a trace is called once a layer
		}
	}
	at, done := 0, 0 // the sequence, and how many of its tokens are in parts
	for i := range n {
		from, to := i*len(b.Tokens)/n, (i+1)*len(b.Tokens)/n
		part := Batch{Tokens: b.Tokens[from:to]}
		if len(parts) < cap(parts) {
			part.Sequences = parts[:len(parts)+1][len(parts)].Sequences[:0]
		}
		for room := to - from; room > 0; {
			s := b.Sequences[at]
			take := min(s.Count-done, room)
			last := s.Count - done - take // of its tokens come in later parts
			s.Start, s.Count, s.Logits = s.Start+done, take, min(max(s.Logits-last, 0), take)
			part.Sequences = append(part.Sequences, s)
			room -= take
			if done += take; last == 0 {
				at, done = at+1, 0
			}
		}
		parts = append(parts, part)
	}
	return parts
}
