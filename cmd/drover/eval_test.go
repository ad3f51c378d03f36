package main

import (
	"slices"
	"testing"
)

func TestParseModes(t *testing.T) {
	for text, want := range map[string][]string{
		"int8":                             {"int8"},
		"bf16,int8,int4":                   {"bf16", "int8", "int4"},
		"int4,head=bf16,int8,kv=int8":      {"int4,head=bf16", "int8,kv=int8"},
		"int4,head=bf16,kv=int8,exact":     {"int4,head=bf16,kv=int8", "exact"},
		"fp8,int4,experts=fp8":             {"fp8", "int4,experts=fp8"},
		"int4,head=int8,experts=bf16,int8": {"int4,experts=bf16", "int8"},
	} {
		modes, err := parseModes(text)
		var got []string
		for _, m := range modes {
			got = append(got, m.String())
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, error %v, want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"", "head=bf16", "int8,,int4", "int8,int5"} {
		if _, err := parseModes(text); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}
