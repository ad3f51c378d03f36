package packed_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"drover/kernel"
	"drover/packed"
)

const chunkBytes = 16 << 10

// body packs a piece in memory and returns it as it travels.
func body(t *testing.T, seed uint64) *packed.Body {
	t.Helper()
	m, err := packed.InMemory().Matrices("any", shapes, fill(seed))
	if err != nil {
		t.Fatal(err)
	}
	return packed.NewBody(m)
}

// send brings a body, or most of it, and counts the bytes that it sent.
type send struct {
	body *packed.Body
	// damage changes a chunk on its way; upTo, if not 0, is where the sender dies.
	damage func(offset int64, chunk []byte, sum *uint32)
	upTo   int64
	sent   int64
	begins []int64 // where each attempt began
}

var errDied = errors.New("the sender died")

func (s *send) to(p *packed.Partial) error {
	p.Begin(s.body.Content())
	s.begins = append(s.begins, p.Have())
	for p.Have() < p.Size() {
		if s.upTo > 0 && p.Have() >= s.upTo {
			return errDied
		}
		chunk := make([]byte, min(chunkBytes, p.Size()-p.Have()))
		if _, err := s.body.ReadAt(chunk, p.Have()); err != nil && err != io.EOF {
			return err
		}
		offset, sum := p.Have(), packed.Sum(p.Have(), chunk)
		if s.damage != nil {
			s.damage(offset, chunk, &sum)
		}
		if err := p.Append(offset, chunk, sum); err != nil {
			return err
		}
		s.sent += int64(len(chunk))
	}
	return p.Finish()
}

func TestFetched(t *testing.T) {
	dir := t.TempDir()
	store, _ := open(t, dir)
	s := &send{body: body(t, 1)}
	m, err := store.Fetched("a", shapes, s.to, refuse)
	if err != nil {
		t.Fatal(err)
	}
	want, err := packed.InMemory().Matrices("any", shapes, fill(1))
	if err != nil {
		t.Fatal(err)
	}
	for i := range m {
		if !bytes.Equal(m[i].Packed(), want[i].Packed()) {
			t.Errorf("matrix %d has other bytes", i)
		}
	}
	if st := store.Stats(); st.Fetched != 1 || st.Built != 0 {
		t.Errorf("stats %+v, want one fetched", st)
	}
	again, damaged := open(t, dir)
	piece(t, again, "a", refuse) // it is in its file now
	if len(*damaged) > 0 {
		t.Errorf("damaged: %q", *damaged)
	}
	for _, f := range files(t, dir) {
		if strings.HasSuffix(f, ".part") {
			t.Errorf("%s is left", f)
		}
	}
	if got := packed.NewBody(m).Content(); got != s.body.Content() {
		t.Error("what arrived has another SHA-256")
	}
}

// TestFetchFallsBack has a sender that fails: the piece is packed, and nothing of what came
// is left in it.
func TestFetchFallsBack(t *testing.T) {
	store, _ := open(t, t.TempDir())
	dies := &send{body: body(t, 2), upTo: 600_000}
	m, err := store.Fetched("a", shapes, dies.to, fill(1))
	if err != nil {
		t.Fatal(err)
	}
	if got := packed.NewBody(m).Content(); got != body(t, 1).Content() {
		t.Error("the weights are not those that were packed")
	}
	if _, err := store.Fetched("b", shapes, dies.to, nil); !errors.Is(err, errDied) {
		t.Errorf("with nothing to fall back on: %v, want the sender's error", err)
	}
	lazy := func(*packed.Partial) error { return nil }
	if _, err := store.Fetched("c", shapes, lazy, fill(1)); err == nil {
		t.Error("a fetch that brings nothing is taken for a piece")
	}
}

