//go:build cuda && linux

package cuda

import "errors"

const (
	// arenaBytes is the size of a block of pinned memory that rows and arguments from the host
	// go through, and arenaBlocks how many there are, if they are needed: more than that waits
	// for the device in between.
	arenaBytes  = 8 << 20
	arenaBlocks = 3
	// arenaAlign is what pieces begin at multiples of.
	arenaAlign = 256
)

// arena is pinned memory of which pieces are cut, one behind the other, for copies that are
// queued. A block is free again when the last time that copies from it is done (T1).
type arena struct {
	blocks  [arenaBlocks]arenaBlock
	current int
}

type arenaBlock struct {
	host *Host
	used int
	time uint64
}

// cut cuts a piece of a block's memory; false means that there is no room.
func (b *arenaBlock) cut(size int, now, done uint64) (at int, ok bool) {
	if b.time <= done {
		b.used = 0
	}
	if b.host == nil || size > len(b.host.Bytes)-b.used {
		return 0, false
	}
	at = b.used
	b.used = min((at+size+arenaAlign-1)/arenaAlign*arenaAlign, len(b.host.Bytes))
	b.time = now
	return at, true
}

// some reports whether there is a block.
func (a *arena) some() bool {
	for i := range a.blocks {
		if a.blocks[i].host != nil {
			return true
		}
	}
	return false
}

// empty makes all blocks free.
func (a *arena) empty() {
	for i := range a.blocks {
		a.blocks[i].used, a.blocks[i].time = 0, 0
	}
}

// stage cuts a piece of the pinned memory, of arenaBytes at most, and waits for the device if
// none is left.
func (d *Device) stage(size int) (h *Host, at int, err error) {
	a, s := &d.staging, &d.streams
	for range arenaBlocks {
		b := &a.blocks[a.current]
		if b.host == nil {
			if b.host, err = d.pinned.take(arenaBytes); err != nil {
				if !errors.Is(err, ErrMemory) || !a.some() {
					return nil, 0, err
				}
				break // those that there are must do
			}
		}
		if at, ok := b.cut(size, s.now, s.done); ok {
			return b.host, at, nil
		}
		a.current = (a.current + 1) % arenaBlocks
	}
	if err := d.idle(); err != nil {
		return nil, 0, err
	}
	for a.blocks[a.current].host == nil {
		a.current = (a.current + 1) % arenaBlocks
	}
	b := &a.blocks[a.current]
	at, _ = b.cut(size, s.now, s.done)
	return b.host, at, nil
}

// copyIn queues a copy of bytes, which are the caller's again, to m from byte to on.
func (d *Device) copyIn(stream uintptr, m *Memory, to int, data []byte) error {
	for len(data) > 0 {
		n := min(len(data), arenaBytes)
		h, at, err := d.stage(n)
		if err != nil {
			return err
		}
		copy(h.Bytes[at:], data[:n])
		if err := m.copyFrom(stream, to, h, at, n); err != nil {
			return err
		}
		if stream == d.streams.in {
			d.streams.unordered = true
		}
		data, to = data[n:], to+n
	}
	return nil
}
