package pull

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// journalName is that of the journal, in the directory of an unfinished pull.
const journalName = ".drover-pull"

// maxJournalBytes bounds what is read of a journal: about 5 million parts.
const maxJournalBytes = 512 << 20

// part is a part of a file that lies on the disk, with its SHA-256.
type part struct {
	begin, end int64
	sum        string
}

// journal notes line by line what lies on the disk. The last line may be torn by a crash; it
// is dropped. That a noted part is right is checked at the end of the pull, so that lines
// need not wait for the disk.
//
//	pull IDENTITY
//	file NAME SIZE TAG
//	part NAME BEGIN END SHA256
//	drop NAME
type journal struct {
	path string

	mu    sync.Mutex // guards the fields below
	file  *os.File
	tags  map[string]string // by file: what it is
	parts map[string]map[int64]part
}

// openJournal opens that of a directory and takes its lock, so that two pulls never write to
// one directory. If it is of another pull, the directory is emptied.
func openJournal(dir, identity string) (*journal, error) {
	path := filepath.Join(dir, journalName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	j := &journal{path: path, file: f, tags: map[string]string{}, parts: map[string]map[int64]part{}}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s: another pull is at work here: wait for it", dir)
	}
	if err := j.load(dir, "pull "+identity); err != nil {
		_ = f.Close()
		return nil, err
	}
	return j, nil
}

func (j *journal) load(dir, first string) error {
	r := bufio.NewReader(io.LimitReader(j.file, maxJournalBytes))
	line, _ := r.ReadString('\n') // a torn one is of another pull
	if line != first+"\n" {
		if err := empty(dir); err != nil {
			return err
		}
		if err := j.file.Truncate(0); err != nil {
			return err
		}
		_, err := j.file.WriteAt([]byte(first+"\n"), 0)
		if err == nil {
			_, err = j.file.Seek(0, io.SeekEnd)
		}
		return err
	}
	size := int64(len(line))
	for {
		line, err := r.ReadString('\n')
		if err != nil || !j.take(line) {
			break
		}
		size += int64(len(line))
	}
	if err := j.file.Truncate(size); err != nil {
		return err
	}
	_, err := j.file.Seek(size, io.SeekStart)
	return err
}

// empty removes what an earlier pull left, which is all that was ever made here.
func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == journalName {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// take applies a line, if it is one.
func (j *journal) take(line string) bool {
	var name, tag string
	var size int64
	var p part
	switch verb, rest, _ := strings.Cut(line, " "); verb {
	case "file":
		if n, err := fmt.Sscanf(rest, "%q %d %q\n", &name, &size, &tag); n != 3 || err != nil {
			return false
		}
		j.tags[name] = tagOf(size, tag)
	case "part":
		if n, err := fmt.Sscanf(rest, "%q %d %d %64s\n", &name, &p.begin, &p.end, &p.sum); n != 4 ||
			err != nil || len(p.sum) != 64 || p.begin < 0 || p.end < p.begin {
			return false
		}
		if j.parts[name] == nil {
			j.parts[name] = map[int64]part{}
		}
		j.parts[name][p.begin] = p
	case "drop":
		if n, err := fmt.Sscanf(rest, "%q\n", &name); n != 1 || err != nil {
			return false
		}
		delete(j.parts, name)
		delete(j.tags, name)
	default:
		return false
	}
	return true
}

func tagOf(size int64, tag string) string { return fmt.Sprintf("%d %s", size, tag) }

// note applies lines and writes them.
func (j *journal) note(lines ...string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	var b bytes.Buffer
	for _, l := range lines {
		if !j.take(l) {
			return errors.New("pull: a line of the journal that cannot be read back: " + l)
		}
		b.WriteString(l)
	}
	_, err := j.file.Write(b.Bytes())
	return err
}

// know says what a file is. Parts of another content under that name are forgotten.
func (j *journal) know(f *file) error {
	j.mu.Lock()
	old := j.tags[f.name]
	j.mu.Unlock()
	if old == tagOf(f.size, f.tag) {
		return nil
	}
	return j.note(fmt.Sprintf("drop %q\n", f.name),
		fmt.Sprintf("file %q %d %q\n", f.name, f.size, f.tag))
}

func (j *journal) add(name string, p part) error {
	return j.note(fmt.Sprintf("part %q %d %d %s\n", name, p.begin, p.end, p.sum))
}

func (j *journal) drop(name string) error { return j.note(fmt.Sprintf("drop %q\n", name)) }

func (j *journal) has(name string, begin, end int64) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	p, ok := j.parts[name][begin]
	return ok && p.end == end
}

func (j *journal) list(name string) []part {
	j.mu.Lock()
	defer j.mu.Unlock()
	var all []part
	for _, p := range j.parts[name] {
		all = append(all, p)
	}
	return all
}

func (j *journal) close() error { return j.file.Close() }

func (j *journal) remove() error { return os.Remove(j.path) }
