package fetch_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"drover/expertnode"
	"drover/internal/fetch"
	"drover/kernel"
	"drover/packed"
	"drover/placement"
	droverv1 "drover/proto/drover/v1"
	"drover/wire"
)

// The addresses of the two ends of a link, and the sender's ports.
const (
	senderIP, receiverIP = "10.213.78.1", "10.213.78.2"
	fetchPort, plainPort = "7071", "7072"
)

// BenchmarkGigabit fetches over a link of 1 Gbit/s between two network namespaces, which a
// token bucket filter makes, and compares with a plain connection over the same link. It
// also tells how long a frame of one row takes, alone and while the node sends weights.
func BenchmarkGigabit(b *testing.B) {
	sender, receiver := newLink(b, "1gbit")
	serve := program(sender, "serve")
	in, err := serve.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := serve.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := serve.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = in.Close() // which ends it
		_ = serve.Wait()
	})
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		b.Fatal(err)
	}
	var total measured
	for b.Loop() {
		text, err := program(receiver, "measure").Output()
		if err != nil {
			b.Fatal(err)
		}
		var m measured
		if err := json.Unmarshal(text, &m); err != nil {
			b.Fatal(err)
		}
		total.Plain += m.Plain
		total.Fetched += m.Fetched
		total.Serving += m.Serving
		total.Quiet, total.Busy = append(total.Quiet, m.Quiet...), append(total.Busy, m.Busy...)
	}
	size := float64(64<<20*b.N) / 1e6
	b.ReportMetric(size/total.Plain.Seconds(), "tcp-MB/s")
	b.ReportMetric(size/total.Fetched.Seconds(), "fetch-MB/s")
	b.ReportMetric(total.Plain.Seconds()/total.Fetched.Seconds(), "of-tcp")
	b.ReportMetric(size/total.Serving.Seconds(), "fetch-while-serving-MB/s")
	for name, rtts := range map[string][]time.Duration{"quiet": total.Quiet, "busy": total.Busy} {
		slices.Sort(rtts)
		b.ReportMetric(float64(rtts[len(rtts)/2].Microseconds()), name+"-p50-µs")
		b.ReportMetric(float64(rtts[len(rtts)*99/100].Microseconds()), name+"-p99-µs")
	}
}

// measured is what the receiver prints: the time that a large piece took, over a plain
// connection, fetched, and fetched while frames are sent; and how long each frame took.
type measured struct {
	Plain, Fetched, Serving time.Duration
	Quiet, Busy             []time.Duration
}

// program runs this test binary in a namespace, as one end of the link.
func program(namespace, role string) *exec.Cmd {
	c := exec.Command("ip", "netns", "exec", namespace, os.Args[0])
	c.Env = append(os.Environ(), "FETCH_TEST_ROLE="+role)
	c.Stderr = os.Stderr
	return c
}

// newLink makes two namespaces with a link of a given rate, or skips.
func newLink(b *testing.B, rate string) (sender, receiver string) {
	b.Helper()
	if os.Geteuid() != 0 {
		b.Skip("network namespaces need root")
	}
	prefix := fmt.Sprintf("drover-fetch-%d-", os.Getpid())
	sender, receiver = prefix+"sender", prefix+"receiver"
	run := func(line string) {
		b.Helper()
		words := strings.Fields(line)
		if text, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			b.Skipf("%s: %v: %s", line, err, text)
		}
	}
	for _, space := range []string{sender, receiver} {
		run("ip netns add " + space)
		b.Cleanup(func() { _ = exec.Command("ip", "netns", "delete", space).Run() })
	}
	run("ip -n " + sender + " link add v0 type veth peer name v0 netns " + receiver)
	for space, address := range map[string]string{sender: senderIP, receiver: receiverIP} {
		run("ip -n " + space + " address add " + address + "/24 dev v0")
		run("ip -n " + space + " link set v0 up")
		run("ip -n " + space + " link set lo up")
		run("tc -n " + space + " qdisc add dev v0 root tbf rate " + rate + " burst 1mb latency 50ms")
	}
	return sender, receiver
}

// playRole is a program for tests.
func playRole(role string) error {
	if role == "serve" {
		return serveLarge()
	}
	m, err := measure()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(m)
}

// tb makes the helpers of tests usable in a program.
type tb struct{ testing.TB }

func (tb) Helper()           {}
func (tb) Fatal(args ...any) { panic(fmt.Sprint(args...)) }
func (tb) Cleanup(func())    {}

