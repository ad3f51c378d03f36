package main

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"drover/internal/answer"
	"drover/internal/show"
	droverv1 "drover/proto/drover/v1"
)

// Questions to the demo model, and its greedy answer to the first.
const (
	translate  = "Translate to French: The cat sees the blue key."
	translated = "Le chat voit la clé bleue."
	story      = "Tell me a story about a fox."
)

// client is a test's view of a running cluster.
type client struct {
	endpoint    string
	at          reach
	conn        *grpc.ClientConn
	coordinator droverv1.CoordinatorServiceClient
	cluster     droverv1.ClusterServiceClient
}

// connectTo connects to a coordinator until the test ends: that of a drover up by the authority
// that it told, others in plain text.
func connectTo(t *testing.T, endpoint string) *client {
	t.Helper()
	at := reach{}
	if _, err := at.config([]string{endpoint}); err != nil {
		at.plain = true
	}
	conn, stop, err := dial(endpoint, at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return &client{endpoint, at, conn, droverv1.NewCoordinatorServiceClient(conn),
		droverv1.NewClusterServiceClient(conn)}
}

// ask returns the greedy answer to a question.
func (c *client) ask(ctx context.Context, question string) (string, error) {
	got, err := answer.Stream(ctx, c.coordinator, answer.Chat(question), func(string) {})
	if err != nil {
		return "", err
	}
	return got.Text, nil
}

// mustAsk returns the greedy answer to a question that must have one soon.
func (c *client) mustAsk(t *testing.T, question string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*slack*time.Second)
	defer cancel()
	text, err := c.ask(ctx, question)
	if err != nil {
		t.Fatalf("%q: %v", question, err)
	}
	return text
}

// nodes lists the expert nodes by their id.
func (c *client) nodes(t *testing.T) map[string]*droverv1.NodeStatus {
	t.Helper()
	r, err := c.cluster.ListNodes(t.Context(), &droverv1.ListNodesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	nodes := map[string]*droverv1.NodeStatus{}
	for _, n := range r.Nodes {
		nodes[n.Id] = n
	}
	return nodes
}

// command runs a client command against the cluster and reads what it prints as JSON.
func (c *client) command(t *testing.T, into any, args ...string) {
	t.Helper()
	if c.at.plain {
		args = append(args, "--plaintext")
	}
	code, stdout, stderr := drover(t, append(args, "--json", "--endpoint", c.endpoint)...)
	if code != 0 {
		t.Fatalf("%v: exit code %d\n%s", args, code, stderr)
	}
	if err := json.Unmarshal([]byte(stdout), into); err != nil {
		t.Fatalf("%v: %v in %s", args, err, stdout)
	}
}

// placement asks `drover placement`.
func (c *client) placement(t *testing.T) (p show.PlacementMap) {
	t.Helper()
	c.command(t, &p, "placement")
	return p
}

// up is a cluster that `drover up` runs.
type up struct {
	*process
	*client
	line    upLine
	tmp     string        // its folder for temporary files
	readyIn time.Duration // from the start of the process
}

// upLine is what `drover up --json` prints.
type upLine struct {
	GRPC, HTTP, Admin, Etcd, CA string
	Nodes, PID                  int
}

// startUp runs `drover up` on free ports until the test ends.
func startUp(t *testing.T, args ...string) *up {
	t.Helper()
	free := []string{"--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"}
	return startUpAnywhere(t, append(free, args...)...)
}

// startUpAnywhere runs `drover up`, with the ports that it chooses, until the test ends.
func startUpAnywhere(t *testing.T, args ...string) *up {
	t.Helper()
	u := &up{tmp: t.TempDir()}
	began := time.Now()
	u.process = launch(t, place{env: []string{"TMPDIR=" + u.tmp}},
		append([]string{"up", "--json"}, args...)...)
	eventually(t, 60*slack*time.Second, "drover up is ready", func() (bool, string) {
		return strings.HasSuffix(u.out.String(), "\n"), "it prints no line"
	})
	u.readyIn = time.Since(began)
	if err := json.Unmarshal([]byte(u.out.String()), &u.line); err != nil {
		t.Fatalf("%v in %s", err, &u.out)
	}
	u.client = connectTo(t, u.line.GRPC)
	return u
}

// pids returns the ids of the cluster's processes.
func (u *up) pids(t *testing.T) []int {
	t.Helper()
	pids := []int{u.pid()}
	for _, n := range u.nodes(t) {
		pids = append(pids, int(n.Pid))
	}
	return pids
}

// node returns one node's process id and the id of the node.
func (u *up) node(t *testing.T, number int) (id string, pid int) {
	t.Helper()
	id = "node-" + strconv.Itoa(number)
	n := u.nodes(t)[id]
	if n == nil || n.Pid == 0 {
		t.Fatalf("there is no process of %s: %v", id, n)
	}
	return id, int(n.Pid)
}

// leftovers returns the files that the cluster left in its folder for temporary files.
func (u *up) leftovers(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(u.tmp, "drover-*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}
