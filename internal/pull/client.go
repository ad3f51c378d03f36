package pull

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// refusal is an error that trying again does not mend.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

func refusef(format string, args ...any) error { return refusal{fmt.Errorf(format, args...)} }

// later is an answer that asks us to come back.
type later struct {
	error
	after time.Duration
}

const (
	maxRedirects = 5
	// maxWait bounds how long a server may ask us to wait.
	maxWait = time.Minute
)

// client asks the source for files. It is safe for concurrent use once the commit is known.
type client struct {
	opts  *Options
	from  *source
	inner http.RoundTripper
	http  *http.Client
	sums  map[string]string // by file: hashes that a folder gives; set before files are asked for

	mu     sync.Mutex // guards the field below
	places map[string]place
}

// place is where a hub has a file, and what the hub said of it. Parts are asked for there, so
// that the hub is asked once for each file: it bounds how often one may ask. The address may be
// signed and ends one day; then the hub is asked again.
type place struct {
	address string
	facts   facts
}

// place returns where a file is, if that is known.
func (c *client) place(name string) (place, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.places[name]
	return p, ok
}

// moved notes where a file is.
func (c *client) moved(name string, p place) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.places[name] = p
}

// forget forgets where a file is.
func (c *client) forget(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.places, name)
}

func newClient(o *Options, from *source) (*client, error) {
	if err := allowed(from.base, o.Insecure); err != nil {
		return nil, err
	}
	c := &client{opts: o, from: from, inner: o.Transport, places: map[string]place{}}
	if c.inner == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.MaxIdleConnsPerHost = o.Streams
		t.ResponseHeaderTimeout = o.Stall
		t.MaxResponseHeaderBytes = 256 << 10
		t.DisableCompression = true
		c.inner = t
	}
	c.http = &http.Client{Transport: c, CheckRedirect: boundRedirects}
	return c, nil
}

func boundRedirects(_ *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return refusef("more than %d redirects", maxRedirects)
	}
	return nil
}

// CloseIdleConnections lets http.Client reach the transport.
func (c *client) CloseIdleConnections() {
	if t, ok := c.inner.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// RoundTrip adds the token to requests to the source's own host and to no other (D2): here,
// and not in the first request's header, which redirects would inherit. What that host says
// of a file goes to the request's facts; who it redirects to has no say.
func (c *client) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := allowed(r.URL, c.opts.Insecure); err != nil {
		return nil, err
	}
	ours := c.from.owns(r.URL)
	r = r.Clone(r.Context())
	r.Header.Del("Referer") // an address may be signed
	if ours && c.opts.Token != nil {
		token, err := c.opts.Token()
		if err != nil {
			return nil, refusal{err}
		}
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
	}
	resp, err := c.inner.RoundTrip(r)
	if f, ok := r.Context().Value(factsKey{}).(*facts); ok && err == nil && ours {
		f.note(resp.Header)
	}
	return resp, err
}

// facts is what the source says of a file, beside the file.
type facts struct{ commit, sum, size, tag string }

type factsKey struct{}

func (f *facts) note(h http.Header) {
	set := func(to *string, key string) {
		if v := strings.Trim(strings.TrimPrefix(h.Get(key), "W/"), `"`); v != "" && len(v) <= 256 {
			*to = v
		}
	}
	set(&f.tag, "Last-Modified")
	set(&f.tag, "ETag")
	set(&f.commit, "X-Repo-Commit")
	set(&f.sum, "X-Linked-Etag")
	set(&f.size, "X-Linked-Size")
}

// answer is a response whose status was checked.
type answer struct {
	body   io.ReadCloser
	length int64 // of the body; -1 if unknown
	total  int64 // of the file; -1 if unknown
	ranged bool
	facts  facts
	from   *url.URL // who sent it, after redirects
}

// get asks for a file's bytes from begin to end, or for all of it if end is 0. The answer's
// body ends with an error if nothing arrives for too long.
func (c *client) get(ctx context.Context, name string, begin, end int64) (*answer, error) {
	if p, ok := c.place(name); ok && end > 0 {
		a, err := c.ask(ctx, p, begin, end)
		if err == nil && a.ranged || ctx.Err() != nil {
			return a, err
		}
		if err == nil {
			_ = a.body.Close() // it is no part
		}
		c.forget(name)
	}
	a, err := c.ask(ctx, place{address: c.from.address(name)}, begin, end)
	if err == nil && a.ranged && c.from.hub && !c.from.owns(a.from) {
		c.moved(name, place{a.from.String(), a.facts})
	}
	return a, err
}

// ask is get at a place.
func (c *client) ask(ctx context.Context, p place, begin, end int64) (*answer, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	a := &answer{facts: p.facts}
	ctx = context.WithValue(ctx, factsKey{}, &a.facts)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, p.address, nil)
	if err != nil {
		cancel(nil)
		return nil, refusal{err}
	}
	r.Header.Set("User-Agent", "drover")
	r.Header.Set("Accept-Encoding", "identity")
	if end > 0 {
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", begin, end-1))
	}
	watch := time.AfterFunc(c.opts.Stall, func() {
		cancel(fmt.Errorf("the server sent nothing for %v", c.opts.Stall))
	})
	resp, err := c.http.Do(r)
	if err != nil {
		watch.Stop()
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		cancel(nil)
		var u *url.Error // its address may be a signed one
		if errors.As(err, &u) {
			err = u.Err
		}
		return nil, unknown(err)
	}
	a.body, a.from = &watched{resp.Body, ctx, cancel, watch, c.opts.Stall}, resp.Request.URL
	if err := a.read(resp, begin, end); err != nil {
		_ = a.body.Close() // the answer is refused already
		return nil, err
	}
	return a, nil
}

