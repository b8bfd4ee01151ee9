#!/usr/bin/env python3
"""Profiles and tests pairs of the family with `cairn profile`, and keeps what came out for docs/quality.md (make report).

Contexts that maps are fitted on, that runs are chosen on and that plans are tested on come from three parts of the prose and from
three seeds, so that they share neither a paragraph nor a fact. The base model was not trained for the questions: as a receiver it is
compared with its own answers. transfer is a test on prose of another kind than all that was fitted, chosen and tested on: what
share/demo/prose.txt says about running machines, instead of licences and documentation.

    tools/family/pairs.py maps base finder --runs 13-23,15-23 --maps 'lambda=1e-3;plain'
    tools/family/pairs.py profile base finder --tune 1
    tools/family/pairs.py test base finder --run-of-profile 13-23 --keep 1,0.4,0.25 --int8
    tools/family/pairs.py transfer base finder --run-of-profile 13-23
"""
import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time

import evaluate
import generate

DATA = os.path.join(evaluate.ROOT, "docs", "data", "quality")
MEMBERS = ("base", "finder", "clerk")
FIT = {"seed": 501, "part": "1/3", "contexts": 64, "questions": 6}
LONG = {"seed": 506, "part": "1/3", "contexts": 0, "questions": 12, "tokens": 2400}  # to fit on, too, when asked for
STAGES = {  # seed and part of the prose of what is measured; contexts and questions of each by default
    "maps": {"seed": 504, "part": "2/3", "contexts": 20, "questions": 12},
    "profile": {"seed": 502, "part": "2/3", "contexts": 24, "questions": 6},
    "test": {"seed": 503, "part": "3/3", "contexts": 50, "questions": 6},
    "transfer": {"seed": 505, "part": "1/1", "contexts": 50, "questions": 6, "prose": ["built-in"]},
}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("producer", choices=MEMBERS)
    parser.add_argument("receiver", choices=MEMBERS)
    parser.add_argument("--work", metavar="DIR", default=os.path.join(evaluate.ROOT, "build", "pairs"), help="requests, maps, results")
    parser.add_argument("--contexts", type=generate.positive, help="measure on the first N contexts")
    parser.add_argument("--questions", type=generate.positive, help="of each context")
    parser.add_argument("--fit-contexts", type=generate.positive, default=FIT["contexts"], help="contexts to fit maps on, default %(default)s")
    parser.add_argument("--fit-questions", type=generate.positive, default=FIT["questions"], help="of each, to tune maps on, default %(default)s")
    parser.add_argument("--fit-long", type=int, default=LONG["contexts"], metavar="N", help=f"and N contexts of {LONG['tokens']} tokens")
    parser.add_argument("--plans", metavar="DIR", help="write the plans of the frontier there")
    parser.add_argument("--run-of-profile", metavar="A-B", help="test this run with the maps that the pair's profile made: tuned, and fitted")
    parser.add_argument("--question", metavar="NAME", help="keep what comes out as STAGE-PRODUCER-RECEIVER-NAME, beside the pair's own")
    parser.add_argument("--bin", default=os.path.join(evaluate.ROOT, "build", "release", "bin"), metavar="DIR")
    parser.add_argument("--model", default=evaluate.default_model(), metavar="FILE")
    return parser.parse_known_args()


def write_requests(path, member, stages, answers):
    """The same stages give the same bytes, on the same documentation. Returns where the prose of the last is from."""
    lines = []
    for stage in stages:
        options = ["--member", member, "--contexts", str(stage["contexts"]), "--questions", str(stage["questions"]),
                   "--seed", str(stage["seed"]), "--part", stage["part"]]
        if "tokens" in stage:
            options += ["--tokens", str(stage["tokens"])]
        pool, source = generate.find_prose(stage.get("prose"), 100)
        lines += generate.generate(generate.parse_arguments(options), pool)
    if not answers:
        lines = [{key: value for key, value in line.items() if key != "answer"} for line in lines]
    evaluate.write_lines(path, lines)
    return source


def stages_of_fit(arguments):
    short = [{**FIT, "contexts": arguments.fit_contexts, "questions": arguments.fit_questions}]
    return short + ([{**LONG, "contexts": arguments.fit_long}] if arguments.fit_long else [])


def read_lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def paired(path):
    """Of each run and map, everything kept: the mean difference of nll to the first map on the same questions, and its standard error."""
    found = {}
    for line in read_lines(path):
        for run in line.get("runs", []):
            if run["setting"] == 0:
                found.setdefault((line["start"], run["last"], line["variant"]), {})[line["context"]] = run["nll"]
    rows = []
    for (first, last, variant), of_context in sorted(found.items()):
        other = found.get((first, last, 0), {})
        gaps = [a - b for context, nll in of_context.items() if context in other for a, b in zip(nll, other[context])]
        if variant > 0 and len(gaps) > 1:
            rows.append({"run": [first, last], "variant": variant, "nll": sum(gaps) / len(gaps),
                         "error": statistics.stdev(gaps) / len(gaps) ** 0.5})
    return rows


