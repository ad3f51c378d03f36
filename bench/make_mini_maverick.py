#!/usr/bin/env python3
"""Write a deterministic checkpoint of Llama 4's architecture, in the layout of Hugging Face.

Each weight is a function of (seed, tensor's name, flat index) alone, so that any tensor, or a slice
of it, can be made again without the rest:

    key = fnv1a64(name) xor (seed * GOLDEN mod 2^64)
    z   = splitmix64's finalizer of key + (index + 1) * GOLDEN
    t   = sum of z's four 16-bit lanes, 0 to 262140, which is near to a normal distribution
    w   = bfloat16(float32(t - 131070) * float32(std / 37837.2273))

std is 1/sqrt(inputs), for o_proj and down_proj over sqrt(2 * layers) too; 1 for embeddings; norms
are ones. Experts are fused as in Llama 4: gate_up_proj (experts, hidden, 2 * width), gate first,
and down_proj (experts, width, hidden).

Presets: maverick (5.28 B parameters, 10.6 GB, 0.42 B read for a token), scout (the same with 16
experts in every layer), tiny (0.1 GB) and test (0.8 MB).
"""
import argparse
import json
import math
import os
import struct
import sys

import numpy as np

PRESETS = {
    "maverick": dict(hidden=2048, layers=12, interleave=2, experts=128, width=1024,
                     dense_width=4096, heads=16, kv_heads=4, head_dim=128, vocabulary=32000,
                     qk_norm=False),
    # Maverick's layers, with experts enough for one machine that has other things to do.
    "few-experts": dict(hidden=2048, layers=12, interleave=2, experts=16, width=1024,
                        dense_width=4096, heads=16, kv_heads=4, head_dim=128, vocabulary=32000,
                        qk_norm=False),
    "scout": dict(hidden=2048, layers=12, interleave=1, experts=16, width=1024,
                  dense_width=4096, heads=16, kv_heads=4, head_dim=128, vocabulary=32000,
                  qk_norm=True),
    "tiny": dict(hidden=256, layers=4, interleave=2, experts=128, width=256, dense_width=512,
                 heads=4, kv_heads=2, head_dim=64, vocabulary=2048, qk_norm=False),
    "test": dict(hidden=64, layers=4, interleave=2, experts=8, width=64, dense_width=128,
                 heads=4, kv_heads=2, head_dim=32, vocabulary=1024, qk_norm=False),
}
GOLDEN = 0x9E3779B97F4A7C15
MASK64 = 2**64 - 1
CHUNK = 1 << 15


def fnv1a64(text):
    h = 0xCBF29CE484222325
    for b in text.encode():
        h = ((h ^ b) * 0x100000001B3) & MASK64
    return h


class Generator:
    """Weights of one seed; chunks share its arrays."""

    def __init__(self, seed):
        self.seed = seed
        self.steps = np.arange(1, CHUNK + 1, dtype=np.uint64) * np.uint64(GOLDEN)
        self.z = np.empty(CHUNK, np.uint64)
        self.t = np.empty(CHUNK, np.uint64)
        self.f = np.empty(CHUNK, np.float32)

    def chunks(self, name, count, std):
        """Yield count weights as the bits of bfloat16."""
        key = fnv1a64(name) ^ (self.seed * GOLDEN & MASK64)
        scale = np.float32(std / 37837.2273)
        for at in range(0, count, CHUNK):
            n = min(CHUNK, count - at)
            z, t, f = self.z[:n], self.t[:n], self.f[:n]
            np.add(self.steps[:n], np.uint64((key + at * GOLDEN) & MASK64), out=z)
            self.finalize(z, t)
            np.right_shift(z, np.uint64(16), out=t)  # sum the lanes in two steps
            lanes = np.uint64(0x0000FFFF0000FFFF)
            np.bitwise_and(t, lanes, out=t)
            np.bitwise_and(z, lanes, out=z)
            np.add(z, t, out=z)
            np.right_shift(z, np.uint64(32), out=t)
            np.add(z, t, out=z)
            np.subtract(z.view(np.int32)[::2], 131070, out=f, casting="unsafe")
            np.multiply(f, scale, out=f)
            bits = f.view(np.uint32)
            even = ((bits >> np.uint32(16)) & np.uint32(1)) + np.uint32(0x7FFF)
            yield ((bits + even) >> np.uint32(16)).astype(np.uint16)

    @staticmethod
    def finalize(z, t):
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, None)):
            np.right_shift(z, np.uint64(shift), out=t)
            np.bitwise_xor(z, t, out=z)
            if factor:
                np.multiply(z, np.uint64(factor), out=z)


