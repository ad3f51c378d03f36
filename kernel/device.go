package kernel

import (
	"errors"
	"fmt"

	"drover/tensor"
)

// ErrLost is wrapped by every error of a device that is of no more use: what it was asked
// to do, or had in its memory, is gone, and it is not to be asked again.
var ErrLost = errors.New("the device is lost")

// ErrMemory is wrapped by errors of a device whose memory does not suffice; it works on.
var ErrMemory = errors.New("the device's memory does not suffice")

// Device is what models compute with: a CPU, or an accelerator with memory of its own.
//
// A Device is one ordered stream, used by one goroutine at a time. Its operations
// are queued and take effect in the order of the calls; an operation may return
// before it has run. Read and Sync wait for all that was queued. What can go wrong
// while an operation runs is kept, and is the error of every Read and Sync from then
// on. Slices of the host's memory that are passed to an operation are the caller's
// again when the call returns; rows and weights must be the device's own.
//
// All devices obey K1: a row's bytes depend on that row and on weights alone, not on
// the rows beside it nor on how work is cut. Those of one kernel class also give the
// same bytes as each other. A shape that does not fit is a bug of the caller and
// panics; no rows at all are allowed everywhere and do nothing.
type Device interface {
	Store
	Copies
	RowOperations
	Products
	// Class names the kernel class of a mode on this device.
	Class(m Mode) string
}

// Store is a Device's memory.
type Store interface {
	// Allocate returns n rows of dim zeros. The memory is given back when nothing
	// refers to it any more.
	Allocate(n, dim int) (Rows, error)
	// Upload returns the weights of a matrix, which must not change afterwards, in the
	// form that the device multiplies. It is safe for concurrent use.
	Upload(m *Matrix) (Weights, error)
	// UploadTable returns a table of embeddings. The bytes must not change and must be
	// there as long as the table is used. It is safe for concurrent use.
	UploadTable(t TableBytes) (Table, error)
	// AllocateKV returns memory for so many KV tiles of a layout, all zeros. It is given
	// back when nothing refers to it any more.
	AllocateKV(l KVLayout, tiles int) (KVMemory, error)
}

// Copies are a Device's copies from and to the host.
type Copies interface {
	// Write copies rows from the host; they have as many elements as dst.
	Write(dst Rows, src tensor.Rows)
	// Read waits for what was queued and returns the rows in the host's memory, valid
	// until an operation writes to them or they are read again.
	Read(src Rows) (tensor.Rows, error)
	// StartRead begins what a Read of the same rows ends, which then waits for no more than
	// what was queued before StartRead, unless something wrote to the rows in between.
	StartRead(src Rows) Arrival
	// Ahead is how many rows may be on their way from StartRead to Read: with more, StartRead
	// waits. It is 0 if whatever is queued is done when the call returns.
	Ahead() int
	// Sync waits for what was queued.
	Sync() error
}

// Arrival is when rows of StartRead are in the host's memory.
type Arrival interface {
	// Wait waits for them. Any goroutine may, while another one uses the device, but only
	// until the rows are read.
	Wait() error
}

// RowOperations are a Device's operations on rows. Each row of y depends on the same
// row of the other operands alone, unless it says otherwise.
type RowOperations interface {
	// Embed sets each row of x to the table's row of that token.
	Embed(x Rows, t Table, tokens []int32)
	// Norm is RMSNorm; weight is one row, or no Rows at all for ones. y may be x.
	Norm(y, x, weight Rows, eps float64)
	// Rotate rotates the heads of each row of x by the angles in the same row of cos
	// and sin, which have half a head's elements.
	Rotate(x, cos, sin Rows, form RotaryForm)
	// ScaleRows multiplies each row of x by its factor, (rows, 1).
	ScaleRows(x, factors Rows)
	// Add sets y += x.
	Add(y, x Rows)
	// Gather sets row i of y to row rows[i] of x, times weights[i] unless weights is
	// nil, rounded to type d.
	Gather(y, x Rows, pick Picks, d tensor.DType)
	// Scatter adds row i of x, times weights[i] unless weights is nil, to row rows[i]
	// of y, in ascending order of i. It may leave the products in x.
	Scatter(y, x Rows, pick Picks)
}

// Products are a Device's operations with weights, and attention.
type Products interface {
	// Mul computes several products of the same rows.
	Mul(x Rows, products []Product)
	// FeedForward runs rows of x through feed-forward networks, into the same rows of
	// y: y = down(silu(gate(x)) * up(x)). Rows that are in no part stay as they are.
	FeedForward(y, x Rows, parts []FeedForwardPart)
	// Attend stores the keys k and values v of new tokens in kv and then sets out to
	// the attention of the queries q, as a computes it.
	Attend(a *Attention, out, q, k, v Rows, kv *KV)
}

