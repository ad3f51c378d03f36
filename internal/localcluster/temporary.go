package localcluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// temporaryPrefix begins the names of temporary state folders, lockName is the file in each that
// its process keeps locked.
const (
	temporaryPrefix = "drover-up-"
	lockName        = "lock"
)

// temporary makes a state folder that remove ends. Etcd's log has 64 MB, so folders of processes
// that were killed are removed first.
func temporary(parent string) (dir string, remove func(), err error) {
	sweep(parent)
	dir, err = os.MkdirTemp(parent, temporaryPrefix)
	if err != nil {
		return "", nil, fmt.Errorf("make a state folder: %w", err)
	}
	// The file gets its name when it is locked, or another process could take the lock first.
	fresh := filepath.Join(dir, "new-"+lockName)
	lock, err := os.OpenFile(fresh, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		err = errors.Join(unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB),
			os.Rename(fresh, filepath.Join(dir, lockName)))
	}
	if err != nil {
		_ = os.RemoveAll(dir)
		return "", nil, fmt.Errorf("lock the state folder: %w", err)
	}
	return dir, func() { _ = os.RemoveAll(dir); _ = lock.Close() }, nil
}

// sweep removes this user's temporary state folders that no process has locked. What cannot be
// removed stays: it is in nobody's way.
func sweep(parent string) {
	found, _ := filepath.Glob(filepath.Join(parent, temporaryPrefix+"*"))
	for _, dir := range found {
		var at unix.Stat_t
		if unix.Lstat(dir, &at) != nil || at.Mode&unix.S_IFMT != unix.S_IFDIR ||
			int(at.Uid) != os.Geteuid() {
			continue // somebody else's, who may have put anything there
		}
		lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|unix.O_NOFOLLOW, 0)
		if err != nil {
			continue // not yet locked, or removed just now
		}
		if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = os.RemoveAll(dir)
		}
		_ = lock.Close()
	}
}
