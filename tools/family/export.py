#!/usr/bin/env python3
"""Turns a LoRA adapter of PEFT into a GGUF adapter in llama.cpp's format (F16).

Llama-architecture GGUF files keep the rows of Q and K in the order of interleaved RoPE pairs; the B matrices follow them.
"""
import argparse
import json
import os
import re

import numpy
from gguf import GGUFWriter
from safetensors.numpy import load_file

import base


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", metavar="DIR", help="what train.py wrote")
    parser.add_argument("output", metavar="FILE", help="the GGUF adapter")
    parser.add_argument("--name", help="general.name of the file (default: name of DIR)")
    parser.add_argument("--base", default=base.default_path(), metavar="FILE", help="GGUF of the foundation")
    return parser.parse_args()


def interleave(rows, n_heads):
    """Rows of each head from halves (first, second) to pairs (first, second, first, second, ...)."""
    halves = rows.reshape(n_heads, 2, rows.shape[0] // n_heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def tensors_of(adapter, n_heads, n_kv_heads):
    """(GGUF name, f16 array), layer by layer."""
    name_pattern = re.compile(r"base_model\.model\.model\.layers\.(\d+)\.(.+)\.lora_([AB])\.weight")
    found = []
    for name, values in adapter.items():
        layer, projection, matrix = name_pattern.fullmatch(name).groups()
        values = values.astype(numpy.float32)
        if matrix == "B" and projection == "self_attn.q_proj":
            values = interleave(values, n_heads)
        if matrix == "B" and projection == "self_attn.k_proj":
            values = interleave(values, n_kv_heads)
        found.append((int(layer), f"{base.TARGETS[projection]}.weight.lora_{matrix.lower()}", values.astype(numpy.float16)))
    return [(f"blk.{layer}.{name}", values) for layer, name, values in sorted(found, key=lambda item: item[:2])]


def main():
    arguments = parse_arguments()
    with open(os.path.join(arguments.adapter, "adapter_config.json"), encoding="utf-8") as file:
        config = json.load(file)
    adapter = load_file(os.path.join(arguments.adapter, "adapter_model.safetensors"))
    writer = GGUFWriter(arguments.output, "llama")
    writer.add_type("adapter")
    writer.add_name(arguments.name or os.path.basename(os.path.abspath(arguments.adapter)))
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(config["lora_alpha"]))
    writer.add_license("apache-2.0")
    writer.add_description("LoRA sibling of SmolLM2-135M-Instruct")
    for name, values in tensors_of(adapter, *base.head_counts(arguments.base)):
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