def tensors(p):
    """Yield (file, name, shape, std) of every tensor; std is None for ones."""
    hidden, width = p["hidden"], p["width"]
    q, kv = p["heads"] * p["head_dim"], p["kv_heads"] * p["head_dim"]
    residual = 1 / math.sqrt(2 * p["layers"])

    def std(inputs):
        return 1 / math.sqrt(inputs)

    yield 0, "model.embed_tokens.weight", (p["vocabulary"], hidden), 1.0
    yield 0, "model.norm.weight", (hidden,), None
    yield 0, "lm_head.weight", (p["vocabulary"], hidden), std(hidden)
    for i in range(p["layers"]):
        layer, file = f"model.layers.{i}.", i + 1
        yield file, layer + "input_layernorm.weight", (hidden,), None
        yield file, layer + "post_attention_layernorm.weight", (hidden,), None
        yield file, layer + "self_attn.q_proj.weight", (q, hidden), std(hidden)
        yield file, layer + "self_attn.k_proj.weight", (kv, hidden), std(hidden)
        yield file, layer + "self_attn.v_proj.weight", (kv, hidden), std(hidden)
        yield file, layer + "self_attn.o_proj.weight", (hidden, q), std(q) * residual
        mlp, mlp_width = layer + "feed_forward.", p["dense_width"]
        if (i + 1) % p["interleave"] == 0:
            experts = p["experts"]
            yield file, mlp + "router.weight", (experts, hidden), std(hidden)
            yield (file, mlp + "experts.gate_up_proj", (experts, hidden, 2 * width), std(hidden))
            yield (file, mlp + "experts.down_proj", (experts, width, hidden),
                   std(width) * residual)
            mlp, mlp_width = mlp + "shared_expert.", width
        yield file, mlp + "gate_proj.weight", (mlp_width, hidden), std(hidden)
        yield file, mlp + "up_proj.weight", (mlp_width, hidden), std(hidden)
        yield file, mlp + "down_proj.weight", (hidden, mlp_width), std(mlp_width) * residual


def config(p):
    layers = range(p["layers"])
    rope = [int((i + 1) % 4 != 0) for i in layers]
    return dict(
        architectures=["Llama4ForCausalLM"], model_type="llama4_text", torch_dtype="bfloat16",
        dtype="bfloat16", hidden_size=p["hidden"], num_hidden_layers=p["layers"],
        num_attention_heads=p["heads"], num_key_value_heads=p["kv_heads"],
        head_dim=p["head_dim"], intermediate_size=p["width"],
        intermediate_size_mlp=p["dense_width"], num_local_experts=p["experts"],
        num_experts_per_tok=1, interleave_moe_layer_step=p["interleave"],
        moe_layers=[i for i in layers if (i + 1) % p["interleave"] == 0],
        use_qk_norm=p["qk_norm"], no_rope_layers=rope,
        layer_types=["chunked_attention" if r else "full_attention" for r in rope],
        attention_chunk_size=8192, attn_temperature_tuning=True, floor_scale=8192,
        attn_scale=0.1, rope_theta=500000.0, rope_scaling=None, rms_norm_eps=1e-5,
        max_position_embeddings=16384, vocab_size=p["vocabulary"], hidden_act="silu",
        tie_word_embeddings=False, attention_bias=False, attention_dropout=0.0,
        router_jitter_noise=0.0, output_router_logits=False, router_aux_loss_coef=0.001,
        bos_token_id=0, eos_token_id=1, pad_token_id=None, use_cache=True,
        initializer_range=0.02)


