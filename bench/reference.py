#!/usr/bin/env python3
"""Compute the logits of a prompt with numpy in float32, and write them as a fixture.

The checkpoint is one of make_mini_maverick.py: Llama 4's text model. The files expected.safetensors
and expected.json are written beside it, so that `drover verify CHECKPOINT` compares its numbers.
"""
import argparse
import json
import os
import struct

import numpy as np

from checkpoint import Checkpoint, widen


def rms_norm(x, weight, eps):
    mean = np.mean(x.astype(np.float64) ** 2, axis=-1, keepdims=True)
    return (x / np.sqrt(mean + eps)).astype(np.float32) * weight


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class Model:
    def __init__(self, ckpt):
        self.ckpt, self.c = ckpt, ckpt.config
        self.routes = {}  # layer: (logits, expert, weight) of each position

    def weight(self, name):
        return widen(self.ckpt.bits(name))

    def linear(self, x, name):
        return x @ self.weight(name).T

    def logits(self, ids):
        eps = self.c["rms_norm_eps"]
        x = widen(self.ckpt.bits("model.embed_tokens.weight")[ids])
        for i in range(self.c["num_hidden_layers"]):
            layer = f"model.layers.{i}."
            h = rms_norm(x, self.weight(layer + "input_layernorm.weight"), eps)
            x = x + self.attention(i, layer + "self_attn.", h)
            h = rms_norm(x, self.weight(layer + "post_attention_layernorm.weight"), eps)
            x = x + self.feed_forward(i, layer + "feed_forward.", h)
        x = rms_norm(x, self.weight("model.norm.weight"), eps)
        return self.linear(x, "lm_head.weight")

    def attention(self, i, name, x):
        c, n = self.c, len(x)
        dim, heads, kv_heads = c["head_dim"], c["num_attention_heads"], c["num_key_value_heads"]
        q = self.linear(x, name + "q_proj.weight").reshape(n, heads, dim)
        k = self.linear(x, name + "k_proj.weight").reshape(n, kv_heads, dim)
        v = self.linear(x, name + "v_proj.weight").reshape(n, kv_heads, dim)
        at = np.arange(n)
        seen = at[:, None] >= at[None, :]
        if c["no_rope_layers"][i]:  # 1: this layer has rotary embedding
            q, k = self.rotate(q), self.rotate(k)
            if c["use_qk_norm"]:
                one = np.float32(1)
                q, k = rms_norm(q, one, c["rms_norm_eps"]), rms_norm(k, one, c["rms_norm_eps"])
            chunk = c["attention_chunk_size"]
            seen &= at[:, None] // chunk == at[None, :] // chunk
        elif c["attn_temperature_tuning"]:
            floor = np.floor((at + 1) / c["floor_scale"])
            q = q * (np.log1p(floor) * c["attn_scale"] + 1).astype(np.float32)[:, None, None]
        out = np.empty_like(q)
        for head in range(heads):
            kv = head // (heads // kv_heads)
            scores = q[:, head] @ k[:, kv].T / np.float32(np.sqrt(dim))
            scores = np.where(seen, scores, -np.inf)
            p = np.exp(scores - scores.max(axis=1, keepdims=True))
            out[:, head] = p / p.sum(axis=1, keepdims=True) @ v[:, kv]
        return self.linear(out.reshape(n, -1), name + "o_proj.weight")

    def rotate(self, x):
        """Rotate neighbouring pairs of each head, as complex numbers."""
        dim = x.shape[-1]
        frequency = self.c["rope_theta"] ** (-np.arange(0, dim, 2) / dim)
        angle = np.arange(len(x))[:, None, None] * frequency
        turned = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angle)
        return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape).astype(np.float32)

    def feed_forward(self, i, name, x):
        if name + "router.weight" not in self.ckpt:
            return self.mlp(name, x)
        logits = self.linear(x, name + "router.weight")
        expert = logits.argmax(axis=1)
        weight = sigmoid(np.take_along_axis(logits, expert[:, None], axis=1))
        self.routes[i] = logits, expert[:, None], weight
        y = self.mlp(name + "shared_expert.", x)
        width = self.c["intermediate_size"]
        for e in np.unique(expert):
            rows = np.flatnonzero(expert == e)
            gate_up = widen(self.ckpt.bits(name + "experts.gate_up_proj")[e])
            down = widen(self.ckpt.bits(name + "experts.down_proj")[e])
            h = x[rows] * weight[rows] @ gate_up
            y[rows] += h[:, :width] * sigmoid(h[:, :width]) * h[:, width:] @ down
        return y

    def mlp(self, name, x):
        gate = self.linear(x, name + "gate_proj.weight")
        up = self.linear(x, name + "up_proj.weight")
        return self.linear(gate * sigmoid(gate) * up, name + "down_proj.weight")


def write_safetensors(path, arrays):
    header, at = {}, 0
    for name, a in arrays.items():
        dtype = {"float32": "F32", "int32": "I32"}[str(a.dtype)]
        header[name] = dict(dtype=dtype, shape=a.shape, data_offsets=[at, at + a.nbytes])
        at += a.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for a in arrays.values():
            f.write(np.ascontiguousarray(a).tobytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--tokens", type=int, default=16, help="tokens of the prompt")
    parser.add_argument("--seed", type=int, default=5, help="of the prompt")
    args = parser.parse_args()
    ckpt = Checkpoint(args.checkpoint)
    ids = np.random.default_rng(args.seed).integers(2, ckpt.config["vocab_size"], args.tokens)
    model = Model(ckpt)
    logits = model.logits(ids)
    arrays = {"ids.p": ids.astype(np.int32), "logits.p": logits.astype(np.float32)}
    for layer, (gate, expert, weight) in model.routes.items():
        key = f"router.p.layer{layer}."
        arrays[key + "indices"] = expert.astype(np.int32)
        arrays[key + "weights"] = weight.astype(np.float32)
        arrays[key + "logits"] = gate.astype(np.float32)
    write_safetensors(os.path.join(args.checkpoint, "expected.safetensors"), arrays)
    with open(os.path.join(args.checkpoint, "expected.json"), "w") as f:
        json.dump(dict(note="bench/reference.py: numpy, float32", prompts={"p": args.tokens}), f)
    best = [np.sort(gate, axis=1)[:, -2:] for gate, _, _ in model.routes.values()]
    margin = min(float(np.min(b[:, 1] - b[:, 0])) for b in best)
    print(f"{args.tokens} tokens, logits with a standard deviation of {logits.std():.2f}, "
          f"smallest margin of a gate {margin:.4f}")


if __name__ == "__main__":
    main()
