package sim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"testing"
	"time"
)

// soakBatch is the number of scenarios of one process of TestSoakSimulation.
const soakBatch = 500

// summary is what became of some scenarios.
type summary struct {
	Scenarios, Faults, Requests int
	Fired                       map[Failpoint]int
	// Healed counts scenarios by the whole seconds after the last fault until all was well.
	Healed  map[int]int
	Seconds float64
}

func (s *summary) add(o summary) {
	s.Scenarios += o.Scenarios
	s.Faults += o.Faults
	s.Requests += o.Requests
	if s.Fired == nil {
		s.Fired, s.Healed = map[Failpoint]int{}, map[int]int{}
	}
	for p, n := range o.Fired {
		s.Fired[p] += n
	}
	for seconds, n := range o.Healed {
		s.Healed[seconds] += n
	}
}

// healedWithin is the number of seconds within which a fraction of the scenarios was well.
func (s *summary) healedWithin(fraction float64) int {
	sum := 0
	for seconds := range int(healWithin/time.Second) + 1 {
		sum += s.Healed[seconds]
		if float64(sum) >= fraction*float64(s.Scenarios) {
			return seconds + 1
		}
	}
	return -1
}

// String says it in a line.
func (s *summary) String() string {
	return fmt.Sprintf("%d scenarios in %.0f s: %d faults, %d requests, %d of %d failpoints fired; "+
		"well again within %d s (half), %d s (99 %%), %d s (all)", s.Scenarios, s.Seconds, s.Faults,
		s.Requests, len(s.Fired), len(Failpoints), s.healedWithin(0.5), s.healedWithin(0.99),
		s.healedWithin(1))
}

// TestSoakSimulation runs DROVER_SIM_COUNT scenarios (100,000) of seeds from
// DROVER_SIM_FIRST (1) on, in as many processes as there are processors. It needs
// DROVER_SOAK=1, and writes a summary to the file DROVER_SOAK_OUT. Each process that ends
// well is a line of the log, so that a run that was cut off can go on after its seeds.
func TestSoakSimulation(t *testing.T) {
	if os.Getenv("DROVER_SOAK") != "1" {
		t.Skip("long; set DROVER_SOAK=1")
	}
	first, count := number(t, "DROVER_SIM_FIRST", 1), number(t, "DROVER_SIM_COUNT", 100_000)
	var mu sync.Mutex // guards the variables below
	var total summary
	next := first
	take := func() (from, n uint64) {
		mu.Lock()
		defer mu.Unlock()
		from, n = next, min(soakBatch, first+count-next)
		next += n
		return from, n
	}
	began := time.Now()
	var running sync.WaitGroup
	for range runtime.NumCPU() {
		running.Go(func() {
			for from, n := take(); n > 0 && !t.Failed(); from, n = take() {
				s, err := batch(t.TempDir(), from, n)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				total.add(s)
				t.Logf("seeds %d to %d are well; %d of %d done after %.0f s", from, from+n-1,
					total.Scenarios, count, time.Since(began).Seconds())
				mu.Unlock()
			}
		})
	}
	running.Wait()
	total.Seconds = time.Since(began).Seconds()
	t.Log(&total)
	for p := range Failpoints {
		if total.Fired[p] == 0 && count >= 1000 {
			t.Errorf("failpoint %s never fired", p)
		}
	}
	if out := os.Getenv("DROVER_SOAK_OUT"); out != "" {
		text, err := json.MarshalIndent(total, "", "  ")
		if err == nil {
			err = os.WriteFile(out, text, 0o644)
		}
		if err != nil {
			t.Error(err)
		}
	}
}

// batch runs scenarios in a process of their own: what panics ends them alone.
func batch(dir string, first, count uint64) (s summary, err error) {
	program, err := os.Executable()
	if err != nil {
		return s, err
	}
	out := fmt.Sprintf("%s/%d.json", dir, first)
	cmd := exec.Command(program, "-test.run", "^TestSimulation$", "-test.timeout", "1h", "-test.v")
	cmd.Env = append(os.Environ(), "DROVER_SIM_SEED=", "GODEBUG=tracebacklabels=1",
		fmt.Sprintf("DROVER_SIM_FIRST=%d", first), fmt.Sprintf("DROVER_SIM_COUNT=%d", count),
		"DROVER_SOAK_OUT="+out)
	if said, err := cmd.CombinedOutput(); err != nil {
		return s, fmt.Errorf("seeds %d to %d: %w\n%s", first, first+count-1, err,
			said[max(len(said)-50_000, 0):])
	}
	text, err := os.ReadFile(out)
	if err != nil {
		return s, err
	}
	return s, json.NewDecoder(bytes.NewReader(text)).Decode(&s)
}
