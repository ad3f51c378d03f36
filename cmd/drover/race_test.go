//go:build race

package main

// slack stretches promised times: the race detector slows every process ten times.
const slack = 10
