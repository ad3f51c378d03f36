package router

import (
	"testing"
	"time"
)

// drive lets a pulse be looked at every pulseEvery for some time, heard as often as answers
// say, and returns what it asked for when, and when it said that the link is lost.
type drive struct {
	p      pulse
	now    time.Duration
	asked  []time.Duration
	lost   []time.Duration
	queued time.Duration
	// answerAfter is how long the node takes to answer; negative is never.
	answerAfter time.Duration
	// standstill, if not 0, is by how much the next look comes late.
	standstill time.Duration
	heard      time.Duration
}

func (d *drive) run(until time.Duration) {
	for d.now < until {
		passed := pulseEvery + d.standstill
		d.standstill = 0
		d.now += passed
		if d.p.asked > 0 && d.answerAfter >= 0 && d.p.asked+d.answerAfter <= d.now {
			d.heard = max(d.heard, d.p.asked+d.answerAfter)
		}
		switch d.p.look(d.heard, passed, d.queued) {
		case linkAsk:
			d.asked = append(d.asked, d.now)
			d.p.wasAsked(d.now)
		case linkLost:
			d.lost = append(d.lost, d.now)
		}
	}
}

func newDrive() *drive {
	d := &drive{now: 1, heard: 1}
	d.p.look(1, 0, 0)
	return d
}

// TestPulseIdle asks an idle link about once in a second, and loses it never.
func TestPulseIdle(t *testing.T) {
	for _, after := range []time.Duration{0, ms, 200 * ms, 700 * ms, 1200 * ms} {
		d := newDrive()
		d.answerAfter = after
		d.run(time.Minute)
		least := int(time.Minute / (time.Second + after + pulseEvery))
		if n := len(d.asked); len(d.lost) > 0 || n > 60 || n < least {
			t.Errorf("answers after %v: asked %d times in a minute, want %d to 60; lost at %v", after,
				n, least, d.lost)
		}
	}
}

// TestPulseSilent wants a silent link to be lost about 2 s after it was last heard, once,
// and later only as far as answers took longer before or rows are on their way.
func TestPulseSilent(t *testing.T) {
	for name, tc := range map[string]struct {
		usual, queued time.Duration
		least, most   time.Duration
	}{
		"usual":      {ms, 0, 1750 * ms, 2500 * ms},
		"slow":       {500 * ms, 0, 2500 * ms, 3500 * ms},
		"very slow":  {1200 * ms, 0, 3 * time.Second, 4500 * ms},
		"rows there": {ms, 20 * time.Second, 21750 * ms, 22500 * ms},
	} {
		d := newDrive()
		d.answerAfter = tc.usual
		d.run(time.Minute)
		d.answerAfter, d.queued = -1, tc.queued
		last := d.heard
		d.run(3 * time.Minute)
		if d.heard > last { // the answer of a question that was under way
			last = d.heard
		}
		if len(d.lost) != 1 || d.lost[0]-last < tc.least || d.lost[0]-last > tc.most {
			t.Errorf("%s: heard last at %v, lost at %v, want once after %v to %v", name, last, d.lost,
				tc.least, tc.most)
		}
	}
}

// TestPulseForgets wants one slow answer to be forgotten.
func TestPulseForgets(t *testing.T) {
	d := newDrive()
	d.answerAfter = time.Second
	d.run(5 * time.Second)
	if d.p.patience() != mostWait {
		t.Errorf("patience %v after answers of 1 s, want %v", d.p.patience(), mostWait)
	}
	d.answerAfter = ms
	d.run(25 * time.Second)
	if d.p.patience() != leastWait {
		t.Errorf("patience %v after 20 s of fast answers, want %v", d.p.patience(), leastWait)
	}
}

// TestPulseStandstill lets this process stand still: what the node said meanwhile has not
// been read, and the node is not blamed.
func TestPulseStandstill(t *testing.T) {
	for _, after := range []time.Duration{100 * ms, 800 * ms, 1100 * ms} {
		d := newDrive()
		d.answerAfter = ms
		for range 20 {
			d.run(d.now + after)
			// The answer was there all the time, and is read at the look after the next.
			heard := d.heard
			d.standstill, d.answerAfter = 20*time.Second, -1
			d.run(d.now + 1)
			d.heard, d.answerAfter = max(heard, d.now), ms
		}
		if len(d.lost) > 0 {
			t.Errorf("stood still after %v: lost at %v", after, d.lost)
		}
	}
	d := newDrive() // starved for ever: half of the looks come
	d.answerAfter = -1
	for len(d.lost) == 0 && d.now < time.Minute {
		d.standstill = pulseEvery
		d.run(d.now + 1)
	}
	if len(d.lost) == 0 || d.lost[0] > 6*time.Second {
		t.Errorf("with half of the looks a silent link was lost at %v, want within 6 s", d.lost)
	}
}

// TestPulseCannotAsk loses a link to which nothing can be written.
func TestPulseCannotAsk(t *testing.T) {
	var p pulse
	p.look(1, 0, 0)
	for at := time.Duration(1); at < 10*time.Second; at += pulseEvery {
		switch p.look(1, pulseEvery, 0) {
		case linkLost:
			if at < 1500*ms || at > 2500*ms {
				t.Errorf("lost after %v, want about 2 s", at)
			}
			return
		}
	}
	t.Error("not lost within 10 s")
}

// TestPulseLooksStuck counts time in which no frame is answered: it is told once, and anew after
// an answer.
func TestPulseLooksStuck(t *testing.T) {
	var p pulse
	const queued = 3 * pulseEvery
	looks := int((stuckAfter + queued) / pulseEvery)
	for round := range int64(3) {
		if p.looksStuck(round+1, true, pulseEvery, queued) {
			t.Fatal("stuck at an answer")
		}
		for look := 1; look < 3*looks; look++ {
			passed := pulseEvery
			if look%2 == 0 {
				passed = time.Hour // in which this process stood still
			}
			if got := p.looksStuck(round+1, true, passed, queued); got != (look == looks) {
				t.Errorf("look %d: %v", look, got)
			}
		}
	}
	for range 3 * looks {
		if p.looksStuck(3, false, pulseEvery, 0) {
			t.Fatal("stuck, and no frame waits")
		}
	}
}
