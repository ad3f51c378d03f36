#!/usr/bin/env python3
"""Measure llama.cpp in this process, as `drover bench model --model` measures Drover.

It prints the same JSON document: for each measurement the range of tokens per second by wall time
and by the CPU time of the process, the time to load, and the memory in use after all. Sequences
that decode together are one batch with one token of each, in one unified KV cache. Tokens are
random, so that they visit many experts.
"""
import argparse
import ctypes
import json
import statistics
import time

import llama_cpp
import numpy as np

WARM_STEPS = 2


def spread(rates):
    return dict(min=min(rates), median=statistics.median(rates), max=max(rates))


def memory():
    with open("/proc/self/status") as f:
        fields = dict(line.split(":", 1) for line in f)
    return {key: int(fields[name].split()[0]) << 10 for key, name in (
        ("peak_bytes", "VmHWM"), ("anonymous_bytes", "RssAnon"), ("file_bytes", "RssFile"))}


class Engine:
    def __init__(self, path, threads, most):
        params = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), params)
        if not self.model:
            raise SystemExit(f"load {path}: llama.cpp refused it")
        vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(vocabulary)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = 4096, 2048, 512
        params.n_threads = params.n_threads_batch = threads
        params.n_seq_max, params.kv_unified = most, True
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.batch = llama_cpp.llama_batch_init(2048, 0, 1)
        self.random = np.random.default_rng(3)

    def clear(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def step(self, tokens, logits):
        """Run one random token at each (sequence, position), with the logits of the last ones.

        Returns wall and CPU seconds.
        """
        b = self.batch
        b.n_tokens = len(tokens)
        ids = self.random.integers(2, self.vocabulary, b.n_tokens)
        for i, (sequence, position) in enumerate(tokens):
            b.token[i], b.pos[i] = int(ids[i]), position
            b.n_seq_id[i], b.seq_id[i][0] = 1, sequence
            b.logits[i] = i >= b.n_tokens - logits
        wall, cpu = time.perf_counter(), time.process_time()
        if llama_cpp.llama_decode(self.context, b):
            raise SystemExit("llama_decode failed")
        llama_cpp.llama_synchronize(self.context)
        return time.perf_counter() - wall, time.process_time() - cpu

    def prefill(self, tokens, repetitions):
        times = []
        for _ in range(repetitions + 1):
            self.clear()
            times.append(self.step([(0, i) for i in range(tokens)], 1))
        return run("prefill", 1, tokens, tokens, times[1:])

    def decode(self, batch, prompt, steps):
        self.clear()
        for sequence in range(batch):
            self.step([(sequence, i) for i in range(prompt)], 1)
        times = [self.step([(s, prompt + i) for s in range(batch)], batch)
                 for i in range(steps + WARM_STEPS)]
        return run("decode", batch, prompt, batch, times[WARM_STEPS:])


def run(kind, batch, prompt, tokens, times):
    return dict(kind=kind, batch=batch, prompt_tokens=prompt,
                tokens_per_second=spread([tokens / wall for wall, _ in times]),
                tokens_per_cpu_second=spread([tokens / max(cpu, 1e-9) for _, cpu in times]))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="GGUF file")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--prompts", type=int, nargs="*", default=[512])
    parser.add_argument("--prompt-tokens", type=int, default=16)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=2)
    args = parser.parse_args()

    silent = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(
        lambda *_: None)
    llama_cpp.llama_log_set(silent, None)
    llama_cpp.llama_backend_init()
    wall, cpu = time.perf_counter(), time.process_time()
    engine = Engine(args.model, args.threads, max(args.batches, default=1))
    start = dict(seconds=time.perf_counter() - wall, cpu_seconds=time.process_time() - cpu)
    runs = [engine.prefill(n, args.repetitions) for n in args.prompts]
    runs += [engine.decode(n, args.prompt_tokens, args.steps) for n in args.batches]
    print(json.dumps(dict(model=args.model, threads=args.threads, runs=runs,
                          start=dict(start, **memory()))))


if __name__ == "__main__":
    main()
