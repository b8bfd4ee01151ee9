#!/usr/bin/env python3
"""Measures how well siblings answer with a shared cache, through cairnd and cairn-worker as they are.

Makes contexts and questions from a seed (or takes them from --requests), starts brokers of its own, lets the base model publish the
contexts, and lets the siblings answer in each setting. Prints a table with 95 % intervals (Wilson) beside the reference numbers of
tests/data/golden/quality.json, which come from another implementation and from other contexts. Exit code 1 when the intervals of a
setting and of its reference do not overlap.

--producer and --receiver measure any other pair, which has no reference; with --generate the receiver writes its answers, and
"holds the fact" counts those that contain the right one, as words of their own: the base model was not taught to say nothing else.
Whose questions these are, --member says: there, it is one member.
"""
import argparse
import contextlib
import hashlib
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field

import generate
import tasks

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
FAMILY = os.path.join(ROOT, "share", "family")
REFERENCE = os.path.join(ROOT, "tests", "data", "golden", "quality.json")
LAYERS = 30
BYTES_PER_CHARACTER = 8000  # of whole f16 entries with states, generously
STARTUP_S = 20
WRITTEN_TOKENS = 64  # of an answer, with --generate


@dataclass(frozen=True)
class Setting:
    what: str                 # named as in the reference
    worker: tuple             # options of the receiver
    phase: str = "whole"      # how the producer publishes


PHASES = {  # what the producer publishes; None: nothing is needed
    "none": None,
    "whole": (),
    "int8": ("--store", "i8"),
    "budgets": ("--pyramid", "plan"),
    "keep=0.48,i8": ("--compress", "keep=0.48,i8"),
    "keep=0.34,i8": ("--compress", "keep=0.34,i8"),
}


def settings_of(run, is_reference):
    """The settings of the reference, or those of a pair without one, for a receiver whose plan recomputes run."""
    first, last = run
    mapped = ("--reuse", f"{first}-{last}+map")
    if not is_reference:
        return [
            Setting("own prefill", ("--reuse", "never"), "none"),
            Setting("full reuse", ("--reuse", "full")),
            Setting(f"run {first}-{last}, mapped state", mapped),
            Setting(f"run {first}-{last}, mapped state, entry compressed with keep=0.48,i8", mapped, "keep=0.48,i8"),
            Setting(f"run {first}-{last}, mapped state, entry compressed with keep=0.34,i8", mapped, "keep=0.34,i8"),
        ]
    return [
        Setting("own prefill", ("--reuse", "never"), "none"),
        Setting("full reuse", ("--reuse", "full")),
        Setting(f"run {first}-{last}, plain state", ("--reuse", f"{first}-{last}")),
        Setting(f"run {first}-{last}, mapped state", mapped),
        Setting("run 5-24, plain state", ("--reuse", "5-24")),
        Setting("mapped run + budgets 0-4:.1 10-:.3 24-29:.3", mapped, "budgets"),
        Setting("own prefill, PyramidInfer d=.9 rho=.2", ("--reuse", "never", "--pyramid", "prefill:d=0.9,rho=0.2"), "none"),
        Setting("own prefill, PyramidInfer d=.7 rho=.2", ("--reuse", "never", "--pyramid", "prefill:d=0.7,rho=0.2"), "none"),
        Setting("mapped run, int8 KV (per token and head)", mapped, "int8"),
    ]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--member", choices=(*tasks.MEMBERS, "both"), default="both")
    parser.add_argument("--producer", choices=("base", *tasks.MEMBERS), default="base", help="default base")
    parser.add_argument("--receiver", choices=("base", *tasks.MEMBERS), help="who answers the member's questions, default the member")
    parser.add_argument("--part", default="1/1", metavar="K/N", help="of the prose, as for generate.py")
    parser.add_argument("--requests", metavar="FILE", help="JSON lines of generate.py, of one member")
    parser.add_argument("--contexts", type=generate.positive, default=20, help="default 20")
    parser.add_argument("--questions", type=generate.positive, default=6, help="of each context, default 6")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--prose", action="append", metavar="DIR", help="as for generate.py")
    parser.add_argument("--only", action="append", metavar="TEXT", help="settings whose name contains TEXT, may be repeated")
    parser.add_argument("--generate", action="store_true", help="let the siblings write their answers, instead of scoring the right one")
    parser.add_argument("--bin", default=os.path.join(ROOT, "build", "release", "bin"), metavar="DIR")
    parser.add_argument("--model", default=default_model(), metavar="FILE")
    parser.add_argument("--threads", type=generate.positive, default=os.cpu_count())
    parser.add_argument("--plans", default=os.path.join(FAMILY, "plans"), metavar="DIR",
                        help="default share/family/plans; tests/data/plans: those of the reference")
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    arguments = parser.parse_args()
    if (arguments.requests or arguments.receiver or arguments.producer != "base") and arguments.member == "both":
        parser.error("--requests, --producer and --receiver are about questions of one member: name it with --member")
    return arguments


