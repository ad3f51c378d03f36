package client_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"drover/client"
	droverv1 "drover/proto/drover/v1"
)

const apiKey = "a-key-of-alice"

// guarded is a teller that answers those who have the key.
type guarded struct{ teller }

func (g guarded) Generate(req *droverv1.GenerateRequest,
	out grpc.ServerStreamingServer[droverv1.GenerateResponse]) error {
	md, _ := metadata.FromIncomingContext(out.Context())
	if got := strings.Join(md.Get("authorization"), ","); got != "Bearer "+apiKey {
		return status.Error(codes.Unauthenticated, "an API key is needed")
	}
	return g.teller.Generate(req, out)
}

// serveTLS runs a guarded coordinator on loopback, with a certificate that signs itself.
func serveTLS() (address string, authority *x509.CertPool, stop func()) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true,
		BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	certificate, err := x509.ParseCertificate(raw)
	if err != nil {
		panic(err)
	}
	authority = x509.NewCertPool()
	authority.AddCert(certificate)
	address, stop = serve(guarded{teller{words: 5}}, grpc.Creds(credentials.NewTLS(&tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{{Certificate: [][]byte{raw}, PrivateKey: key}}})))
	return address, authority, stop
}

// tell reads an answer to its end.
func tell(o client.Options) (text string, err error) {
	pool, err := client.New(o)
	if err != nil {
		return "", err
	}
	defer pool.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	stream := pool.Generate(ctx, &droverv1.GenerateRequest{
		Prompt: &droverv1.GenerateRequest_Text{Text: "Tell me a story about a fox."}})
	for {
		message, err := stream.Recv()
		if err == io.EOF {
			return text, nil
		}
		if err != nil {
			return text, err
		}
		text += message.GetDelta().GetText()
	}
}

// A coordinator that serves TLS, to those who have an API key. A program reads the authority
// from the file ca.crt, by x509.CertPool.AppendCertsFromPEM.
func Example_tls() {
	address, authority, stop := serveTLS()
	defer stop()
	fmt.Println(tell(client.Options{
		Addresses: []string{address},
		TLS:       &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: authority},
		APIKey:    apiKey,
	}))
	// Output:
	// Once there was a fox. <nil>
}

// TestSecure checks that a pool is told what is wrong with its authority or key, and that no
// key is sent in plain text.
func TestSecure(t *testing.T) {
	address, authority, stop := serveTLS()
	defer stop()
	trusting := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: authority}
	plain := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	for name, tc := range map[string]struct {
		opts client.Options
		want string
	}{
		"no key":    {client.Options{TLS: trusting}, "an API key is needed"},
		"wrong key": {client.Options{TLS: trusting, APIKey: "other"}, "an API key is needed"},
		"key with a line end": {client.Options{TLS: trusting, APIKey: apiKey + "\n"},
			"APIKey has spaces"},
		"other authority": {client.Options{APIKey: apiKey, Patience: 5 * time.Second,
			TLS: &tls.Config{RootCAs: x509.NewCertPool()}}, "unknown authority"},
		"key in plain text": {client.Options{DialOptions: plain, APIKey: apiKey}, "transport"},
		"nothing about TLS": {client.Options{APIKey: apiKey}, "transport security"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.opts.Addresses = []string{address}
			text, err := tell(tc.opts)
			if err == nil || !strings.Contains(err.Error(), tc.want) || text != "" {
				t.Errorf("answer %q, error %v, want %q", text, err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), apiKey) {
				t.Errorf("the key stands in the error %v", err)
			}
		})
	}
}
