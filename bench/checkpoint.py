"""Read the tensors of a checkpoint of safetensors files without loading them."""
import json
import os
import struct

import numpy as np


class Checkpoint:
    def __init__(self, directory):
        self.directory = directory
        self.config = self.json("config.json")
        self.places = {}  # name: file, offset, shape
        for file in sorted(set(self.json("model.safetensors.index.json")["weight_map"].values())):
            with open(os.path.join(directory, file), "rb") as f:
                length = struct.unpack("<Q", f.read(8))[0]
                header = json.loads(f.read(length))
            for name, t in header.items():
                if name == "__metadata__":
                    continue
                if t["dtype"] != "BF16":
                    raise SystemExit(f"{file}: tensor {name} is {t['dtype']}, want BF16")
                self.places[name] = file, 8 + length + t["data_offsets"][0], tuple(t["shape"])

    def json(self, name):
        with open(os.path.join(self.directory, name)) as f:
            return json.load(f)

    def __contains__(self, name):
        return name in self.places

    def shape(self, name):
        return self.places[name][2]

    def bits(self, name):
        """The tensor's bfloat16 as uint16, mapped from the file."""
        file, offset, shape = self.places[name]
        return np.memmap(os.path.join(self.directory, file), np.uint16, "r", offset, shape)


def widen(bits):
    """float32 of bfloat16."""
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)
