package role

import (
	"context"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"drover/coordinator"
	"drover/expertnode"
	"drover/kernel"
)

// InProcessOptions describes a model served in this process. Mode is required.
type InProcessOptions struct {
	Mode kernel.Mode
	// Compute says with what.
	Compute Compute
	Weights Weights
	Engine  coordinator.Options
}

// InProcess serves the model in dir inside this process, with all experts loaded,
// and returns a connection to it that no network carries. stop ends it.
func InProcess(ctx context.Context, dir string, opts InProcessOptions) (
	conn *grpc.ClientConn, stop func(), err error) {
	var undo stack
	defer func() {
		if err != nil {
			undo.run()
		}
	}()
	device, err := undo.device(opts.Compute, opts.Mode, opts.Weights.Log)
	if err != nil {
		return nil, nil, err
	}
	how := opts.Weights.Options(opts.Mode, device)
	m, err := openWatched(dir, how, opts.Weights)
	if err != nil {
		return nil, nil, err
	}
	undo.push(func() { _ = m.Close() }) // nothing is written; there is nothing to lose
	// The experts' part of a step is called by the engine's: one device serves both.
	host := expertnode.NewHost(m.Source, m.Mode, expertnode.HostOptions{Device: m.Device})
	if err = host.LoadAll(ctx); err != nil {
		return nil, nil, err
	}
	opts.Engine.AllowScore = true
	engine, err := m.engine(host, opts.Engine)
	if err != nil {
		return nil, nil, err
	}
	undo.push(engine.Close)
	conn, closeConn, err := connect(engine.Register)
	if err != nil {
		return nil, nil, err
	}
	undo.push(closeConn)
	return conn, undo.run, nil
}

// connect serves what register adds to this process alone.
func connect(register func(grpc.ServiceRegistrar)) (conn *grpc.ClientConn, stop func(), err error) {
	server := grpc.NewServer(recovery()...)
	register(server)
	listener := bufconn.Listen(1 << 20)
	stopServer := serve(server, listener)
	conn, err = grpc.NewClient("passthrough:///in-process",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswerBytes)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return listener.DialContext(ctx)
		}))
	if err != nil {
		stopServer()
		return nil, nil, err
	}
	return conn, func() {
		_ = conn.Close()
		stopServer()
	}, nil
}

// maxAnswerBytes bounds a message of a coordinator; the largest is one position's logits.
const maxAnswerBytes = 64 << 20

// serve runs a gRPC server and returns what stops it and waits for it.
func serve(s *grpc.Server, l net.Listener) (stop func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l) // it ends when the server is stopped
	}()
	return func() {
		s.Stop()
		<-done
	}
}

// stack runs what was pushed, last first, once.
type stack struct {
	undo []func()
}

// cpu returns the CPU with so many threads that compute, 0 for one.
func (s *stack) cpu(threads int) kernel.Device {
	pool := kernel.NewPool(threads)
	s.push(pool.Close)
	return kernel.NewCPU(pool)
}

func (s *stack) push(f func()) { s.undo = append(s.undo, f) }

func (s *stack) run() {
	for len(s.undo) > 0 {
		last := len(s.undo) - 1
		f := s.undo[last]
		s.undo = s.undo[:last]
		f()
	}
}
