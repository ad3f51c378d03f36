//go:build cuda && linux

package cuda

import (
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"strings"
	"unsafe"

	"drover/kernel"
	"drover/tensor"
)

// Kernels are not trusted before they computed on the device at hand. When a device is opened, all
// that multiply with weights are given fixed problems, and what comes out is compared:
//
//   - Whole numbers, so small that each product and each sum is one of float32, whatever the
//     order: the right bytes are a CPU's, of floats on tensor cores, too.
//   - Of kernels that are a class of their own, numbers with fractions: a row must have the same
//     bytes alone, beside others, and in each of the kernels (K1), and be near a CPU's.
//
// Then the device does the other operations of models, which must have a CPU's bytes, too;
// attention of a class of its own is compared as its products are.
//
// Tensor cores that multiply integers wrongly, and kernels of Hopper, are done without, since
// other kernels have the same bytes. Whatever else is wrong refuses the device.

// testShape is a problem's: more than a whole panel and a whole block of a kernel, and more
// slabs than it copies ahead, the last of them a part.
type testShape struct{ rows, outputs, inputs int }

var (
	longTest = testShape{19, 37, 1350}
	wideTest = testShape{131, 133, 330}
	// hopperTest is that of kernels of Hopper.
	hopperTest = testShape{131, 261, 602}
	// roughTest is that of numbers with fractions.
	roughTest = testShape{21, 37, 330}
	// spanTests are those of integers whose inputs are parts of a span, a whole one, and more.
	spanTests = []testShape{{9, 37, 64}, {9, 37, 192}, {9, 37, 256}, {9, 37, 320}}
)

// tests reports whether a problem is made for a kernel.
func (s testShape) tests(k *panelKernel) bool {
	switch {
	case slices.Contains(spanTests, s):
		return true
	case k.kernel.hopper():
		return s == hopperTest
	}
	return s == wideTest && k.rows > fewRows || s == longTest && k.rows <= fewRows
}

// shapesOf are the problems of whole numbers for a format's kernels.
func shapesOf(f kernel.Format) []testShape {
	shapes := []testShape{longTest, wideTest, hopperTest}
	if f.Integer() {
		shapes = append(shapes, spanTests...)
	}
	return shapes
}

// testBytes is the memory that a problem has, of the device and pinned.
const testBytes = 2 << 20

// numbersOf makes the fixed numbers of problems: the next one of 0 to n-1.
type numbersOf uint64

func (s *numbersOf) below(n int) int {
	*s = *s*6364136223846793005 + 1442695040888963407
	return int(uint64(*s) >> 33 % uint64(n))
}

// rough is a number with a fraction of 24 bits, from 1/8 to 8, of either sign.
func (s *numbersOf) rough() float32 {
	v := math.Ldexp(1+float64(s.below(1<<23))/(1<<23), s.below(6)-3)
	return float32(v * float64(1-2*s.below(2)))
}

