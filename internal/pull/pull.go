// Package pull downloads a model directory: from a folder behind HTTP, or from a hub of
// models. It fetches what serving takes and nothing else, and of the routed experts only a
// slice if asked to. What such a directory lacks a Rest reads later, piece by piece.
//
// What arrives lies in a directory beside the one asked for, with a journal of the parts
// that are there, so that a pull that was interrupted goes on where it was. Only when all of
// it is there and checked does the directory get its name (D1): a directory of that name is
// complete.
//
// The server is not trusted. Every size that it names is checked before it is used, a part
// has exactly the length that was asked for, and a token goes to the source's own host only,
// wherever it redirects to (D2).
package pull

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"drover/checkpoint"
)

// ErrExists says that the directory is there already.
var ErrExists = errors.New("is there already")

// DefaultHub is where models named hf: come from.
const DefaultHub = "https://huggingface.co"

// Options tunes a pull. Source and Dir are required.
type Options struct {
	// Source is https://host/path/, http:// likewise, or hf:organisation/model[@revision].
	Source string
	// Dir is where the model will lie.
	Dir string
	// Hub is the base of the hub's addresses. Empty means DefaultHub.
	Hub string
	// Token returns what is sent to the source's host as a bearer token; empty is none. It is
	// asked for each request, so that a new one is used. Nil means none.
	Token func() (string, error)
	// Insecure allows plain HTTP to hosts other than this one.
	Insecure bool
	// Experts are the routed experts to fetch. The zero value means the whole model.
	Experts Experts
	// Streams is how many requests run at a time, at most 64. Zero means 8.
	Streams int
	// Tries is how often a request is tried. Zero means 8.
	Tries int
	// Backoff is the wait before the second try; it doubles up to 64 times. Zero means 500 ms.
	Backoff time.Duration
	// Stall is how long a server may send nothing. Zero means 30 s.
	Stall time.Duration
	// Transport carries the requests. Nil means one of this package's own.
	Transport http.RoundTripper
	// Progress, if not nil, is called with the megabytes that are there and of all, one call
	// at a time.
	Progress func(done, total int)
	// Retrying, if not nil, is called before a request is tried again, with why. Calls may
	// overlap.
	Retrying func(file string, why error)
	// Background, if not nil, is called by each goroutine of a Rest that reads, for it to leave
	// the processors to others.
	Background func()
}

func (o *Options) setDefaults() {
	if o.Hub == "" {
		o.Hub = DefaultHub
	}
	if o.Streams == 0 {
		o.Streams = 8
	}
	if o.Tries == 0 {
		o.Tries = 8
	}
	if o.Backoff == 0 {
		o.Backoff = 500 * time.Millisecond
	}
	if o.Stall == 0 {
		o.Stall = 30 * time.Second
	}
}

func (o *Options) validate() error {
	if o.Streams < 1 || o.Streams > 64 {
		return fmt.Errorf("%d streams are asked for, must be 1 to 64", o.Streams)
	}
	if o.Tries < 1 || o.Backoff < 0 || o.Stall < 0 {
		return errors.New("tries must be at least 1, times not negative")
	}
	if o.Dir == "" {
		return errors.New("no directory is named")
	}
	return nil
}

// Result tells what was pulled.
type Result struct {
	Dir string `json:"dir"`
	// Revision is the hub's commit, empty elsewhere.
	Revision string `json:"revision,omitempty"`
	Files    int    `json:"files"`
	// Bytes are those of the model that are there, Fetched those of them that this pull
	// brought.
	Bytes   int64  `json:"bytes"`
	Fetched int64  `json:"fetched_bytes"`
	Digest  string `json:"digest"`
	// Checked counts the files that were compared with a hash that the source gave.
	Checked int `json:"files_checked"`
}

// Model pulls a model. If Dir is there, the error wraps ErrExists.
func Model(ctx context.Context, o Options) (*Result, error) {
	o.setDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	from, err := parseSource(o.Source, o.Hub)
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	if err := vacant(dir); err != nil {
		return nil, err
	}
	c, err := newClient(&o, from)
	if err != nil {
		return nil, err
	}
	defer c.http.CloseIdleConnections()
	p := &puller{opts: &o, client: c, dir: dir, work: dir + ".partial",
		files: map[string]*file{}}
	defer p.close()
	return p.run(ctx)
}

// vacant says whether the directory may be made: it must not be there, or be empty. Only one
// that holds a model gives ErrExists.
func vacant(dir string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case len(entries) > 0 && !slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		return e.Name() == "config.json"
	}):
		return fmt.Errorf("%s is not empty, and no model is in it: name another directory", dir)
	case len(entries) > 0:
		return fmt.Errorf("%s: %w: remove it, or name another directory", dir, ErrExists)
	}
	return nil
}

// file is one file of the model.
type file struct {
	name   string
	size   int64
	sum    string // SHA-256 or, of 40 digits, git's name of the content; empty if unknown
	tag    string // what the server calls this content
	ranged bool   // the server sends parts of it
	local  *os.File
}

// puller pulls one model. Its fields change on one goroutine only, but for done.
type puller struct {
	opts      *Options
	client    *client
	dir, work string
	journal   *journal
	files     map[string]*file
	order     []string // of the weights files
	total     int64    // bytes that belong to the pull
	done      atomic.Int64
	fetched   atomic.Int64
}

func (p *puller) close() {
	for _, f := range p.files {
		if f.local != nil {
			_ = f.local.Close() // what was written is checked by reading it again
		}
	}
	if p.journal != nil {
		_ = p.journal.close()
	}
}

func (p *puller) run(ctx context.Context) (*Result, error) {
	if err := p.begin(ctx); err != nil {
		return nil, err
	}
	index, err := p.small(ctx)
	if err != nil {
		return nil, err
	}
	if err := p.weights(ctx, index); err != nil {
		return nil, err
	}
	checked, err := p.check(ctx)
	if err != nil {
		return nil, err
	}
	r, err := p.finish()
	if err == nil {
		r.Checked = checked
	}
	return r, err
}

// finish opens the model as any role would, and gives it its name.
func (p *puller) finish() (*Result, error) {
	ck, err := checkpoint.Open(p.work)
	if err != nil {
		return nil, fmt.Errorf("what was pulled is no model: %w", err)
	}
	digest, hollow := ck.Digest(), ck.Hollow()
	if err := errors.Join(ck.Close()); err != nil {
		return nil, err
	}
	if hollow {
		return nil, fmt.Errorf("%s: all weights are zeros: the source holds no model", p.opts.Source)
	}
	for _, f := range p.files {
		if err := f.local.Sync(); err != nil {
			return nil, err
		}
	}
	if err := p.journal.remove(); err != nil {
		return nil, err
	}
	if err := os.Remove(p.dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", p.dir, ErrExists)
	}
	if err := os.Rename(p.work, p.dir); err != nil {
		return nil, err
	}
	if err := syncDir(filepath.Dir(p.dir)); err != nil {
		return nil, err
	}
	return &Result{Dir: p.dir, Revision: p.client.from.commit, Files: len(p.files),
		Bytes: p.total, Fetched: p.fetched.Load(), Digest: fmt.Sprintf("%x", digest)}, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
