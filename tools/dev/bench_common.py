"""What the Python benchmarks share: brokers, resident workers, llama.cpp in a process of its own, contexts, and figures.

A figure is one row of a table on stdout and one JSON line in build/bench/results.jsonl, in the form of bench/common.c.
"""
import json
import os
import platform
import subprocess
import sys
import tempfile
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
OUT = os.path.join(ROOT, "build", "bench")
RESULTS = os.path.join(OUT, "results.jsonl")
BIN = os.environ.get("CRN_BIN", os.path.join(ROOT, "build", "release", "bin"))
FAMILY = os.path.join(ROOT, "share", "family")
VENV_PYTHON = os.path.join(OUT, "venv", "bin", "python")
NATIVE_PYTHON = os.path.join(OUT, "venv-native", "bin", "python")
MODEL = os.path.join(os.environ.get("CAIRN_MODELS") or os.path.expanduser("~/.cache/cairn"), "SmolLM2-135M-Instruct.Q4_1.gguf")
LAYERS = 30
FULL_F16_BYTES_PER_TOKEN = LAYERS * 2 * 3 * 64 * 2
MATTER = ("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
QUICK = os.environ.get("CAIRN_BENCH_QUICK", "0") not in ("", "0")
SEED = int(os.environ.get("CAIRN_BENCH_SEED", "1"))

sys.path.insert(0, os.path.join(ROOT, "tools", "family"))
import generate  # noqa: E402


# --- figures ---

def cpuinfo(key):
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return "unknown"


def priority():
    if os.sched_getscheduler(0) in (os.SCHED_RR, os.SCHED_FIFO):
        return "real time"
    return f"nice {os.nice(0)}" if os.nice(0) else "normal"


_device = {}
_refused = []


def device_is(gpu, driver):
    """What figures of a GPU say beside the machine."""
    _device.update(gpu=gpu, driver=driver)


def refuse(why):
    """From now on figures are refused, with one line each."""
    _refused.append(why)


def machine():
    commit = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True)
    flags = cpuinfo("flags").split()
    return {"machine": cpuinfo("model name"), "flags": " ".join(f for f in MATTER if f in flags), "kernel": platform.release(),
            "commit": commit.stdout.strip() or "unknown", "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2),
            "time": int(time.time()), "seed": SEED, "quick": QUICK, "priority": priority(), **_device}


def quantile(values, q):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0.0


def series(values):
    return {"median": quantile(values, 0.5), "p99": quantile(values, 0.99), "n": len(values)}


_printed = []