// unknown turns a certificate that is not believed into a refusal: another try would meet the same.
func unknown(err error) error {
	var c *tls.CertificateVerificationError
	if !errors.As(err, &c) {
		return err
	}
	return refusal{fmt.Errorf("%w (authorities are those of the system, or of the file that "+
		"SSL_CERT_FILE names)", err)}
}

// read checks the status and the header.
func (a *answer) read(resp *http.Response, begin, end int64) error {
	a.length, a.total = resp.ContentLength, resp.ContentLength
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); resp.StatusCode < 300 &&
		kind == "text/html" {
		return refusef("the server sent a web page: is the source a folder of files, and open to you?")
	}
	switch code := resp.StatusCode; {
	case code == http.StatusOK:
		return nil
	case code == http.StatusPartialContent && end > 0:
		a.ranged = true
		return a.readRange(resp.Header.Get("Content-Range"), begin, end)
	case code == http.StatusNotFound:
		return refusal{fmt.Errorf("%s: %w", resp.Status, fs.ErrNotExist)}
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return refusef("%s: the model needs a token (a token file, or HF_TOKEN) that may read it, "+
			"and perhaps its licence accepted", resp.Status)
	case code == http.StatusTooManyRequests || code == http.StatusRequestTimeout || code >= 500:
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After")) // a date counts as none
		return later{fmt.Errorf("%s", resp.Status),
			min(time.Duration(min(max(seconds, 0), 3600))*time.Second, maxWait)}
	default:
		return refusef("%s", resp.Status)
	}
}

// readRange checks that the part which comes is the one that was asked for.
func (a *answer) readRange(text string, begin, end int64) error {
	span, total, ok := strings.Cut(strings.TrimPrefix(text, "bytes "), "/")
	first, last, ok2 := strings.Cut(span, "-")
	var numbers [3]int64
	for i, s := range []string{first, last, total} {
		n, err := strconv.ParseInt(s, 10, 62)
		if err != nil || n < 0 {
			ok = false
		}
		numbers[i] = n
	}
	if !ok || !ok2 || numbers[0] != begin || numbers[1] != min(end, numbers[2])-1 {
		return refusef("the server sent part %q, bytes %d-%d were asked for", text, begin, end-1)
	}
	a.total = numbers[2]
	if want := numbers[1] - begin + 1; a.length >= 0 && a.length != want {
		return refusef("the server sends %d bytes, %d were asked for", a.length, want)
	}
	return nil
}

// watched is a body that ends if nothing arrives for too long.
type watched struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	stall  time.Duration
}

// Read implements io.Reader.
func (w *watched) Read(b []byte) (int, error) {
	n, err := w.ReadCloser.Read(b)
	if n > 0 {
		w.timer.Reset(w.stall)
	}
	if cause := context.Cause(w.ctx); err != nil && !errors.Is(err, io.EOF) && cause != nil {
		err = cause
	}
	return n, err
}

// Close implements io.Closer.
func (w *watched) Close() error {
	w.timer.Stop()
	w.cancel(nil)
	return w.ReadCloser.Close()
}

// retry calls f until it succeeds, is refused, or has had its tries.
func (c *client) retry(ctx context.Context, name string, f func() error) error {
	for try := 0; ; try++ {
		err := f()
		if err == nil {
			return nil
		}
		c.forget(name) // it may be another one by now
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var no refusal
		if errors.As(err, &no) || try+1 >= c.opts.Tries {
			return fmt.Errorf("pull %s from %s: %w", name, c.from.base.Host, err)
		}
		if c.opts.Retrying != nil {
			c.opts.Retrying(name, err)
		}
		wait := c.opts.Backoff << min(try, 6)
		wait += rand.N(wait/2 + 1) // many nodes that pull at once spread out
		var l later
		if errors.As(err, &l) {
			wait = max(wait, l.after)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// tag is what the source calls a file's content: a hub names it by its hash.
func (c *client) tag(f *facts) string {
	if c.from.hub && f.sum != "" {
		return f.sum
	}
	return f.tag
}

// part reads exactly the bytes from begin to begin+len(b) of a file.
func (c *client) part(ctx context.Context, f *file, begin int64, b []byte) error {
	return c.retry(ctx, f.name, func() error {
		a, err := c.get(ctx, f.name, begin, begin+int64(len(b)))
		if err != nil {
			return err
		}
		defer a.body.Close()
		if tag := c.tag(&a.facts); !a.ranged || a.total != f.size ||
			tag != f.tag && !(c.from.hub && tag == "") {
			return refusef("the file changed at the source: it has %d bytes and the tag %q, had %d and %q "+
				"when the pull began: pull again", a.total, tag, f.size, f.tag)
		}
		if _, err := io.ReadFull(a.body, b); err != nil {
			return fmt.Errorf("bytes %d-%d: %w", begin, begin+int64(len(b))-1, err)
		}
		if n, _ := a.body.Read(make([]byte, 1)); n > 0 {
			return refusef("the server sent more than it was asked for")
		}
		return nil
	})
}
