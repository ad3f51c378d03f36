package expertnode

import (
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"drover/wire"
)

const (
	// pingsPerSecond bounds the pings of a stream. A router asks an idle node once in a second,
	// four times where it cannot read what comes, and for each frame that waits at most 20
	// times: twice in the time in which a frame should be answered.
	pingsPerSecond = 20 * wire.MaxStreamFrames
	// pingBurst is for how long pings may have been held up, to come all at once.
	pingBurst = time.Second
)

// pingAllowance is a token bucket. The zero value is full.
type pingAllowance struct {
	spent time.Time // until when all tokens are taken that time brings
}

// take takes a token, if there is one.
func (p *pingAllowance) take(now time.Time) bool {
	if full := now.Add(-pingBurst); p.spent.Before(full) {
		p.spent = full
	}
	p.spent = p.spent.Add(time.Second / pingsPerSecond)
	return !p.spent.After(now)
}

// flooded tells that a stream has more pings than any router sends, and returns its end.
func (st *stream) flooded() error {
	st.server.recorder.floods.Add(1)
	if f := st.server.opts.Events.PingFlood; f != nil {
		f(st.address)
	}
	return status.Errorf(codes.ResourceExhausted, "more than %d pings a second came: no router "+
		"sends so many", pingsPerSecond)
}
