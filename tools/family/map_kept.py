#!/usr/bin/env python3
"""Measures state maps where a pyramid dropped tokens while the producer prefilled (method.md 2.3), through cairnd and cairn-worker.

Such an entry holds the state of the tokens that reached the layer, computed without the ones dropped before it, and a run goes on with
these rows alone. An entry that was cut at or after publishing holds the state whole: there a map sees every token, and nothing of this
applies. Writes docs/data/quality/maps-kept-base-RECEIVER.json.

    tools/family/map_kept.py finder --requests build/pairs/maps-finder-12.jsonl --run 13-23 --map all.map.gguf
"""
import argparse
import json
import os
import shutil
import sys
import tempfile

import evaluate
import tasks

PYRAMID = ("--pyramid", "prefill:d=0.9,rho=0.2")  # as method.md 5.2 has it


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("receiver", choices=tasks.MEMBERS)
    parser.add_argument("--requests", required=True, metavar="FILE", help="JSON lines of generate.py")
    parser.add_argument("--run", required=True, metavar="A-B")
    parser.add_argument("--contexts", type=int, default=4, help="the first N, default %(default)s")
    parser.add_argument("--map", required=True, metavar="FILE", help="fitted on the states of all tokens")
    parser.add_argument("--bin", default=os.path.join(evaluate.ROOT, "build", "release", "bin"), metavar="DIR")
    parser.add_argument("--model", default=evaluate.default_model(), metavar="FILE")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    return parser.parse_args()


def write_plan(folder, receiver, run, state_map):
    shutil.copy(state_map, os.path.join(folder, "state.map.gguf"))
    with open(os.path.join(folder, f"base-{receiver}.json"), "w", encoding="utf-8") as file:
        json.dump({"producer": "base", "receiver": receiver, "run": run, "state_map": "state.map.gguf",
                   "measured": {"questions": 1, "own_exact": 1.0, "exact": 1.0}}, file)  # wanted by the format; the run is asked for, not chosen


def first_contexts(path, limit):
    with open(path, encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    chosen = list(dict.fromkeys(line["context"] for line in lines))[:limit]
    return [line for line in lines if line["context"] in chosen]


def entries(arguments):
    """(how the producer prefills, [(what, how the receiver reuses)])"""
    run, mapped = ("--reuse", arguments.run), ("--reuse", f"{arguments.run}+map")
    yield PYRAMID, [("kept tokens, no map", run), ("kept tokens, map of all tokens", mapped)]
    yield (), [("all tokens, no map", run), ("all tokens, map of all tokens", mapped)]


def measure(arguments, run):
    lines = first_contexts(arguments.requests, arguments.contexts)
    firsts = list({line["context"]: line for line in lines}.values())
    memory = (256 << 20) + evaluate.BYTES_PER_CHARACTER * sum(len(line["context"]) for line in firsts)
    results = []
    with tempfile.TemporaryDirectory(prefix="cairn-kept-") as folder:
        requests, contexts = os.path.join(folder, "requests.jsonl"), os.path.join(folder, "contexts.jsonl")
        digest = evaluate.write_lines(requests, lines)
        evaluate.write_lines(contexts, firsts)
        for pyramid, cases in entries(arguments):
            arguments.plans = tempfile.mkdtemp(dir=folder)
            write_plan(arguments.plans, arguments.receiver, run, arguments.map)
            with evaluate.Host(arguments, arguments.plans, memory) as host:
                host.put_plan(arguments.receiver)
                host.worker("base", contexts, ("--reuse", "never", "--max-tokens", "1", "--states", str(run[0]), *pyramid))
                for what, how in cases:
                    answers = host.worker(arguments.receiver, requests, ("--no-publish", "--batch", "64", "--score", *pyramid, *how))
                    evaluate.check_reuse(evaluate.Setting(what, how), answers, host)
                    result = evaluate.Result(arguments.receiver, what, answers).as_dict()
                    results.append({key: result[key] for key in ("what", "questions", "exact", "low95", "high95", "nll")})
                    print(results[-1], file=sys.stderr, flush=True)
    given = {"contexts": len(firsts), "run": run, "rule": PYRAMID[1], "sha256": digest}
    with open(os.path.join(evaluate.ROOT, "docs", "data", "quality", f"maps-kept-base-{arguments.receiver}.json"), "w",
              encoding="utf-8") as file:
        json.dump({"input": given, "results": results}, file, indent=1)
        file.write("\n")


def main():
    arguments = parse_arguments()
    measure(arguments, [int(layer) for layer in arguments.run.split("-")])
    return 0


if __name__ == "__main__":
    sys.exit(main())
