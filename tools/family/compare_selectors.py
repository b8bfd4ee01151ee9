#!/usr/bin/env python3
"""Measures selectors, budgets and int8 against each other on equal bytes (bench/selectors), and generation with fewer tokens
(bench/gen_pyramid). Writes JSON lines into docs/data/quality/: what was asked first, then one line per setting. Long: about
20 CPU minutes per member. `make report` makes tables of it.

--budgets finds how many tokens each group of layers needs (method.md 5.3): each group is cut alone, then always that group is cut
next which costs least nll per token, and the budgets found so are measured beside one threshold on contexts of another seed.
--long compares ways to re-read only, on contexts of 3,000 tokens, where reading again costs most.
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
LEVELS = (1.0, 0.6, 0.4, 0.25, 0.1)  # of a group of layers that is cut alone
GROUP = 3  # layers
LONG_TOKENS = 3000
LONG = ("whole", *(f"reread:global:{k}{how}" for how in ("", f":c{2 * LONG_TOKENS}", ":c512", ":c256", ":h1", ":s2") for k in ("0.4", "0.25")))
WRITINGS = 2  # answers that bench/gen_pyramid lets the model write about each context
RULES = ("full", "on", "rho=0.4", "g=1,c=0.5")


def specs():
    """All settings, those with the same scores together."""
    yield from ("whole", "whole:i8")
    yield from (f"reread:global:{k}" for k in (*KEEPS, "0.15"))
    yield from (f"reread:global:{k}:i8" for k in ("0.4", "0.25", "0.15"))
    yield from (f"reread:{b}:{k}" for b in ("uniform", "linear", "cosine", "delayed") for k in KEEPS[1:])
    yield from (f"reread:global:{k}:{how}" for how in ("c256", "c128", "s2", "s4", "c256:s2") for k in ("0.4", "0.25"))
    yield from (f"reread:global:{k}:h1" for k in ("0.4", "0.25"))
    yield from (f"reread:{b}:{k}:one" for b in ("global", "uniform") for k in KEEPS[1:])
    for selector in SELECTORS[1:]:
        yield from (f"{selector}:global:{k}" for k in KEEPS)
        yield f"{selector}:global:0.4:i8"
        yield from (f"{selector}:uniform:{k}" for k in KEEPS[1:])


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=(*tasks.MEMBERS, "generate"))
    parser.add_argument("--contexts", type=generate.positive, default=10)
    parser.add_argument("--questions", type=generate.positive, default=6, help="of each context, default 6")
    parser.add_argument("--long", action="store_true", help="ways to re-read long contexts, instead of comparing selectors")
    parser.add_argument("--budgets", action="store_true", help="find budgets of layers, instead of comparing selectors")
    parser.add_argument("--tokens", type=generate.positive, default=512, help="generate: of each answer, default 512")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--prose", action="append", metavar="DIR", help="as for generate.py")
    parser.add_argument("--bench", default=os.path.join(ROOT, "build", "release", "bench"), metavar="DIR")
    parser.add_argument("--model", default=evaluate.default_model(), metavar="FILE")
    parser.add_argument("--threads", type=generate.positive, default=os.cpu_count())
    parser.add_argument("--output", metavar="FILE", help="default: docs/data/quality/NAME.jsonl")
    arguments = parser.parse_args()
    if (arguments.budgets or arguments.long) and arguments.what == "generate":
        parser.error("--budgets and --long are about a receiver")
    return arguments


def generated(arguments, seed):
    """Requests as bytes, and what they are made of."""
    member = "finder" if arguments.what == "generate" else arguments.what
    questions = WRITINGS if arguments.what == "generate" else arguments.questions
    made = generate.parse_arguments(["--member", member, "--contexts", str(arguments.contexts), "--questions", str(questions),
                                     "--seed", str(seed), *(["--tokens", str(LONG_TOKENS)] if arguments.long else [])])
    pool, source = generate.find_prose(arguments.prose, 100)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in generate.generate(made, pool)).encode()
    return text, {"member": member, "contexts": arguments.contexts, "questions": questions, "seed": seed,
                  **({"tokens": LONG_TOKENS} if arguments.long else {}), "prose": source, "sha256": hashlib.sha256(text).hexdigest()}


def measured(command, text):
    """What command prints on these requests; their file stands where None is."""
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as requests:
        requests.write(text)
        requests.flush()
        filled = [requests.name if part is None else part for part in command]
        return subprocess.run(filled, stdout=subprocess.PIPE, encoding="utf-8", check=True).stdout


def plan_of(member):
    return os.path.join(evaluate.FAMILY, "plans", f"base-{member}.json")


def selectors(arguments, chosen):
    adapter = os.path.join(evaluate.FAMILY, f"{arguments.what}.gguf")
    return [os.path.join(arguments.bench, "selectors"), arguments.model, adapter, plan_of(arguments.what), None, str(arguments.threads),
            *chosen]


# ---- budgets of layers ----

def groups_of(run):
    """Neighbouring layers outside of the run, three by three; what is left over joins the last."""
    groups = []
    for first, end in ((0, run[0]), (run[1] + 1, evaluate.LAYERS)):
        n = max(1, (end - first) // GROUP) if end > first else 0
        edges = [first + i * GROUP for i in range(n)] + [end]
        groups += list(zip(edges[:n], edges[1:]))
    return groups


def spec_of(groups, shares, keep):
    shapes = "+".join(f"{first}-{end - 1}={share:g}" for (first, end), share in zip(groups, shares))
    return f"reread:{shapes}:{keep:.6f}"


def mean_share(groups, shares):
    return sum((end - first) * share for (first, end), share in zip(groups, shares)) / sum(end - first for first, end in groups)


def alone(groups):
    """(group, level) -> SPEC, in which the other groups are whole."""
    found = {}
    for i in range(len(groups)):
        for level in LEVELS[1:]:
            shares = [level if j == i else 1.0 for j in range(len(groups))]
            found[i, level] = spec_of(groups, [share if share < 1 else 1e6 for share in shares], mean_share(groups, shares))
    return found


def greedy(groups, loss, keep):
    """Shares of the groups whose mean is keep at most; loss: (group, level) -> nll over that of the whole cache."""
    at = [0] * len(groups)

    def price(i):
        tokens = (LEVELS[at[i]] - LEVELS[at[i] + 1]) * (groups[i][1] - groups[i][0])
        return (loss[i, LEVELS[at[i] + 1]] - loss.get((i, LEVELS[at[i]]), 0)) / tokens

    while mean_share(groups, [LEVELS[level] for level in at]) > keep:
        at[min((i for i in range(len(groups)) if at[i] + 1 < len(LEVELS)), key=price)] += 1
    return [LEVELS[level] for level in at]


def budgets(arguments):
    with open(plan_of(arguments.what), encoding="utf-8") as file:
        groups = groups_of(json.load(file)["run"])
    single = alone(groups)
    text, found_on = generated(arguments, arguments.seed)
    lines = {line["spec"]: line for line in map(json.loads, measured(selectors(arguments, ["whole", *single.values()]), text).splitlines())}
    loss = {key: lines[spec]["nll"] - lines["whole"]["nll"] for key, spec in single.items()}
    chosen = {keep: greedy(groups, loss, keep) for keep in (0.4, 0.25, 0.15)}
    asked = ["whole"]
    for keep, shares in chosen.items():
        asked += [f"reread:global:{keep}", spec_of(groups, shares, keep)]
    text, given = generated(arguments, arguments.seed + 1)
    told = {"groups": groups, "found_on": found_on, "loss": [[i, level, round(x, 5)] for (i, level), x in loss.items()],
            "budgets": [{"keep": keep, "shares": shares, "spec": spec_of(groups, shares, keep)} for keep, shares in chosen.items()]}
    return {**given, **told}, measured(selectors(arguments, asked), text)


def compared(arguments):
    text, given = generated(arguments, arguments.seed)
    if arguments.what == "generate":
        program = os.path.join(arguments.bench, "gen_pyramid")
        command = [program, arguments.model, None, str(arguments.tokens), str(arguments.threads), *RULES]
    else:
        command = selectors(arguments, LONG if arguments.long else specs())
    return given, measured(command, text)


def main():
    arguments = parse_arguments()
    given, lines = budgets(arguments) if arguments.budgets else compared(arguments)
    kind = "budgets" if arguments.budgets else "long" if arguments.long else "selectors"
    name = "gen-pyramid" if arguments.what == "generate" else f"{kind}-{arguments.what}"
    os.makedirs(DATA, exist_ok=True)
    with open(arguments.output or os.path.join(DATA, f"{name}.jsonl"), "w", encoding="utf-8") as file:
        file.write(json.dumps({"input": given}) + "\n" + lines)


if __name__ == "__main__":
    main()