// weights packs a problem's matrix; if positive, without signs. The scales of e4m3 are powers of
// two where sums are to be exact: the largest of 64 weights is 7, or so large that the codes of
// the others, quarters then, are subnormal.
func (s testShape) weights(f kernel.Format, rough, positive bool) (*kernel.Matrix, error) {
	m, err := kernel.NewMatrix(s.outputs, s.inputs, f)
	if err != nil {
		return nil, err
	}
	next, row := numbersOf(f), make([]float32, s.inputs)
	for i := range s.outputs {
		largest, step := float32(7), float32(1)
		if f == kernel.WeightsFP8 && i%2 == 1 {
			largest, step = largestFP8, 0.25
		}
		for k := range row {
			switch {
			case rough:
				row[k] = next.rough()
			case k%groupInputs == 0:
				row[k] = largest * float32(1-2*next.below(2))
			default:
				row[k] = step * float32(next.below(15)-7)
			}
			if positive {
				row[k] = float32(math.Abs(float64(row[k])))
			}
		}
		if err := m.SetRow(i, row); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// largestFP8 is the largest weight that e4m3 can have, whose scale is 128.
const largestFP8 = 448 * 128

// numbers are a problem's rows. Whole numbers have more bits than one bfloat16, but those for the
// largest weights. Of the groups of a span each has numbers of another size, and which has the
// largest differs from row to row; the second row is zeros.
func (s testShape) numbers(rough, positive bool) tensor.Rows {
	x, next := tensor.MakeRows(s.rows, s.inputs), numbersOf(100)
	for i := range x.Data {
		switch {
		case rough:
			x.Data[i] = next.rough()
		case i/s.inputs == 1:
		case i%s.inputs%groupInputs == 0:
			x.Data[i] = float32(next.below(3) - 1)
		default:
			group := i%s.inputs/groupInputs + i/s.inputs
			x.Data[i] = float32((next.below(2047) - 1023) >> (group % spanGroups * 2))
		}
		if positive {
			x.Data[i] = float32(math.Abs(float64(x.Data[i])))
		}
	}
	return x
}

// selfTest tests a device by another one with its context and its kernels, whose memory and
// streams are given back.
func (d *Device) selfTest() error {
	t := newDevice(d.c, d.kind, d.index)
	t.module, t.kernels, t.products, t.distrusted = d.module, d.kernels, d.products, d.distrusted
	err := t.testProducts()
	if err == nil {
		err = t.testOperations()
	}
	t.release()
	if err != nil {
		return fmt.Errorf("self-test: %w", err)
	}
	d.products, d.distrusted, d.rounding = t.products, t.distrusted, t.rounding
	return nil
}

// testProducts tests all products, and chooses others where tensor cores multiply integers
// wrongly.
func (d *Device) testProducts() (err error) {
	t := &tester{d: d}
	if t.memory, err = d.c.allocate(testBytes); err != nil {
		return err
	}
	defer func() {
		if free := t.memory.Free(); err == nil {
			err = free
		}
	}()
	if t.host, err = d.c.AllocateHost(testBytes); err != nil {
		return err
	}
	defer func() {
		if free := t.host.Free(); err == nil {
			err = free
		}
	}()
	for f := kernel.WeightsF32; len(d.products[f]) > 0; f++ {
		for _, s := range shapesOf(f) {
			if s == hopperTest && !slices.ContainsFunc(d.products[f], isHopper) {
				continue
			}
			if err := t.whole(s, f); err != nil {
				return err
			}
		}
		if d.splits(f) {
			if err := t.rough(f); err != nil {
				return err
			}
		}
	}
	return nil
}

// tester has the memory that a problem lies in, one piece behind the other, at the same places
// on the device and pinned.
type tester struct {
	d      *Device
	memory *Memory
	host   *Host
	used   int
}

// problem is a product on the device.
type problem struct {
	testShape
	format     kernel.Format
	packed, in uint64 // the matrix, and the rows as they are
	operand    operand
	y          int // where the result lies
}

// room takes memory, and returns where it begins.
func (t *tester) room(size int) int {
	at := t.used
	t.used = (at + size + argumentAlign - 1) / argumentAlign * argumentAlign
	return at
}

// copy copies bytes to the device and returns their address.
func (t *tester) copy(data []byte) (uint64, error) {
	at := t.room(len(data))
	copy(t.host.Bytes[at:], data)
	return t.memory.At(at), t.memory.copyFrom(t.d.c.stream, at, t.host, at, len(data))
}

// launch runs a kernel, and waits for it: an error of it names it.
func (t *tester) launch(k kernelID, g Grid, arguments ...uint64) error {
	err := t.d.kernels[k].Launch(g, arguments...)
	if err == nil {
		err = t.d.c.Sync()
	}
	if err != nil {
		if errors.Is(err, ErrLost) {
			err = fmt.Errorf("%w: %w", kernel.ErrLost, err)
		}
		return fmt.Errorf("kernel %s: %w", kernelNames[k], err)
	}
	return nil
}

// put copies a problem to the device, and makes its rows ready for products.
func (t *tester) put(m *kernel.Matrix, x tensor.Rows) (p *problem, err error) {
	t.used = 0
	p = &problem{testShape: testShape{x.N, m.N, m.K}, format: m.Format()}
	if p.packed, err = t.copy(m.Packed()); err != nil {
		return nil, err
	}
	if p.in, err = t.copy(memoryOf(x.Data)); err != nil {
		return nil, err
	}
	address := func(size int) uint64 { return t.memory.At(t.room(size)) }
	switch o := &p.operand; {
	case p.format.Integer():
		n := x.N * inputGroups(m.K)
		o.codes, o.scales = address(groupInputs*n), address(4*n)
	case t.d.splits(p.format):
		o.rows = address(2 * 4 * splitWords(x.N, m.K))
	default:
		o.rows = p.in
	}
	p.y = t.room(4 * x.N * m.N)
	return p, t.order(p, wordsInPlace)
}

// order makes a problem's rows ready for products, with their words in an order.
func (t *tester) order(p *problem, words wordOrder) error {
	o := &p.operand
	o.words = words
	x := []uint64{p.in, uint64(p.rows), uint64(p.inputs), uint64(words)}
	switch {
	case p.format.Integer():
		n := quantiseThreads(p.rows, p.inputs)
		return t.launch(quantiseRows, elementGrid(n), append([]uint64{o.codes, o.scales}, x...)...)
	case t.d.splits(p.format):
		n := splitWords(p.rows, p.inputs)
		return t.launch(splitRows, elementGrid(n), append([]uint64{o.rows}, x...)...)
	}
	return nil
}

// multiply multiplies panels of the problem's rows; the rows that are in none are NaNs.
func (t *tester) multiply(p *problem, k *panelKernel, panels []mulPanel) ([]float32, error) {
	if p.operand.words != k.words {
		if err := t.order(p, k.words); err != nil {
			return nil, err
		}
	}
	table, err := t.copy(memoryOf(panels))
	if err != nil {
		return nil, err
	}
	arguments := []uint64{p.operand.rows}
	if p.format.Integer() {
		arguments = []uint64{p.operand.codes, p.operand.scales}
	}
	arguments = append(arguments, table, uint64(p.outputs), uint64(p.inputs))
	return t.result(p, k.kernel, k.grid(len(panels), p.outputs), arguments...)
}

// result runs a kernel of products and reads what it made.
func (t *tester) result(p *problem, k kernelID, g Grid, arguments ...uint64) ([]float32, error) {
	size, stream := 4*p.rows*p.outputs, t.d.c.stream
	y := t.memory.At(p.y)
	if err := t.d.c.call(cuMemset, uintptr(y), 0xff, uintptr(size), stream); err != nil {
		return nil, err
	}
	if err := t.launch(k, g, append([]uint64{y}, arguments...)...); err != nil {
		return nil, err
	}
	if err := t.memory.copyTo(stream, t.host, p.y, p.y, size); err != nil {
		return nil, err
	}
	if err := t.d.c.Sync(); err != nil {
		return nil, err
	}
	floats := unsafe.Slice((*float32)(unsafe.Pointer(&t.host.Bytes[p.y])), size/4)
	return slices.Clone(floats), nil
}

// whole tests a format's kernels with whole numbers.
func (t *tester) whole(s testShape, f kernel.Format) error {
	m, err := s.weights(f, false, false)
	if err != nil {
		return err
	}
	x, want := s.numbers(false, false), tensor.MakeRows(s.rows, s.outputs)
	m.Mul(want, x)
	p, err := t.put(m, x)
	if err != nil {
		return err
	}
	judge := func(k kernelID, got []float32, err error) error {
		if err != nil {
			return err
		}
		wrong := differing(got, want.Data, s.outputs)
		if wrong == nil || t.d.without(f, k) {
			return nil
		}
		return t.d.refused(wrong, k)
	}
	for _, k := range slices.Clone(t.d.products[f]) {
		if !s.tests(&k) {
			continue
		}
		got, err := t.multiply(p, &k, k.addPanels(nil, p.packed, 0, s.rows))
		if err := judge(k.kernel, got, err); err != nil {
			return err
		}
	}
	if t.d.panelsOnly(f) || s != wideTest {
		return nil
	}
	k := plainKernels[f]
	got, err := t.result(p, k, plainGrid(s.rows, s.outputs), p.operand.rows, p.packed,
		uint64(s.rows), uint64(s.outputs), uint64(s.inputs))
	return judge(k, got, err)
}

// rough tests kernels of a class of their own with numbers that have fractions.
func (t *tester) rough(f kernel.Format) error {
	s := roughTest
	var sums [2]tensor.Rows // a CPU's, and those of products without signs
	var p *problem
	for i := range sums {
		m, err := s.weights(f, true, i == 1)
		if err != nil {
			return err
		}
		x := s.numbers(true, i == 1)
		sums[i] = tensor.MakeRows(s.rows, s.outputs)
		m.Mul(sums[i], x)
		if i == 0 {
			if p, err = t.put(m, x); err != nil {
				return err
			}
		}
	}
	var first []float32
	for i, k := range slices.Clone(t.d.products[f]) {
		alone := make([]mulPanel, s.rows)
		for j := range alone {
			alone[j] = mulPanel{p.packed, int32(j), 1}
		}
		for j, panels := range [][]mulPanel{k.addPanels(nil, p.packed, 0, s.rows), alone} {
			got, err := t.multiply(p, &k, panels)
			if err != nil {
				return err
			}
			if i+j == 0 {
				first = got
			}
			wrong := differing(got, first, s.outputs)
			if i+j == 0 {
				wrong = distant(got, sums, s.inputs)
			}
			if wrong != nil && t.d.without(f, k.kernel) {
				break
			} else if wrong != nil {
				return t.d.refused(wrong, k.kernel)
			}
		}
	}
	t.d.round(first)
	return nil
}

// round adds results to what tells devices apart by their rounding.
func (d *Device) round(results []float32) {
	d.rounding = crc32.Update(d.rounding, crc32.IEEETable, memoryOf(results))
}

// refused says why a device is not used: one of some kernels is wrong.
func (d *Device) refused(wrong error, kernels ...kernelID) error {
	instead := "use another GPU, or cpu"
	if slices.Contains(tensorOnly, kernels[len(kernels)-1]) {
		instead = fmt.Sprintf("use %s:%d, which does without it", Kind, d.index)
	}
	return fmt.Errorf("%w: kernel %s: %w: %s", ErrWrong, namesOf(kernels), wrong, instead)
}

func namesOf(kernels []kernelID) string {
	var names []string
	for _, k := range kernels {
		names = append(names, kernelNames[k])
	}
	return strings.Join(names, " or ")
}

// without chooses other kernels of the same bytes for one, if there are any.
func (d *Device) without(f kernel.Format, k kernelID) bool {
	all := d.products[f]
	if k == all[0].kernel || !f.Integer() && !k.hopper() {
		return false // of integers, the first one has no tensor cores
	}
	all = slices.DeleteFunc(slices.Clone(all), func(p panelKernel) bool { return p.kernel == k })
	all[len(all)-1].upTo = math.MaxInt
	d.products[f] = all
	d.distrusted = append(d.distrusted, kernelNames[k])
	return true
}

// differing finds the first number that is another one than it must be. Zeros have no sign: that
// of sums on tensor cores is the hardware's.
func differing(got, want []float32, outputs int) error {
	for i, w := range want {
		if got[i] != w {
			return fmt.Errorf("row %d, output %d is %v, must be %v", i/outputs, i%outputs, got[i], w)
		}
	}
	return nil
}

// distant finds the first sum that is further from a CPU's than two bfloat16 for a number of a row,
// and roundings of 16 products at a time, make it.
func distant(got []float32, sums [2]tensor.Rows, inputs int) error {
	most := 0x1p-17 + float64(4*(inputs+halvesInputs)/halvesInputs)*0x1p-22 +
		float64(inputs)*0x1p-24
	for i, g := range got {
		w, size := sums[0].Data[i], float64(sums[1].Data[i])
		if off := math.Abs(float64(g) - float64(w)); !(off <= most*size) {
			return fmt.Errorf("row %d, output %d is %v, must be %v or at most %.2g from it",
				i/sums[0].Dim, i%sums[0].Dim, g, w, most*size)
		}
	}
	return nil
}
