package etcdserver

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	save "go.etcd.io/etcd/client/v3/snapshot"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
)

// answerTime bounds how long a member may take to say that it is there.
const answerTime = 10 * time.Second

// Backup writes all that the member at endpoint holds to a new file: etcd's own snapshot, which
// ends with its SHA-256. With access by role (Restrict) only a certificate of etcd's own role may.
func Backup(ctx context.Context, endpoint string, client *tls.Config, file string) error {
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("back etcd up: %s exists already", file)
	}
	cfg := clientv3.Config{Endpoints: []string{endpoint}, TLS: client, Logger: logger(nil)}
	err := answers(ctx, cfg)
	if err == nil {
		_, err = save.SaveWithVersion(ctx, logger(nil), cfg, file)
	}
	if err == nil {
		if err = checkBackup(file); err != nil {
			_ = os.Remove(file) // it would be taken for a backup
		}
	}
	if err != nil {
		return fmt.Errorf("back etcd up from %s: %w", endpoint, err)
	}
	return nil
}

// answers asks a member for its state: a snapshot of one that is not there would be waited for.
func answers(ctx context.Context, cfg clientv3.Config) error {
	c, err := clientv3.New(cfg)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	if _, err := c.Status(ctx, cfg.Endpoints[0]); err != nil {
		return fmt.Errorf("it does not answer: %w", err)
	}
	return nil
}

// restoredRevisions is what revisions of etcd grow by when it is restored: a client that has seen
// newer ones than the backup has must not take what is written next for old.
const restoredRevisions = 1_000_000_000

// Restore makes the state of a new member, in an empty folder, of a file that Backup wrote. Of
// opts it needs Dir, and Name, PeerURL or AdvertisePeerURL and InitialCluster as Start will get
// them. Each member of a new cluster is restored from the same file.
func Restore(opts Options, file string) error {
	cfg, err := opts.config()
	if err == nil {
		err = checkBackup(file)
	}
	if err != nil {
		return fmt.Errorf("restore etcd: %w", err)
	}
	var last string // what etcd complained of
	err = errors.New("etcd gave up")
	done := make(chan struct{})
	go func() { // which a fatal message of etcd ends
		defer close(done)
		err = snapshot.NewV3(logger(func(message string) { last = message })).Restore(
			snapshot.RestoreConfig{SnapshotPath: file, Name: opts.Name, OutputDataDir: opts.Dir,
				PeerURLs:            []string{opts.AdvertisePeerURL},
				InitialCluster:      cfg.InitialCluster,
				InitialClusterToken: cfg.InitialClusterToken,
				RevisionBump:        restoredRevisions, MarkCompacted: true})
	}()
	<-done
	if err != nil {
		return fmt.Errorf("restore etcd from %s to %s: %w%s", file, opts.Dir, err, after(last))
	}
	return nil
}

func after(message string) string {
	if message == "" {
		return ""
	}
	return " (" + message + ")"
}

// checkBackup refuses a file that is no snapshot, or not as it was written.
func checkBackup(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	const page = 512 // of a database; the hash comes after whole ones
	size := info.Size()
	if !info.Mode().IsRegular() || size < page || size%page != sha256.Size {
		return fmt.Errorf("%s is no backup of etcd, or cut off: it has %d bytes", file, size)
	}
	h := sha256.New()
	if _, err := io.CopyN(h, f, size-sha256.Size); err != nil {
		return err
	}
	var want [sha256.Size]byte
	if _, err := io.ReadFull(f, want[:]); err != nil {
		return err
	}
	if got := [sha256.Size]byte(h.Sum(nil)); got != want {
		return fmt.Errorf("%s is damaged: its SHA-256 is %x, not %x as it says", file, got, want)
	}
	return nil
}
