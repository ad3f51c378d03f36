package role

import (
	"errors"
	"os"
	"path/filepath"
)

// demoPath is where the bundled model lies, from the project's root or from the
// folder of the installed program.
const demoPath = "models/tiny-maverick"

// DemoModel finds the bundled model: from the working directory upwards, then from
// the program's own folder upwards.
func DemoModel() (string, error) {
	var starts []string
	if dir, err := os.Getwd(); err == nil {
		starts = append(starts, dir)
	}
	if path, err := os.Executable(); err == nil {
		starts = append(starts, filepath.Dir(path))
	}
	for _, dir := range starts {
		for {
			candidate := filepath.Join(dir, demoPath)
			if _, err := os.Stat(filepath.Join(candidate, "config.json")); err == nil {
				return candidate, nil
			}
			parent := filepath.Dir(dir)
			if parent == dir {
				break
			}
			dir = parent
		}
	}
	return "", errors.New("the bundled model " + demoPath + " is neither here nor beside " +
		"the program: start in the project's folder or name a model with --model DIR")
}
