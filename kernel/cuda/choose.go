//go:build cuda && linux

package cuda

const (
	// chooseKeys is how many keys a block of threads of sample_topk and sample_merge sorts.
	chooseKeys    = 2048
	chooseThreads = 512
	// maxSampleTop bounds how many candidates are chosen.
	maxSampleTop = chooseKeys / 2
)

// chooseBlocks is how many blocks of threads a row of so many logits, or keys, needs, in a
// launch of sample_topk(best, logits, count, k), the first, or of sample_merge(best, chosen,
// count, k), as long as a row has several blocks: each leaves k keys, which are the next's.
// best and chosen are different memory. sample_read(tokens, logits, best, rows*k) then makes
// keys candidates.
func chooseBlocks(count int) int { return (count + chooseKeys - 1) / chooseKeys }
