package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pool "drover/client"
	"drover/internal/answer"
	"drover/internal/batch"
	"drover/internal/testcluster"
	droverv1 "drover/proto/drover/v1"
)

// endpoints are the gRPC addresses of all coordinators of a cluster.
func (u *up) endpoints(t *testing.T) []string {
	t.Helper()
	var line struct{ Coordinators []struct{ GRPC string } }
	if err := json.Unmarshal([]byte(u.out.String()), &line); err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, c := range line.Coordinators {
		all = append(all, c.GRPC)
	}
	return all
}

// coordinatorPID is the process that serves, or is about to serve, a coordinator's address;
// 0 if there is none at the moment.
func (u *up) coordinatorPID(t *testing.T, endpoint string) int {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range lines {
		text, err := os.ReadFile(name)
		args := strings.Split(string(text), "\x00")
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		// The port is this cluster's alone, so no other process has these arguments.
		if i := slices.Index(args, "--grpc"); err == nil && i > 0 && args[1] == "coordinator" &&
			i+1 < len(args) && args[i+1] == endpoint && alive(pid) {
			return pid
		}
	}
	return 0
}

// workload is a set of requests that are asked again and again.
type workload struct {
	requests []*droverv1.GenerateRequest
	want     []string // of each request: tokens, text and how it ended
}

