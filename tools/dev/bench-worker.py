#!/usr/bin/env python3
"""Benchmarks that drive cairn-worker: prefill and decode against llama.cpp, a sibling's first token, agents, publishing's delay.

usage: bench-worker.py prefill|decode|ttft|agents|delay|spill ...    CAIRN_BENCH_QUICK=1: 1k and 2k tokens, few rounds

Workers are resident; series take turns request by request. Each prints a table and adds its figures to build/bench/results.jsonl.
"""
import json
import os
import subprocess
import sys
import tempfile
import threading
import time

import bench_common as bench

THREADS = 2
LONG = "Repeat the whole text above, word for word, from its beginning."


def rounds(full, quick=2):
    return quick if bench.QUICK else full


def turns(tokens):
    """Rounds for contexts of that length: all of `make bench` is to fit into 40 minutes of an idle machine."""
    return rounds(3 if tokens < 3000 else 2 if tokens < 6000 else 1)


# --- prefill ---

def prefill():
    peers = bench.Llama.start_all(THREADS)
    with bench.Worker("base", None, "--reuse", "never", "--no-publish", "--threads", str(THREADS), "--max-tokens", "1") as worker:
        for size, tokens in bench.sizes().items():
            own, others = [], {name: [] for name in peers}
            for requests in bench.contexts("finder", tokens, turns(tokens), seed=tokens):
                answer = worker.ask(requests[0])
                own.append(answer["context_tokens"] / answer["ttft_parts"]["prefill"])
                for name, llama in peers.items():
                    others[name].append(llama.ask(requests[0]["context"], 1)["prompt_per_second"])
            for name, other in (others or {None: None}).items():
                bench.figure("prefill", f"prefill {size}" + bench.Llama.suffix(name), "tokens/s", own, name, other,
                             goal=(">=", bench.Llama.goal(name, 2.5, 1.3)) if name else None, note=f"{THREADS} threads each, f16 KV")
    for llama in peers.values():
        llama.close()


# --- decode ---

def decode():
    peers = bench.Llama.start_all(THREADS)
    with bench.Broker("3G") as broker, \
            bench.Worker("base", broker, "--threads", str(THREADS), "--max-tokens", "64") as worker:
        for size, tokens in bench.sizes().items():
            own, others = [], {name: [] for name in peers}
            request = {**bench.contexts("finder", tokens, 1, seed=tokens + 1)[0][0], "question": LONG}
            worker.ask(request)  # publishes: what follows attaches and decodes
            for llama in peers.values():
                llama.ask(request["context"], 4, keep=True)
            for _ in range(rounds(3)):
                answer = worker.ask(request)
                if answer["tokens"] >= 8:
                    own.append((answer["tokens"] - 1) / (answer["total_s"] - answer["ttft_s"]))
                for name, llama in peers.items():
                    others[name].append(llama.ask(request["context"], 64, keep=True)["predicted_per_second"])
            for name, other in (others or {None: None}).items():
                bench.figure("decode", f"decode after {size}" + bench.Llama.suffix(name), "tokens/s", own, name, other,
                             goal=(">=", 1.0) if name else None, note="64 tokens at most, greedy; f16 KV")
    for llama in peers.values():
        llama.close()
    for longest in (24, 64):
        batch(longest)


def batch(longest):
    """16 questions on one cached context: together, and one by one."""
    together, single = [], []
    with bench.Broker() as broker, tempfile.TemporaryDirectory() as folder:
        requests = bench.contexts("finder", 1000 if bench.QUICK else 2000, 1, seed=5, questions=16)[0]
        path = os.path.join(folder, "questions.jsonl")
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(r) + "\n" for r in requests)
        with bench.Worker("base", broker, "--threads", str(THREADS)) as worker:
            worker.ask(requests[0])
        for _ in range(1):
            for size, out in ((16, together), (1, single)):
                command = bench.worker_command("base", broker, "--requests", path, "--batch", str(size), "--threads", str(THREADS),
                                               "--max-tokens", str(longest))
                lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
                answers = [json.loads(line) for line in lines]
                out.append(16 / (answers[0]["total_s"] if size == 16 else sum(a["total_s"] for a in answers)))
    mean = sum(a["tokens"] for a in answers) / len(answers)
    bench.figure("decode", f"16 questions on one context, at most {longest} tokens each, batched", "questions/s", together,
                 "one by one", single, goal=(">=", 3.0), note=f"context attached; {mean:.0f} tokens per answer")


