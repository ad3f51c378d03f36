package model_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"drover/checkpoint"
	"drover/kernel"
	"drover/model"
)

// TestMalformed opens every malformed checkpoint as far as a model: an error of one
// line, no panic.
func TestMalformed(t *testing.T) {
	const root = "../testdata/fixtures/malformed"
	text, err := os.ReadFile(filepath.Join(root, "cases.json"))
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Cases []struct{ Dir, Expected string }
	}
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	says := map[string]string{
		"dtype_wrong_for_role":      "q_proj.weight: type is I64",
		"shape_wrong_for_config":    "shape is [16 8], config.json asks for [16 16]",
		"tensor_missing":            "k_proj",
		"nan_weight":                "not finite",
		"config_unknown_model_type": "nosuchmodel",
		"config_absurd_vocab":       "vocab_size",
		"config_absurd_layers":      "num_hidden_layers",
		"config_zero_heads":         "num_attention_heads",
		"config_heads_not_multiple": "num_key_value_heads",
		"config_string_number":      "hidden_size",
	}
	for _, c := range list.Cases {
		if strings.HasPrefix(c.Dir, "tokenizer_") {
			continue // the tokenizer's own tests
		}
		t.Run(c.Dir, func(t *testing.T) {
			err := openDense(filepath.Join(root, c.Dir))
			if strings.HasPrefix(c.Expected, "loads") {
				if err != nil {
					t.Fatalf("must load: %v", err)
				}
				return
			}
			if err == nil {
				t.Fatal("loads without an error")
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("the error has more than one line: %q", err)
			}
			if !strings.Contains(err.Error(), c.Dir) || !strings.Contains(err.Error(), says[c.Dir]) {
				t.Errorf("the error does not name %q and the directory: %v", says[c.Dir], err)
			}
		})
	}
}

func openDense(dir string) error {
	ck, err := checkpoint.Open(dir)
	if err != nil {
		return err
	}
	defer ck.Close()
	_, err = model.Open(ck, model.Options{Mode: kernel.Exact}, nil)
	return err
}

// TestUnsupported checks that what is sound but not run here says so.
func TestUnsupported(t *testing.T) {
	for _, dir := range []string{"models/deepseek_v3", "models/gpt_oss", "models/qwen3_moe",
		"models/gemma3_text", "models/mistral3_pixtral", "quant/q_deepseek_v3_fp8_block",
		"quant/q_llama3_w4a16_sym_g32", "quant/q_llama3_w8a8_int8"} {
		if err := openDense(filepath.Join("../testdata/fixtures", dir)); !errors.Is(err, model.ErrUnsupported) {
			t.Errorf("%s: %v, want ErrUnsupported", dir, err)
		}
	}
}