// newLoad takes questions of the demo model's evaluation, some with tools, and long stories:
// greedy, and sampled with penalties, with a seed of their own or without.
func newLoad(t *testing.T, n int) *workload {
	t.Helper()
	f, err := os.Open(testcluster.Path("models/tiny-maverick/eval.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l := &workload{}
	for lines := batch.NewLines(f); len(l.requests) < n; {
		line, ok, err := lines.Next()
		if err != nil || !ok {
			break
		}
		var q struct{ Messages, Tools json.RawMessage }
		if err := json.Unmarshal(line.Text, &q); err != nil {
			t.Fatal(err)
		}
		if chat, err := batch.ParseChat(q.Messages, q.Tools); err == nil && (line.Number%7 == 0 ||
			len(chat.ToolsJson) > 0) {
			l.requests = append(l.requests, &droverv1.GenerateRequest{MaxTokens: 80,
				Prompt: &droverv1.GenerateRequest_Chat{Chat: chat}})
		}
	}
	for i := range n {
		r := answer.Chat(fmt.Sprintf("Tell me a story about a fox and %d friends.", i))
		r.MaxTokens, r.IgnoreEos = 120, true
		if i%2 == 0 {
			r.Sampling = &droverv1.Sampling{Temperature: proto.Float32(1.3), TopP: proto.Float32(0.95),
				FrequencyPenalty: 0.4}
		}
		if i%4 == 0 { // the others get a seed from the coordinator that they come to
			r.Sampling.Seed = proto.Uint64(uint64(i))
		}
		l.requests = append(l.requests, r)
	}
	return l
}

// whole is all of an answer that must not depend on coordinators.
func whole(a *answer.Answer) string {
	return fmt.Sprintf("%v %q %s", a.Tokens, a.Text, a.Reason)
}

// ask asks request i, and compares unless this is the first time. What was sampled without a
// seed is compared with what the seed gives that the coordinator chose.
func (l *workload) ask(ctx context.Context, c *pool.Client, i int) (*answer.Answer, error) {
	a, err := answer.Ask(ctx, c.Service(), l.requests[i])
	if err != nil {
		return nil, fmt.Errorf("request %d: %w", i, err)
	}
	got, want := whole(a), l.want[i]
	if s := l.requests[i].Sampling; s != nil && s.Seed == nil {
		again := proto.CloneOf(l.requests[i])
		again.Sampling.Seed = &a.Started.Seed
		b, err := answer.Ask(ctx, c.Service(), again)
		if err != nil {
			return nil, fmt.Errorf("request %d again: %w", i, err)
		}
		want = whole(b)
	}
	if want == "" {
		l.want[i], want = got, got
	}
	if got != want {
		return nil, fmt.Errorf("request %d, resumed %d times:\n got %s\nwant %s", i, a.Resumes, got, want)
	}
	return a, nil
}

// quiet asks each request once, so that it is known what to want.
func (l *workload) quiet(t *testing.T, c *pool.Client) {
	t.Helper()
	l.want = make([]string, len(l.requests))
	var wg sync.WaitGroup
	for i := range l.requests {
		wg.Go(func() {
			if _, err := l.ask(t.Context(), c, i); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	distinct := slices.Compact(slices.Sorted(slices.Values(l.want)))
	if len(distinct) < len(l.want)/2 {
		t.Errorf("only %d different answers to %d requests", len(distinct), len(l.want))
	}
}

// killing kills coordinators while requests are asked.
type killing struct {
	u        *up
	load     *workload
	pool     *pool.Client
	answered atomic.Int64
	failed   atomic.Int64
	resumes  atomic.Int64

	mu    sync.Mutex // guards pause
	pause []time.Duration
}

// stormPatience bounds how long an answer may wait for a coordinator: far longer than one
// takes to start again on a machine that is busy with other tests.
const stormPatience = 3 * time.Minute

func newStorm(t *testing.T, u *up, l *workload) *killing {
	t.Helper()
	s := &killing{u: u, load: l}
	options, err := u.at.options(u.endpoints(t))
	if err != nil {
		t.Fatal(err)
	}
	s.pool, err = pool.New(pool.Options{Addresses: u.endpoints(t), DialOptions: options,
		Patience: stormPatience, Events: pool.Events{Resumed: func(r pool.Resumed) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.pause = append(s.pause, r.After)
		}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.pool.Close)
	return s
}

// ask asks requests until ctx ends, atOnce at a time; those under way are answered.
func (s *killing) ask(t *testing.T, ctx context.Context, atOnce int) (wait func()) {
	var wg sync.WaitGroup
	var next atomic.Int64
	for range atOnce {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)-1) % len(s.load.requests)
				a, err := s.load.ask(t.Context(), s.pool, i)
				if err != nil {
					s.failed.Add(1)
					t.Error(err)
					continue
				}
				s.answered.Add(1)
				s.resumes.Add(int64(a.Resumes))
			}
		})
	}
	return wg.Wait
}

// kill kills a random coordinator, once some answers have come since the last kill. Mostly
// it waits until the process has been started again; else more may be away at once.
func (s *killing) kill(t *testing.T, random *rand.Rand) {
	t.Helper()
	before := s.answered.Load()
	eventually(t, stormPatience, "answers come between kills", func() (bool, string) {
		return s.answered.Load() >= before+2, fmt.Sprintf("%d answers", s.answered.Load())
	})
	endpoints := s.u.endpoints(t)
	endpoint, pid := endpoints[random.IntN(len(endpoints))], 0
	eventually(t, stormPatience, "there is a process to kill", func() (bool, string) {
		pid = s.u.coordinatorPID(t, endpoint)
		return pid != 0, endpoint
	})
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if random.IntN(4) == 0 {
		return
	}
	eventually(t, stormPatience, "the coordinator is started again", func() (bool, string) {
		now := s.u.coordinatorPID(t, endpoint)
		return now != 0 && now != pid, endpoint
	})
}

// run kills so many coordinators under load, and reports.
func (s *killing) run(t *testing.T, kills, atOnce int) {
	t.Helper()
	ctx, enough := context.WithCancel(t.Context())
	defer enough()
	began := time.Now()
	wait := s.ask(t, ctx, atOnce)
	random := rand.New(rand.NewPCG(uint64(kills), 7))
	for range kills {
		s.kill(t, random)
	}
	enough()
	wait()
	slices.Sort(s.pause)
	at := func(share float64) time.Duration {
		if len(s.pause) == 0 {
			return 0
		}
		return s.pause[int(share*float64(len(s.pause)-1))].Round(time.Millisecond)
	}
	t.Logf("%d kills in %v: %d answers, %d failed or different, %d resumed; "+
		"from loss to going on: median %v, p99 %v, longest %v", kills,
		time.Since(began).Round(time.Second), s.answered.Load(), s.failed.Load(), s.resumes.Load(),
		at(0.5), at(0.99), at(1))
	if s.resumes.Load() == 0 {
		t.Error("no kill hit an answer: the test has shown nothing")
	}
}

// TestSeveralCoordinators runs two coordinators over shared nodes, closes one and kills some.
func TestSeveralCoordinators(t *testing.T) {
	u := startUp(t, "--nodes", "2", "--coordinators", "2")
	all := u.endpoints(t)
	if len(all) != 2 || all[0] != u.line.GRPC || all[0] == all[1] {
		t.Fatalf("printed %s", &u.out)
	}
	want := u.mustAsk(t, story)
	second := connectTo(t, all[1])
	if got := second.mustAsk(t, story); got != want {
		t.Errorf("the coordinators answer %q and %q", want, got)
	}
	for id, n := range second.nodes(t) {
		if n.RowsDispatched == 0 {
			t.Errorf("the second coordinator had nothing computed by %s", id)
		}
	}
	t.Run("closing", func(t *testing.T) { checkClosing(t, u, all[1]) })
	t.Run("run", func(t *testing.T) {
		list := strings.Join(all, ",")
		for _, at := range []string{list, "127.0.0.1:1," + list} {
			code, out, stderr := drover(t, "run", "--endpoint", at, story)
			if code != exitDone || out != want+"\n" {
				t.Errorf("--endpoint %s: exit code %d, %q, %s", at, code, out, stderr)
			}
		}
		code, out, stderr := drover(t, "nodes", "--endpoint", "127.0.0.1:1,"+list)
		if code != exitDone || !strings.Contains(out, "node-2") {
			t.Errorf("nodes: exit code %d, %s%s", code, out, stderr)
		}
	})
	l := newLoad(t, 8)
	s := newStorm(t, u, l)
	l.quiet(t, s.pool)
	t.Run("stopped", func(t *testing.T) { checkStopped(t, s) })
	t.Run("kills", func(t *testing.T) { s.run(t, 3, 6) })
	t.Run("kills under a file of prompts", func(t *testing.T) { checkBatchKills(t, s, want) })
}

// checkClosing ends a coordinator with SIGTERM in the middle of an answer: its client is
// told so.
func checkClosing(t *testing.T, u *up, endpoint string) {
	c := connectTo(t, endpoint)
	stream, err := c.coordinator.Generate(t.Context(), longStory())
	if err != nil {
		t.Fatal(err)
	}
	for some := 0; some < 3; some++ {
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	pid := u.coordinatorPID(t, endpoint)
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = stream.Recv()
	}
	switch {
	case errors.Is(err, io.EOF): // it was faster
	case status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "closing"):
		t.Errorf("got %v, want UNAVAILABLE and that it is closing", err)
	}
	eventually(t, stormPatience, "it is started again", func() (bool, string) {
		now := u.coordinatorPID(t, endpoint)
		return now != 0 && now != pid, endpoint
	})
}

