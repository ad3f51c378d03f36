package model_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"drover/checkpoint"
	"drover/kernel"
	"drover/model"
)

// TestAbsent packs experts that the directory lacks, and scales with them: from what
// Options.Absent hands over they are the same bytes, its error is the loading's, and without it
// they are none.
func TestAbsent(t *testing.T) {
	for name, from := range map[string]string{"bf16": "../models/tiny-maverick",
		"fp8": "../testdata/fixtures/quant/q_llama4_maverick_fp8"} {
		t.Run(name, func(t *testing.T) { packAbsent(t, copyModel(t, from)) })
	}
}

func packAbsent(t *testing.T, dir string) {
	want := &kept{}
	load(t, openSource(t, dir, want), want)
	if err := os.WriteFile(filepath.Join(dir, checkpoint.SliceName), []byte(`{"version":1}`),
		0o600); err != nil {
		t.Fatal(err)
	}
	lacking, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer lacking.Close()
	away := errors.New("away")
	for name, tc := range map[string]struct {
		absent func(checkpoint.Tensor, func([]byte) error) error
		want   error
	}{
		"nothing": {nil, checkpoint.ErrAbsent},
		"away":    {func(checkpoint.Tensor, func([]byte) error) error { return away }, away},
		"there": {func(one checkpoint.Tensor, use func([]byte) error) error {
			b, err := os.ReadFile(one.File())
			if err != nil {
				return err
			}
			return use(b[one.Range().Begin:one.Range().End])
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := &kept{}
			src, err := model.OpenExperts(lacking, model.Options{Mode: kernel.Int8, Store: s,
				Absent: tc.absent})
			if err != nil {
				t.Fatal(err)
			}
			_, err = src.Load(src.Spec().Layers[0], 0)
			if !errors.Is(err, tc.want) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
			if tc.want != nil {
				return
			}
			for i, m := range s.last {
				if !bytes.Equal(m.Packed(), want.last[i].Packed()) {
					t.Errorf("matrix %d differs from that of a directory that has it", i)
				}
			}
		})
	}
}