// Rows are rows of float32 in a device's memory, one after the other, (N, Dim). The
// zero Rows are none.
type Rows struct {
	N, Dim int
	// Memory holds the rows from element Offset on.
	Memory Memory
	Offset int
}

// Memory is a piece of a device's memory.
type Memory interface {
	// Elements is the number of float32 that it holds.
	Elements() int
}

// Slice returns rows lo to hi, without hi, which share memory with r.
func (r Rows) Slice(lo, hi int) Rows {
	if lo < 0 || hi < lo || hi > r.N {
		panic(fmt.Sprintf("kernel: rows %d to %d of %d", lo, hi, r.N))
	}
	return Rows{N: hi - lo, Dim: r.Dim, Memory: r.Memory, Offset: r.Offset + lo*r.Dim}
}

// Split returns the same elements as rows of dim, such as the heads of r's rows.
func (r Rows) Split(dim int) Rows {
	if dim < 1 || r.Dim%dim != 0 {
		panic(fmt.Sprintf("kernel: rows of %d split into rows of %d", r.Dim, dim))
	}
	return Rows{N: r.N * (r.Dim / dim), Dim: dim, Memory: r.Memory, Offset: r.Offset}
}

// Resize makes r n rows of dim in the memory that it has, or in new memory of d where
// that does not suffice. What the rows hold is undefined.
func Resize(d Device, r *Rows, n, dim int) error {
	if r.Memory == nil || n < 0 || dim < 1 || n > r.Memory.Elements()/dim {
		fresh, err := d.Allocate(n, dim)
		if err != nil {
			return err
		}
		*r = fresh
	}
	*r = Rows{N: n, Dim: dim, Memory: r.Memory}
	return nil
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

// TableBytes are the rows of a table of embeddings as a checkpoint has them: Rows
// times Dim little-endian elements of type BF16, F16 or F32.
type TableBytes struct {
	Data      []byte
	DType     tensor.DType
	Rows, Dim int
}

// Check refuses bytes that are no such table.
func (t *TableBytes) Check() error {
	switch t.DType {
	case tensor.BF16, tensor.F16, tensor.F32:
	default:
		return fmt.Errorf("table of embeddings: type is %v, must be BF16, F16 or F32", t.DType)
	}
	if t.Rows < 1 || t.Dim < 1 || len(t.Data)%(t.Dim*t.DType.Size()) != 0 ||
		len(t.Data)/(t.Dim*t.DType.Size()) != t.Rows {
		return fmt.Errorf("table of embeddings: %d bytes for %d rows of %d elements of %v",
			len(t.Data), t.Rows, t.Dim, t.DType)
	}
	return nil
}

// Table is a table of embeddings in a device's memory.
type Table interface {
	// Shape is the number of rows and their width.
	Shape() (rows, dim int)
}

// RotaryForm says which elements of a head rotary embedding rotates together.
type RotaryForm uint8

const (
	// RotaryPairs rotates neighbouring elements: see RotatePairs.
	RotaryPairs RotaryForm = iota
	// RotaryHalves rotates elements half a head apart: see RotateHalves.
	RotaryHalves
)

// Picks names rows, in any order and as often as one likes, with a weight for each if
// Weights is not nil.
type Picks struct {
	Rows    []int32
	Weights []float32
}

// Product is a matrix product of rows that Mul is given: y = x Wᵀ.
type Product struct {
	Y Rows
	W Weights
}

// FeedForwardPart is a feed-forward network, such as an expert, and its rows.
type FeedForwardPart struct {
	// GateUp has gate's outputs before up's, (2*width, hidden); Down is (hidden, width).
	GateUp, Down Weights
	// From and To, without To, are the rows. Parts have no rows in common.
	From, To int
}

// KVMemory is memory for KV tiles on a device.
type KVMemory interface {
	// Tiles is the number of tiles that it holds.
	Tiles() int
}

// KV says where the sequences of a step have the keys and values of one layer. Memory
// is in blocks of BlockTiles tiles, of which Tiles tiles from First on are the layer's:
// tile i of a sequence is number
//
//	Table[i/Tiles]*BlockTiles + First + i%Tiles
type KV struct {
	Memory                   KVMemory
	BlockTiles, First, Tiles int
	// Sequences are the step's, whose tokens stand one sequence after the other.
	Sequences []AttentionSequence
}

// tile returns the number of a sequence's tile.
func (kv *KV) tile(table []int32, i int) int {
	return int(table[i/kv.Tiles])*kv.BlockTiles + kv.First + i%kv.Tiles
}