// TestFetchResumes ends transfers at many places, as a killed process would, and goes on:
// at most one chunk is sent again.
func TestFetchResumes(t *testing.T) {
	whole := body(t, 1)
	size := whole.Size()
	for _, cut := range []int64{1, 50, 90, 91, 100, chunkBytes + 100, size / 2, size - 1} {
		dir := t.TempDir()
		store, _ := open(t, dir)
		dies := &send{body: whole, upTo: size - chunkBytes}
		if _, err := store.Fetched("a", shapes, dies.to, nil); err == nil {
			t.Fatal("the sender died and yet the piece is there")
		}
		part := one(t, dir, "*.part")
		cut = min(cut, fileSize(t, part))
		if err := os.Truncate(part, cut); err != nil {
			t.Fatal(err)
		}
		again, _ := open(t, dir)
		rest := &send{body: whole}
		m, err := again.Fetched("a", shapes, rest.to, nil)
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if packed.NewBody(m).Content() != whole.Content() {
			t.Fatalf("cut at %d: other weights", cut)
		}
		if lost := rest.sent - (size - cut); lost > chunkBytes+200 {
			t.Errorf("cut at %d of %d: %d bytes were sent again, want at most a chunk", cut, size, lost)
		}
	}
}

// TestFetchFromAnother goes on with a sender whose weights are others: what came is given up.
func TestFetchFromAnother(t *testing.T) {
	store, _ := open(t, t.TempDir())
	if _, err := store.Fetched("a", shapes, (&send{body: body(t, 1), upTo: 700_000}).to, nil); err == nil {
		t.Fatal("no error")
	}
	other := &send{body: body(t, 2)}
	m, err := store.Fetched("a", shapes, other.to, nil)
	if err != nil || packed.NewBody(m).Content() != other.body.Content() || other.begins[0] != 0 {
		t.Errorf("%v, begun at %v", err, other.begins)
	}
}

// TestFlippedBits flips bits everywhere on the way of a piece: in chunks, their places and
// checksums, and in the announced SHA-256. Each is refused.
func TestFlippedBits(t *testing.T) {
	whole := body(t, 1)
	size := int(whole.Size())
	for at := 0; at < size; at += size/97 + 1 {
		store, _ := open(t, t.TempDir())
		s := &send{body: whole, damage: func(offset int64, chunk []byte, sum *uint32) {
			if i := at - int(offset); i >= 0 && i < len(chunk) {
				chunk[i] ^= 1 << (at % 8)
			}
		}}
		if _, err := store.Fetched("a", shapes, s.to, nil); !errors.Is(err, packed.ErrCorrupt) {
			t.Fatalf("bit flipped at %d of %d: %v, want it refused", at, size, err)
		}
	}
	for bit := range 32 {
		store, _ := open(t, t.TempDir())
		s := &send{body: whole, damage: func(offset int64, _ []byte, sum *uint32) {
			if offset == 5*chunkBytes {
				*sum ^= 1 << bit
			}
		}}
		if _, err := store.Fetched("a", shapes, s.to, nil); !errors.Is(err, packed.ErrCorrupt) {
			t.Fatalf("bit %d of a checksum flipped: %v, want it refused", bit, err)
		}
	}
	for i := range 32 {
		store, _ := open(t, t.TempDir())
		lied := func(p *packed.Partial) error {
			content := whole.Content()
			content[i] ^= 1 << (i % 8)
			p.Begin(content)
			chunk := make([]byte, packed.MaxChunkBytes)
			for p.Have() < p.Size() {
				n, _ := whole.ReadAt(chunk, p.Have())
				if err := p.Append(p.Have(), chunk[:n], packed.Sum(p.Have(), chunk[:n])); err != nil {
					return err
				}
			}
			return p.Finish()
		}
		if _, err := store.Fetched("a", shapes, lied, nil); !errors.Is(err, packed.ErrCorrupt) {
			t.Fatalf("byte %d of the SHA-256 flipped: %v, want it refused", i, err)
		}
	}
	store, _ := open(t, t.TempDir())
	misplaced := func(p *packed.Partial) error {
		p.Begin(whole.Content())
		chunk := make([]byte, chunkBytes)
		if err := p.Append(4096, chunk, packed.Sum(4096, chunk)); !errors.Is(err, packed.ErrCorrupt) {
			t.Errorf("a chunk in another place: %v", err)
		}
		long := make([]byte, packed.MaxChunkBytes+1)
		if err := p.Append(0, long, packed.Sum(0, long)); !errors.Is(err, packed.ErrCorrupt) {
			t.Errorf("a chunk that is too long: %v", err)
		}
		return p.Finish()
	}
	if _, err := store.Fetched("a", shapes, misplaced, nil); !errors.Is(err, packed.ErrCorrupt) {
		t.Errorf("nothing came: %v", err)
	}
}

