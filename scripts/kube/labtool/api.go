package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

const (
	callTimeout = 10 * time.Second
	// watchTimeout ends a watch that the server has forgotten.
	watchTimeout = 2 * time.Minute
	// settle is the wait for more changes after one.
	settle = 50 * time.Millisecond
	// lookEvery is how often everything is looked at, though nothing was heard.
	lookEvery = 30 * time.Second
)

// api is a client of the Kubernetes API under a name of its own.
type api struct {
	server string
	http   http.Client
}

// apiFlags adds the flags that open needs.
func apiFlags(fs *flag.FlagSet) (open func(name string) (*api, error)) {
	server := fs.String("server", "", "URL of the API server")
	dir := fs.String("pki", "", "folder of certificates that labtool pki wrote")
	return func(name string) (*api, error) {
		pair, err := tls.LoadX509KeyPair(filepath.Join(*dir, name+".crt"),
			filepath.Join(*dir, name+".key"))
		if err != nil {
			return nil, err
		}
		ca, err := os.ReadFile(filepath.Join(*dir, "ca.crt"))
		if err != nil {
			return nil, err
		}
		c := &tls.Config{RootCAs: x509.NewCertPool(), Certificates: []tls.Certificate{pair}}
		c.RootCAs.AppendCertsFromPEM(ca)
		return &api{*server, http.Client{Transport: &http.Transport{TLSClientConfig: c}}}, nil
	}
}

// request sends body and returns the answer's body if all went well.
func (a *api) request(ctx context.Context, method, path string, body []byte) (
	io.ReadCloser, error) {
	r, err := http.NewRequestWithContext(ctx, method, a.server+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := a.http.Do(r)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode >= http.StatusMultipleChoices {
		_ = answer.Body.Close() // what it says is not used
		return nil, fmt.Errorf("%s %s: %s", method, path, answer.Status)
	}
	return answer.Body, nil
}

// call sends body, unless it is nil, and decodes the answer to into, unless that is nil.
func (a *api) call(method, path string, body, into any) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return err
		}
	}
	answer, err := a.request(ctx, method, path, text)
	if err != nil {
		return err
	}
	defer answer.Close()
	if into == nil {
		return nil
	}
	return json.NewDecoder(answer).Decode(into)
}

// onChange calls do at first, after each change of what is under the paths, and now and
// then in any case. It does not return: the tool runs until it is killed.
func (a *api) onChange(do func() error, paths ...string) {
	changed := make(chan struct{}, 1)
	for _, p := range paths {
		go func() {
			for {
				if err := a.watch(p, changed); err != nil && !errors.Is(err, io.EOF) {
					log.Print(err)
				}
				time.Sleep(time.Second)
			}
		}()
	}
	for {
		if err := do(); err != nil {
			log.Print(err)
			time.Sleep(time.Second)
			continue
		}
		select {
		case <-changed:
			time.Sleep(settle)
		case <-time.After(lookEvery):
		}
	}
}

func (a *api) watch(path string, changed chan<- struct{}) error {
	ctx, cancel := context.WithTimeout(context.Background(), watchTimeout)
	defer cancel()
	events, err := a.request(ctx, http.MethodGet, path+"?watch=1&timeoutSeconds=100", nil)
	if err != nil {
		return err
	}
	defer events.Close()
	for d := json.NewDecoder(events); ; {
		var event json.RawMessage
		if err := d.Decode(&event); err != nil {
			return err
		}
		select {
		case changed <- struct{}{}:
		default: // one is waiting
		}
	}
}
