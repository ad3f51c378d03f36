package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestInterrupted interrupts commands before they are done.
func TestInterrupted(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		says string // when it is time
		code int
	}{
		"coordinator without nodes": {[]string{"coordinator", "--etcd", "127.0.0.1:1", "--model",
			demoModel(t), "--grpc", "127.0.0.1:0", "--http", "none", "--plaintext"}, "waiting", exitInterrupted},
		"node without etcd": {[]string{"expertnode", "--etcd", "127.0.0.1:1", "--model",
			demoModel(t), "--plaintext"}, "serving rows", exitDone},
	} {
		t.Run(name, func(t *testing.T) {
			p := launch(t, place{}, tc.args...)
			eventually(t, 10*slack*time.Second, "it has started", func() (bool, string) {
				return strings.Contains(p.errors.String(), tc.says), p.errors.String()
			})
			p.signal(os.Interrupt)
			if code := p.wait(10 * slack * time.Second); code != tc.code {
				t.Errorf("exit code %d, want %d", code, tc.code)
			}
		})
	}
}

// TestBatchInterrupted interrupts a file of prompts in the middle and goes on with it.
func TestBatchInterrupted(t *testing.T) {
	const lines = 60
	var prompts strings.Builder
	for i := range lines {
		fmt.Fprintf(&prompts, `{"id":%d,"prompt":"Once upon","seed":%d,"temperature":1,`+
			`"max_tokens":40,"ignore_eos":true}`+"\n", i, i)
	}
	dir := t.TempDir()
	in := filepath.Join(dir, "in")
	out, whole := filepath.Join(dir, "out"), filepath.Join(dir, "whole")
	if err := os.WriteFile(in, []byte(prompts.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(out string) *process {
		return launch(t, place{}, "run", "--model", demoModel(t), "--prompts", in, "--out", out,
			"--concurrency", "2")
	}
	answers := func(of string) string {
		text, err := os.ReadFile(of)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return string(text)
	}
	p := run(out)
	eventually(t, 20*slack*time.Second, "some answers", func() (bool, string) {
		return strings.Count(answers(out), "\n") >= 5, answers(out)
	})
	p.signal(os.Interrupt)
	if code := p.wait(5 * slack * time.Second); code != exitInterrupted {
		t.Errorf("interrupted: exit code %d, want %d", code, exitInterrupted)
	}
	if done := strings.Count(answers(out), "\n"); done >= lines {
		t.Errorf("all %d lines were answered before the interrupt", done)
	}
	for _, to := range []string{out, whole} {
		if code := run(to).wait(20 * slack * time.Second); code != exitDone {
			t.Errorf("%s: exit code %d", to, code)
		}
	}
	if got, want := answers(out), answers(whole); got != want || strings.Count(got, "\n") != lines {
		t.Errorf("interrupted and resumed:\n%s\nin one go:\n%s", got, want)
	}
}
