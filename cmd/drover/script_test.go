package main

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"drover/internal/testcluster"
)

func TestMain(m *testing.M) {
	testscript.Main(ownHome{m}, map[string]func(){"drover": main})
}

// ownHome runs the tests with a folder of the user's configuration that is theirs: clusters tell
// there which authority to trust.
type ownHome struct{ *testing.M }

func (h ownHome) Run() int {
	dir, err := os.MkdirTemp("", "drover-test-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Setenv("XDG_CONFIG_HOME", dir); err != nil { // which Linux knows
		panic(err)
	}
	return h.M.Run()
}

// TestScripts runs the command lines of testdata: what people see of wrong usage, help,
// addresses that must not be plain, and answers without a network.
func TestScripts(t *testing.T) {
	fixtures, err := filepath.Abs(testcluster.Path("testdata/fixtures"))
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:      "testdata",
		Deadline: time.Now().Add(2 * time.Minute),
		Setup: func(e *testscript.Env) error {
			e.Setenv("MODEL", demoModel(t))
			e.Setenv("FIXTURES", fixtures)
			e.Setenv("XDG_CACHE_HOME", filepath.Join(e.WorkDir, ".cache")) // packed weights
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"code": code},
	})
}

// code runs a command line and compares its exit code: code 2 drover run.
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N program [args]")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if exit, ok := err.(interface{ ExitCode() int }); ok {
		got = strconv.Itoa(exit.ExitCode())
	} else if err != nil {
		ts.Fatalf("%v: %v", args[1:], err)
	}
	if got != args[0] {
		ts.Fatalf("%v: exit code %s, want %s", args[1:], got, args[0])
	}
}
