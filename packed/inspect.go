package packed

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Usage is what lies in a Store's folder.
type Usage struct {
	Dir string `json:"dir"`
	// Pieces and Bytes count the files of packed weights, and those left unfinished.
	Pieces int   `json:"pieces"`
	Bytes  int64 `json:"bytes"`
	// Cleared says that they have been removed.
	Cleared bool `json:"cleared"`
}

// Inspect counts the pieces in a folder, and removes them when told to. It touches only
// files whose names are a Store's. A folder that is not there is empty. Processes that
// have mapped a piece keep it.
func Inspect(dir string, clear bool) (Usage, error) {
	u := Usage{Dir: dir, Cleared: clear}
	for _, pattern := range []string{suffix, suffix + ".tmp", suffix + partSuffix} {
		all, err := filepath.Glob(filepath.Join(quoteGlob(dir), "[0-9a-f][0-9a-f]", "*"+pattern))
		if err != nil {
			return u, fmt.Errorf("list packed weights in %s: %w", dir, err)
		}
		for _, path := range all {
			st, err := os.Lstat(path)
			if errors.Is(err, fs.ErrNotExist) {
				continue // another process was faster
			}
			if err != nil {
				return u, err
			}
			if name := filepath.Base(path); !st.Mode().IsRegular() || len(name) != 64+len(pattern) {
				continue
			}
			u.Pieces++
			u.Bytes += st.Size()
			if clear {
				if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return u, err
				}
				_ = os.Remove(filepath.Dir(path)) // if it is empty now
			}
		}
	}
	return u, nil
}

// quoteGlob makes a pattern that matches a path itself.
func quoteGlob(path string) string {
	out := make([]byte, 0, len(path))
	for i := range len(path) {
		switch path[i] {
		case '*', '?', '[', '\\':
			out = append(out, '\\')
		}
		out = append(out, path[i])
	}
	return string(out)
}
