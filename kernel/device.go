package kernel

// Device computes: a CPU, or an accelerator with memory of its own.
type Device interface {
	// Upload returns a matrix's weights in the form that the device multiplies. It
	// is safe for concurrent use, and m must not change afterwards.
	Upload(m *Matrix) (Weights, error)
}

// Weights are the packed weights of a linear layer in a device's memory.
type Weights interface {
	// Shape is the number of outputs and of inputs.
	Shape() (outputs, inputs int)
	// Bytes is the size of the packed weights.
	Bytes() int
	// Format is how the weights are packed.
	Format() Format
}
