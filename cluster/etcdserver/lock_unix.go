//go:build linux || darwin

package etcdserver

import (
	"errors"
	"os"
	"syscall"
)

// inUse tells whether somebody has locked a file, as a member has its state's.
func inUse(name string) bool {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return false // there is none yet, or etcd says what is wrong
	}
	defer f.Close() // and the lock ends
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	return errors.Is(err, syscall.EWOULDBLOCK)
}
