package pull

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"drover/checkpoint"
)

const (
	configName = "config.json"
	indexName  = "model.safetensors.index.json"
	singleName = "model.safetensors"
	sumsName   = "SHA256SUMS"

	// maxSmallBytes bounds each file that is not a weights file.
	maxSmallBytes = 100 << 20
)

// extras are the small files that a model may have and that some role reads.
var extras = []string{"generation_config.json", "tokenizer.json", "tokenizer_config.json",
	"special_tokens_map.json", "chat_template.jinja", "preprocessor_config.json",
	"processor_config.json"}

// begin fetches what tells the model, and opens the directory of the pull. On a hub all
// other files are then asked for by the commit that the configuration is of.
func (p *puller) begin(ctx context.Context) error {
	sums, err := p.sums(ctx)
	if err != nil {
		return err
	}
	p.client.sums = sums
	config, f, err := p.client.whole(ctx, configName)
	if err != nil {
		return err
	}
	if err := makeWork(p.work); err != nil {
		return err
	}
	identity := fmt.Sprintf("%q %q %x %q", p.client.from.address(""), p.client.from.commit,
		sha256.Sum256(config), p.opts.Experts)
	if p.journal, err = openJournal(p.work, identity); err != nil {
		return err
	}
	return p.save(f, config)
}

// makeWork makes the directory of the pull. One that holds something and is not of a pull is
// somebody else's.
func makeWork(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, journalName)); err != nil && len(entries) > 0 {
		return fmt.Errorf("%s: holds files that are not of a pull: remove it, or name another directory",
			dir)
	}
	return nil
}

// sums fetches the hashes that a folder may have of its files. A hub has its own.
func (p *puller) sums(ctx context.Context) (map[string]string, error) {
	if p.client.from.hub {
		return nil, nil
	}
	text, _, err := p.client.whole(ctx, sumsName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	sums := map[string]string{}
	for line := range strings.Lines(string(text)) {
		sum, name, ok := strings.Cut(strings.TrimSpace(line), " ")
		name = strings.TrimPrefix(strings.TrimLeft(name, " *"), "./")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if !ok || !isHex(sum, 64) {
			return nil, fmt.Errorf("%s: line %.80q is not a SHA-256 and a name", sumsName, line)
		}
		sums[name] = strings.ToLower(sum)
	}
	return sums, nil
}

func isHex(s string, digits int) bool {
	_, err := hex.DecodeString(s)
	return err == nil && len(s) == digits
}

// small fetches the small files, and returns the index if the model has one.
func (p *puller) small(ctx context.Context) (index []byte, err error) {
	for _, name := range append([]string{indexName}, extras...) {
		b, f, err := p.client.whole(ctx, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if name == indexName {
			index = b
		}
		if err := p.save(f, b); err != nil {
			return nil, err
		}
	}
	return index, nil
}

// save writes a small file. It gets its bytes anew in each pull, and is checked at the end
// like all others.
func (p *puller) save(f *file, b []byte) (err error) {
	if f.local, err = os.OpenFile(filepath.Join(p.work, f.name), os.O_RDWR|os.O_CREATE|os.O_TRUNC,
		0o644); err != nil {
		return err
	}
	p.files[f.name] = f
	if err := p.journal.know(f); err != nil {
		return err
	}
	if _, err := f.local.Write(b); err != nil {
		return err
	}
	p.total += f.size
	p.done.Add(f.size)
	p.fetched.Add(f.size)
	return p.journal.add(f.name, part{0, f.size, fmt.Sprintf("%x", sha256.Sum256(b))})
}

// saveSlice writes which weights are there, and of what they are.
func (p *puller) saveSlice(present map[string][]checkpoint.Range) error {
	tags := map[string]string{}
	for _, name := range p.order {
		tags[name] = p.files[name].tag
	}
	b, err := json.Marshal(checkpoint.Slice{Version: 1, Experts: p.opts.Experts.String(),
		Files: present, Commit: p.client.from.commit, Tags: tags})
	if err != nil {
		return err
	}
	f := &file{name: checkpoint.SliceName, size: int64(len(b))}
	err = p.save(f, b)
	p.fetched.Add(-f.size) // made here
	return err
}

// whole fetches a small file into memory and checks it.
func (c *client) whole(ctx context.Context, name string) (b []byte, f *file, err error) {
	err = c.retry(ctx, name, func() error {
		a, err := c.get(ctx, name, 0, 0)
		if err != nil {
			return err
		}
		defer a.body.Close()
		if a.length > maxSmallBytes {
			return refusef("has %d bytes, must have at most %d", a.length, maxSmallBytes)
		}
		if b, err = io.ReadAll(io.LimitReader(a.body, maxSmallBytes+1)); err != nil {
			return err
		}
		if len(b) > maxSmallBytes {
			return refusef("has more than %d bytes", maxSmallBytes)
		}
		f, err = c.describe(name, int64(len(b)), a)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if strings.HasSuffix(name, ".json") && !json.Valid(b) {
		return nil, nil, fmt.Errorf("pull %s from %s: what the server sent is no JSON", name,
			c.from.base.Host)
	}
	return b, f, nil
}

// describe makes a file of what the source says of it.
func (c *client) describe(name string, size int64, a *answer) (*file, error) {
	f := &file{name: name, size: size, tag: c.tag(&a.facts), sum: c.sums[name], ranged: a.ranged}
	if !c.from.hub {
		return f, nil
	}
	f.sum = ""
	if isHex(f.tag, 64) || isHex(f.tag, 40) {
		f.sum = strings.ToLower(f.tag)
	}
	if a.facts.size != "" && a.facts.size != fmt.Sprint(size) {
		return nil, refusef("has %d bytes, the hub says %s", size, a.facts.size)
	}
	switch {
	case name == configName && commitName.MatchString(a.facts.commit):
		c.from.commit = a.facts.commit
	case c.from.commit != "" && a.facts.commit != "" && a.facts.commit != c.from.commit:
		return nil, refusef("is of commit %s, %s was asked for", a.facts.commit, c.from.commit)
	}
	return f, nil
}