// resumed is how many answers that began at another coordinator all coordinators count together.
func (u *up) resumed(t *testing.T) (sum float64) {
	t.Helper()
	var line struct{ Coordinators []struct{ Admin string } }
	if err := json.Unmarshal([]byte(u.out.String()), &line); err != nil {
		t.Fatal(err)
	}
	for _, c := range line.Coordinators {
		eventually(t, stormPatience, c.Admin+" is served", func() (bool, string) {
			conn, err := net.Dial("tcp", c.Admin)
			if err == nil {
				conn.Close()
			}
			return err == nil, fmt.Sprint(err)
		})
		sum += metricAt(t, c.Admin, "drover_resumed_requests_total")
	}
	return sum
}

// checkStopped stops a coordinator, which then neither answers nor is gone, while each of two
// has an answer under way: that of the stopped one goes on at the other, which counts it.
func checkStopped(t *testing.T, s *killing) {
	want, err := answer.Ask(t.Context(), s.pool.Service(), longStory())
	if err != nil {
		t.Fatal(err)
	}
	endpoint, before := s.u.endpoints(t)[0], s.u.resumed(t)
	for try := 1; ; try++ {
		var both [2]*pool.Stream
		var texts [2]string
		read := func(i int) error {
			r, err := both[i].Recv()
			texts[i] += r.GetDelta().GetText()
			return err
		}
		for i := range both { // one goes to each
			both[i] = s.pool.Generate(t.Context(), longStory())
			for texts[i] == "" {
				if err := read(i); err != nil {
					t.Fatal(err)
				}
			}
		}
		pid := s.u.coordinatorPID(t, endpoint)
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		for i := range both {
			var err error
			for err == nil {
				err = read(i)
			}
			if !errors.Is(err, io.EOF) || texts[i] != want.Text {
				t.Errorf("with a stopped coordinator: %v, %q, want %q", err, texts[i], want.Text)
			}
		}
		_ = syscall.Kill(pid, syscall.SIGCONT) // it is there: stopped
		if both[0].Resumes()+both[1].Resumes() > 0 {
			eventually(t, stormPatience, "the answer is counted", func() (bool, string) {
				now := s.u.resumed(t)
				return now > before, fmt.Sprint(now, ", before ", before)
			})
			return
		}
		if try == 10 { // it is often faster, but not always
			t.Fatal("the coordinator had always sent all of its answer before it was stopped")
		}
	}
}

