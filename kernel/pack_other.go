//go:build !amd64

package kernel

func packGroup(block []byte, g int, f Format, t *tileRows) bool {
	return packGroupGo(block, g, f, t)
}

func widenColumns(t *tileRows, src []byte, stride, n int) { widenColumnsGo(t, src, stride, n) }

func packColumns(block, data []byte, stride, lines int) bool {
	return packColumnsGo(block, data, stride, lines)
}

func packRows([]byte, []byte, int, int) (packed int, ok bool) { return 0, true }

func (t *tileRows) fillRows([]byte, int, int) int { return 0 }
