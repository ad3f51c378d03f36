package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"drover/internal/load"
	"drover/internal/storm"
	droverv1 "drover/proto/drover/v1"
)

// stormFlags is one command line of drover bench storm.
type stormFlags struct {
	opts         storm.Options
	cluster      spawnFlags
	fault        string
	prompts, log string
	asJSON       bool
}

func newBenchStormCommand(g *globals) *cobra.Command {
	f := &stormFlags{cluster: spawnFlags{nodes: 4, replicas: 2}}
	c := &cobra.Command{
		Use:   "storm",
		Short: "Kill expert nodes under load, and compare the answers",
		Long: `Bench storm starts a cluster as drover up does, asks it questions, and keeps the answers of
this quiet time. Then it breaks random expert nodes while it asks the same questions, each time
that the cluster is whole again, and compares every answer with the quiet one, byte for byte.
It prints how many requests failed and how many answers differ, which should be none, and what
a fault added: the largest gap between two tokens of any stream in the second after it, less
the usual gap of the quiet time. The same of the second before it is shown beside, since on a
busy machine it is no smaller. It runs on Linux.

Faults: kill (SIGKILL; drover up starts the node again), stop (SIGSTOP for --pause, then
SIGCONT), kill-all (SIGKILL of all nodes at once).

With --json one document, with "fault", "nodes", "kills", "requests", "failed", "differing",
"seconds", "added_ms", "calm_ms", "between_ms", "added_first_token_ms", "calm_first_token_ms"
and "heal_ms", each {"count","p50","p90","p99","max"}, "itl_ms" and "ttft_ms" of both parts,
"tokens_per_second", "memory" of the coordinator, "failures", "differences" and "violations".

Exit codes: 0 nothing was violated, 1 something was, or an error, 2 wrong usage,
130 interrupted.`,
		Example: `  drover bench storm
  drover bench storm --nodes 6 --replicas 3 --kills 200 --requests 2000 --json
  drover bench storm --fault stop --duration 2m`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c, g) },
	}
	f.cluster.flags(c, "")
	c.Flags().BoolVar(&f.cluster.plain, "plaintext", false,
		"plain text on all hops, instead of TLS as drover up has it")
	o := &f.opts
	c.Flags().StringVar(&f.fault, "fault", string(storm.Kill), "kill, stop or kill-all")
	c.Flags().IntVar(&o.Kills, "kills", 0, "number of faults (default 20, or those of --duration)")
	c.Flags().DurationVar(&o.Duration, "duration", 0, "no more faults after this time")
	c.Flags().IntVar(&o.Requests, "requests", 0, "least number of requests during the storm")
	c.Flags().IntVar(&o.Clients, "clients", 8, "clients that ask at once, 1 to 1024")
	c.Flags().DurationVar(&o.Every, "every", 0, "mean time left whole before a fault (default 1s)")
	c.Flags().DurationVar(&o.Window, "window", 0,
		"time after a fault, and before it, whose gaps are compared (default 1s)")
	c.Flags().DurationVar(&o.Pause, "pause", 0, "with --fault stop: for how long (default 3s)")
	c.Flags().DurationVar(&f.cluster.restartAfter, "down", 0,
		"time for which a killed node stays away (default 100ms, doubling up to 5s)")
	c.Flags().DurationVar(&o.Quiet, "quiet", 0, "least time of the quiet part (default 5s)")
	c.Flags().Float64Var(&o.MaxGrowth, "max-growth", 0,
		"most MiB a minute by which the coordinator may grow in 5 minutes or more (default: no bound)")
	c.Flags().StringVar(&f.prompts, "prompts", "",
		"file of questions as for drover run --prompts (default: a built-in mix)")
	c.Flags().StringVar(&f.log, "log", "", "file for the cluster's log")
	c.Flags().Uint64Var(&o.Seed, "seed", 0, "seed of the faults")
	c.Flags().BoolVar(&f.asJSON, "json", false, "print JSON")
	return c
}

func (f *stormFlags) run(c *cobra.Command, g *globals) error {
	if err := f.check(); err != nil {
		return err
	}
	var log io.Writer
	if f.log != "" {
		file, err := os.Create(f.log)
		if err != nil {
			return err
		}
		defer file.Close()
		log = file
	}
	cluster, err := f.cluster.start(c.Context(), log)
	if err != nil {
		return err
	}
	defer cluster.Close()
	conn, stop, err := dial(cluster.GRPC, reachOf(cluster))
	if err != nil {
		return err
	}
	defer stop()
	o := &f.opts
	o.Coordinator = droverv1.NewCoordinatorServiceClient(conn)
	o.Cluster = droverv1.NewClusterServiceClient(conn)
	o.PID = cluster.PID
	o.Signal = func(pid int, s syscall.Signal) error { return signalChild(cluster.PID, pid, s) }
	var clear func()
	o.Progress, clear = progress(g, "faults")
	rep, err := storm.Run(c.Context(), *o)
	clear()
	if err != nil {
		return err
	}
	err = printReport(g, rep, f.asJSON)
	if err == nil && len(rep.Violations) > 0 {
		err = errors.New(strings.Join(rep.Violations, "; "))
	}
	return err
}

// check reads the questions and refuses what cannot be meant.
func (f *stormFlags) check() (err error) {
	o := &f.opts
	o.Fault = storm.Fault(f.fault)
	switch {
	case o.Fault != storm.Kill && o.Fault != storm.Stop && o.Fault != storm.KillAll:
		return usagef("--fault %q: must be %s, %s or %s", f.fault, storm.Kill, storm.Stop, storm.KillAll)
	case o.Clients < 1 || o.Clients > 1024:
		return usagef("--clients is %d, must be 1 to 1024", o.Clients)
	case min(o.Duration, o.Every, o.Window, o.Pause, o.Quiet) < 0 || min(o.Kills, o.Requests) < 0 ||
		o.MaxGrowth < 0:
		return usagef("a number or a time is negative")
	}
	if runtime.GOOS != "linux" {
		return errors.New("a storm finds its processes in /proc, which only Linux has")
	}
	if o.Kills == 0 && o.Duration == 0 {
		o.Kills = 20
	}
	if f.prompts != "" {
		o.Questions, err = load.ReadQuestions(f.prompts)
	}
	return err
}

// signalChild signals a process if it is a child of parent, and no other.
func signalChild(parent, pid int, s syscall.Signal) error {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	// pid (name) state ppid: the name may hold anything, so look behind it.
	words := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(words) < 2 || string(words[1]) != strconv.Itoa(parent) {
		return fmt.Errorf("process %d is not a child of the cluster's, %d", pid, parent)
	}
	return syscall.Kill(pid, s)
}
