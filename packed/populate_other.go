//go:build !linux

package packed

// mapPopulate is nothing: the check of the checksums touches every page.
const mapPopulate = 0
