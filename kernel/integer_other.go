//go:build !amd64 && !arm64

package kernel

// panelRows is the largest number of rows of a panel, if it is alone or one of several.
func panelRows(instructions, Format) (alone, several int) { return 1, 1 }

// wideCodes reports whether codes of activations for weights of 8 bits are wide.
func wideCodes(instructions) bool { return false }

func (a *Activations) quantiseVector(int) bool { return false }
