package coordinator

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Defaults are sampling parameters for requests that do not set them.
type Defaults struct {
	// Temperature 0 chooses the most probable token.
	Temperature float64
	// TopK 0 keeps all tokens.
	TopK int
	// TopP 0 means 1.
	TopP float64
	// MinP 0 drops nothing.
	MinP float64
}

func (d *Defaults) setDefaults() {
	if d.TopP == 0 {
		d.TopP = 1
	}
}

func (d *Defaults) validate() error {
	p := params{temperature: d.Temperature, topK: d.TopK, topP: d.TopP, minP: d.MinP, repetition: 1}
	if err := p.validate(); err != nil {
		return fmt.Errorf("coordinator: Defaults: %w", err)
	}
	return nil
}

// maxDefaultsBytes bounds generation_config.json.
const maxDefaultsBytes = 1 << 20

// ReadDefaults reads dir/generation_config.json. Without that file, or with do_sample
// false in it, the answer is the zero value: greedy. Fields that it leaves out count as
// temperature 1, and top-k, top-p and min-p that keep every token.
func ReadDefaults(dir string) (Defaults, error) {
	name := filepath.Join(dir, "generation_config.json")
	st, err := os.Stat(name) // before it is opened: opening a pipe could block forever
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Defaults{}, nil
	case err != nil:
		return Defaults{}, err
	case !st.Mode().IsRegular():
		return Defaults{}, fmt.Errorf("%s: not a regular file", name)
	}
	f, err := os.Open(name)
	if err != nil {
		return Defaults{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxDefaultsBytes))
	if err != nil {
		return Defaults{}, err
	}
	d, err := parseDefaults(b)
	if err != nil {
		return Defaults{}, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	return d, nil
}

func parseDefaults(b []byte) (Defaults, error) {
	var file struct {
		Sample      bool     `json:"do_sample"`
		Temperature *float64 `json:"temperature"`
		TopK        *int     `json:"top_k"`
		TopP        *float64 `json:"top_p"`
		MinP        *float64 `json:"min_p"`
	}
	if err := json.Unmarshal(b, &file); err != nil {
		return Defaults{}, err
	}
	d := Defaults{Temperature: 1, TopP: 1}
	if !file.Sample {
		return Defaults{TopP: 1}, nil
	}
	if file.Temperature != nil {
		d.Temperature = *file.Temperature
	}
	if file.TopK != nil {
		d.TopK = *file.TopK
	}
	if file.TopP != nil {
		d.TopP = *file.TopP
	}
	if file.MinP != nil {
		d.MinP = *file.MinP
	}
	return d, d.validate()
}