// TestFlippedPart flips bits in the file of a transfer that was cut short. Whatever was
// flipped, the piece is the right one in the end.
func TestFlippedPart(t *testing.T) {
	whole := body(t, 1)
	dir := t.TempDir()
	store, _ := open(t, dir)
	if _, err := store.Fetched("a", shapes, (&send{body: whole, upTo: 800_000}).to, nil); err == nil {
		t.Fatal("no error")
	}
	part := one(t, dir, "*.part")
	sound, err := os.ReadFile(part)
	if err != nil {
		t.Fatal(err)
	}
	places := []int{}
	for i := range 100 { // the header and the first record's
		places = append(places, i)
	}
	for at := 100; at < len(sound); at += len(sound)/61 + 1 {
		places = append(places, at)
	}
	for _, at := range places {
		b := bytes.Clone(sound)
		b[at] ^= 1 << (at % 8)
		dir := t.TempDir()
		name := filepath.Join(dir, filepath.Base(filepath.Dir(part)), filepath.Base(part))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
		again, _ := open(t, dir)
		rest := &send{body: whole}
		m, err := again.Fetched("a", shapes, rest.to, nil)
		if err != nil || packed.NewBody(m).Content() != whole.Content() {
			t.Fatalf("bit flipped at %d: %v", at, err)
		}
		if rest.begins[0] > int64(at) {
			t.Errorf("bit flipped at %d: went on at %d", at, rest.begins[0])
		}
	}
}

// TestUnwritablePart fetches into a folder where no part can be written.
func TestUnwritablePart(t *testing.T) {
	dir := t.TempDir()
	store, err := packed.Open(dir, packed.Options{SmallestBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	s := &send{body: body(t, 1)}
	if _, err := store.Fetched("a", shapes, s.to, nil); err != nil {
		t.Fatal(err)
	}
	name := strings.TrimSuffix(one(t, dir, "*.packed"), ".packed")
	if err := os.Remove(name + ".packed"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(name+".packed.part", 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Fetched("a", shapes, s.to, nil); err != nil {
		t.Error(err)
	}
}

func TestBody(t *testing.T) {
	b := body(t, 1)
	all := make([]byte, b.Size())
	if n, err := b.ReadAt(all, 0); n != len(all) || err != nil {
		t.Fatalf("read %d of %d: %v", n, len(all), err)
	}
	for _, r := range [][2]int{{0, 1}, {1000, 9000}, {4095, 2}, {len(all) - 5, 5}} {
		part := make([]byte, r[1])
		if _, err := b.ReadAt(part, int64(r[0])); err != nil || !bytes.Equal(part, all[r[0]:r[0]+r[1]]) {
			t.Errorf("%d bytes at %d differ: %v", r[1], r[0], err)
		}
	}
	if n, err := b.ReadAt(make([]byte, 10), b.Size()-3); n != 3 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
	if _, err := b.ReadAt(nil, b.Size()+1); err == nil {
		t.Error("beyond the end: no error")
	}
	if _, err := b.ReadAt(nil, -1); err == nil {
		t.Error("before the beginning: no error")
	}
	m, err := kernel.NewMatrix(1, 1, kernel.WeightsF32)
	if err != nil {
		t.Fatal(err)
	}
	if got := packed.NewBody([]*kernel.Matrix{m, m}).Size(); got != 2*4096 {
		t.Errorf("two small matrices are %d bytes, want a page each", got)
	}
}

// one finds the only file of a store with a name like pattern.
func one(t *testing.T, dir, pattern string) string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "*", pattern))
	if err != nil || len(all) != 1 {
		t.Fatalf("files %q: %v", all, err)
	}
	return all[0]
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Size()
}