def default_model():
    folder = os.environ.get("CAIRN_MODELS") or os.path.expanduser("~/.cache/cairn")
    return os.path.join(folder, "SmolLM2-135M-Instruct.Q4_1.gguf")


def model_of(arguments, member):
    """A member as `cairn` takes it."""
    adapter = os.path.join(FAMILY, f"{member}.gguf")
    return arguments.model if member == "base" else f"{arguments.model},{adapter}"


def read_json(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def load_lines(arguments, member):
    """The member's lines, and where the prose is from."""
    if arguments.requests:
        with open(arguments.requests, encoding="utf-8") as file:
            return [json.loads(line) for line in file], arguments.requests
    options = ["--member", member, "--contexts", str(arguments.contexts), "--questions", str(arguments.questions),
               "--seed", str(arguments.seed), "--part", arguments.part]
    made = generate.parse_arguments(options)
    pool, source = generate.find_prose(arguments.prose, 100)
    return generate.generate(made, pool), source


def write_lines(path, lines):
    """Writes JSON lines; returns their SHA-256, so that two tables can be told to be about the same questions."""
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    with open(path, "wb") as file:
        file.write(text)
    return hashlib.sha256(text).hexdigest()


class Host:
    """A broker in a directory of its own, and workers beside it."""

    def __init__(self, arguments, folder, memory_bytes):
        self.arguments, self.folder = arguments, folder
        self.socket = os.path.join(folder, "cairn.sock")
        self.log = open(os.path.join(folder, "cairnd.log"), "wb")
        self.broker = subprocess.Popen([self.program("cairnd"), "--socket", self.socket, "--memory", f"{memory_bytes >> 20}M"],
                                       stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)

    def program(self, name):
        return os.path.join(self.arguments.bin, name)

    def __enter__(self):
        deadline = time.monotonic() + STARTUP_S
        while subprocess.run([self.program("cairn"), "--socket", self.socket, "--timeout", "1", "status"],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode != 0:
            if self.broker.poll() is not None or time.monotonic() > deadline:
                state = self.state()
                self.__exit__()
                raise SystemExit(f"evaluate: no cairnd: {state}")
            time.sleep(0.1)
        return self

    def __exit__(self, *_):
        self.broker.terminate()
        self.broker.wait()
        self.log.close()

    def state(self):
        """Whether the broker lives, and what it said last."""
        with open(self.log.name, encoding="utf-8", errors="replace") as file:
            said = file.read().strip().splitlines()
        return f"{'runs' if self.broker.poll() is None else 'has ended'}: {said[-1] if said else ''}"

    def put_plan(self, producer, receiver):
        subprocess.run([self.program("cairn"), "--socket", self.socket, "plan", "put", plan_path(self.arguments, producer, receiver),
                        "--producer", model_of(self.arguments, producer), "--receiver", model_of(self.arguments, receiver), "--layers", str(LAYERS)],
                       check=True, stdout=subprocess.DEVNULL)

    def worker(self, member, requests, options):
        """Answers of one worker process, as dictionaries."""
        command = [self.program("cairn-worker"), "--model", self.arguments.model, "--socket", self.socket, "--json",
                   "--requests", requests, "--threads", str(self.arguments.threads), *options]
        if member != "base":
            command += ["--adapter", os.path.join(FAMILY, f"{member}.gguf")]
        done = subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, encoding="utf-8")
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        errors = [answer["error"] for answer in answers if "error" in answer]
        if done.returncode != 0 or errors:
            raise SystemExit(f"evaluate: {' '.join(command)}: exit code {done.returncode} {errors[:1]}")
        return answers


@dataclass
class Result:
    producer: str
    receiver: str
    what: str
    answers: list = field(repr=False)
    reference: dict = None

    @property
    def n(self):
        return len(self.answers)

    @property
    def exact(self):
        return sum(answer["exact"] for answer in self.answers) / self.n

    @property
    def holds(self):
        """Answers that contain the right one. None when none was written."""
        if any("right" not in answer for answer in self.answers):
            return None
        return sum(re.search(rf"(?<!\w){re.escape(answer['right'])}(?!\w)", answer["answer"]) is not None for answer in self.answers) / self.n

    @property
    def shared_bytes(self):
        """Of the producer's cache, that is read in place: per answer."""
        return sum(answer["kv_shared_bytes"] for answer in self.answers) / self.n

    @property
    def nll(self):
        given = [answer["nll"] for answer in self.answers if "nll" in answer]
        return sum(given) / len(given) if given else None

    @property
    def ttft_s(self):
        return sum(answer["ttft_s"] for answer in self.answers) / self.n

    def fits(self):
        """Do the intervals overlap? None without a reference."""
        if self.reference is None:
            return None
        low, high = wilson(self.exact, self.n)
        return low <= self.reference["exact"] + self.reference["ci95"] and high >= self.reference["exact"] - self.reference["ci95"]

    def as_dict(self):
        low, high = wilson(self.exact, self.n)
        holds = {}
        if self.holds is not None:
            between = wilson(self.holds, self.n)
            holds = {"holds": round(self.holds, 4), "holds_low95": round(between[0], 4), "holds_high95": round(between[1], 4),
                     "shared_bytes": round(self.shared_bytes)}
        return {"receiver": self.receiver, "producer": self.producer, "what": self.what, "questions": self.n,
                "exact": round(self.exact, 4), "low95": round(low, 4), "high95": round(high, 4), **holds,
                "nll": None if self.nll is None else round(self.nll, 4), "reference": self.reference and self.reference["exact"],
                "reference_ci95": self.reference and self.reference["ci95"], "overlaps": self.fits()}


def wilson(share, n, z=1.96):
    """95 % interval of a share of n."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def check_reuse(setting, answers, host):
    """A setting that silently fell back to a prefill would be measured as something it is not."""
    for answer in answers:
        wanted = 0 if setting.worker[1] == "never" else answer["context_tokens"]
        if answer["reused_tokens"] != wanted:
            raise SystemExit(f"evaluate: {setting.what}: {answer['reused_tokens']} of {wanted} tokens reused ({answer['reason']}); "
                             f"cairnd {host.state()}")


def check_compressed(results):
    """An entry that silently stayed whole would be measured as something it is not, too."""
    whole = max((result.shared_bytes for setting, result in results.items() if setting.phase == "whole"), default=None)
    for setting, result in results.items():
        if setting.phase.startswith("keep=") and whole is not None and result.shared_bytes > 0.5 * whole:
            raise SystemExit(f"evaluate: {setting.what}: {result.shared_bytes:.0f} bytes are shared, of {whole:.0f} whole ones")


def plan_path(arguments, producer, receiver):
    return os.path.join(arguments.plans, f"{producer}-{receiver}.json")


def measure(arguments, member, lines, folder):
    """Results of all settings, phase by phase."""
    producer, receiver = arguments.producer, arguments.receiver or member
    requests = os.path.join(folder, f"{member}.jsonl")
    write_lines(requests, lines)
    firsts = list({line["context"]: line for line in lines}.values())
    contexts = os.path.join(folder, f"{member}-contexts.jsonl")
    write_lines(contexts, firsts)
    memory = (256 << 20) + BYTES_PER_CHARACTER * sum(len(line["context"]) for line in firsts)
    plan = read_json(plan_path(arguments, producer, receiver))
    is_reference = producer == "base" and receiver == member
    references = {(r["receiver"], r["what"]): r for r in read_json(REFERENCE)} if is_reference else {}
    chosen = [s for s in settings_of(plan["run"], is_reference) if not arguments.only or any(text in s.what for text in arguments.only)]
    results = {}
    for phase, publishing in PHASES.items():
        of_phase = [setting for setting in chosen if setting.phase == phase]
        if not of_phase:
            continue
        with tempfile.TemporaryDirectory(dir=folder) as place, Host(arguments, place, memory) as host:
            if publishing is not None:
                host.put_plan(producer, receiver)
                host.worker(producer, contexts, ("--reuse", "never", "--max-tokens", "1", "--states", "5", *publishing))
            for setting in of_phase:
                how = ("--max-tokens", str(WRITTEN_TOKENS)) if arguments.generate else ("--score",)
                answers = host.worker(receiver, requests, ("--no-publish", "--batch", "64", *how, *setting.worker))
                check_reuse(setting, answers, host)
                if arguments.generate:
                    answers = [{**answer, "right": line["answer"]} for answer, line in zip(answers, lines)]
                result = Result(producer, receiver, setting.what, answers, references.get((receiver, setting.what)))
                print(f"{producer} -> {receiver}, {setting.what}: {result.exact:.4f}", file=sys.stderr, flush=True)
                results[setting] = result
    check_compressed(results)
    return [results[setting] for setting in chosen]


def print_table(results):
    print("| receiver | setting | questions | exact match | 95 % interval | holds the fact | nll | reference | overlap |")
    print("|---|---|--:|--:|---|--:|--:|---|---|")
    for r in results:
        low, high = wilson(r.exact, r.n)
        nll, holds = ("" if value is None else f"{value:.4f}" for value in (r.nll, r.holds))
        reference = "" if r.reference is None else f"{r.reference['exact']:.3f} ± {r.reference['ci95']:.3f}"
        verdict = {True: "yes", False: "**no**", None: ""}[r.fits()]
        print(f"| {r.receiver} | {r.what} | {r.n} | {r.exact:.3f} | {low:.3f} to {high:.3f} | {holds} | {nll} | {reference} | {verdict} |")


def main():
    arguments = parse_arguments()
    members = tasks.MEMBERS if arguments.member == "both" else (arguments.member,)
    results, inputs = [], []
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cairn-evaluate-"))
        for member in members:
            lines, source = load_lines(arguments, member)
            digest = write_lines(os.path.join(folder, "lines"), lines)
            made = {} if arguments.requests else {"seed": arguments.seed, "part": arguments.part}
            inputs.append({"member": member, "contexts": len({line["context"] for line in lines}), **made, "prose": source, "sha256": digest})
            results += measure(arguments, member, lines, folder)
    print_table(results)
    print()
    for given in inputs:
        print(f"{given['member']}: seed {given.get('seed', '-')}, prose from {given['prose']}, SHA-256 of the questions {given['sha256'][:16]}")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"inputs": inputs, "written_tokens": WRITTEN_TOKENS if arguments.generate else None, "results": [result.as_dict() for result in results]}, file, indent=1)
    return 1 if any(result.fits() is False for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
