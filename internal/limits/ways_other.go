//go:build !amd64

package limits

func readers() []way { return []way{{"go", "linear", plainRead}} }

func multipliers() []way { return []way{{"go", "8 chains", plainFMA}} }

func integers(bool) []way { return []way{{"go", "8 chains", plainDot}} }