// checkBatchKills answers a file of prompts while coordinators are killed; the answers are
// those of a quiet run.
func checkBatchKills(t *testing.T, s *killing, want string) {
	dir := t.TempDir()
	var prompts strings.Builder
	const lines = 40
	for i := range lines {
		fmt.Fprintf(&prompts, `{"id":%d,"prompt":%q,"seed":%d,"temperature":%d,"max_tokens":100}`+"\n",
			i, story, i, i%2)
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(file("prompts"), []byte(prompts.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	answers := func(out string, meanwhile func(run *process)) string {
		run := launch(t, place{}, "run", "--endpoint", strings.Join(s.u.endpoints(t), ","),
			"--prompts", file("prompts"), "--out", file(out), "--concurrency", "6")
		meanwhile(run)
		if code := run.wait(stormPatience); code != exitDone {
			t.Errorf("exit code %d: %s", code, &run.errors)
		}
		text, err := os.ReadFile(file(out))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	quiet := answers("quiet", func(*process) {})
	if !strings.Contains(quiet, want) || strings.Count(quiet, "\n") != lines {
		t.Fatalf("quiet: %s", quiet)
	}
	killed := answers("killed", func(run *process) {
		for _, endpoint := range s.u.endpoints(t) {
			eventually(t, stormPatience, "an answer stands in the file", func() (bool, string) {
				text, _ := os.ReadFile(file("killed")) // there is none at first
				return len(text) > 0, ""
			})
			if pid := s.u.coordinatorPID(t, endpoint); pid != 0 {
				_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
			}
		}
	})
	if killed != quiet {
		t.Errorf("with kills:\n%s\nquiet:\n%s", killed, quiet)
	}
}

// TestSoakCoordinators kills coordinators 50 times, or DROVER_SOAK_KILLS times. It takes
// minutes: it runs when DROVER_SOAK is set.
func TestSoakCoordinators(t *testing.T) {
	if os.Getenv("DROVER_SOAK") == "" {
		t.Skip("DROVER_SOAK is not set")
	}
	kills := 50
	if n, err := strconv.Atoi(os.Getenv("DROVER_SOAK_KILLS")); err == nil {
		kills = n
	}
	u := startUp(t, "--nodes", "3", "--coordinators", "3")
	l := newLoad(t, 24)
	s := newStorm(t, u, l)
	l.quiet(t, s.pool)
	s.run(t, kills, 16)
}