def explained(path):
    """Of each map that was fitted, the share of the difference's variance on the tokens fitted on."""
    return [{"layer": line["map"], "variant": line["variant"], "share": line["explained"]} for line in read_lines(path)
            if "explained" in line]


def tuning(path):
    """What became of the maps that were tuned, on the contexts held out."""
    keys = ("map", "last", "contexts", "held_out", "kl_before", "kl_after", "part", "better")
    return [{key: line[key] for key in keys if key in line} for line in read_lines(path) if "kl_before" in line]


def timed(document, seconds):
    """What one uninterrupted command did in how many seconds, maps and all."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = re.search(r"^model name\s*: (.*)$", file.read(), re.M)
    runs = {tuple(point["run"]) for point in document["points"] if point["run"]}
    return {"seconds": round(seconds), "runs": len(runs), "questions": document["own"]["questions"], "contexts": document["contexts"],
            "fit_tokens": document["fit_tokens"], "machine": f"{os.cpu_count()} CPUs, {model.group(1) if model else 'unknown'}"}


def maps_of_profile(arguments):
    """Options for a run with the maps of the pair's profile: the tuned one where there is one, then the fitted one."""
    run = arguments.run_of_profile
    maps = os.path.join(arguments.work, f"profile-{arguments.producer}-{arguments.receiver}", "maps")
    paths = [os.path.join(maps, name) for name in (f"{run}.tuned.map.gguf", f"{run.split('-')[0]}-0.map.gguf")]
    found = [path for path in paths if os.path.exists(path)]
    if not found:
        raise SystemExit(f"pairs.py: no map of {run} in {maps}: profile the pair first")
    return ["--runs", run, "--maps", ";".join(f"file={path}" for path in found)]


def main():
    arguments, passed = parse_arguments()
    stage = STAGES[arguments.stage]
    asked = arguments.receiver if arguments.receiver != "base" else "finder"
    questions = arguments.questions or stage["questions"]
    os.makedirs(os.path.join(arguments.work, "states"), exist_ok=True)
    fit = os.path.join(arguments.work, f"fit-{arguments.receiver}.jsonl")
    requests = os.path.join(arguments.work, f"{arguments.stage}-{arguments.receiver}-{questions}.jsonl")
    write_requests(fit, asked, stages_of_fit(arguments), arguments.receiver != "base")
    source = write_requests(requests, asked, [{**stage, "questions": questions}], arguments.receiver != "base")
    name = "-".join([arguments.stage, arguments.producer, arguments.receiver] + ([arguments.question] if arguments.question else []))
    out, kept = os.path.join(arguments.work, name), os.path.join(DATA, f"{name}.json")
    command = [os.path.join(arguments.bin, "cairn"), "profile", "--producer", evaluate.model_of(arguments, arguments.producer),
               "--receiver", evaluate.model_of(arguments, arguments.receiver), "--producer-label", arguments.producer,
               "--receiver-label", arguments.receiver, "--requests", requests, "--fit", fit,
               "--state-cache", os.path.join(arguments.work, "states"), "--out", out, *passed]
    if arguments.run_of_profile:
        command += maps_of_profile(arguments)
    if arguments.contexts:
        command += ["--contexts", str(arguments.contexts)]
    if arguments.plans:
        command += ["--plans", arguments.plans]
    fresh, begin = not os.path.exists(out), time.monotonic()
    done = subprocess.run(command)
    if done.returncode != 0:
        return done.returncode
    document = evaluate.read_json(os.path.join(out, "profile.json"))
    if fresh:
        document["timed"] = timed(document, time.monotonic() - begin)
    elif os.path.exists(kept):
        document["timed"] = evaluate.read_json(kept).get("timed")
    document["paired"] = paired(os.path.join(out, "results.jsonl"))
    if arguments.stage == "maps":
        document["explained"] = explained(os.path.join(out, "results.jsonl"))
    document["maps"] = re.sub(r"file=[^;,]*/", "file=", document["maps"])
    folder = os.path.join(arguments.work, f"profile-{arguments.producer}-{arguments.receiver}") if arguments.run_of_profile else out
    document["tuning"] = tuning(os.path.join(folder, "results.jsonl"))
    if arguments.run_of_profile:
        document["fit_tokens"] = evaluate.read_json(os.path.join(folder, "profile.json"))["fit_tokens"]
    document["input"] = {"seed": stage["seed"], "part": stage["part"], "questions_per_context": questions, "prose": source,
                         "member": asked, "fit_seed": FIT["seed"], "fit_part": FIT["part"], "fit_long": arguments.fit_long,
                         "fit_questions": arguments.fit_questions}
    os.makedirs(DATA, exist_ok=True)
    with open(kept, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=None, separators=(",", ":"))
        file.write("\n")
    if arguments.stage == "profile":
        shutil.copy(os.path.join(out, "profile.svg"), os.path.join(DATA, f"{name}.svg"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
