#!/usr/bin/env python3
"""Prefill on a GPU against transformers with SDPA: the shape of Llama-3-8B, random bf16 weights on both sides, turn by turn.

usage: bench-gpu.py prefill    CAIRN_BENCH_QUICK=1: 2k and 8k tokens, few rounds; CRN_GPU_BENCH: folder of bench/gpu_*

Our side is bench/gpu_prefill, the other one bench_transformers.py in build/bench/venv-gpu (make bench-deps GPU=1); both stay resident,
so that memory for two models is needed (about 48 GB). On the emulator ours alone runs, at toy size, and every figure is refused.
"""
import json
import os
import subprocess
import sys

import bench_common as bench

FOLDER = os.environ.get("CRN_GPU_BENCH", os.path.join(bench.ROOT, "build", "release", "bench"))
PYTHON = os.path.join(bench.OUT, "venv-gpu", "bin", "python")
PEER = "transformers, SDPA"


class Process:
    """Says what it is in one JSON line; then numbers of tokens in, seconds out."""

    def __init__(self, name, command):
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(self.process.wait() or 1)  # it has said why
        self.about = json.loads(line)

    def ask(self, tokens):
        self.process.stdin.write(f"{tokens}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"bench-gpu: {self.name} ended at {tokens} tokens")
        return float(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def start_peer(shape):
    if not os.path.exists(PYTHON):
        print(f"{PEER}: not installed (make bench-deps GPU=1)")
        return None
    return Process(PEER, [PYTHON, os.path.join(bench.ROOT, "tools", "dev", "bench_transformers.py"), json.dumps(shape)])


def prefill():
    own = Process("gpu_prefill", [os.path.join(FOLDER, "gpu_prefill")])
    emulated = own.about["emulated"]
    bench.device_is(own.about["gpu"], own.about["driver"])
    if emulated:
        bench.refuse("timing refused on cuda-emu")
    sizes = [16, 40] if emulated else [2048, 8192] if bench.QUICK else [2048, 8192, 32768]
    peer = None if emulated else start_peer(own.about)
    for tokens in sizes:
        ours, others = [], []
        for turn in range(2 if emulated else 4 if bench.QUICK else 8):
            ours.append(own.ask(tokens))
            if peer:
                others.append(peer.ask(tokens))
            if turn == 0:  # memory and heuristics
                ours, others = [], []
        bench.figure("gpu prefill", f"prefill {tokens}, Llama-3-8B shape", "s", ours, PEER if peer else None, others, inverse=True,
                     note="bf16 weights and KV on both sides, random; " + (peer.about["versions"] if peer else "no baseline installed"))
    for process in filter(None, (own, peer)):
        process.close()


if sys.argv[1:] != ["prefill"]:
    raise SystemExit(__doc__)
prefill()