# --- first token of a sibling ---

def ttft():
    goals = {"finder": 3.5, "clerk": 2.8}
    for member, goal in goals.items():
        with bench.Broker("3G") as broker:
            broker.put_plans(os.path.join(bench.ROOT, "tests", "data", "plans"))  # 15-23 and 13-23: 9 and 11 layers
            common = ("--no-publish", "--threads", str(THREADS), "--max-tokens", "24")
            with bench.Worker("base", broker, "--reuse", "never", "--threads", str(THREADS), "--max-tokens", "1") as publisher, \
                    bench.Worker(member, broker, "--reuse", "never", *common) as alone, \
                    bench.Worker(member, broker, *common) as sharing:
                for size, tokens in bench.sizes().items():
                    own, shared, same = [], [], 0
                    for requests in bench.contexts(member, tokens, turns(tokens), seed=tokens + 2):
                        publisher.ask(requests[0])
                        a, b = alone.ask(requests[0]), sharing.ask(requests[0])
                        if b["class"] != "approx":
                            raise SystemExit(f"bench: {member} did not reuse: {b['reason']}")
                        own.append(1e3 * a["ttft_s"])
                        shared.append(1e3 * b["ttft_s"])
                        same += a["answer"] == b["answer"]
                    bench.figure("ttft", f"first token, {member}, {size}", "ms", shared, "full prefill of its own", own, inverse=True,
                                 goal=(">=", goal), note=f"run {b['run']}; same answer in {same} of {len(own)}")


# --- the publisher's own first token ---

def delay():
    on, off = [], []
    with bench.Broker() as broker:
        common = ("--reuse", "never", "--threads", str(THREADS), "--max-tokens", "1")
        with bench.Worker("base", broker, *common) as publishing, bench.Worker("base", broker, "--no-publish", *common) as quiet:
            for turn, requests in enumerate(bench.contexts("finder", 1000 if bench.QUICK else 2000, rounds(5, 5), seed=3)):
                order = ((publishing, on), (quiet, off))
                for worker, out in order if turn % 2 == 0 else order[::-1]:
                    out.append(1e3 * worker.ask(requests[0])["ttft_s"])
    bench.figure("publish", "publisher's own first token", "ms", on, "the same without publishing", off, goal=("<=", 1.03),
                 note="whole payloads in f16, streamed layer by layer")


# --- a sibling's first token on a context that is wholly on NVMe ---

def spill():
    """Resident, then sent down whole (states, too), then asked again: the restores hide behind what is computed meanwhile."""
    resident, away, parts, same = [], [], [], 0
    tokens = 1000 if bench.QUICK else 4000
    with bench.Broker("2G", nvme="2G") as broker:
        broker.put_plans()
        common = ("--no-publish", "--threads", str(THREADS), "--max-tokens", "24")
        requests = bench.contexts("finder", tokens, 1, seed=21)[0]
        with bench.Worker("base", broker, "--reuse", "never", "--threads", str(THREADS), "--max-tokens", "1") as publisher:
            publisher.ask(requests[0])
        entries = json.loads(broker.cli("ls", "--json").stdout)["entries"]
        entry = max(entries, key=lambda e: e["bytes"])
        with bench.Worker("finder", broker, *common) as worker:
            worker.ask(requests[0])
            for _ in range(rounds(5, 3)):
                broker.cli("--timeout", "120", "spill", entry["entry"])
                b = worker.ask(requests[0])
                a = worker.ask(requests[0])
                if b["class"] != "approx" or a["class"] != "approx":
                    raise SystemExit(f"bench: no reuse: {b['reason']}")
                resident.append(1e3 * a["ttft_s"])
                away.append(1e3 * b["ttft_s"])
                parts.append((a["ttft_parts"], b["ttft_parts"]))
                same += a["answer"] == b["answer"]
        counters = json.loads(broker.cli("status", "--json").stdout)["counters"]
    first, last = a["run"]
    bench.figure("spill", f"first token from NVMe, finder, {tokens // 1000}k", "ms", away, "resident", resident, goal=("<=", 1.15),
                 note=f"run {first}-{last}; {entry['bytes'] / 1e6:.0f} MB, {counters['restored_total'] // len(away)} payloads each time, "
                      f"{counters['restore_failed_total']} failed; same answer in {same} of {len(away)}")
    print_overlap(parts, first, last, counters)