// serveLarge serves the large piece, and a replica to compute with, until its input ends.
func serveLarge() error {
	s := newShelf(tb{})
	s.body.Content()
	left := loaded(tb{}, "left", "")
	left.serveAt(tb{}, senderIP+":"+fetchPort, nil, s.options)
	l, err := net.Listen("tcp", senderIP+":"+plainPort)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(c, io.NewSectionReader(s.body, 0, s.body.Size()))
			_ = c.Close()
		}
	}()
	fmt.Println()
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func measure() (m measured, err error) {
	began := time.Now()
	c, err := net.Dial("tcp", senderIP+":"+plainPort)
	if err != nil {
		return m, err
	}
	if _, err := io.Copy(io.Discard, c); err != nil {
		return m, err
	}
	m.Plain = time.Since(began)
	right := newNode(tb{}, "right", demo(), "", fetch.Nodes)
	fetchOne := func() (time.Duration, error) {
		began := time.Now()
		_, err := right.source.FetchPiece(context.Background(), packed.InMemory(), large,
			placement.Node{ID: "left", Address: senderIP + ":" + fetchPort})
		return time.Since(began), err
	}
	if m.Fetched, err = fetchOne(); err != nil {
		return m, err
	}
	frames, err := openFrames(right)
	if err != nil {
		return m, err
	}
	if m.Quiet, err = frames.exchange(func() bool { return len(m.Quiet) >= 1000 }, &m.Quiet); err != nil {
		return m, err
	}
	done := make(chan error, 1)
	go func() {
		var err error
		m.Serving, err = fetchOne()
		done <- err
	}()
	ended := false
	_, err = frames.exchange(func() bool {
		select {
		case e := <-done:
			ended = true
			err = e
		default:
		}
		return ended
	}, &m.Busy)
	return m, err
}

// frames is a lane to the sender.
type frames struct {
	stream grpc.ClientStream
	hidden int
	last   uint64 // frame
}

func openFrames(n *node) (*frames, error) {
	conn, err := grpc.NewClient(senderIP+":"+fetchPort, grpc.WithTransportCredentials(plain),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(&wire.Codec{Pool: new(wire.Pool)})))
	if err != nil {
		return nil, err
	}
	stream, err := conn.NewStream(context.Background(),
		&droverv1.ExpertService_ServiceDesc.Streams[0], droverv1.ExpertService_Execute_FullMethodName)
	if err != nil {
		return nil, err
	}
	digest, hidden := n.ck.Digest(), n.host.Spec().Hidden
	hello := wire.Hello{ProtocolVersion: wire.ProtocolVersion, ModelDigest: digest[:],
		NumericMode: kernel.BF16.String(), HiddenSize: uint32(hidden), DTypes: []wire.DType{wire.BF16},
		MaxFrameBytes: 1 << 20, CreditBytes: 1 << 20}
	if err := stream.SendMsg(&wire.Request{Kind: wire.KindHello, Hello: hello}); err != nil {
		return nil, err
	}
	return &frames{stream: stream, hidden: hidden}, stream.RecvMsg(new(wire.Response))
}

// exchange sends one row after the other, a millisecond apart, until enough.
func (f *frames) exchange(enough func() bool, rtts *[]time.Duration) ([]time.Duration, error) {
	pool := new(wire.Pool)
	for !enough() {
		f.last++
		rows, b := pool.NewBuffer(2 * f.hidden)
		clear(b)
		began := time.Now()
		if err := f.stream.SendMsg(&wire.Request{Kind: wire.KindDispatch, Rows: rows,
			Dispatch: wire.Dispatch{FrameID: f.last, Layer: uint32(one.Layer), DType: wire.BF16,
				RowCount: 1, ExpertIDs: []uint32{uint32(one.Expert)},
				ExpertRowCounts: []uint32{1}}}); err != nil {
			return *rtts, err
		}
		var r wire.Response
		if err := f.stream.RecvMsg(&r); err != nil {
			return *rtts, err
		}
		if len(r.Combine.Statuses) > 0 || r.Combine.RowCount != 1 {
			return *rtts, errors.New("a row was not computed: " + r.Combine.Detail)
		}
		r.Release()
		*rtts = append(*rtts, time.Since(began))
		time.Sleep(time.Millisecond)
	}
	return *rtts, nil
}

var _ expertnode.Packed = shelf{}
