//go:build cuda && linux

package cuda

const (
	// arenaBytes is the pinned memory that rows from the host go through; more than that
	// waits for the device in between.
	arenaBytes = 16 << 20
	// argumentBytes is the memory for tokens, picks and tables of blocks, unless some need
	// more.
	argumentBytes = 1 << 20
	// arenaAlign is what pieces begin at multiples of.
	arenaAlign = 256
)

// arena is pinned memory of which pieces are cut, one behind the other, for copies that
// are queued. All of it is free again when the device was waited for.
type arena struct {
	host   *Host
	device *Memory // of the same size, for arguments; else nil
	used   int
}

// cut returns where a piece begins; false means that there is no room.
func (a *arena) cut(size int) (at int, ok bool) {
	if a.host == nil || size > len(a.host.Bytes)-a.used {
		return 0, false
	}
	at = a.used
	a.used = min((at+size+arenaAlign-1)/arenaAlign*arenaAlign, len(a.host.Bytes))
	return at, true
}

// stage cuts a piece of the pinned memory, and waits for the device if none is left.
func (d *Device) stage(size int) (at int, err error) {
	if d.staging.host == nil {
		if d.staging.host, err = d.pinned.take(arenaBytes); err != nil {
			return 0, err
		}
	}
	at, ok := d.staging.cut(size)
	if ok {
		return at, nil
	}
	if err := d.Sync(); err != nil {
		return 0, err
	}
	at, _ = d.staging.cut(size) // size is arenaBytes at most
	return at, nil
}

// argument queues a copy of bytes, which are the caller's again, and returns where the
// kernels that are queued next find them. Without bytes it is 0.
func (d *Device) argument(data []byte) uint64 {
	if len(data) == 0 || d.Err() != nil {
		return 0
	}
	a := &d.arguments
	at, ok := a.cut(len(data))
	if !ok {
		if err := d.Sync(); err != nil {
			return 0
		}
		if at, ok = a.cut(len(data)); !ok {
			if err := d.growArguments(len(data)); err != nil {
				d.fail(err)
				return 0
			}
			at, _ = a.cut(len(data))
		}
	}
	copy(a.host.Bytes[at:], data)
	if err := a.device.copyFrom(d.c.stream, at, a.host, at, len(data)); err != nil {
		d.fail(err)
		return 0
	}
	return a.device.At(at)
}

// growArguments makes room for one argument of that size; nothing is queued.
func (d *Device) growArguments(size int) (err error) {
	a := &d.arguments
	if a.host != nil {
		d.pinned.give(a.host)
		d.memory.give(a.device)
	}
	*a = arena{}
	size = max(size, argumentBytes)
	if a.host, err = d.pinned.take(size); err != nil {
		return err
	}
	a.device, err = d.memory.take(size)
	return err
}
