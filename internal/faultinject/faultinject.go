// Package faultinject makes an expert node misbehave, so that tests can see what the
// others do about it. No release build contains it: the command has it only when built
// with the tag faultinject.
package faultinject

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

	"drover/expertnode"
	"drover/moe"
	"drover/wire"
)

// Faults says how a node misbehaves. The zero value does not.
type Faults struct {
	// Wrong is the part of experts' results in which one number is changed before the
	// checksum is made.
	Wrong float64
	// Corrupt is the part of answers with rows in which one bit is flipped after the
	// checksum was made.
	Corrupt float64
	// Delay comes before each computation.
	Delay time.Duration
	// Slow is how many times as long each computation takes. Zero means once.
	Slow float64
	// Hang is the number of frames after which no computation ends any more while the fault
	// lasts, though the node goes on to answer pings. Zero means never.
	Hang int
	// Refuse is the part of experts that are answered as if the node did not hold them.
	Refuse float64
	// Clock is how far the node's wall clock is ahead, or behind if it is negative.
	Clock time.Duration
	// Seed makes the same faults happen again.
	Seed uint64
}

// Parse reads faults such as
// "wrong=0.01,corrupt=0.1,refuse=0.1,delay=20ms,slow=10,hang=500,seed=3".
func Parse(text string) (f Faults, err error) {
	for field := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(field, "=")
		switch name {
		case "wrong":
			f.Wrong, err = fraction(value)
		case "corrupt":
			f.Corrupt, err = fraction(value)
		case "refuse":
			f.Refuse, err = fraction(value)
		case "delay":
			f.Delay, err = time.ParseDuration(value)
		case "slow":
			f.Slow, err = strconv.ParseFloat(value, 64)
		case "hang":
			f.Hang, err = strconv.Atoi(value)
		case "clock":
			f.Clock, err = time.ParseDuration(value)
		case "seed":
			f.Seed, err = strconv.ParseUint(value, 10, 64)
		default:
			err = fmt.Errorf("is none of wrong, corrupt, refuse, delay, slow, hang, clock, seed")
		}
		if err == nil && (f.Delay < 0 || f.Slow < 0 || f.Hang < 0) {
			err = fmt.Errorf("is negative")
		}
		if err != nil {
			return Faults{}, fmt.Errorf("fault %q: %w", field, err)
		}
	}
	return f, nil
}

func fraction(text string) (float64, error) {
	v, err := strconv.ParseFloat(text, 64)
	if err == nil && !(v >= 0 && v <= 1) {
		err = fmt.Errorf("must be 0 to 1")
	}
	return v, err
}

// dice draws from a seed. It is safe for concurrent use.
type dice struct {
	mu  sync.Mutex // guards rng
	rng *rand.Rand
}

func newDice(seed, stream uint64) *dice {
	return &dice{rng: rand.New(rand.NewPCG(seed, stream))}
}

func (d *dice) hits(p float64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return p > 0 && d.rng.Float64() < p
}

func (d *dice) below(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rng.IntN(n)
}

// replicas misbehave as they compute.
type replicas struct {
	expertnode.Replicas
	faults func() Faults // at the moment
	dice   *dice

	mu     sync.Mutex // guards the field below
	frames int
}

// Wrap returns replicas that compute with the faults.
func (f Faults) Wrap(r expertnode.Replicas) expertnode.Replicas {
	return WrapBy(func() Faults { return f }, f.Seed)(r)
}

// WrapBy returns a Wrap with faults that change: now says which there are at the moment.
func WrapBy(now func() Faults, seed uint64) func(expertnode.Replicas) expertnode.Replicas {
	return func(r expertnode.Replicas) expertnode.Replicas {
		return &replicas{Replicas: r, faults: now, dice: newDice(seed, 1)}
	}
}

// ComputeBatch computes a batch, if at all, late or wrongly.
func (r *replicas) ComputeBatch(b *moe.Batch, errs []error) {
	faults := r.faults()
	r.mu.Lock()
	r.frames++
	frames := r.frames
	r.mu.Unlock()
	for faults.Hang > 0 && frames > faults.Hang {
		time.Sleep(liveEvery)
		faults = r.faults()
	}
	time.Sleep(faults.Delay)
	began := time.Now()
	r.Replicas.ComputeBatch(b, errs)
	if faults.Slow > 1 {
		linger(time.Duration(float64(time.Since(began)) * (faults.Slow - 1)))
	}
	row := 0
	for i, n := range b.Counts {
		if errs[i] == nil && r.dice.hits(faults.Refuse) {
			errs[i] = fmt.Errorf("layer %d expert %d: %w", b.Layer, b.Experts[i], expertnode.ErrNotHeld)
		}
		if errs[i] == nil && r.dice.hits(faults.Wrong) {
			at := r.dice.below(int(n) * b.Y.Dim)
			b.Y.Data[row*b.Y.Dim+at] += 1
		}
		row += int(n)
	}
}

// linger waits for a time. An idle process sleeps a millisecond at least, many times what a small
// computation takes, so what is less is spent as a slow processor would spend it, in computing.
func linger(d time.Duration) {
	until := time.Now().Add(d)
	time.Sleep(d - time.Millisecond)
	for time.Now().Before(until) {
	}
}

// codec flips bits of what it has encoded.
type codec struct {
	wire.Codec
	faults func() Faults // at the moment
	dice   *dice
}

// ServerOptions returns what a gRPC server needs for the faults, to be added behind
// expertnode.ServerOptions.
func (f Faults) ServerOptions() []grpc.ServerOption {
	if f.Corrupt == 0 {
		return nil
	}
	return ServerOptionsBy(func() Faults { return f }, f.Seed)
}

// ServerOptionsBy is ServerOptions for faults that change: now says which there are at the
// moment.
func ServerOptionsBy(now func() Faults, seed uint64) []grpc.ServerOption {
	return []grpc.ServerOption{grpc.ForceServerCodecV2(&codec{
		Codec: wire.Codec{Pool: new(wire.Pool)}, faults: now, dice: newDice(seed, 2)})}
}

// Marshal encodes a message; the answers with rows sometimes with a flipped bit.
func (c *codec) Marshal(v any) (mem.BufferSlice, error) {
	data, err := c.Codec.Marshal(v)
	if err != nil || len(data) < 2 || !c.dice.hits(c.faults().Corrupt) {
		return data, err
	}
	defer data.Free()
	b := bytes.Clone(data.Materialize())
	bit := c.dice.below(8 * len(b))
	b[bit/8] ^= 1 << (bit % 8)
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}
