package kernel

import (
	"fmt"
	"slices"
	"strings"
)

// Instructions names the set of vector instructions in use: go is plain Go.
func Instructions() string { return instructionNames[level] }

// SetInstructions uses a set that may be lower than what this machine has, so that it
// can be measured here. Results are the same (K2). It must not be called while
// anything computes.
func SetInstructions(name string) error {
	has := detect()
	at := slices.Index(instructionNames[:has+1], name)
	if at < 0 {
		return fmt.Errorf("instructions %q: this machine has %s", name,
			strings.Join(instructionNames[:has+1], ", "))
	}
	level = instructions(at)
	return nil
}
