package trial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"drover/internal/faultproxy"
	"drover/internal/identity"
	"drover/packed"
	droverv1 "drover/proto/drover/v1"
)

// The nodes that faults hit: the second one, and for a delay the third, which is reached through
// a proxy at all times.
const (
	victim      = "node-2"
	delayed     = "node-3"
	victimPort  = "7071"
	delayedPort = "7071"
)

// fault is something that can be switched on and off.
type fault struct {
	name string
	// what is done, and the goal for the 99th percentile of ITL beside a quiet window's, 0 if
	// there is none.
	what string
	goal float64
	// needs says why it is not possible here; nil means that it is.
	needs func() error
	on    func(context.Context) error
	off   func() error
}

func (t *trial) faults() []fault {
	throttle := &duty{pid: func() int { return t.c.nodes[victim].cmd.Process.Pid }}
	nothing := func() error { return nil }
	return []fault{
		{"slow", "computes 10 times slower (slow=10)", 1.3, t.injects,
			func(context.Context) error { return t.inject(victim + ":slow=10") },
			func() error { return t.inject("") }},
		{"throttled", "runs 1 ms of each 10 ms (SIGSTOP, SIGCONT)", 1.3, nothing,
			func(context.Context) error { throttle.start(0.1); return nil },
			func() error { return throttle.stop() }},
		{"stopped", "does not run (SIGSTOP)", 0, nothing,
			func(context.Context) error { return syscall.Kill(throttle.pid(), syscall.SIGSTOP) },
			func() error { return syscall.Kill(throttle.pid(), syscall.SIGCONT) }},
		{"delay", "50 ms more on the way, each way (proxy)", 1.3, nothing,
			func(context.Context) error {
				t.proxy.Set(faultproxy.Conditions{Delay: 50 * time.Millisecond})
				return nil
			}, func() error { t.proxy.Set(faultproxy.Conditions{}); return nil }},
		{"loss", "10 % of packets are lost, each way (nftables)", 0, has("nft"),
			t.drops("numgen random mod 10 < 1 drop", "input", "output"), t.dropsNothing},
		{"narrow", "1 Mbit/s, each way (token bucket)", 1.3, has("tc"), t.narrow, t.wide},
		{"half-open", "nothing of it arrives (nftables)", 0, has("nft"),
			t.drops("drop", "output"), t.dropsNothing},
		{"black-hole", "nothing arrives, each way (nftables)", 0, has("nft"),
			t.drops("drop", "input", "output"), t.dropsNothing},
		t.fetching(), t.slowDisk(),
	}
}

// has wants a command.
func has(name string) func() error {
	return func() error {
		_, err := exec.LookPath(name)
		return err
	}
}

func (t *trial) injects() error {
	if !t.Injects {
		return errors.New("needs a build with -tags faultinject")
	}
	return nil
}

// inject writes what nodes do wrong from now on; they look every few milliseconds.
func (t *trial) inject(faults string) error {
	temporary := t.injected + ".new"
	if err := os.WriteFile(temporary, []byte(faults), 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, t.injected)
}

// drops makes the victim's machine drop packets by a rule.
func (t *trial) drops(rule string, ways ...string) func(context.Context) error {
	return func(context.Context) error {
		at := t.places[victim]
		err := at.command("nft add table ip faults")
		for _, way := range ways {
			err = errors.Join(err, at.command("nft add chain ip faults "+way+
				" { type filter hook "+way+" priority 0 ; }"),
				at.command("nft add rule ip faults "+way+" oifname != lo iifname != lo "+rule))
		}
		return err
	}
}

func (t *trial) dropsNothing() error {
	return t.places[victim].command("nft delete table ip faults")
}

const narrowLink = " root tbf rate 1mbit burst 5kb latency 400ms"

func (t *trial) narrow(context.Context) error {
	return errors.Join(command("tc qdisc add dev "+victim+narrowLink),
		t.places[victim].command("tc qdisc add dev eth0"+narrowLink))
}

