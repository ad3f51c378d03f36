package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// expertBytes is the size of an expert of the demo model in its files: three matrices in bf16.
const (
	expertBytes = 3 * 128 * 64 * 2
	allExperts  = 4 * 128 // of all layers
)

// source serves the demo model to several processes, each under a folder of its own name, and
// counts what they get of the weights.
type source struct {
	*httptest.Server

	mu     sync.Mutex // guards the fields below
	sent   map[string]int64
	refuse map[string]bool
}

func startSource(t *testing.T) *source {
	t.Helper()
	s := &source{sent: map[string]int64{}, refuse: map[string]bool{}}
	files := http.FileServer(http.Dir(demoModel(t)))
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		s.mu.Lock()
		refused := s.refuse[who]
		s.mu.Unlock()
		if refused {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if strings.HasSuffix(name, ".safetensors") {
			w = &countedWeights{w, s, who}
		}
		r.URL.Path = "/" + name
		files.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

type countedWeights struct {
	http.ResponseWriter
	source *source
	who    string
}

func (w *countedWeights) Write(b []byte) (int, error) {
	w.source.mu.Lock()
	w.source.sent[w.who] += int64(len(b)) // before who asked has them
	w.source.mu.Unlock()
	return w.ResponseWriter.Write(b)
}

// got is how many bytes of weights a process has got.
func (s *source) got(who string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent[who]
}

func (s *source) refuses(who string, refuse bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse[who] = refuse
}

// pull makes a directory of what a role needs before it starts.
func (s *source) pull(t *testing.T, role string) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "model")
	code, _, stderr := drover(t, "pull", "--for", role, s.URL+"/"+role+"/", dir)
	if code != exitDone {
		t.Fatalf("pull for %s: exit code %d: %s", role, code, stderr)
	}
	t.Logf("%d bytes of weights before role %s starts", s.got(role), role)
	return dir
}

// TestSlicesOnly runs a cluster of which no machine has the model: the coordinator has no experts,
// the nodes pull those that they are given, and answers are the same bytes.
func TestSlicesOnly(t *testing.T) {
	s, etcd := startSource(t), startEtcd(t)
	r := &roles{etcd: etcd, model: s.pull(t, "expertnode")} // of each node: nothing writes to it
	node := func(id string) *process {
		return r.expertNode(t, place{dir: t.TempDir()}, id, "--pull", s.URL+"/"+id+"/", "--cache", "none")
	}
	left, right := node("left"), node("right")
	_, endpoint := (&roles{etcd: etcd, model: s.pull(t, "coordinator")}).coordinator(t,
		place{dir: t.TempDir()}, "--pull", s.URL+"/front/", "--cache", "none", "--grpc", "127.0.0.1:0",
		"--spare", "0", "--expert-wait", "10m")
	c := connectTo(t, endpoint)
	for _, p := range []*process{left, right} {
		first := loadedBy(t, p)
		its := first.replicas * expertBytes // a little more, if its part changed while it loaded
		if first.replicas < allExperts*2/5 || first.replicas > allExperts*3/5 || first.fetched != 0 ||
			first.pulled < its || first.pulled > its*5/4 {
			t.Errorf("%v: %+v, want about half of the experts, all pulled", p.cmd.Args[1:], first)
		}
	}
	if got := s.got("left") + s.got("right"); got < allExperts*expertBytes ||
		got > allExperts*expertBytes*5/4 { // a little more, if some have moved since
		t.Errorf("both nodes have got %d bytes, all experts have %d", got, allExperts*expertBytes)
	}
	want := c.mustAsk(t, story)
	code, stdout, _ := drover(t, "run", "--model", demoModel(t), "--mode", "exact", story)
	if code != exitDone || stdout != want+"\n" {
		t.Errorf("the nodes answer %q, one process with the whole model %q", want, stdout)
	}
	loseLeft(t, s, c, left, right, want)
	third := node("third")
	eventually(t, 60*slack*time.Second, "the third node has its share", func() (bool, string) {
		c.mustAskNow(t, want)
		n := c.nodes(t)["third"]
		return n.GetState() == "ready" && n.GetReplicaCount() > 100 && n.GetRowsDispatched() > 0, n.String()
	})
	first := loadedBy(t, third)
	if first.fetched == 0 || first.fetched*expertBytes+first.pulled < first.replicas*expertBytes {
		t.Errorf("the third node: %+v, want most of its experts from the other one", first)
	}
}

// mustAskNow wants the answer as before.
func (c *client) mustAskNow(t *testing.T, want string) {
	t.Helper()
	if got, err := c.ask(t.Context(), story); err != nil || got != want {
		t.Errorf("%v, %q; before: %q", err, got, want)
	}
}

// loseLeft kills a node with the only copies of its experts while the source refuses the other
// one: that one says so, serves what it has, and loads them once it may. The coordinator, which
// has none either, pulls what is missing meanwhile.
func loseLeft(t *testing.T, s *source, c *client, left, right *process, want string) {
	t.Helper()
	s.refuses("right", true)
	left.signal(syscall.SIGKILL)
	eventually(t, 60*slack*time.Second, "the node says why it loads no experts", func() (bool, string) {
		c.mustAskNow(t, want)
		said := right.errors.String()
		return strings.Contains(said, "loading experts") && strings.Contains(said, "needs a token"), said
	})
	c.mustAskNow(t, want)
	if s.got("front") == 0 {
		t.Error("the coordinator has pulled no experts")
	}
	s.refuses("right", false)
	eventually(t, 60*slack*time.Second, "the node that is left has all experts", func() (bool, string) {
		n := c.nodes(t)["right"]
		return n.GetState() == "ready" && n.GetReplicaCount() == allExperts, n.String()
	})
	c.mustAskNow(t, want)
	if got := s.got("right"); got < allExperts*expertBytes || got > allExperts*expertBytes*5/4 {
		t.Errorf("it has got %d bytes, all experts have %d", got, allExperts*expertBytes)
	}
}

// loaded is what a node's log says when it has loaded what it was given first.
type loaded struct{ replicas, fetched, pulled int64 }

var loadedLine = regexp.MustCompile(
	`experts are ready" .* replicas=([1-9]\d*) .* fetched=(\d+) .* bytes_pulled=(\d+)`)

func loadedBy(t *testing.T, p *process) (l loaded) {
	t.Helper()
	var found []string
	eventually(t, 60*slack*time.Second, "the node has loaded its experts", func() (bool, string) {
		found = loadedLine.FindStringSubmatch(p.errors.String())
		return found != nil, fmt.Sprint(p.cmd.Args[1:])
	})
	for i, to := range []*int64{&l.replicas, &l.fetched, &l.pulled} {
		n, err := strconv.ParseInt(found[i+1], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		*to = n
	}
	return l
}
