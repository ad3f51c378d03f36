#!/usr/bin/env python3
"""Convert a checkpoint of make_mini_maverick.py to a BF16 GGUF of the same weights, bit for bit.

Norms and the gate become F32, which loses nothing. Tensors are streamed: it needs less than 2.5 GB.
"""
import argparse

import gguf
import numpy as np

from checkpoint import Checkpoint, widen

BF16, F32 = gguf.GGMLQuantizationType.BF16, gguf.GGMLQuantizationType.F32
ATTENTION = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


def add_metadata(writer, ckpt):
    c = ckpt.config
    writer.add_name("mini-maverick")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_block_count(c["num_hidden_layers"])
    writer.add_context_length(c["max_position_embeddings"])
    writer.add_embedding_length(c["hidden_size"])
    writer.add_feed_forward_length(c["intermediate_size_mlp"])
    writer.add_expert_feed_forward_length(c["intermediate_size"])
    writer.add_expert_count(c["num_local_experts"])
    writer.add_expert_used_count(c["num_experts_per_tok"])
    writer.add_interleave_moe_layer_step(c["interleave_moe_layer_step"])
    writer.add_head_count(c["num_attention_heads"])
    writer.add_head_count_kv(c["num_key_value_heads"])
    writer.add_key_length(c["head_dim"])
    writer.add_value_length(c["head_dim"])
    writer.add_rope_dimension_count(c["head_dim"])
    writer.add_rope_freq_base(c["rope_theta"])
    writer.add_layer_norm_rms_eps(c["rms_norm_eps"])
    writer.add_vocab_size(c["vocab_size"])


def add_tokenizer(writer, ckpt):
    c, t = ckpt.config, ckpt.json("tokenizer.json")
    plain = {i: token for token, i in t["model"]["vocab"].items()}
    special = {a["id"]: a["content"] for a in t["added_tokens"]}
    ids = range(c["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama4")
    writer.add_token_list([special.get(i) or plain[i] for i in ids])
    writer.add_token_types([gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL
                            for i in ids])
    writer.add_token_merges([" ".join(m) for m in t["model"]["merges"]])
    writer.add_bos_token_id(c["bos_token_id"])
    writer.add_eos_token_id(c["eos_token_id"])
    writer.add_add_bos_token(False)


class Tensors:
    """The tensors of a GGUF: described first, made one by one when they are written."""

    def __init__(self, writer, ckpt):
        self.writer, self.ckpt, self.make = writer, ckpt, []

    def describe(self, name, shape, kind, make):
        size = int(np.prod(shape)) * (2 if kind == BF16 else 4)
        dtype = np.dtype(np.float32 if kind == F32 else np.float16)
        self.writer.add_tensor_info(name, list(shape), dtype, size, raw_dtype=kind)
        self.make.append(make)

    def weights(self, name, source):
        self.describe(name, self.ckpt.shape(source), BF16, lambda: self.ckpt.bits(source))

    def widened(self, name, source):
        self.describe(name, self.ckpt.shape(source), F32, lambda: widen(self.ckpt.bits(source)))

    def experts(self, name, source, first, end):
        """Outputs first to end of fused experts, which lie (experts, inputs, outputs)."""
        count, inputs, _ = self.ckpt.shape(source)

        def make():
            out = np.empty((count, end - first, inputs), np.uint16)
            bits = self.ckpt.bits(source)
            for e in range(count):
                out[e] = np.array(bits[e, :, first:end]).T
            return out

        self.describe(name, (count, end - first, inputs), BF16, make)

    def layer(self, i):
        source, target, c = f"model.layers.{i}.", f"blk.{i}.", self.ckpt.config
        for a, b in NORMS.items():
            self.widened(f"{target}{b}.weight", f"{source}{a}.weight")
        for a, b in ATTENTION.items():
            self.weights(f"{target}{b}.weight", f"{source}self_attn.{a}.weight")
        mlp, suffix = source + "feed_forward.", ""
        if mlp + "router.weight" in self.ckpt:
            width, hidden = c["intermediate_size"], c["hidden_size"]
            self.widened(target + "ffn_gate_inp.weight", mlp + "router.weight")
            gate_up, down = mlp + "experts.gate_up_proj", mlp + "experts.down_proj"
            self.experts(target + "ffn_gate_exps.weight", gate_up, 0, width)
            self.experts(target + "ffn_up_exps.weight", gate_up, width, 2 * width)
            self.experts(target + "ffn_down_exps.weight", down, 0, hidden)
            mlp, suffix = mlp + "shared_expert.", "_shexp"
        for part in ("gate", "up", "down"):
            self.weights(f"{target}ffn_{part}{suffix}.weight", f"{mlp}{part}_proj.weight")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("out")
    args = parser.parse_args()
    ckpt = Checkpoint(args.checkpoint)
    writer = gguf.GGUFWriter(args.out, "llama4")
    add_metadata(writer, ckpt)
    add_tokenizer(writer, ckpt)
    tensors = Tensors(writer, ckpt)
    tensors.weights("token_embd.weight", "model.embed_tokens.weight")
    tensors.widened("output_norm.weight", "model.norm.weight")
    tensors.weights("output.weight", "lm_head.weight")
    for i in range(ckpt.config["num_hidden_layers"]):
        tensors.layer(i)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for make in tensors.make:
        writer.write_tensor_data(np.ascontiguousarray(make()))
    writer.close()


if __name__ == "__main__":
    main()
