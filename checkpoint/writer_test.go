package checkpoint

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"drover/tensor"
)

// written is one tensor of a file that a test writes.
type written struct {
	name  string
	dtype tensor.DType
	shape []int
	data  []byte
}

// safetensors returns the bytes of a file with these tensors, in order.
func safetensors(t testing.TB, tensors ...written) []byte {
	t.Helper()
	type field struct {
		DType   string `json:"dtype"`
		Shape   []int  `json:"shape"`
		Offsets [2]int `json:"data_offsets"`
	}
	header := map[string]field{}
	var data []byte
	for _, w := range tensors {
		shape := append([]int{}, w.shape...)
		begin := len(data)
		data = append(data, w.data...)
		header[w.name] = field{w.dtype.String(), shape, [2]int{begin, len(data)}}
	}
	text, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	return rawFile(string(text), data)
}

// rawFile returns a file with any header.
func rawFile(header string, data []byte) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), data...)
}

// writeDir writes files to a new directory.
func writeDir(t testing.TB, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func floats(values ...float32) []byte {
	b, err := binary.Append(nil, binary.LittleEndian, values)
	if err != nil {
		panic(err)
	}
	return b
}
