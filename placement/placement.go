// Package placement decides which node holds which replica of which expert.
//
// Everything in it is pure: no clock, no network, no randomness. Package cluster
// stores and distributes what is decided here.
package placement
