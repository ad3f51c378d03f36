package verify

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"drover/checkpoint"
	"drover/tensor"
)

// expected is a model fixture's recorded numbers.
type expected struct {
	file *checkpoint.File
	// images says which prompts have images.
	images map[string]bool
}

func openExpected(dir string) (*expected, error) {
	e := &expected{images: map[string]bool{}}
	if err := e.readImages(filepath.Join(dir, "expected.json")); err != nil {
		return nil, err
	}
	var err error
	e.file, err = checkpoint.OpenFile(filepath.Join(dir, "expected.safetensors"))
	return e, err
}

func (e *expected) close() error { return e.file.Close() }

// readImages reads from expected.json which prompts have images: those whose entry is an object
// with a list of them.
func (e *expected) readImages(name string) error {
	var list struct {
		Prompts map[string]json.RawMessage
	}
	if err := readJSON(name, &list); err != nil {
		return err
	}
	for p, raw := range list.Prompts {
		var object struct{ Images []string }
		if json.Unmarshal(raw, &object) == nil {
			e.images[p] = len(object.Images) > 0
		}
	}
	return nil
}

// prompts lists the prompts' names, sorted.
func (e *expected) prompts() []string {
	var names []string
	for _, n := range e.file.Names() {
		if p, ok := strings.CutPrefix(n, "ids."); ok {
			names = append(names, p)
		}
	}
	slices.Sort(names)
	return names
}

// layers lists the MoE layers that are recorded for a prompt, ascending.
func (e *expected) layers(prompt string) []int {
	var layers []int
	for _, n := range e.file.Names() {
		n, ok := strings.CutPrefix(n, "router."+prompt+".layer")
		if !ok {
			continue
		}
		if n, ok = strings.CutSuffix(n, ".indices"); !ok {
			continue
		}
		if l, err := strconv.Atoi(n); err == nil {
			layers = append(layers, l)
		}
	}
	slices.Sort(layers)
	return layers
}

// ids reads an I32 vector.
func (e *expected) ids(name string) ([]int32, error) {
	ids, _, err := e.rows32(name, 0)
	return ids, err
}

// rows32 reads an I32 tensor of the given number of rows, or a vector if that is 0, and the
// length of a row.
func (e *expected) rows32(name string, rows int) ([]int32, int, error) {
	t, width, err := e.tensor(name, tensor.I32, rows)
	if err != nil {
		return nil, 0, err
	}
	raw := make([]byte, 4*t.Elements())
	if err := t.Read(raw); err != nil {
		return nil, 0, err
	}
	ids := make([]int32, t.Elements())
	for i := range ids {
		ids[i] = int32(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return ids, width, nil
}

// rows reads an F32 tensor of the given number of rows, and the length of a row.
func (e *expected) rows(name string, rows int) ([]float32, int, error) {
	t, width, err := e.tensor(name, tensor.F32, rows)
	if err != nil {
		return nil, 0, err
	}
	values := make([]float32, t.Elements())
	return values, width, t.Float32(values)
}

func (e *expected) tensor(name string, d tensor.DType, rows int) (checkpoint.Tensor, int, error) {
	t, err := e.file.Tensor(name)
	if err != nil {
		return t, 0, err
	}
	dims := 2
	if rows == 0 {
		dims = 1
	}
	if t.DType != d || len(t.Shape) != dims || rows > 0 && t.Shape[0] != rows {
		return t, 0, fmt.Errorf("%s: tensor %s: is %s %v, want %s with %d dimensions and %d rows",
			t.File(), name, t.DType, t.Shape, d, dims, rows)
	}
	return t, t.Shape[dims-1], nil
}

// maxJSONBytes bounds a file of expected results.
const maxJSONBytes = 256 << 20

func readJSON(name string, into any) error {
	st, err := os.Stat(name)
	if err != nil {
		return err
	}
	if st.Size() > maxJSONBytes {
		return fmt.Errorf("%s: larger than %d MB, refused", name, maxJSONBytes>>20)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
