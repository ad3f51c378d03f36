package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Errors of a Store that callers branch on. Any other error means that the store is
// away, or did not answer in time.
var (
	// ErrConflict says that a condition of a Commit did not hold: nothing was written.
	ErrConflict = errors.New("cluster: a condition of the write no longer holds")
	// ErrLeaseGone says that a lease has expired or was revoked.
	ErrLeaseGone = errors.New("cluster: the lease is gone")
	// ErrCompacted says that a watch starts at a revision that was forgotten.
	ErrCompacted = errors.New("cluster: the history of this revision was compacted")
)

// Entry is one key of a store. The store's revision rises with each write;
// ModRevision is its value when the key was last written.
type Entry struct {
	Key         string
	Value       []byte
	ModRevision int64
	// Deleted marks, in a Change, a key that is gone.
	Deleted bool
}

// Lease keys live as long as it is kept alive. Zero is no lease.
type Lease int64

// Cond holds if the key was last written at ModRevision; zero means it is absent.
type Cond struct {
	Key         string
	ModRevision int64
}

// Put writes a key, under a lease if that is not zero.
type Put struct {
	Key   string
	Value []byte
	Lease Lease
}

// maxWrite bounds the conditions of a Write, and its puts and deletes together. It is what
// etcd takes of one transaction unless it is told otherwise.
const maxWrite = 128

// Write is a transaction: if all conditions hold it does all puts and deletes. There are at
// most maxWrite conditions, and as many puts and deletes together.
type Write struct {
	If     []Cond
	Put    []Put
	Delete []string
}

// validate refuses a write that etcd would not take.
func (w Write) validate() error {
	if len(w.If) > maxWrite || len(w.Put)+len(w.Delete) > maxWrite {
		return fmt.Errorf("cluster: a write of %d keys on %d conditions, at most %d of either",
			len(w.Put)+len(w.Delete), len(w.If), maxWrite)
	}
	return nil
}

// Store is what the cluster needs of etcd. Its two implementations, Memory and Etcd,
// pass one conformance test. Calls end with their context; methods may be called from
// several goroutines.
type Store interface {
	// List returns the entries whose keys have the prefix, ascending, and the store's
	// revision at that moment.
	List(ctx context.Context, prefix string) (entries []Entry, revision int64, err error)
	// Commit does a write and returns the store's revision after it, or ErrConflict.
	// After any other error the write may or may not have been done.
	Commit(ctx context.Context, w Write) (revision int64, err error)
	// Grant makes a lease that lasts for ttl after the last KeepAlive. A store may
	// lengthen the ttl.
	Grant(ctx context.Context, ttl time.Duration) (Lease, error)
	// KeepAlive renews a lease once, or returns ErrLeaseGone.
	KeepAlive(ctx context.Context, l Lease) error
	// Revoke ends a lease and deletes its keys. Revoking a lease that is gone is no error.
	Revoke(ctx context.Context, l Lease) error
	// Watch calls each with the changes under prefix after a revision, in order, all
	// changes of one revision together, until ctx ends or the watch breaks. It returns
	// ErrCompacted if the revision was forgotten, otherwise why it ended, never nil.
	Watch(ctx context.Context, prefix string, after int64, each func([]Entry)) error
}