func (t *trial) wide() error {
	return errors.Join(command("tc qdisc del dev "+victim+" root"),
		t.places[victim].command("tc qdisc del dev eth0 root"))
}

// duty lets a process run for a part of the time only.
type duty struct {
	pid  func() int
	stop func() error
}

const dutyPeriod = 10 * time.Millisecond

func (d *duty) start(part float64) {
	pid, enough, done := d.pid(), make(chan struct{}), make(chan struct{})
	runs := time.Duration(part * float64(dutyPeriod))
	go func() {
		defer close(done)
		for {
			_ = syscall.Kill(pid, syscall.SIGSTOP) // a process that is gone needs no signal
			time.Sleep(dutyPeriod - runs)
			_ = syscall.Kill(pid, syscall.SIGCONT)
			select {
			case <-enough:
				return
			case <-time.After(runs):
			}
		}
	}()
	d.stop = func() error { close(enough); <-done; return nil }
}

// fetching is not a fault: the victim sends weights to another node the whole time.
func (t *trial) fetching() fault {
	var cancel context.CancelFunc
	var done sync.WaitGroup
	var failed error
	return fault{"fetch", "sends its experts' weights to another machine all the time", 1.1,
		func() error { return nil },
		func(ctx context.Context) error {
			ctx, cancel = context.WithCancel(ctx)
			failed = nil
			done.Go(func() {
				if err := t.fetch(ctx); ctx.Err() == nil {
					failed = err
				}
			})
			return nil
		},
		func() error { cancel(); done.Wait(); return failed }}
}

// fetch reads all replicas of the victim, again and again.
func (t *trial) fetch(ctx context.Context) error {
	address := t.places[victim].address + ":" + victimPort
	asked, err := t.c.dial(address, identity.ExpertNode, identity.Coordinator)
	if err != nil {
		return err
	}
	defer asked.Close()
	fetched, err := t.c.dial(address, identity.ExpertNode, identity.ExpertNode)
	if err != nil {
		return err
	}
	defer fetched.Close()
	node := droverv1.NewExpertServiceClient(fetched)
	placed, err := droverv1.NewClusterServiceClient(t.c.conn).GetPlacement(ctx,
		&droverv1.GetPlacementRequest{})
	if err != nil {
		return err
	}
	s, err := droverv1.NewExpertServiceClient(asked).Status(ctx, &droverv1.StatusRequest{})
	if err != nil {
		return err
	}
	r := &droverv1.FetchRequest{ModelDigest: s.ModelDigest, NumericMode: s.NumericMode,
		FormatVersion: packed.Version, SizeBytes: s.WeightBytes / uint64(max(s.ReplicaCount, 1))}
	for {
		for _, l := range placed.Layers {
			for e, on := range l.Experts {
				if !strings.Contains(" "+strings.Join(on.NodeIds, " ")+" ", " "+victim+" ") {
					continue
				}
				r.Layer, r.Expert = l.Layer, uint32(e)
				if err := t.fetchOne(ctx, node, r); err != nil {
					return fmt.Errorf("fetch %d.%d: %w", l.Layer, e, err)
				}
			}
		}
	}
}

func (t *trial) fetchOne(
	ctx context.Context, node droverv1.ExpertServiceClient, r *droverv1.FetchRequest,
) error {
	stream, err := node.Fetch(ctx, r)
	if err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		t.fetched.Add(int64(len(m.GetChunk().GetWeights())))
	}
}

// slowDisk makes each fsync of etcd's take half a second more.
func (t *trial) slowDisk() fault {
	var tracer *exec.Cmd
	return fault{"slow-disk", "etcd's fsync takes 0.5 s more (strace)", 1.1, has("strace"),
		func(context.Context) error {
			tracer = exec.Command("strace", "-f", "-qq", "-o", "/dev/null", "-e",
				"trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:delay_enter=500000",
				"-p", strconv.Itoa(t.c.etcd.cmd.Process.Pid))
			return t.c.home.do(tracer.Start)
		},
		func() error {
			err := tracer.Process.Signal(os.Interrupt) // it detaches
			_ = tracer.Wait()
			return err
		}}
}
