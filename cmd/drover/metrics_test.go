package main

import (
	"bufio"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// adminAt is where a process logs that it serves health and metrics.
var adminAt = regexp.MustCompile(`msg="serving health and metrics" .*admin=(\S+)`)

// metric reads one number of a process's metrics, named with its labels.
func (p *process) metric(t *testing.T, name string) float64 {
	t.Helper()
	return metricAt(t, adminAt.FindStringSubmatch(p.errors.String())[1], name)
}

// metricAt is metric for the process that serves an admin address.
func metricAt(t *testing.T, address, name string) float64 {
	t.Helper()
	v, ok := metricIfAny(t, address, name)
	if !ok {
		t.Fatalf("there is no metric %s", name)
	}
	return v
}

// metricIfAny is metricAt for one that may not be there, as those of a node that has left.
func metricIfAny(t *testing.T, address, name string) (v float64, ok bool) {
	t.Helper()
	r, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	for lines := bufio.NewScanner(r.Body); lines.Scan(); {
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
