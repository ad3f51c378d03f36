package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"drover/internal/testcluster"
)

// TestExamples parses every command line of this program that stands in a help text, in the
// README or in docs: none may have a command or a flag that does not exist.
func TestExamples(t *testing.T) {
	lines := map[string][]string{}
	var visit func(*cobra.Command)
	visit = func(c *cobra.Command) {
		lines[c.CommandPath()+" --help"] = commandLines(c.Example)
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(newRoot(quietGlobals()))
	files, err := filepath.Glob(testcluster.Path("docs/*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range append(files, testcluster.Path("README.md"),
		testcluster.Path("deploy/systemd/README.md"), testcluster.Path("deploy/compose/README.md")) {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		lines[filepath.Base(f)] = commandLines(indented(string(text)))
	}
	found := 0
	for where, all := range lines {
		for _, line := range all {
			found++
			if err := known(strings.Fields(line)); err != nil {
				t.Errorf("%s: drover %s: %v", where, line, err)
			}
		}
	}
	if found < 100 {
		t.Errorf("found %d command lines, want 100 or more", found)
	}
}

func quietGlobals() *globals {
	return &globals{in: strings.NewReader(""), out: io.Discard, err: io.Discard}
}

// indented keeps the blocks of code of a text.
func indented(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "    ") {
			out.WriteString(line)
		}
	}
	return out.String()
}

// commandLines are the arguments of the calls of this program that begin a line of a text, up
// to what stands beside them.
func commandLines(text string) (out []string) {
	text = regexp.MustCompile(`\\\n *`).ReplaceAllString(text, " ")
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), "  ")
		for _, program := range []string{"drover ", "bin/drover ", "go run ./cmd/drover "} {
			if arguments, ok := strings.CutPrefix(line, program); ok {
				out = append(out, arguments)
			}
		}
	}
	return out
}

// known looks for a command and for flags that do not exist. Values may be placeholders.
func known(arguments []string) error {
	c, rest, err := newRoot(quietGlobals()).Find(arguments)
	if err != nil {
		return err
	}
	if !c.HasParent() && len(rest) > 0 && rest[0][0] != '-' {
		return fmt.Errorf("there is no command %q", rest[0])
	}
	c.InitDefaultHelpFlag()
	for _, word := range rest {
		name, ok := strings.CutPrefix(strings.Trim(word, "[]()"), "--")
		name, _, _ = strings.Cut(name, "=")
		if ok && c.Flag(name) == nil {
			return fmt.Errorf("there is no flag --%s", name)
		}
	}
	return nil
}
