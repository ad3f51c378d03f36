package main

import (
	"bufio"
	"crypto/tls"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// adminAt is where a process logs that it serves health and metrics.
var adminAt = regexp.MustCompile(`msg="serving health and metrics" .*admin=(\S+)`)

// getOn gets a path of a port that speaks HTTP or, with a certificate that is not looked at here,
// HTTPS: which of the two is not this test's matter.
func getOn(t *testing.T, address, path string) *http.Response {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	r, err := c.Get("https://" + address + path)
	if err != nil && strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		r, err = c.Get("http://" + address + path)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// metric reads one number of a process's metrics, named with its labels.
func (p *process) metric(t *testing.T, name string) float64 {
	t.Helper()
	return metricAt(t, adminAt.FindStringSubmatch(p.errors.String())[1], name)
}

// metricAt is metric for the process that serves an admin address.
func metricAt(t *testing.T, address, name string) float64 {
	t.Helper()
	r := getOn(t, address, "/metrics")
	defer r.Body.Close()
	return metricIn(t, r.Body, name)
}

// metricIfAny is metricAt for one that may not be there, as those of a node that has left.
func metricIfAny(t *testing.T, address, name string) (v float64, ok bool) {
	t.Helper()
	r := getOn(t, address, "/metrics")
	defer r.Body.Close()
	return metricInIfAny(t, r.Body, name)
}

// metricIn reads one number of what a process tells.
func metricIn(t *testing.T, text io.Reader, name string) float64 {
	t.Helper()
	v, ok := metricInIfAny(t, text, name)
	if !ok {
		t.Fatalf("there is no metric %s", name)
	}
	return v
}

func metricInIfAny(t *testing.T, text io.Reader, name string) (v float64, ok bool) {
	t.Helper()
	for lines := bufio.NewScanner(text); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			v, err := strconv.ParseFloat(text, 64)
			if err != nil {
				t.Fatal(err)
			}
			return v, true
		}
	}
	return 0, false
}

// tells waits until one of a process's metrics is as wanted.
func (p *process) tells(t *testing.T, name string, ok func(float64) bool) {
	t.Helper()
	eventually(t, 60*slack*time.Second, name, func() (bool, string) {
		v := p.metric(t, name)
		return ok(v), strconv.FormatFloat(v, 'g', -1, 64)
	})
}

func isZero(v float64) bool { return v == 0 }
func isOne(v float64) bool  { return v == 1 }
func isMore(v float64) bool { return v > 0 }
