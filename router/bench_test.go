package router_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"math/big"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"drover/expertnode"
	"drover/kernel"
	"drover/moe"
	"drover/router"
	"drover/tensor"
)

// idleExperts is a fake that costs nothing: it leaves the outputs as they are.
type idleExperts struct{ spec moe.Spec }

func (e idleExperts) Spec() moe.Spec                   { return e.spec }
func (e idleExperts) Count() int                       { return 0 }
func (e idleExperts) Bytes() int64                     { return 0 }
func (e idleExperts) Holds(int, int) bool              { return true }
func (e idleExperts) ComputeBatch(*moe.Batch, []error) {}

// benchSpec has Llama 4's width.
var benchSpec = moe.Spec{Layers: []int{1}, Experts: 128, TopK: 1, Hidden: 5120}

// benchRouter returns a Router connected to nodes that cost nothing.
func benchRouter(b *testing.B, count int) *router.Router { return secureRouter(b, count, nil, nil) }

// secureRouter is benchRouter with credentials of both sides, nil for plain text.
func secureRouter(b *testing.B, count int, ours, nodes credentials.TransportCredentials) *router.Router {
	var all []*testNode
	for i := range count {
		c := nodeConfig{id: fmt.Sprintf("n%d", i), fake: &fake{spec: benchSpec, mode: kernel.BF16},
			change: func(o *expertnode.Options) { o.Replicas = idleExperts{benchSpec} }}
		if nodes != nil {
			c.grpc = append(c.grpc, grpc.Creds(nodes))
		}
		all = append(all, startNode(b, c))
	}
	r := startRouter(b, kernel.BF16, func(o *router.Options) {
		o.Spec, o.Credentials = benchSpec, ours
	})
	r.Update(viewOf(benchSpec, 1, 1, all...))
	waitReady(b, r)
	return r
}

// benchBatch spreads rows over experts evenly.
func benchBatch(rows, experts int) *moe.Batch {
	batch := &moe.Batch{Layer: 1, X: tensor.MakeRows(rows, benchSpec.Hidden),
		Y: tensor.MakeRows(rows, benchSpec.Hidden)}
	for i := range batch.X.Data {
		batch.X.Data[i] = float32(i % 100)
	}
	for i := range experts {
		batch.Experts = append(batch.Experts, int32(i*(benchSpec.Experts/experts)))
		batch.Counts = append(batch.Counts, int32(rows/experts))
	}
	return batch
}

// BenchmarkRoundTrip measures Forward to one node beside an echo of the same bytes
// over plain TCP, and reports the ratio of their medians.
func BenchmarkRoundTrip(b *testing.B) {
	for _, rows := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("%drows", rows), func(b *testing.B) {
			r := benchRouter(b, 1)
			batch := benchBatch(rows, 1)
			echo := startEcho(b, rows*benchSpec.Hidden*2)
			var plain, routed []time.Duration
			b.SetBytes(int64(rows * benchSpec.Hidden * 2))
			b.ReportAllocs()
			for b.Loop() {
				began := time.Now()
				if err := r.Forward(context.Background(), batch, nil); err != nil {
					b.Fatal(err)
				}
				routed = append(routed, time.Since(began))
			}
			for range routed {
				began := time.Now()
				echo()
				plain = append(plain, time.Since(began))
			}
			a, c := median(routed), median(plain)
			b.ReportMetric(float64(a.Nanoseconds())/1e3, "µs-routed")
			b.ReportMetric(float64(c.Nanoseconds())/1e3, "µs-tcp")
			b.ReportMetric(float64(a)/float64(c), "×tcp")
		})
	}
}

