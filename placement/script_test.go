package placement

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write what the scripts print into testdata")

// script is one scenario: blocks of a command, "----" and its output. The commands are
//
//	shape layers=1,3 experts=8 bytes=10   describes the model and forgets the plan
//	nodes a=100 b=100/zone@2 c=100! ...   names the nodes: capacity, domain, speed, draining
//	load 5 1 1 ...                        loads the experts of every layer like this
//	plan replicas=2 moves=100             plans, prints why and who holds what, commits
//	spare 0.25, moves 10                  allow extra replicas, and bound moves
//	hot 3*10 7*5                          loads all experts alike but for some
//	rounds n=40 every=4 to=3*10           lets time pass: see rounds
type script struct {
	in    Input
	trace *trace
}

func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			got := (&script{}).replay(t, string(text))
			if *rewrite {
				if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(text) {
				t.Errorf("got:\n%s\nwant:\n%s", got, text)
			}
		})
	}
}

// replay runs the commands of a script and returns the script with their output.
func (s *script) replay(t testing.TB, text string) string {
	var out strings.Builder
	for _, block := range strings.Split(strings.TrimSpace(text), "\n\n") {
		var commands []string
		for line := range strings.Lines(block) {
			if line = strings.TrimSpace(line); line == "----" {
				break
			}
			commands = append(commands, line)
		}
		result := ""
		for _, c := range commands {
			if !strings.HasPrefix(c, "#") {
				result += s.run(t, strings.Fields(c))
			}
		}
		fmt.Fprintf(&out, "%s\n----\n%s\n", strings.Join(commands, "\n"), result)
	}
	return strings.TrimSuffix(out.String(), "\n")
}

func (s *script) run(t testing.TB, words []string) string {
	args := words[1:]
	switch words[0] {
	case "shape":
		s.in, s.trace = Input{}, nil
		for l := range strings.SplitSeq(value(args, "layers"), ",") {
			s.in.Layers = append(s.in.Layers, number(l))
		}
		s.in.Experts = number(value(args, "experts"))
		s.in.ReplicaBytes = int64(number(value(args, "bytes")))
		return ""
	case "nodes":
		s.in.Nodes = nil
		for _, a := range args {
			s.in.Nodes = append(s.in.Nodes, parseNode(a))
		}
		return ""
	case "load":
		row := make([]float64, len(args))
		for e, a := range args {
			row[e] = float64(number(a))
		}
		s.in.Load = nil
		for range s.in.Layers {
			s.in.Load = append(s.in.Load, row)
		}
		return ""
	case "spare":
		s.in.Spare, _ = strconv.ParseFloat(args[0], 64)
		return ""
	case "moves":
		s.in.MaxMoveBytes = int64(number(args[0]))
		return ""
	case "hot":
		s.in.Load = s.hot(args)
		return ""
	case "rounds":
		return s.rounds(t, args)
	case "plan":
		s.in.Replicas = number(value(args, "replicas"))
		s.in.MaxMoveBytes = int64(number(value(args, "moves")))
		return s.plan()
	}
	return fmt.Sprintf("unknown command %q\n", words[0])
}

func (s *script) plan() string {
	p, why, err := Next(s.in)
	if err != nil {
		return err.Error() + "\n"
	}
	if p == s.in.Current {
		return "unchanged: " + why.String() + "\n"
	}
	s.in.Current = p
	out := fmt.Sprintf("revision %d: %s\n", p.Revision, why)
	for _, id := range p.NodeIDs {
		out += id
		layer := -1
		for _, r := range p.Holds(id) {
			if r.Layer != layer {
				out += fmt.Sprintf(" [%d]", r.Layer)
				layer = r.Layer
			}
			out += fmt.Sprintf(" %d", r.Expert)
		}
		out += "\n"
	}
	return out
}

func parseNode(word string) Node {
	word, draining := strings.CutSuffix(word, "!")
	id, rest, _ := strings.Cut(word, "=")
	rest, speed, _ := strings.Cut(rest, "@")
	capacity, domain, _ := strings.Cut(rest, "/")
	return Node{ID: id, CapacityBytes: int64(number(capacity)), Domain: domain,
		Speed: float64(number(speed)), Draining: draining}
}

func value(args []string, key string) string {
	for _, a := range args {
		if k, v, _ := strings.Cut(a, "="); k == key {
			return v
		}
	}
	return ""
}

func number(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}
