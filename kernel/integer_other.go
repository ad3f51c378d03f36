//go:build !amd64

package kernel

// panelRows is the largest number of rows of a panel.
func panelRows(instructions) int { return 1 }

func (a *Activations) quantiseVector(int) bool { return false }
