package trial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"drover/internal/identity"
	droverv1 "drover/proto/drover/v1"
)

// cluster is etcd, a coordinator and expert nodes, each a process of its own.
type cluster struct {
	o    *Options
	dir  string
	home *place // of etcd and the coordinator
	log  *lockedWriter

	etcd  *process
	nodes map[string]*process
	conn  *grpc.ClientConn
	ids   map[identity.Role]*identity.Source
	undo  []func()
}

// process is one that runs until it is told to end.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

// lockedWriter is where processes write.
type lockedWriter struct {
	mu sync.Mutex // guards w
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

const (
	etcdURL     = "https://" + hubAddress + ":2379"
	coordinator = hubAddress + ":7070"
	// endGrace is how long a process may take to end.
	endGrace = 40 * time.Second
)

// start starts etcd and the coordinator, which waits for nodes.
func (c *cluster) start(minNodes int) (err error) {
	if c.dir, err = os.MkdirTemp("", "drover-trial-"); err != nil {
		return err
	}
	c.push(func() { _ = os.RemoveAll(c.dir) })
	if err := hub(); err != nil {
		return fmt.Errorf("%w: %w", ErrNotHere, err)
	}
	if c.home, err = newPlace(hubAddress, false); err != nil {
		return err
	}
	c.push(c.home.close)
	if err := c.certify(); err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	c.push(c.endAll)
	if c.etcd, err = c.launch(c.home, "etcd", "--dir", filepath.Join(c.dir, "etcd"), "--client",
		etcdURL, "--tls", c.folder(identity.Etcd)); err != nil {
		return err
	}
	if _, err := c.launch(c.home, "coordinator", "--etcd", etcdURL, "--model", c.o.ModelDir,
		"--grpc", coordinator, "--http", "none", "--short-lease", "--replicas",
		strconv.Itoa(c.o.Replicas), "--min-nodes", strconv.Itoa(minNodes), "--cache", c.o.Cache,
		"--tls", c.folder(identity.Coordinator)); err != nil {
		return err
	}
	c.conn, err = c.dial(coordinator, identity.Coordinator, identity.Coordinator)
	return err
}

// folder is where the certificate of a role is.
func (c *cluster) folder(role identity.Role) string {
	return filepath.Join(c.dir, "tls", string(role))
}

// certify makes an authority and the certificates of the processes: nothing but TLS leaves a
// machine.
func (c *cluster) certify() error {
	const name = "default" // of the roles' --cluster
	a, err := identity.NewAuthority(name, time.Now(), 0)
	if err != nil {
		return err
	}
	c.ids = map[identity.Role]*identity.Source{}
	for _, role := range []identity.Role{identity.Etcd, identity.Coordinator, identity.ExpertNode} {
		err := a.Save(c.folder(role), identity.Request{ID: identity.ID{Cluster: name, Role: role},
			Now: time.Now()})
		if err != nil {
			return err
		}
		if c.ids[role], err = identity.Open(c.folder(role), identity.Events{}); err != nil {
			return err
		}
		c.push(c.ids[role].Close)
	}
	return nil
}

// dial connects to an address, where one role is served, as another.
func (c *cluster) dial(address string, to, as identity.Role) (*grpc.ClientConn, error) {
	return grpc.NewClient(address,
		grpc.WithTransportCredentials(credentials.NewTLS(c.ids[as].Client(to))))
}

func (c *cluster) push(f func()) { c.undo = append(c.undo, f) }

func (c *cluster) close() {
	for i := len(c.undo) - 1; i >= 0; i-- {
		c.undo[i]()
	}
}

// launch starts this program in a role.
func (c *cluster) launch(at *place, args ...string) (*process, error) {
	p := &process{cmd: exec.Command("/proc/self/exe", args...), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = c.log, c.log
	// Not this process's own end by Ctrl-C, but in any case by its end.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := at.do(p.cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is seen by what it served
		close(p.ended)
	}()
	c.push(func() { p.end(syscall.SIGKILL) })
	return p, nil
}

// signal sends a signal to a process that may be gone.
func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// end ends a process and waits for it.
func (p *process) end(s syscall.Signal) {
	p.signal(s)
	select {
	case <-p.ended:
	case <-time.After(endGrace):
		p.signal(syscall.SIGKILL)
		<-p.ended
	}
}

// endAll stands before what ends one process after the other: nodes are not drained one by one
// at the end.
func (c *cluster) endAll() {
	for _, n := range c.nodes {
		n.signal(syscall.SIGKILL)
	}
}

// node starts an expert node.
func (c *cluster) node(at *place, id string, more ...string) error {
	p, err := c.launch(at, append([]string{"expertnode", "--etcd", etcdURL, "--model",
		c.o.ModelDir, "--id", id, "--domain", id, "--short-lease", "--threads",
		strconv.Itoa(c.o.NodeThreads), "--cache", c.o.Cache, "--tls", c.folder(identity.ExpertNode)},
		more...)...)
	if err == nil {
		c.nodes[id] = p
	}
	return err
}

// list is the nodes by their names, and the rows sent so far.
func (c *cluster) list(ctx context.Context) (
	map[string]*droverv1.NodeStatus, *droverv1.Dispatched, error) {
	r, err := droverv1.NewClusterServiceClient(c.conn).ListNodes(ctx, &droverv1.ListNodesRequest{})
	if err != nil {
		return nil, nil, fmt.Errorf("list nodes: %w", err)
	}
	nodes := map[string]*droverv1.NodeStatus{}
	for _, n := range r.Nodes {
		nodes[n.Id] = n
	}
	return nodes, r.Dispatched, nil
}

// await looks until ok says that it is so, at most for some time.
func await(ctx context.Context, atMost time.Duration, what string, ok func() (bool, error)) error {
	for began := time.Now(); ; {
		so, err := ok()
		switch {
		case so:
			return nil
		case time.Since(began) > atMost:
			return errors.Join(fmt.Errorf("not within %v: %s", atMost, what), err)
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// share waits until exactly these nodes share the experts.
func (c *cluster) share(ctx context.Context, ids ...string) error {
	return await(ctx, time.Minute, fmt.Sprint(ids, " share the experts"), func() (bool, error) {
		nodes, _, err := c.list(ctx)
		if err != nil {
			return false, err
		}
		wanted := map[string]bool{}
		for _, id := range ids {
			wanted[id] = true
			if n := nodes[id]; n.GetState() != "ready" || n.GetReplicaCount() == 0 {
				return false, fmt.Errorf("%s: %v", id, n)
			}
		}
		for id, n := range nodes {
			if !wanted[id] && n.ReplicaCount > 0 {
				return false, fmt.Errorf("%s holds %d replicas", id, n.ReplicaCount)
			}
		}
		return true, nil
	})
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
