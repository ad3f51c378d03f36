package main

import (
	"context"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"drover/internal/localcluster"
)

// spawnFlags describe a cluster that a command starts to try it, and ends afterwards.
type spawnFlags struct {
	model, mode, cache       string
	nodes, replicas, threads int
	plain                    bool
	restartAfter             time.Duration // of node processes; zero is the usual
}

// flags adds the cluster's flags to a command; when says with what they go.
func (f *spawnFlags) flags(c *cobra.Command, when string) {
	c.Flags().StringVar(&f.model, "model", "",
		when+"model directory (default: the bundled demo model)")
	c.Flags().IntVar(&f.nodes, "nodes", f.nodes, when+"expert-node processes, 1 to 64")
	c.Flags().IntVar(&f.replicas, "replicas", f.replicas, when+"copies of each expert")
	c.Flags().StringVar(&f.mode, "mode", "bf16", when+modeHelp)
	threadsFlag(c, &f.threads, when)
	cacheFlag(c, &f.cache, when)
}

// reachOf is how a started cluster is reached.
func reachOf(s *localcluster.Spawned) reach {
	return reach{plain: s.Authority == "", ca: s.Authority}
}

// start runs the cluster; what it logs goes to log, unless that is nil.
func (f *spawnFlags) start(ctx context.Context, log io.Writer) (*localcluster.Spawned, error) {
	up := upFlags{mode: f.mode, options: localcluster.Options{ModelDir: f.model, Nodes: f.nodes,
		Replicas: f.replicas, Coordinators: 1, RestartAfter: f.restartAfter,
		LastResort: usualLastResort}}
	if err := up.check(); err != nil {
		return nil, err
	}
	if _, err := threadsOr(f.threads); err != nil {
		return nil, err
	}
	args := []string{"--plaintext=" + strconv.FormatBool(f.plain),
		"--nodes", strconv.Itoa(f.nodes), "--replicas", strconv.Itoa(f.replicas),
		"--mode", f.mode, "--threads", strconv.Itoa(f.threads),
		"--restart-after", f.restartAfter.String()}
	if f.model != "" {
		args = append(args, "--model", f.model)
	}
	if f.cache != "" {
		args = append(args, "--cache", f.cache)
	}
	return localcluster.Spawn(ctx, log, args...)
}