def byte_symbols():
    """The characters that stand for the 256 bytes in byte-level BPE."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    symbols = {b: chr(b) for b in printable}
    symbols.update({b: chr(256 + i) for i, b in enumerate(others)})
    return [symbols[b] for b in range(256)]


def vocabulary(p):
    """Tokens by id, and merges: two control tokens, bytes, pairs of letters, fillers."""
    tokens = ["<|begin_of_text|>", "<|end_of_text|>"] + byte_symbols()
    merges = []
    letters = "\u0120abcdefghijklmnopqrstuvwxyz"
    for a in letters:
        for b in letters[1:]:
            if len(tokens) < p["vocabulary"] - 8:
                merges.append((a, b))
                tokens.append(a + b)
    tokens += [f"<|filler_{i}|>" for i in range(p["vocabulary"] - len(tokens))]
    return tokens, merges


def write_tokenizer(p, out):
    tokens, merges = vocabulary(p)
    special = [dict(id=i, content=t, single_word=False, lstrip=False, rstrip=False,
                    normalized=False, special=True)
               for i, t in enumerate(tokens) if t.startswith("<|")]
    plain = {t: i for i, t in enumerate(tokens) if not t.startswith("<|")}
    write_json(out, "tokenizer.json", dict(
        version="1.0", truncation=None, padding=None, added_tokens=special, normalizer=None,
        pre_tokenizer=dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True,
                           use_regex=True),
        post_processor=None,
        decoder=dict(type="ByteLevel", add_prefix_space=True, trim_offsets=True, use_regex=True),
        model=dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None,
                   end_of_word_suffix=None, fuse_unk=False, byte_fallback=False,
                   ignore_merges=False, vocab=plain, merges=[list(m) for m in merges])))
    write_json(out, "tokenizer_config.json", dict(
        tokenizer_class="PreTrainedTokenizerFast", bos_token="<|begin_of_text|>",
        eos_token="<|end_of_text|>", model_max_length=16384))
    write_json(out, "generation_config.json",
               dict(bos_token_id=0, eos_token_id=1, do_sample=False))


def write_json(out, name, value):
    with open(os.path.join(out, name), "w") as f:
        json.dump(value, f)


def write_weights(p, seed, out):
    """Write one file for each layer and one for the rest, and the index."""
    files = {}
    for file, *tensor in tensors(p):
        files.setdefault(file, []).append(tensor)
    generator, index, total = Generator(seed), {}, 0
    for file, content in sorted(files.items()):
        name = f"model-{file + 1:05d}-of-{len(files):05d}.safetensors"
        header, at = {"__metadata__": {"format": "pt"}}, 0
        for tensor, shape, _ in content:
            size = 2 * math.prod(shape)
            header[tensor] = dict(dtype="BF16", shape=shape, data_offsets=[at, at + size])
            index[tensor] = name
            at += size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with open(os.path.join(out, name), "wb", buffering=1 << 20) as f:
            f.write(struct.pack("<Q", len(text)) + text)
            for tensor, shape, std in content:
                count = math.prod(shape)
                if std is None:
                    f.write(np.full(count, 0x3F80, np.uint16).tobytes())
                    continue
                for chunk in generator.chunks(tensor, count, std):
                    f.write(chunk.tobytes())
        total += at
        print(f"{name} {at / 1e9:.2f} GB", file=sys.stderr, flush=True)
    write_json(out, "model.safetensors.index.json",
               dict(metadata=dict(total_size=total), weight_map=index))
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="directory to write")
    parser.add_argument("--preset", choices=PRESETS, default="maverick")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    preset = PRESETS[args.preset]
    os.makedirs(args.out, exist_ok=True)
    total = write_weights(preset, args.seed, args.out)
    write_tokenizer(preset, args.out)
    # Last, so that a directory with a config is a whole checkpoint.
    write_json(args.out, "config.json", config(preset))
    print(f"{total / 2e9:.3f} B parameters, {total / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