def figure(group, name, unit, own, baseline=None, other=None, inverse=False, goal=None, note=None):
    """Records one figure. goal: (">=" or "<=", number), on the ratio when there is a baseline, else on the median."""
    if _refused:
        print(f"{group}: {name} (n {len(own)}): {_refused[-1]}", flush=True)
        return 0.0
    record = {"schema": 1, "group": group, **machine(), "figure": name, "unit": unit, **series(own)}
    if note:
        record["note"] = note
    value = record["median"]
    if baseline:
        record["baseline"] = {"name": baseline, **series(other)}
        low, high = (record["median"], record["baseline"]["median"])
        value = (high / low if inverse else low / high) if low and high else 0.0
        record["ratio"] = value
        record["ratio_is"] = "baseline/own" if inverse else "own/baseline"
    if goal:
        op, limit = goal
        record["goal"] = {"on": "ratio" if baseline else "median", "op": op, "value": limit}
        record["met"] = value >= limit if op == ">=" else value <= limit
    os.makedirs(OUT, exist_ok=True)
    with open(RESULTS, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    if _printed[-1:] != [group]:
        _printed.append(group)
        print(f"\n{group:<52} {'median':>10} {'p99':>10} {'n':>6} {'baseline':>12} {'ratio':>9}  goal")
    against = f"{record['baseline']['median']:12.4g} {value:9.3g}" if baseline else f"{'-':>12} {'-':>9}"
    verdict = f"{goal[0]} {goal[1]:g} {'met' if record['met'] else 'NOT MET'}" if goal else ""
    print(f"{name:<52} {record['median']:10.4g} {record['p99']:10.4g} {record['n']:6} {against}  {verdict} [{unit}]", flush=True)
    return value


def shares(group, name, parts, note):
    """Records where the time of one phase went: (what, percent), most first."""
    record = {"schema": 1, "group": group, **machine(), "figure": name, "unit": "%", "shares": parts, "note": note}
    os.makedirs(OUT, exist_ok=True)
    with open(RESULTS, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    print(f"{name} ({note}): " + ", ".join(f"{share:.0f} % {what}" for what, share in parts), flush=True)


# --- contexts ---

def contexts(member, tokens, count, seed=0, questions=1):
    """count lists of `questions` requests of one member, each list on one context of about `tokens` tokens."""
    made = generate.parse_arguments(["--member", member, "--contexts", str(count), "--questions", str(questions),
                                     "--seed", str(1000 * SEED + seed), "--tokens", str(tokens), "--prose", "built-in"])
    pool, _ = generate.find_prose(made.prose, 100)
    pool *= 1 + int(tokens * generate.CHARACTERS_PER_TOKEN / sum(len(paragraph) + 2 for paragraph in pool))  # 8k: it comes twice
    lines = generate.generate(made, pool)
    return [lines[i * questions:(i + 1) * questions] for i in range(count)]


def sizes():
    """Names and lengths asked for; the longest leaves room for a question in 8192 tokens."""
    return {"1k": 1000, "2k": 2000} if QUICK else {"1k": 1000, "2k": 2000, "4k": 4000, "8k": 7700}


# --- processes ---

class Broker:
    def __init__(self, memory="2G", nvme=None):
        self.folder = tempfile.TemporaryDirectory(prefix="cairn-bench-")
        self.socket = os.path.join(self.folder.name, "c.sock")
        self.log = open(os.path.join(self.folder.name, "cairnd.log"), "wb")
        more = ["--nvme", f"{os.path.join(self.folder.name, 'nvme')}:{nvme}"] if nvme else []
        self.process = subprocess.Popen([os.path.join(BIN, "cairnd"), "--socket", self.socket, "--memory", memory, *more],
                                        stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

    def __enter__(self):
        limit = time.monotonic() + 30
        while self.cli("--timeout", "2", "status", check=False).returncode != 0:
            if self.process.poll() is not None or time.monotonic() > limit:
                raise SystemExit("bench: cairnd did not start")
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.log.close()
        self.folder.cleanup()

    def cli(self, *arguments, check=True):
        return subprocess.run([os.path.join(BIN, "cairn"), "--socket", self.socket, *arguments], check=check,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def put_plans(self, folder=os.path.join(FAMILY, "plans")):
        """folder: the shipped plans, or those of the independent reference."""
        for member in ("finder", "clerk"):
            self.cli("plan", "put", os.path.join(folder, f"base-{member}.json"), "--producer", MODEL,
                     "--receiver", f"{MODEL},{os.path.join(FAMILY, member + '.gguf')}", "--layers", str(LAYERS))


def worker_command(member, broker, *options):
    command = [os.path.join(BIN, "cairn-worker"), "--model", MODEL, "--json", "--label", member]
    if member != "base":
        command += ["--adapter", os.path.join(FAMILY, f"{member}.gguf")]
    return command + (["--socket", broker.socket] if broker else []) + list(options)


class Worker:
    """A resident cairn-worker: one request in, one answer out. Ready when it has answered a short one."""

    def __init__(self, member, broker, *options):
        self.process = subprocess.Popen(worker_command(member, broker, "--requests", "-", *options), stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.ask({"context": "Warm.", "question": "Ready?"})

    def send(self, request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def receive(self):
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": "the worker has ended"}
        if "error" in answer:
            raise SystemExit(f"bench: worker: {answer['error']}")
        return answer

    def ask(self, request):
        self.send(request)
        return self.receive()

    def close(self):
        self.process.stdin.close()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Llama:
    """llama.cpp, resident in a process of its own: as the xllamacpp wheel has it, and built for this machine when it was."""

    WHEEL, NATIVE = "llama.cpp (xllamacpp wheel), same GGUF", "llama.cpp (llama-cpp-python, built here), same GGUF"

    def __init__(self, process):
        self.process = process

    @classmethod
    def start_all(cls, threads):
        """name -> Llama, of what is installed."""
        script = os.path.join(ROOT, "tools", "dev", "bench_llama.py")
        found = {}
        for name, python in ((cls.WHEEL, VENV_PYTHON), (cls.NATIVE, NATIVE_PYTHON)):
            if not os.path.exists(python):
                print(f"{name}: not installed (make bench-deps{' NATIVE=1' if name == cls.NATIVE else ''})")
                continue
            process = subprocess.Popen([python, script, MODEL, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                       stderr=subprocess.DEVNULL, text=True)
            found[name] = cls(process)
            found[name].ask("Warm.", 4)
        return found

    @classmethod
    def suffix(cls, name):
        return ", native build" if name == cls.NATIVE else ""

    @classmethod
    def goal(cls, name, wheel, native):
        return native if name == cls.NATIVE else wheel

    def ask(self, prompt, n_predict, keep=False):
        """Timings: prompt_n, prompt_per_second, predicted_n, predicted_per_second. keep: reuse what it has of the prompt."""
        self.process.stdin.write(json.dumps({"prompt": prompt, "n_predict": n_predict, "keep": keep}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("bench: llama.cpp ended")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


