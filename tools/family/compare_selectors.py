#!/usr/bin/env python3
"""Measures selectors, budgets and int8 against each other on equal bytes (bench/selectors), and generation with fewer tokens
(bench/gen_pyramid). Writes JSON lines into docs/data/quality/: what was asked first, then one line per setting. Long: about
20 CPU minutes per member. `make report` makes tables of it.
"""
import argparse
import hashlib
import json
import os
import subprocess
import tempfile

import evaluate
import generate
import tasks

ROOT = evaluate.ROOT
DATA = os.path.join(ROOT, "docs", "data", "quality")
SELECTORS = ("reread", "window", "snap", "attention", "expected", "key-norm", "value-norm")
KEEPS = ("0.8", "0.6", "0.4", "0.25")
RULES = ("full", "on", "rho=0.4", "g=1,c=0.5")


def specs():
    """All settings, those with the same scores together."""
    yield from ("whole", "whole:i8")
    yield from (f"reread:global:{k}" for k in (*KEEPS, "0.15"))
    yield from (f"reread:global:{k}:i8" for k in ("0.4", "0.25", "0.15"))
    yield from (f"reread:{b}:{k}" for b in ("uniform", "linear", "cosine", "delayed") for k in KEEPS[1:])
    yield from (f"reread:global:{k}:{how}" for how in ("c256", "c128", "s2", "s4", "c256:s2") for k in ("0.4", "0.25"))
    for selector in SELECTORS[1:]:
        yield from (f"{selector}:global:{k}" for k in KEEPS)
        yield from (f"{selector}:uniform:{k}" for k in KEEPS[1:])


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=(*tasks.MEMBERS, "generate"))
    parser.add_argument("--contexts", type=generate.positive, default=10)
    parser.add_argument("--questions", type=generate.positive, default=6, help="of each context, default 6")
    parser.add_argument("--tokens", type=generate.positive, default=512, help="generate: of each answer, default 512")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--prose", action="append", metavar="DIR", help="as for generate.py")
    parser.add_argument("--bench", default=os.path.join(ROOT, "build", "release", "bench"), metavar="DIR")
    parser.add_argument("--model", default=evaluate.default_model(), metavar="FILE")
    parser.add_argument("--threads", type=generate.positive, default=os.cpu_count())
    parser.add_argument("--output", metavar="FILE", help="default: docs/data/quality/NAME.jsonl")
    return parser.parse_args()


def command(arguments, requests):
    if arguments.what == "generate":
        return [os.path.join(arguments.bench, "gen_pyramid"), arguments.model, requests, str(arguments.tokens), str(arguments.threads),
                *RULES]
    family = evaluate.FAMILY
    return [os.path.join(arguments.bench, "selectors"), arguments.model, os.path.join(family, f"{arguments.what}.gguf"),
            os.path.join(family, "plans", f"base-{arguments.what}.json"), requests, str(arguments.threads), *specs()]


def main():
    arguments = parse_arguments()
    member = "finder" if arguments.what == "generate" else arguments.what
    made = generate.parse_arguments(["--member", member, "--contexts", str(arguments.contexts), "--questions",
                                     str(arguments.questions), "--seed", str(arguments.seed)])
    pool, source = generate.find_prose(arguments.prose, 100)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in generate.generate(made, pool)).encode()
    given = {"member": member, "contexts": arguments.contexts, "questions": arguments.questions, "seed": arguments.seed,
             "prose": source, "sha256": hashlib.sha256(text).hexdigest()}
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as requests:
        requests.write(text)
        requests.flush()
        done = subprocess.run(command(arguments, requests.name), stdout=subprocess.PIPE, encoding="utf-8", check=True)
    name = "gen-pyramid" if arguments.what == "generate" else f"selectors-{arguments.what}"
    os.makedirs(DATA, exist_ok=True)
    with open(arguments.output or os.path.join(DATA, f"{name}.jsonl"), "w", encoding="utf-8") as file:
        file.write(json.dumps({"input": given}) + "\n" + done.stdout)


if __name__ == "__main__":
    main()
