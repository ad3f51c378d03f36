//go:build unix && !linux

package localcluster

import "syscall"

// attributes puts a child into a process group of its own, so that Ctrl-C reaches
// this process alone.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
