#!/usr/bin/env python3
"""Writes docs/data/quality/selectors.md from what tools/family/compare_selectors.py measured; a part of docs/quality.md. A table whose
measurements are not there is left out, and no number is typed by hand."""
import json
import math
import os

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
DATA = os.path.join(ROOT, "docs", "data", "quality")
MEMBERS = ("finder", "clerk")
KEEPS = (0.8, 0.6, 0.4, 0.25, 0.15)
SELECTORS = ("reread", "snap", "window", "expected", "attention", "value-norm", "key-norm")


def load(name):
    """What was asked, and the lines of the settings; None when it was not measured."""
    path = os.path.join(DATA, f"{name}.jsonl")
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    return lines[0]["input"], lines[1:]


def wilson(hits, n, z=1.96):
    share = hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def table(head, rows):
    if not rows:
        return ""
    sides = "|".join("--:" if name.startswith(">") else "---" for name in head)
    lines = ["| " + " | ".join(name.lstrip(">") for name in head) + " |", f"|{sides}|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def cell(line):
    if line is None:
        return ""
    return f"{line['exact'] / line['questions']:.3f} ({line['nll']:.4f})"


def spread(line):
    low, high = wilson(line["exact"], line["questions"])
    return f"{low:.3f} to {high:.3f}"


def by_spec(lines):
    return {line["spec"]: line for line in lines}


def questions(lines):
    return lines[0]["questions"]


def matrix(member, lines):
    found = by_spec(lines)
    rows = []
    for budget in ("global", "uniform", "linear", "cosine", "delayed"):
        for selector in SELECTORS:
            cells = [found.get(f"{selector}:{budget}:{keep}") for keep in KEEPS]
            if any(cells):
                rows.append([member, selector, budget, str(questions(lines)), *(cell(c) for c in cells)])
    return rows


def detail(member, lines):
    found = by_spec(lines)
    whole = found["whole"]["bytes_per_context"]
    wanted = ["whole", "whole:i8"] + [f"reread:global:{k}{i8}" for k in KEEPS for i8 in ("", ":i8")]
    wanted += [f"{selector}:global:0.4{i8}" for selector in SELECTORS[1:] if f"{selector}:global:0.4:i8" in found for i8 in ("", ":i8")]
    return [[member, f"`{name}`", str(found[name]["questions"]), f"{found[name]['exact'] / found[name]['questions']:.3f}",
             spread(found[name]), f"{found[name]['nll']:.4f}", f"{found[name]['bytes_per_context'] / whole:.1%}"]
            for name in wanted if name in found]


def cost(member, lines):
    """Seconds are of a machine with other work on it: they compare within a member's run only."""
    found = by_spec(lines)
    rows = []
    ways = ("", ":c6000", ":c512", ":c256", ":c128", ":h1", ":s2", ":s4", ":c256:s2")
    for selector, how in [("reread", how) for how in ways] + [(s, "") for s in SELECTORS[1:]]:
        cells = [found.get(f"{selector}:global:{keep}{how}") for keep in (0.4, 0.25)]
        one = next((c for c in cells if c), None)
        if one:
            took = [f"{one['score_s']:.2f}", f"{one['score_s'] / one['prefill_s']:.2f}"] if "prefill_s" in one else ["", ""]
            rows.append([member, f"`{selector}{how}`", *took, *(cell(c) for c in cells)])
    return rows


def measurements(kind):
    """Of each member that was measured: what was asked, and the lines."""
    found = {member: load(f"{kind}-{member}") for member in MEMBERS}
    return {member: data for member, data in found.items() if data is not None}


def long_contexts():
    text = ""
    for member, (given, lines) in measurements("long").items():
        text += f"""
On long contexts (`compare_selectors.py {member} --long`), where re-reading costs most; without a `c` it is 1,024 tokens at a time. With the
whole cache: {cell(by_spec(lines)["whole"])} on {questions(lines)} questions.

{table(["receiver", "selector", ">seconds", ">prefills", ">40 % kept", ">25 % kept"], cost(member, lines))}
{source(given)}"""
    return text


def one_set(member, lines):
    """Sets per KV head beside one set per layer."""
    found = by_spec(lines)
    rows = []
    for budget in ("global", "uniform"):
        if not any(name.startswith(f"reread:{budget}:") and name.endswith(":one") for name in found):
            continue
        for how, name in (("", "each KV head its own"), (":one", "one per layer")):
            cells = [found.get(f"reread:{budget}:{keep}{how}") for keep in KEEPS[1:]]
            rows.append([member, budget, name, str(questions(lines)), *(cell(c) for c in cells)])
    return rows


def sentence(member, lines):
    """What the tables say at a quarter of the tokens."""
    found = by_spec(lines)
    others = [line for name, line in found.items() if ":0.25" in name and not name.startswith("reread") and name.count(":") == 2]
    best = max(others, key=lambda line: (line["exact"], -line["nll"]))
    whole, read = found["whole"], found["reread:global:0.25"]
    points = [100 * (line["exact"] - whole["exact"]) / whole["questions"] for line in (read, best)]
    return (f"- {member} ({questions(lines)} questions): a quarter of the tokens, re-read, one threshold: {points[0]:+.1f} points against the whole cache (nll "
            f"{whole['nll']:.4f} → {read['nll']:.4f}); the best of the others, `{best['spec']}`: {points[1]:+.1f} (nll {best['nll']:.4f}).\n")


def source(given, what="questions"):
    tokens = f" of {given['tokens']} tokens" if "tokens" in given else ""
    return (f"- {given['member']}: {given['contexts']} contexts{tokens}, {given['questions']} {what} each, seed {given['seed']}, prose from "
            f"{given['prose']}, SHA-256 of the questions {given['sha256'][:16]}\n")


def per_head(rows):
    if not rows:
        return ""
    return f"""Whether each KV head needs a set of its own (method.md 5.2 asks): the layer's one set has the best score of its heads.

{table(["receiver", "budget", "sets", ">questions", *(f">{k:.0%} kept" for k in KEEPS[1:])], rows)}
"""


def costs(rows):
    if not rows:
        return ""
    head = ["receiver", "selector", ">seconds", ">prefills", ">40 % kept", ">25 % kept"]
    if not any(row[2] for row in rows):  # not timed
        head, rows = head[:2] + head[4:], [row[:2] + row[4:] for row in rows]
    return f"""What cheaper ways to score lose: `cN` reads N tokens at a time, `sN` every N-th token, `hN` looks at N query heads of each KV head.
Where it was timed, seconds are those per context, and prefills those of the producer's (wall clock, one thread beside another).

{table(head, rows)}
"""


def selectors():
    measured = measurements("selectors")
    if not measured:
        return ""
    rows = {part.__name__: [row for member, (_, lines) in measured.items() for row in part(member, lines)]
            for part in (matrix, detail, one_set, cost)}
    return f"""## Selectors on equal bytes

Base's cache, the receiver's run mapped, private and whole, all other layers cut after publishing, blind to the questions
(`tools/family/compare_selectors.py`, `bench/selectors`). Each cell is the share of exactly right answers, and in brackets the mean nll of the right answers.
`global`: one threshold over all layers and KV heads; `uniform`: each head equally many; the others shape the share by depth.

{"".join(sentence(member, lines) for member, (_, lines) in measured.items())}
{table(["receiver", "selector", "budget", ">questions", *(f">{k:.0%} kept" for k in KEEPS)], rows["matrix"])}
Re-reading with one threshold, and int8 on top (K per channel in blocks of 64 tokens, V per token and head, 4 sinks wide); bytes are those
of the attached layers, over whole f16:

{table(["receiver", "setting", ">questions", ">exact match", "95 % interval", ">nll", ">bytes"], rows["detail"])}
{per_head(rows["one_set"])}{costs(rows["cost"])}{"".join(source(given) for given, _ in measured.values())}{long_contexts()}"""


def budget_rows(member, given, lines):
    found = by_spec(lines)
    rows = [[member, "whole", "", str(questions(lines)), cell(found["whole"]), ""]]
    for budget in given["budgets"]:
        ours, threshold = found[budget["spec"]], found[f"reread:global:{budget['keep']}"]
        shape = ", ".join(f"{first}-{end - 1}: {share:.0%}" for (first, end), share in zip(given["groups"], budget["shares"]))
        rows.append([member, f"{budget['keep']:.0%}", shape, str(ours["questions"]), cell(threshold), cell(ours)])
    return rows


def budget_losses(member, given):
    """nll over that of the whole cache when one group alone is cut."""
    loss = {(i, level): x for i, level, x in given["loss"]}
    levels = sorted({level for _, level in loss}, reverse=True)
    return [[member, f"{first}-{end - 1}", *(f"{loss[i, level]:+.4f}" for level in levels)] for i, (first, end) in enumerate(given["groups"])], levels


def budgets():
    measured = measurements("budgets")
    if not measured:
        return ""
    losses = [budget_losses(member, given) for member, (given, _) in measured.items()]
    rows = [row for member, (given, lines) in measured.items() for row in budget_rows(member, given, lines)]
    return f"""## Budgets of layers by measured sensitivity

Method.md 5.3: how many tokens each group of layers needs is measured, and does that do better than one threshold over all layers?
(`compare_selectors.py MEMBER --budgets`; tokens by re-reading.) What is lost when one group alone is cut to a share of its tokens, nll over that of the whole cache:

{table(["receiver", "layers", *(f">{level:.0%}" for level in losses[0][1])], [row for found, _ in losses for row in found])}
The budget that gives the most tokens back per nll, beside one threshold with equally many, on contexts that it was not found on. Budgets
are by group, heads of one layer share a threshold; groups' shares are scaled to the same mean:

{table(["receiver", "kept", "budget found", ">questions", ">one threshold", ">budget"], rows)}
{"".join(source(given) for given, _ in measured.values())}"""


def generation():
    measured = load("gen-pyramid")
    if measured is None:
        return ""
    given, lines = measured
    rows = [[f"`{line['rule']}`", str(line["tokens"]), f"{line['agreed'] / line['tokens']:.4f}",
             "{:.4f} to {:.4f}".format(*wilson(line["agreed"], line["tokens"])), f"{line['nll']:.4f}", f"{line['rows']:.1%}"]
            for line in lines]
    return f"""## Dropping tokens while generating

`--gen-pyramid`: base writes with its full cache, then follows these tokens under each rule (`tools/family/compare_selectors.py generate`,
`bench/gen_pyramid`). Agreement: how often its most likely token is that of the full cache, over all tokens, later ones depending on
earlier ones; nll is that of the full cache's tokens; rows are those of the question and the answer that are left at the end.

{table(["rule", ">tokens", ">agreement", "95 % interval", ">nll", ">rows left"], rows)}
{source({**given, "member": "base"}, "long answers")}"""


def main():
    parts = [part for part in (selectors(), budgets(), generation()) if part]
    if parts:
        with open(os.path.join(DATA, "selectors.md"), "w", encoding="utf-8") as file:
            file.write("\n".join(parts).rstrip() + "\n")


if __name__ == "__main__":
    main()
