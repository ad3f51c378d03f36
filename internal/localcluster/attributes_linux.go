package localcluster

import "syscall"

// attributes puts a child into a process group of its own, so that Ctrl-C reaches
// this process alone, and has the kernel kill it when this process dies.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
