package checkpoint

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"drover/tensor"
)

// TestSliceSources names weights that are not there by what the source calls them, so that what
// was packed of them is of use to another directory, and others by the file that holds them.
func TestSliceSources(t *testing.T) {
	weights := safetensors(t, written{"here", tensor.F32, []int{1}, floats(1)},
		written{"away", tensor.F32, []int{1}, floats(2)})
	of := func(tags map[string]string) map[string]string {
		dir := writeDir(t, map[string][]byte{"config.json": []byte(`{"model_type":"x"}`),
			"model.safetensors": weights})
		whole, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer whole.Close()
		here, err := whole.Tensor("here")
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(Slice{Version: 1, Tags: tags,
			Files: map[string][]Range{"model.safetensors": {here.Range()}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, SliceName), b, 0o600); err != nil {
			t.Fatal(err)
		}
		ck, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer ck.Close()
		names := map[string]string{}
		for _, name := range ck.Names() {
			one, err := ck.Tensor(name)
			if err != nil {
				t.Fatal(err)
			}
			if one.Present() != (name == "here") {
				t.Errorf("%s is there: %v", name, one.Present())
			}
			if names[name], err = one.Source(); err != nil {
				t.Fatal(err)
			}
		}
		return names
	}
	first, second := of(map[string]string{"model.safetensors": "a"}),
		of(map[string]string{"model.safetensors": "a"})
	other, unknown := of(map[string]string{"model.safetensors": "b"}), of(nil)
	if first["away"] != second["away"] {
		t.Errorf("one content is called %q and %q", first["away"], second["away"])
	}
	if first["here"] == second["here"] {
		t.Error("two files that may differ are called alike")
	}
	if first["away"] == other["away"] || first["away"] == unknown["away"] ||
		unknown["away"] == of(nil)["away"] {
		t.Errorf("other contents are called alike: %v, %v, %v", first, other, unknown)
	}
}
