package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"drover/internal/pull"
)

// maxTokenBytes bounds a file with a token.
const maxTokenBytes = 4 << 10

// pullFlags are those of `drover pull`.
type pullFlags struct {
	opts            pull.Options
	slice, experts  string
	forRole         string
	tokenFile       string
	missing, asJSON bool
}

// newPullCommand fetches a model.
func newPullCommand(g *globals) *cobra.Command {
	var f pullFlags
	c := &cobra.Command{
		Use:   "pull SOURCE DIR",
		Short: "Fetch a model, or a slice of its experts, into a directory",
		Long: `Fetch the configuration, tokenizer and weights of a model into DIR.

SOURCE is https://host/folder/, or hf:organisation/model[@revision] on a hub of models. A
token for it is read from --token-file, or for a hub from HF_TOKEN; it goes to no other host
that the source redirects to.

With --slice or --experts only those routed experts are fetched: the weights files keep their
full size, with holes for the rest, and the model keeps its digest. Such a directory serves an
expert node that holds no other experts, and refuses to read what it lacks. With --for
coordinator everything but the routed experts is fetched, with --for expertnode no weights but
the samples that the digest covers: such a node reads the experts that it is given from SOURCE,
with --pull of drover expertnode.

What arrives lies in DIR.partial. A pull that was interrupted goes on from there when it is
started again; DIR appears once everything is there and checked against the hashes that the
hub, or a file SHA256SUMS in the folder, gives.

With --json one document: {"dir","revision","files","bytes","fetched_bytes","digest",
"files_checked"}.
Exit codes: 0 done, 1 an error, 2 wrong usage, 130 interrupted.`,
		Example: `  drover pull hf:meta-llama/Llama-4-Maverick-17B-128E-Instruct /models/maverick
  drover pull --slice 2/4 https://models.example.com/maverick/ /models/maverick
  drover pull --if-missing --token-file /run/secrets/token hf:org/name@v1 /models/name`,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usagef("a source and a directory are needed, got %d arguments", len(args))
			}
			f.opts.Source, f.opts.Dir = args[0], args[1]
			return f.run(c, g)
		},
	}
	flags := c.Flags()
	flags.StringVar(&f.slice, "slice", "",
		"fetch the routed experts of slice i of n equal ones only, as i/n")
	flags.StringVar(&f.experts, "experts", "",
		"fetch these routed experts of each layer only, as 0-31,64")
	flags.StringVar(&f.forRole, "for", "", "fetch what a role needs before it starts, coordinator or "+
		"expertnode: no routed experts, which it reads by its own --pull")
	flags.StringVar(&f.opts.Hub, "hub", pull.DefaultHub, "base address of the hub, for hf: sources")
	flags.StringVar(&f.tokenFile, "token-file", "",
		"file with a token for the source (default for a hub: $HF_TOKEN)")
	flags.BoolVar(&f.opts.Insecure, "insecure", false, "allow plain HTTP to other hosts")
	flags.IntVar(&f.opts.Streams, "streams", 8, "requests at a time, 1 to 64")
	flags.BoolVar(&f.missing, "if-missing", false, "do nothing if DIR is there already")
	flags.BoolVar(&f.asJSON, "json", false, "print JSON")
	return c
}

func (f *pullFlags) run(c *cobra.Command, g *globals) (err error) {
	switch {
	case f.slice != "" && f.experts != "" || f.forRole != "" && f.slice+f.experts != "":
		return usagef("--for, --slice and --experts exclude each other")
	case f.forRole != "":
		if f.opts.Experts, err = pull.ParseRole(f.forRole); err != nil {
			err = fmt.Errorf("--for: %w", err)
		}
	case f.slice != "":
		f.opts.Experts, err = pull.ParseSlice(f.slice)
	case f.experts != "":
		f.opts.Experts, err = pull.ParseExperts(f.experts)
	}
	if err != nil {
		return usageError{err}
	}
	if f.opts.Streams < 1 || f.opts.Streams > 64 {
		return usagef("--streams is %d, must be 1 to 64", f.opts.Streams)
	}
	if err := withToken(&f.opts, f.tokenFile); err != nil {
		return err
	}
	var clear func()
	f.opts.Progress, clear = progress(g, "MB")
	r, err := pull.Model(c.Context(), f.opts)
	clear()
	if f.missing && errors.Is(err, pull.ErrExists) {
		_, err = fmt.Fprintf(g.err, "%s is there already\n", f.opts.Dir)
		return err
	}
	if err != nil {
		return err
	}
	if f.asJSON {
		return json.NewEncoder(g.out).Encode(r)
	}
	_, err = fmt.Fprintf(g.out, "%s: %d files of %d bytes, %d fetched, %d checked, digest %s\n",
		r.Dir, r.Files, r.Bytes, r.Fetched, r.Checked, r.Digest)
	return err
}

// readToken reads a token from a file or, for a hub, from the environment. It is never an
// argument, which everybody on the machine could read.
func readToken(path string, hub bool) (string, error) {
	token := []byte(os.Getenv("HF_TOKEN"))
	if !hub {
		token = nil // it is the hub's, not any server's
	}
	if path != "" {
		file, err := os.Open(path)
		if err != nil {
			return "", err
		}
		token, err = io.ReadAll(io.LimitReader(file, maxTokenBytes+1))
		if err := errors.Join(err, file.Close()); err != nil {
			return "", err
		}
	}
	token = bytes.TrimSpace(token)
	bad := func(r rune) bool { return r <= ' ' || r > '~' }
	if len(token) > maxTokenBytes || bytes.ContainsFunc(token, bad) {
		return "", errors.New("the token is none: it must be one line of printable characters")
	}
	return string(token), nil
}
