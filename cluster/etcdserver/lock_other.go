//go:build !linux && !darwin

package etcdserver

// inUse would tell whether somebody has locked a file; etcd waits for it here.
func inUse(string) bool { return false }
