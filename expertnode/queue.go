package expertnode

import "sync"

// frameQueue holds the frames that wait for computation, in order of arrival.
type frameQueue struct {
	limit int           // of frames
	wake  chan struct{} // has a token while frames wait

	mu     sync.Mutex // guards the field below
	frames []*frame
}

func newFrameQueue(limit int) *frameQueue {
	return &frameQueue{limit: limit, wake: make(chan struct{}, 1)}
}

// push adds a frame, unless the queue is full.
func (q *frameQueue) push(f *frame) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.frames) >= q.limit {
		return false
	}
	q.frames = append(q.frames, f)
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return true
}

// waiting is the number of frames.
func (q *frameQueue) waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.frames)
}

// take removes the frame that has waited longest and those of the same layer that
// came after it, as far as all of them have no more than maxRows rows, and appends
// them to taken: their experts' weights are then read once for all. There are none
// if none waits.
func (q *frameQueue) take(taken []*frame, maxRows int) []*frame {
	q.mu.Lock()
	defer q.mu.Unlock()
	kept, rows := q.frames[:0], 0
	for _, f := range q.frames {
		d := &f.request.Dispatch
		n := int(d.RowCount)
		switch {
		case len(taken) == 0:
		case d.Layer != taken[0].request.Dispatch.Layer || rows+n > maxRows:
			kept = append(kept, f)
			continue
		}
		taken, rows = append(taken, f), rows+n
	}
	clear(q.frames[len(kept):])
	q.frames = kept
	return taken
}
