#!/usr/bin/env python3
"""Where the time goes: perf samples of prefill, suffix pass, decoding, gather and attach, and what the machine can do at most.

usage: bench-profile.py     after `make all` and the bench programs; needs perf and the right to sample processes

A phase is sampled in the process that does it (cairn-worker or cairnd) while requests keep it busy with little else. Shares are of
the process's own samples. Adds figures of group "profile" to build/bench/results.jsonl.
"""
import collections
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

import bench_common as bench

THREADS = 2
PROGRAMS = os.path.join(bench.ROOT, "build", "release", "bench")
BIN = os.path.abspath(bench.BIN)
LONG = "Repeat the whole text above, word for word, from its beginning."

# What a symbol belongs to: the first rule that fits its object and name.
RULES = [
    ("GEMM library (oneDNN)", r"^(\[JIT\]|libdnnl|\[unknown\]|perf-)", r""),
    ("own products of stored weights", r"", r"^(gemm|gemm_rows|gemv|gemv_finish|gemm_task|decode_row|multiply_)"),
    ("attention", r"", r"^(tile_attend|tile_scores|columns|widen_rows|transpose|merge|write_out|crn_block_|chunk_task|block_task)"),
    ("norms, RoPE, SwiGLU, conversions", r"", r"^(rmsnorm|swiglu|sines|rotate|add|narrow|split_|quant_|convert|highest)"),
    ("waking and waiting threads", r"", r"^(crn_pool_run|thread_main|work|syscall|futex|finish_task_switch|_raw_spin_unlock|schedule|__schedule)"),
    ("checksum (XXH3)", r"^libxxhash", r""),
    ("page faults", r"kernel", r"(clear_page|fault|folio|shmem|charge|alloc_pages|get_page|rmqueue|pte|filemap)"),
    ("copying rows", r"", r"(memcpy|memmove|take_plain|copy_block|copy_rows|avx_unaligned|evex_unaligned)"),
    ("ZeroMQ and its system calls", r"^libzmq", r""),
    ("other kernel", r"kernel", r""),
]


def rule_of(dso, symbol):
    for name, in_dso, in_symbol in RULES:
        if re.search(in_dso, dso) and re.search(in_symbol, symbol):
            return name
    return "other"


class Sampling:
    """perf record of one process while the block runs; shares() afterwards."""

    def __init__(self, pid, folder):
        self.data = os.path.join(folder, "perf.data")
        self.command = ["perf", "record", "-q", "-F", "997", "-o", self.data, "-p", str(pid)]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stderr=subprocess.DEVNULL)
        time.sleep(0.3)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def shares(self):
        report = subprocess.run(["perf", "report", "-i", self.data, "--no-children", "--sort", "dso,sym", "--stdio", "-t", "\t"],
                                capture_output=True, text=True, check=True).stdout
        total = collections.Counter()
        for line in report.splitlines():
            parts = [part.strip() for part in line.split("\t")]
            if len(parts) >= 3 and parts[0].endswith("%"):
                total[rule_of(parts[1], re.sub(r"^\[[.kguH]\] *", "", parts[2]))] += float(parts[0][:-1])
        return total.most_common()


def record(phase, shares, note):
    shares = [(name, share) for name, share in shares if share >= 1.0]
    bench.shares("profile", phase, shares, note)


def worker_phases(folder):
    tokens = 1000 if bench.QUICK else 2000
    many = bench.contexts("finder", tokens, 3, seed=77, questions=8)
    with bench.Worker("base", None, "--reuse", "never", "--no-publish", "--threads", str(THREADS), "--max-tokens", "1") as worker:
        with Sampling(worker.process.pid, folder) as sampling:
            answers = [worker.ask(requests[0]) for requests in many]
    seconds = sum(a["ttft_parts"]["prefill"] for a in answers)
    record("prefill", sampling.shares(), f"{sum(a['context_tokens'] for a in answers) / seconds:.0f} tokens/s, {tokens} tokens each")
    with bench.Broker() as broker, bench.Worker("base", broker, "--threads", str(THREADS), "--max-tokens", "1") as worker:
        worker.ask(many[0][0])
        with Sampling(worker.process.pid, folder) as sampling:
            answers = [worker.ask(r) for _ in range(3) for r in many[0]]
        middle = sorted(a["ttft_parts"]["suffix"] for a in answers)[len(answers) // 2]
        record("suffix pass of a question", sampling.shares(), f"{1e3 * middle:.0f} ms after {tokens} tokens")
        with Sampling(broker.process.pid, folder) as sampling:
            for _ in range(3):
                for r in many[0]:
                    worker.ask(r)
        record("cairnd while that context is attached", sampling.shares(), "one MATCH, ATTACH and RELEASE per question")
    with bench.Broker() as broker, bench.Worker("base", broker, "--threads", str(THREADS), "--max-tokens", "64") as worker:
        request = {**many[0][0], "question": LONG}
        worker.ask(request)
        with Sampling(worker.process.pid, folder) as sampling:
            answers = [worker.ask(request) for _ in range(3)]
        rate = sum(a["tokens"] - 1 for a in answers) / sum(a["total_s"] - a["ttft_s"] for a in answers)
        record("decoding", sampling.shares(), f"{rate:.0f} tokens/s after {tokens} tokens")


def gather_phase(folder):
    """cairnd while a publisher hands over entries as fast as it can: bench/publish, whose broker is found by its parent."""
    process = subprocess.Popen([os.path.join(PROGRAMS, "publish")], env={**os.environ, "CAIRN_BENCH_QUICK": "1", "CRN_BIN": BIN},
                               stdout=subprocess.DEVNULL, cwd=folder)
    pid, limit = None, time.monotonic() + 20
    while pid is None and time.monotonic() < limit and process.poll() is None:
        found = subprocess.run(["pgrep", "-P", str(process.pid), "cairnd"], capture_output=True, text=True).stdout.split()
        pid = int(found[0]) if found else None
    if pid is None:
        raise SystemExit("bench-profile: bench/publish has no broker")
    with Sampling(pid, folder) as sampling:
        process.wait()
    record("cairnd while entries are published", sampling.shares(), "128 MiB in 32 layers, f16, several times")


def limits():
    for unit, name, pattern in (("GFLOP/s", "limit: product of 1024 tokens, f32", "gemm f32 m 1024 576 -> 1536"),
                                ("GFLOP/s", "limit: product of 32 tokens, Q4_1", "gemm q4_1 m 32 576 -> 1536"),
                                ("GFLOP/s", "causal attention of 1024 tokens, f16", "attention f16 1024 of 1024"),
                                ("GB/s", "limit: copy of 256 MiB, read and written", "copy 256 MiB")):
        out = subprocess.run([os.path.join(PROGRAMS, "kernels"), str(THREADS), pattern], capture_output=True, text=True, check=True).stdout
        value = re.search(r"us\s+([0-9.]+) " + re.escape(unit) + r" \(best ([0-9.]+)\)", out)
        if value:
            bench.figure("profile", name, unit, [float(value[1])], note=f"best of the run {value[2]}; {THREADS} threads")


def main():
    if shutil.which("perf") is None:
        print("bench-profile: perf is not installed; no profile")
        return
    with tempfile.TemporaryDirectory() as folder:
        limits()
        worker_phases(folder)
        gather_phase(folder)


if __name__ == "__main__":
    sys.exit(main())