// BenchmarkTLS measures Forward to one node by mutual TLS 1.3 beside plain text, taking
// turns, and reports the ratio of their medians.
func BenchmarkTLS(b *testing.B) {
	certificate, authority := selfSigned(b)
	ours := credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, ServerName: "node",
		Certificates: []tls.Certificate{certificate}, RootCAs: authority})
	nodes := credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13,
		Certificates: []tls.Certificate{certificate}, ClientCAs: authority,
		ClientAuth: tls.RequireAndVerifyClientCert})
	for _, rows := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("%drows", rows), func(b *testing.B) {
			routers := [2]*router.Router{benchRouter(b, 1), secureRouter(b, 1, ours, nodes)}
			batch := benchBatch(rows, 1)
			var took [2][]time.Duration
			for b.Loop() {
				for i, r := range routers {
					began := time.Now()
					if err := r.Forward(context.Background(), batch, nil); err != nil {
						b.Fatal(err)
					}
					took[i] = append(took[i], time.Since(began))
				}
			}
			plain, secure := median(took[0]), median(took[1])
			b.ReportMetric(float64(plain.Nanoseconds())/1e3, "µs-plain")
			b.ReportMetric(float64(secure.Nanoseconds())/1e3, "µs-tls")
			b.ReportMetric(float64(secure)/float64(plain), "×plain")
		})
	}
}

// selfSigned makes a certificate that is its own authority, for both sides.
func selfSigned(b *testing.B) (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	form := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"node"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, form, form, key.Public(), key)
	if err != nil {
		b.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		b.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// BenchmarkLayer measures one MoE layer of a decode step: 8 rows of 8 experts.
func BenchmarkLayer(b *testing.B) {
	for _, count := range []int{1, 4, 8} {
		b.Run(fmt.Sprintf("%dnodes", count), func(b *testing.B) {
			r := benchRouter(b, count)
			batch := benchBatch(8, 8)
			for i := range batch.Experts { // one for each node in turn
				batch.Experts[i] = int32(i)
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := r.Forward(context.Background(), batch, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkChecks measures the same layer on four nodes with two replicas, of whose frames
// a part is computed twice.
func BenchmarkChecks(b *testing.B) {
	for _, each := range []float64{0, 256, 16, 1} {
		b.Run(fmt.Sprintf("1_of_%v", each), func(b *testing.B) {
			var nodes []*testNode
			for i := range 4 {
				nodes = append(nodes, startNode(b, nodeConfig{id: fmt.Sprintf("n%d", i),
					fake: &fake{spec: benchSpec, mode: kernel.BF16}}))
			}
			r := startRouter(b, kernel.BF16, func(o *router.Options) {
				o.Spec, o.CheckFraction = benchSpec, -1
				if each > 0 {
					o.CheckFraction = 1 / each
				}
			})
			r.Update(viewOf(benchSpec, 1, 2, nodes...))
			waitReady(b, r)
			batch := benchBatch(8, 8)
			b.ReportAllocs()
			for b.Loop() {
				if err := r.Forward(context.Background(), batch, nil); err != nil {
					b.Fatal(err)
				}
			}
			s := r.Stats()
			b.ReportMetric(100*float64(s.CheckedRows)/float64(s.Rows), "%-checked")
		})
	}
}

func median(d []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(d))[len(d)/2]
}

// startEcho returns a function that sends size bytes, length first, over plain TCP
// and reads them back.
func startEcho(b *testing.B, size int) func() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		buf := make([]byte, 4+size)
		for {
			if _, err := io.ReadFull(conn, buf[:4]); err != nil {
				return
			}
			n := binary.LittleEndian.Uint32(buf)
			if _, err := io.ReadFull(conn, buf[4:4+n]); err != nil {
				return
			}
			if _, err := conn.Write(buf[:4+n]); err != nil {
				return
			}
		}
	})
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_, _ = conn.Close(), listener.Close()
		serving.Wait()
	})
	out, in := make([]byte, 4+size), make([]byte, 4+size)
	binary.LittleEndian.PutUint32(out, uint32(size))
	return func() {
		if _, err := conn.Write(out); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(conn, in); err != nil {
			b.Fatal(err)
		}
	}
}
