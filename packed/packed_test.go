package packed_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"drover/kernel"
	"drover/packed"
)

var shapes = []kernel.Shape{{N: 48, K: 128, Format: kernel.WeightsInt4},
	{N: 1000, K: 700, Format: kernel.WeightsBF16}, {N: 40, K: 130, Format: kernel.WeightsFP8}}

// fill packs pseudo-random weights.
func fill(seed uint64) func([]*kernel.Matrix) error {
	return func(all []*kernel.Matrix) error {
		r := rand.New(rand.NewPCG(seed, 0))
		for _, m := range all {
			row := make([]float32, m.K)
			for n := range m.N {
				for k := range row {
					row[k] = r.Float32() - 0.5
				}
				if err := m.SetRow(n, row); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

// refuse is for pieces that must be found.
func refuse([]*kernel.Matrix) error { return errors.New("packed again") }

func open(t *testing.T, dir string) (*packed.Store, *[]string) {
	t.Helper()
	var damaged []string
	s, err := packed.Open(dir, packed.Options{SmallestBytes: -1,
		Damaged:    func(path string, err error) { damaged = append(damaged, err.Error()) },
		Unwritable: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	return s, &damaged
}

func piece(t *testing.T, s *packed.Store, key string, build func([]*kernel.Matrix) error) [][]byte {
	t.Helper()
	m, err := s.Matrices(key, shapes, build)
	if err != nil {
		t.Fatal(err)
	}
	var out [][]byte
	for i := range m {
		if m[i].N != shapes[i].N || m[i].K != shapes[i].K || m[i].Format() != shapes[i].Format {
			t.Errorf("matrix %d is %d×%d of %v", i, m[i].N, m[i].K, m[i].Format())
		}
		out = append(out, bytes.Clone(m[i].Packed()))
	}
	return out
}

func same(t *testing.T, got, want [][]byte) {
	t.Helper()
	for i := range want {
		if !bytes.Equal(got[i], want[i]) {
			t.Errorf("matrix %d has other bytes", i)
		}
	}
}

// files lists the store's files.
func files(t *testing.T, dir string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestPacksOnce(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir)
	want := piece(t, s, "a", fill(1))
	other := piece(t, s, "b", fill(2))
	if bytes.Equal(want[1], other[1]) {
		t.Fatal("two seeds give the same weights")
	}
	again, damaged := open(t, dir)
	same(t, piece(t, again, "a", refuse), want)
	same(t, piece(t, again, "b", refuse), other)
	if st := again.Stats(); st.Mapped != 2 || st.Built != 0 || len(*damaged) > 0 {
		t.Errorf("stats %+v, damaged %q", st, *damaged)
	}
	if _, err := s.Matrices("a", shapes[:1], refuse); err == nil {
		t.Error("other shapes find the same piece")
	}
	if got := files(t, dir); len(got) != 3 { // two pieces, and the file that was locked last
		t.Errorf("files %q", got)
	}
}

// TestDamage changes a file in every part of it and expects that it is packed again.
func TestDamage(t *testing.T) {
	change := func(at int) func([]byte) []byte {
		return func(b []byte) []byte {
			b[(at+len(b))%len(b)] ^= 4
			return b
		}
	}
	for name, damage := range map[string]func([]byte) []byte{
		"magic": change(0), "version": change(8), "matrices": change(12), "size": change(16),
		"key": change(24), "content": change(60), "checksum": change(90), "sum": change(100),
		"first weight": change(4096), "last page": change(-4096), "middle": change(600_000),
		"cut off": func(b []byte) []byte { return b[:len(b)-1] },
		"longer":  func(b []byte) []byte { return append(b, 0) },
		"empty":   func([]byte) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s, _ := open(t, dir)
			want := piece(t, s, "a", fill(1))
			path := files(t, dir)[0]
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, damage(b), 0o644); err != nil {
				t.Fatal(err)
			}
			again, damaged := open(t, dir)
			same(t, piece(t, again, "a", fill(1)), want)
			if st := again.Stats(); st.Built != 1 || len(*damaged) != 1 {
				t.Errorf("stats %+v, damaged %q", st, *damaged)
			}
			mended, damaged := open(t, dir)
			same(t, piece(t, mended, "a", refuse), want)
			if len(*damaged) > 0 {
				t.Errorf("still damaged: %q", *damaged)
			}
		})
	}
}

func TestSmallPiecesHaveNoFile(t *testing.T) {
	dir := t.TempDir()
	s, err := packed.Open(dir, packed.Options{SmallestBytes: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	piece(t, s, "a", fill(1))
	if got := files(t, dir); len(got) > 0 {
		t.Errorf("files %q", got)
	}
}

func TestBuildFails(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir)
	if _, err := s.Matrices("a", shapes, refuse); err == nil || err.Error() != "packed again" {
		t.Errorf("error %v, want that of build", err)
	}
	piece(t, s, "a", fill(1))
	for _, bad := range [][]kernel.Shape{nil, {{N: 0, K: 1, Format: kernel.WeightsF32}},
		{{N: 1 << 30, K: 1 << 30, Format: kernel.WeightsF32}}, {{N: 1, K: 1}}} {
		if _, err := s.Matrices("a", bad, refuse); err == nil {
			t.Errorf("shapes %v give no error", bad)
		}
	}
}

// TestUnwritable gives the store a file where its folder of pieces would be.
func TestUnwritable(t *testing.T) {
	dir := t.TempDir()
	var warnings []error
	s, err := packed.Open(dir, packed.Options{SmallestBytes: -1,
		Unwritable: func(err error) { warnings = append(warnings, err) }})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 256 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%02x", i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	piece(t, s, "a", fill(1))
	piece(t, s, "b", fill(1))
	if len(warnings) != 1 || !strings.Contains(warnings[0].Error(), dir) {
		t.Errorf("warnings %q, want one that names the folder", warnings)
	}
	if _, err := packed.Open(filepath.Join(dir, "00"), packed.Options{}); err == nil {
		t.Error("a file is opened as a folder")
	}
}

func TestManyAtOnce(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for _, key := range []string{"a", "b", "c"} {
				if _, err := s.Matrices(key, shapes, fill(1)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if st := s.Stats(); st.Built != 3 || st.Mapped != 21 {
		t.Errorf("stats %+v, want each of 3 pieces built once", st)
	}
}

// TestMain runs the test binary as a process that packs, when told to.
func TestMain(m *testing.M) {
	if dir := os.Getenv("PACKED_TEST_DIR"); dir != "" {
		os.Exit(packInProcess(dir, os.Getenv("PACKED_TEST_HANG") != ""))
	}
	os.Exit(m.Run())
}

// packInProcess packs a piece and prints how many it built; it may hang while packing.
func packInProcess(dir string, hang bool) int {
	s, err := packed.Open(dir, packed.Options{SmallestBytes: -1})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_, err = s.Matrices("a", shapes, func(m []*kernel.Matrix) error {
		if hang {
			fmt.Println("packing")
			time.Sleep(time.Hour)
		}
		return fill(1)(m)
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("built", s.Stats().Built)
	return 0
}

func process(dir string, hang bool) *exec.Cmd {
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), "PACKED_TEST_DIR="+dir)
	if hang {
		c.Env = append(c.Env, "PACKED_TEST_HANG=1")
	}
	return c
}

func TestManyProcesses(t *testing.T) {
	dir := t.TempDir()
	built := make([]string, 6)
	var all sync.WaitGroup
	for i := range built {
		all.Go(func() {
			out, err := process(dir, false).CombinedOutput()
			if err != nil {
				t.Errorf("%v: %s", err, out)
			}
			built[i] = string(out)
		})
	}
	all.Wait()
	if n := strings.Count(strings.Join(built, ""), "built 1"); n != 1 {
		t.Errorf("%d processes packed the piece, want 1: %q", n, built)
	}
	s, damaged := open(t, dir)
	piece(t, s, "a", refuse)
	if len(*damaged) > 0 {
		t.Errorf("damaged: %q", *damaged)
	}
}

// TestKilled kills a process that packs: others wait for it no longer, and what it left
// behind does no harm.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	c := process(dir, true)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 7)); err != nil { // it holds the lock now
		t.Fatal(err)
	}
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait() // it was killed
	left := files(t, dir)
	if len(left) != 1 || !strings.HasSuffix(left[0], ".tmp") {
		t.Fatalf("files %q, want the unfinished one", left)
	}
	if err := os.WriteFile(left[0], []byte("half a piece"), 0o644); err != nil {
		t.Fatal(err)
	}
	s, _ := open(t, dir)
	want := piece(t, s, "a", fill(1))
	again, damaged := open(t, dir)
	same(t, piece(t, again, "a", refuse), want)
	if got := files(t, dir); len(got) != 1 || len(*damaged) > 0 {
		t.Errorf("files %q, damaged %q", got, *damaged)
	}
}

func TestInspect(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "odd [name]*")
	s, _ := open(t, dir)
	piece(t, s, "a", fill(1))
	piece(t, s, "b", fill(1))
	foreign := filepath.Join(dir, "00", "foreign.packed")
	if err := os.MkdirAll(filepath.Dir(foreign), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(foreign, []byte("not ours"), 0o644); err != nil {
		t.Fatal(err)
	}
	u, err := packed.Inspect(dir, false)
	if err != nil || u.Pieces != 2 || u.Bytes < 2_000_000 {
		t.Errorf("%+v, %v", u, err)
	}
	if u, err = packed.Inspect(dir, true); err != nil || u.Pieces != 2 || !u.Cleared {
		t.Errorf("%+v, %v", u, err)
	}
	if u, err = packed.Inspect(dir, false); err != nil || u.Pieces != 0 {
		t.Errorf("after clearing %+v, %v", u, err)
	}
	if _, err := os.Stat(foreign); err != nil {
		t.Errorf("another's file: %v", err)
	}
	if u, err := packed.Inspect(filepath.Join(dir, "none"), true); err != nil || u.Pieces != 0 {
		t.Errorf("a folder that is not there: %+v, %v", u, err)
	}
}