def print_overlap(parts, first, last, counters):
    """Where the time of the two ways goes; per layer, when it is back (at the measured rate) and when the receiver looks at it."""
    rate = counters["restore_bytes_per_second"]
    layer_s = counters["restored_bytes_total"] / max(1, counters["restored_total"]) / rate
    print(f"\n{'ms':<10}{'attach':>9}{'map':>9}{'run':>9}{'question':>9}   waits are in the part that needs what is waited for")
    for name, which in (("resident", 0), ("from NVMe", 1)):
        medians = [1e3 * bench.quantile([p[which][k] for p in parts], 0.5) for k in ("attach", "map", "run", "suffix")]
        print(f"{name:<10}" + "".join(f"{m:9.1f}" for m in medians))
    print(f"\nper layer, ms after the attach ({1e3 * layer_s:.1f} ms each at {rate / 1e9:.2f} GB/s; the state of layer {first} first, layers "
          f"{first}-{last} are recomputed and stay away)")
    before, question = medians[1] + medians[2], medians[3]
    for i, layer in enumerate([l for l in range(bench.LAYERS) if not first <= l <= last]):
        back, needed = 1e3 * layer_s * (i + 2), before + question * layer / bench.LAYERS
        if layer % 5 == 0 or layer == bench.LAYERS - 1:
            print(f"  layer {layer:2}   back {back:7.1f}   needed {needed:8.1f}   hidden {100 * min(1, needed / back):3.0f} %")


# --- agents ---

FLEET = ("base", "finder", "clerk")
N_CONTEXTS = 6


class Board:
    """Which contexts the base model has published; agents of other models wait for one that is there."""

    def __init__(self, sharing):
        self.ready = [not sharing] * N_CONTEXTS
        self.taken = set()
        self.condition = threading.Condition()

    def take(self, member, left):
        """The next context for an agent: base takes one that no other base agent reads now, others one that is there."""
        with self.condition:
            while True:
                for context in left:
                    free = member == "base" and (self.ready[context] or context not in self.taken)
                    if self.ready[context] or free:
                        self.taken.add(context)
                        return context
                self.condition.wait()

    def done(self, member, context):
        with self.condition:
            if member == "base":
                self.ready[context] = True
            self.condition.notify_all()


def agent(worker, member, first, requests, board, answers, ends):
    left = [(first + i) % N_CONTEXTS for i in range(N_CONTEXTS)]
    while left:
        context = board.take(member, left)
        left.remove(context)
        answers.append((member, context, worker.ask(requests[member][context][0])))
        board.done(member, context)
    ends.append((member, time.monotonic()))


