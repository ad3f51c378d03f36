#!/usr/bin/env python3
"""Quantise a BF16 GGUF with llama.cpp."""
import argparse
import sys

import llama_cpp

TYPES = {"q4_0": 2, "q8_0": 7}  # llama_ftype


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("out")
    parser.add_argument("type", choices=TYPES)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = TYPES[args.type], args.threads
    sys.exit(llama_cpp.llama_model_quantize(args.source.encode(), args.out.encode(), params))


if __name__ == "__main__":
    main()
