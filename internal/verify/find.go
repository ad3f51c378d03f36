package verify

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// fixture is a folder with recorded results.
type fixture struct {
	dir   string
	name  string // for results: the folder's name, and its kind's
	check func(context.Context, *verifier, fixture) error
}

// maxDepth is how deep find looks into a tree.
const maxDepth = 4

// find lists the fixtures in a folder, in the order of their names.
func find(path string) ([]fixture, error) {
	if st, err := os.Stat(path); err != nil {
		return nil, err
	} else if !st.IsDir() {
		return nil, fmt.Errorf("%s: is not a folder", path)
	}
	found, err := findIn(path, maxDepth)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s: holds no fixtures: no folder in it has the expected results "+
			"of a model, a tokenizer, chat templates or malformed files", path)
	}
	return found, nil
}

func findIn(dir string, depth int) ([]fixture, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	has := map[string]bool{}
	for _, e := range entries {
		has[e.Name()] = true
	}
	abs, err := filepath.Abs(dir) // so that "." has a name, too
	if err != nil {
		return nil, err
	}
	base := filepath.Base(abs)
	named := filepath.Join(filepath.Base(filepath.Dir(abs)), base)
	switch {
	case has["config.json"] && has["expected.safetensors"]:
		return []fixture{{dir, named, checkModel}}, nil
	case has["tokenizer.json"] && has["expected.json"]:
		return []fixture{{dir, named, checkTokenizer}}, nil
	case has["conversations.json"] && has["expected.json"]:
		return []fixture{{dir, base, checkTemplates}}, nil
	case has["cases.json"]:
		return []fixture{{dir, base, checkMalformed}}, nil
	}
	if depth == 0 {
		return nil, nil
	}
	var found []fixture
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		inside, err := findIn(filepath.Join(dir, e.Name()), depth-1)
		if err != nil {
			return nil, err
		}
		found = append(found, inside...)
	}
	return found, nil
}