def run_fleet(n, broker, sharing, requests, *options):
    """Requests per second, all answers, and how much longer the slowest agent of a model took than its quickest, at worst."""
    members = [FLEET[i % len(FLEET)] for i in range(n)]
    common = ("--threads", "1", "--max-tokens", "16", *options)
    mode = () if sharing else ("--reuse", "never", "--no-publish")
    workers = [bench.Worker(m, broker, *common, *(mode if m == "base" or not sharing else ("--no-publish",))) for m in members]
    board, answers, ends = Board(sharing), [], []
    threads = [threading.Thread(target=agent, args=(w, m, i * N_CONTEXTS // n, requests, board, answers, ends))
               for i, (w, m) in enumerate(zip(workers, members))]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - begin
    for worker in workers:
        worker.close()
    took = {m: [end - begin for member, end in ends if member == m] for m in members}
    return n * N_CONTEXTS / seconds, answers, max(max(t) / min(t) for t in took.values())


def fleet_requests(seed):
    """The same contexts for all; each model has its own question about them."""
    tokens = 600 if bench.QUICK else 2000
    by_member = {m: bench.contexts(m, tokens, N_CONTEXTS, seed=seed) for m in ("finder", "clerk")}
    texts = [lines[0]["context"] for lines in by_member["finder"]]
    for lines, text in zip(by_member["clerk"], texts):
        lines[0]["context"] = text
    return {**by_member, "base": by_member["finder"]}


def agents():
    for n, goal in ((4, 2.2), (8, 3.0)):
        requests = fleet_requests(10)
        alone, _, alone_spread = run_fleet(n, None, False, requests)
        with bench.Broker("3G") as broker:
            broker.put_plans()
            shared, answers, spread = run_fleet(n, broker, True, requests)
        full = sum(1 for _, _, a in answers if a["class"] == "none")
        bench.figure("agents", f"{n} agents, each about {N_CONTEXTS} contexts", "requests/s", [shared], "no sharing", [alone],
                     goal=(">=", goal), note=f"models in turn: {', '.join(FLEET)}; one thread each; {full} full prefills of {len(answers)}")
        bench.figure("agents", f"{n} agents: the slowest beside the quickest of its model", "times", [spread], "no sharing", [alone_spread],
                     note="from the common start to each agent's last answer")
    kv_bytes("whole payloads, f16", 0.5, (), ())
    kv_bytes("sets at 40 %, int8 everywhere", 0.2, ("--compress", "keep=0.4,i8"), ("--private-int8",))


def kv_bytes(how, goal, publish, read):
    """Cache bytes of four agents on one context: what is shared counts once, private runs for each."""
    members = [FLEET[i % len(FLEET)] for i in range(4)]
    with bench.Broker() as broker:
        broker.put_plans()
        request = bench.contexts("finder", 1000 if bench.QUICK else 4000, 1, seed=9)[0][0]
        command = bench.worker_command("base", broker, "--requests", "-", "--threads", str(THREADS), "--max-tokens", "1", *publish)
        subprocess.run(command, input=json.dumps(request) + "\n", check=True, stdout=subprocess.DEVNULL, text=True)
        answers = []
        for member in members:
            with bench.Worker(member, broker, "--no-publish", "--threads", str(THREADS), "--max-tokens", "8", *read) as worker:
                answers.append(worker.ask(request))
        entries = json.loads(broker.cli("ls", "--json").stdout)["entries"]
    stored = max(e["bytes"] for e in entries)
    total = stored + sum(a["kv_private_bytes"] for a in answers)
    full = len(members) * answers[0]["context_tokens"] * bench.FULL_F16_BYTES_PER_TOKEN
    classes = ", ".join(f"{m} {a['class']}" for m, a in zip(members, answers))
    bench.figure("agents", f"KV bytes of 4 agents, {how}", "MB", [total / 1e6], "four full f16 caches", [full / 1e6],
                 goal=("<=", goal), note=f"{classes}; entry {stored / 1e6:.1f} MB with states")


def main():
    known = {"prefill": prefill, "decode": decode, "ttft": ttft, "agents": agents, "delay": delay, "spill": spill}
    if len(sys.argv) < 2 or any(name not in known for name in sys.argv[1:]):
        raise SystemExit(__doc__)
    for name in sys.argv[1:]:
        known[name]()


main()
