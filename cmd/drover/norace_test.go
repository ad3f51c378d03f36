//go:build !race

package main

// slack stretches promised times, not at all without the race detector.
const slack = 1
