#!/usr/bin/env python3
"""Writes docs/quality.md from what tools/family/pairs.py and tools/family/evaluate.py measured (docs/data/quality/*.json).

No number in that page is typed by hand. A table whose measurements are not there is left out.
"""
import glob
import json
import os
import re
import sys
from collections import namedtuple

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
DATA = os.path.join(ROOT, "docs", "data", "quality")
PAGE = os.path.join(ROOT, "docs", "quality.md")
MEMBERS = ("base", "finder", "clerk")
ENOUGH = 240  # questions of a test
SHORT = 0.37  # of the layers: what a plan may recompute
Goal = namedtuple("Goal", "name least most int8 points")


def load(name):
    path = os.path.join(DATA, f"{name}.json")
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        document = json.load(file)
    if document.get("quality") == "agreement" and "tuned" not in document["own"]:
        for point in [document["own"], *document["points"]]:  # written when intervals were those of exact match
            point["low95"] = point["high95"] = None
    return document


def pairs(stage, kind=""):
    """Documents of a stage, in the order of the members; kind: of an open question about maps."""
    found = []
    for producer in MEMBERS:
        for receiver in MEMBERS:
            document = load(f"{stage}-{producer}-{receiver}{kind}")
            if document is not None:
                found.append((f"{producer} → {receiver}", document))
    return found


def table(head, rows):
    if not rows:
        return ""
    sides = "".join("--:|" if name.startswith(">") else "---|" for name in head)
    lines = ["| " + " | ".join(name.lstrip(">") for name in head) + " |", "|" + sides]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def run_name(point):
    return "{}-{}".format(*point["run"]) if point["run"] else "full reuse"


def setting_name(document, point):
    setting = document["settings"][point["setting"]]
    kept = "all tokens" if setting["keep"] >= 1 else f"{point['kept']:.1%} of the tokens"
    return kept + (", int8" if setting["int8"] else "")


def map_name(document, variant):
    """As it was asked for; behind the last one is the tuned one."""
    names = document["maps"].split(";")
    return names[variant] if variant < len(names) else names[0] + ", tuned"


def map_word(document, point):
    """Which kind of map a point was measured with."""
    given = map_name(document, point["variant"])
    return "tuned map" if ".tuned." in given or given.endswith("tuned") else "no map" if given == "plain" else "fitted map"


def quality(document, point):
    """The number that counts for this pair: exact match, or agreement with the receiver's own answers."""
    return point["agreement"] if document["quality"] == "agreement" else point["exact"]


def interval(point):
    if point["low95"] is None:
        return ""
    return f"{point['low95']:.3f} to {point['high95']:.3f}"


def points_against_own(document, point):
    return 100 * (quality(document, point) - quality(document, document["own"]))


def difference(document, point):
    return f"{points_against_own(document, point):+.1f}"


def by_agreement(document):
    """What to add where quality is not exact match."""
    return " (agreement)" if document["quality"] == "agreement" else ""


def of_profile(document, most=1):
    """Points of runs of at most this share of the layers, with the map that the pair's profile took (variant 0)."""
    return [p for p in document["points"] if p["run"] and p["layers"] <= most and p["variant"] == 0]


def test_rows(name, document):
    own = document["own"]
    rows = [[name, "own prefill", "100 %", str(own["questions"]), f"{quality(document, own):.3f}", interval(own), "", f"{own['nll']:.4f}", "", "100 %"]]
    for point in document["points"]:
        how = f"{run_name(point)}, {map_word(document, point)}, {setting_name(document, point)}" if point["run"] else run_name(point)
        rows.append([name, how,
                     f"{point['layers']:.0%}", str(point["questions"]), f"{quality(document, point):.3f}", interval(point),
                     difference(document, point) + by_agreement(document), f"{point['nll']:.4f}",
                     f"{point['kv_bytes']:.0%}", f"{point['time']:.0%}"])
    return rows


def input_line(name, document):
    given = document["input"]
    return (f"{name}: {document['own']['questions']} questions on {document['contexts']} contexts of {document['tokens']:.0f} tokens, "
            f"seed {given['seed']}, part {given['part']} of the prose from {given['prose']} (digest {document['requests'][:12]}); maps "
            f"fitted on {document['fit_tokens']} tokens of part {given['fit_part']}, `{document['maps']}`")


def sources(documents):
    return "".join(f"- {input_line(name, document)}\n" for name, document in documents)


def few(documents):
    """Says which tests are too small for the claim that a plan is within a point of the own quality."""
    small = [f"{name} ({document['own']['questions']})" for name, document in documents if document["own"]["questions"] < ENOUGH]
    if not small:
        return ""
    return (f"A claim of one point wants at least {ENOUGH} questions. Not there yet: {', '.join(small)}. `pairs.py test` goes on where it "
            "stopped.\n\n")


GOALS = (  # what to call it; share of the tokens loaded, from and to; as int8; points against own
    Goal("all tokens", 1, 1, False, -1),
    Goal("40 %", 0.26, 0.42, False, -1),
    Goal("40 %, int8", 0.26, 0.42, True, -1),
    Goal("25 %", 0, 0.26, False, -2),
    Goal("25 %, int8", 0, 0.26, True, -2),
)
GOAL_HEADS = [">" + goal.name for goal in GOALS]


def best_for(goal, document, points):
    """The best of the points that load as many of the tokens as the goal says, or None."""
    fit = [p for p in points if goal.least <= p["kept"] <= goal.most and document["settings"][p["setting"]]["int8"] == goal.int8]
    return max(fit, key=lambda p: quality(document, p)) if fit else None


def goal_cells(document, points):
    best = [best_for(goal, document, points) for goal in GOALS]
    return [difference(document, point) if point else "" for point in best]


def goals(documents):
    """For each pair the loss of the plan of 37 % of the layers at most, by how many of the tokens it loads."""
    rows = [[name + by_agreement(document), *goal_cells(document, of_profile(document, SHORT))] for name, document in documents]
    return ("The plan of each pair, at most 37 % of the layers, with the map that its profile took. The goals are -1.0 for the first three "
            "columns and -2.0 for the others. With the base model as the receiver this is agreement with its own answers; what facts its "
            "answers hold comes below:\n\n" + table(["points against own", *GOAL_HEADS], rows))


def by_length(document, longer):
    """The plan's run, then longer ones: pairs of a document and the points of one run."""
    found = []
    for given, most in ((document, SHORT), (longer, 1)):
        points = of_profile(given, most)
        runs = sorted({tuple(p["run"]) for p in points}, key=lambda run: run[1] - run[0])
        found += [(given, [p for p in points if tuple(p["run"]) == run]) for run in runs]
    return found


def cheapest(goal, runs):
    """The first run that reaches the goal."""
    for document, points in runs:
        best = best_for(goal, document, points)
        if best and points_against_own(document, best) >= goal.points - 1e-9:
            return f"{run_name(best)}, {best['layers']:.0%}"
    return "none tested"


def longer_runs(documents):
    """What the goals cost where the plan misses them: longer runs on the same questions."""
    rows, reached = [], []
    for name, document in documents:
        longer = load("test-{}-{}-longer".format(*name.split(" → ")))
        if longer is None or longer["requests"] != document["requests"]:
            continue
        pair, runs = name + by_agreement(document), by_length(document, longer)
        for given, points in runs:
            whole = next(p for p in points if p["setting"] == 0)
            word = map_word(given, whole) if whole["run"][0] else "no map"
            rows.append([pair, f"{run_name(whole)}, {word}", f"{whole['layers']:.0%}", f"{whole['nll']:.4f}", *goal_cells(given, points)])
        reached.append([pair, *(cheapest(goal, runs) for goal in GOALS)])
    if not rows:
        return ""
    return ("Where that plan misses a goal, longer runs on the same questions, with fitted maps, in points against own:\n\n"
            + table(["producer → receiver", "run", ">layers", ">nll", *GOAL_HEADS], rows)
            + "\nThe shortest of these that reaches each goal, and its share of the layers:\n\n"
            + table(["producer → receiver", *GOAL_HEADS], reached) + "\n")


def evidence(documents):
    """For each pair, where the run tested stands among all that its profile measured up to 37 % of the layers."""
    rows = []
    for name, document in documents:
        profile = load("profile-{}-{}".format(*name.split(" → ")))
        run = next((p["run"] for p in document["points"] if p["run"]), None)
        if profile is None or run is None:
            continue
        short = [p for p in profile["points"] if p["run"] and p["layers"] <= SHORT and p["setting"] == 0 and not p.get("tuned")]
        own = next((p for p in short if p["run"] == run), None)
        if own is None:
            continue
        rank = sorted(short, key=lambda p: (-quality(profile, p), p["nll"]))
        longer = [p for p in profile["points"] if p["run"] and p["layers"] > SHORT and p["setting"] == 0]
        best = max(longer, key=lambda p: (quality(profile, p), -p["nll"])) if longer else None
        others = ", ".join(f"{run_name(p)} {quality(profile, p):.3f} ({p['nll']:.4f})" for p in rank[:4] if p["run"] != run)
        rows.append([name, run_name(own), str(len(short)), str(own["questions"]), f"{quality(profile, own):.3f} ({own['nll']:.4f})",
                     f"{rank.index(own) + 1}", others, f"{run_name(best)} {quality(profile, best):.3f} ({best['nll']:.4f})" if best else ""])
    head = ["producer → receiver", "run tested", ">runs profiled", ">questions", ">quality (nll)", ">rank", "the others at the top", "best longer run profiled"]
    return ("Where the run tested stands among all runs of at most 37 % of the layers that the pair's profile measured, with fitted maps; ranked by "
            "quality, then nll. Differences of one or two questions are within the error; the nll decides between such runs:\n\n" + table(head, rows)) if rows else ""


def tests():
    documents = pairs("test") + [(f"{name}, other questions", document) for name, document in pairs("test12")]
    if not documents:
        return ""
    rows = [row for name, document in documents for row in test_rows(name, document)]
    head = ["producer → receiver", "how", ">layers recomputed", ">questions", ">quality", "95 %", ">points against own", ">nll",
            ">KV bytes loaded", ">time"]
    return f"""## Plans, tested

Runs were chosen by `cairn profile` on other contexts, and are tested here on contexts of a third part of the prose. "KV bytes" and shares
of the tokens are those of the reused layers, which are loaded; tokens are chosen by re-reading (method of `cairn-worker --compress`) with
one threshold for all layers and heads, and `--keep` was set so that the loaded layers come out below 40 % and 25 %.
"time" is until the first token's logits, beside the own prefill, on the machine that measured. The base model was not trained for the
questions: as a receiver it is compared with its own greedy answers, token by token; the interval is then by the spread among contexts, else Wilson's.

{few(documents)}{table(head, rows)}
{goals(documents)}
{longer_runs(documents)}{evidence(documents)}
{sources(documents)}
"""


def corner_rows(name, document):
    """Own prefill or partial reuse, whole or cut; and everything reused."""
    rows = []
    plan = of_profile(document)
    for setting, corner in enumerate(document["corners"]):
        kept = document["settings"][setting]
        how = "whole" if kept["keep"] >= 1 and not kept["int8"] else f"{kept['keep']:.0%} of the tokens" + (", int8" if kept["int8"] else "")
        reuse = next((p for p in plan if p["setting"] == setting), None)
        rows.append([name, how, f"{quality(document, corner):.3f}", interval(corner), f"{corner['nll']:.4f}",
                     f"{quality(document, reuse):.3f}" if reuse else "", interval(reuse) if reuse else "", f"{reuse['nll']:.4f}" if reuse else ""])
    full = next((p for p in document["points"] if not p["run"] and p["setting"] == 0), None)
    if full:
        rows.append([name, "whole, nothing recomputed", "", "", "", f"{quality(document, full):.3f}", interval(full), f"{full['nll']:.4f}"])
    return rows


def corners():
    documents = [(name, document) for name, document in pairs("test") if document.get("corners")]
    if not documents:
        return ""
    rows = [row for name, document in documents for row in corner_rows(name, document)]
    head = ["producer → receiver", "cache", ">own prefill", "95 %", ">nll", ">partial reuse", "95 %", ">nll"]
    return f"""## The four corners

What of a loss is the tokens' that are gone, and what is the reuse's: the receiver's own cache and the one that it reuses a part of, each
whole and cut the same way (tokens by re-reading, one threshold over all layers and heads; the share is over all layers). On the
questions of the tests above, the same run with its tuned map where there is one. For the base model quality is agreement with its own answers.

{table(head, rows)}
"""


def facts_rows(name, document):
    results = document["results"]
    own = next(result for result in results if result["what"] == "own prefill")
    whole = next(result for result in results if result["what"].endswith("mapped state"))
    rows = []
    for result in results:
        load = f"{result['shared_bytes'] / whole['shared_bytes']:.0%}" if result["what"].startswith("run") else ""
        rows.append([name, result["what"], load, str(result["questions"]), f"{result['exact']:.3f}", f"{result['holds']:.3f}",
                     f"{result['holds_low95']:.3f} to {result['holds_high95']:.3f}",
                     f"{100 * (result['holds'] - own['holds']):+.1f}" if result is not own else ""])
    return rows


def facts():
    """What the base model writes, who was not taught to answer in one word."""
    documents = pairs("facts")
    if not documents:
        return ""
    rows = [row for name, document in documents for row in facts_rows(name, document)]
    head = ["producer → receiver", "how", ">shared bytes, states included", ">questions", ">exact match", ">holds the fact", "95 %", ">points against own"]
    inputs = "".join(f"- {name}: {given['contexts']} contexts, seed {given['seed']}, part {given['part']} of the prose from {given['prose']}, "
                     f"SHA-256 of the questions {given['sha256'][:16]}\n" for name, document in documents for given in document["inputs"])
    return f"""## What the base model answers

Agreement, above, asks the base model to say with a sibling's cache word for word what it says with its own. Its exact match says
nothing: it does not answer in one word. So here it writes its answers, at most {documents[0][1]["written_tokens"]} tokens, through `cairnd` and `cairn-worker`,
and an answer counts when the fact asked for is in it (`tools/family/evaluate.py --receiver base --generate`).

{table(head, rows)}
{inputs}
"""


def transfer():
    documents = pairs("transfer")
    if not documents:
        return ""
    rows = []
    for name, document in documents:
        test = load("test-{}-{}".format(*name.split(" → ")))
        for point in document["points"]:
            if not point["run"] or document["settings"][point["setting"]]["int8"]:
                continue
            same = next((p for p in test["points"] if p["run"] == point["run"] and map_word(test, p) == map_word(document, point)
                         and test["settings"][p["setting"]] == document["settings"][point["setting"]]), None) if test else None
            rows.append([name, f"{run_name(point)}, {map_word(document, point)}", setting_name(document, point), str(point["questions"]),
                         f"{quality(document, document['own']):.3f}", f"{quality(document, point):.3f}", interval(point),
                         difference(document, point), difference(test, same) if same else ""])
    head = ["producer → receiver", "run", "tokens", ">questions", ">own prefill", ">plan", "95 %", ">points against own", ">on the test's prose"]
    return f"""## Profile transfer

Everything about a plan was found on licences and installed documentation: its map, its run, its tokens. Here it answers on prose of
another kind, short paragraphs about running machines (`share/demo/prose.txt`; `pairs.py transfer`).

{table(head, rows)}
{sources(documents)}
"""


def frontier_rows(document):
    points = [point for point in document["points"] if point["frontier"] and point["setting"] == 0]
    rows = []
    for point in sorted(points, key=lambda p: p["time"]):
        rows.append([run_name(point) + (", tuned map" if point.get("tuned") else ""), f"{point['layers']:.0%}", f"{point['time']:.0%}",
                     f"{quality(document, point):.3f}", interval(point), f"{point['nll']:.4f}"])
    return rows


def time_taken(document):
    timed = document.get("timed")
    if not timed:
        return ""
    return (f" One command took {timed['seconds'] / 60:.1f} minutes for {timed['runs']} runs with {timed['questions']} questions on "
            f"{timed['contexts']} contexts of {document['tokens']:.0f} tokens, fitting all maps on {timed['fit_tokens']} tokens before ({timed['machine']}).")


def profiles():
    documents = pairs("profile")
    if not documents:
        return ""
    text = """## Profiles

How plans were found. The frontier of each pair: runs that no other run beats in both quality and time, everything kept. The plots show all runs measured.
Few questions are enough to rank runs, not to tell their quality: that is the table above.

"""
    for name, document in documents:
        measured = len({tuple(point["run"]) for point in document["points"] if point["run"]})
        own = document["own"]
        text += f"### {name}\n\n{measured} runs, own prefill {quality(document, own):.3f} (nll {own['nll']:.4f}).{time_taken(document)}\n\n"
        text += table(["run", ">layers", ">time", f">{document['quality']}", "95 %", ">nll"], frontier_rows(document))
        text += "\n![profile]({})\n\n".format("data/quality/profile-{}-{}.svg".format(*name.split(" → ")))
    return text + sources(documents) + "\n"


def maps():
    documents = pairs("maps")
    if not documents:
        return ""
    text = """## State maps

One way to make a map against another, on the same questions. `lambda` is the ridge as a share of the mean of the Gram matrix's
diagonal, `weight=norm` weighs a token by one over its mean square, `rank` is a reduced-rank regression, `tokens` limits what was fitted
on, `half` stores f16. Exact match is too coarse to tell most of them apart on so few questions; nll is paired and does: a smaller ridge
than the usual 1e-3 is better, weights by norm lie between, maps of a few thousand tokens lose little, and a rank of a sixth loses more
than it saves.

"""
    for name, document in documents:
        text += f"### {name}\n\n"
        rows = []
        for point in sorted((p for p in document["points"] if p["run"]), key=lambda p: (p["run"], p["variant"])):
            rows.append([run_name(point), f"`{map_name(document, point['variant'])}`", f"{quality(document, point):.3f}", interval(point),
                         difference(document, point), f"{point['nll']:.4f}"])
        text += table(["run", "map", f">{document['quality']}", "95 %", ">points against own", ">nll"], rows) + "\n"
    return text + sources(documents) + "\n"


def map_points(document):
    """(run, name of the map, point, its paired difference), the maps of a run together."""
    gaps = {(tuple(gap["run"]), gap["variant"]): gap for gap in document.get("paired", [])}
    points = sorted((p for p in document["points"] if p["run"] and p["setting"] == 0), key=lambda p: (p["run"], p["variant"]))
    return [(run_name(p), map_name(document, p["variant"]), p, gaps.get((tuple(p["run"]), p["variant"]))) for p in points]


def map_table(documents, names):
    """One row per map; the first of each run is what the others are compared with. names: what maps are called here."""
    rows = []
    for pair, document in documents:
        own = document["own"]
        rows.append([pair, "", "own prefill", str(own["questions"]), f"{own['exact']:.3f}", f"{own['nll']:.4f}", ""])
        for run, name, point, gap in map_points(document):
            called = names.get(name, f"`{name}`")
            rows.append([pair, run, called, str(point["questions"]), f"{point['exact']:.3f}", f"{point['nll']:.4f}",
                         f"{gap['nll']:+.5f} ± {gap['error']:.5f}" if gap else ""])
    return table(["producer → receiver", "run", "map", ">questions", ">exact", ">nll", ">nll against the run's first"], rows)


def of_run(document, run):
    """Of the maps of a run: name → nll."""
    return {name: point["nll"] for at, name, point, _ in map_points(document) if at == run}


def told_apart(documents, names):
    """Which maps differ from the first of their run by more than two standard errors."""
    far = [f"{pair} {run} {names.get(name, f'`{name}`')} ({'worse' if gap['nll'] > 0 else 'better'})" for pair, document in documents
           for run, name, _, gap in map_points(document) if gap and abs(gap["nll"]) > 2 * gap["error"]]
    return f"Different by more than two standard errors: {'; '.join(far) or 'none'}. So few questions do not tell the others apart."


def relative(value, other):
    return f"{100 * (value / other - 1):+.0f} %"


def rank_and_tokens():
    lines = []
    for pair, document in pairs("maps"):
        for run in sorted({run_name(p) for p in document["points"] if p["run"]}):
            nll = of_run(document, run)
            for name, value in nll.items():
                whole = re.sub(r",(rank|tokens)=\d+", "", name)
                if whole != name and whole in nll:
                    lines.append([pair, run, f"`{name}`", f"{value:.4f}", f"{nll[whole]:.4f}", relative(value, nll[whole])])
    if not lines:
        return ""
    head = ["producer → receiver", "run", "map", ">nll", ">full rank, all tokens", ">change"]
    return f"""### Low rank, and few tokens to fit on

{table(head, lines)}
"""


def explained_rows(documents):
    """Of each start, the variance of the states' difference that each ridge explains."""
    rows = []
    for pair, document in documents:
        for layer in sorted({e["layer"] for e in document["explained"]}):
            shares = {map_name(document, e["variant"]): e["share"] for e in document["explained"] if e["layer"] == layer}
            rows.append([pair, str(layer), ", ".join(f"`{name}` {share:.5f}" for name, share in shares.items())])
    return rows


def ridge():
    documents = pairs("maps", "-lambda")
    if not documents:
        return ""
    spread = []
    for pair, document in documents:
        for run in sorted({run_name(p) for p in document["points"] if p["run"]}):
            nll = [value for name, value in of_run(document, run).items() if name.startswith("lambda=")]
            spread.append(f"{pair} {run} {100 * (max(nll) / min(nll) - 1):.1f} %")
    stopped = [pair for pair, document in documents if document.get("unfinished")]
    unfinished = f" Stopped before all contexts were measured, whole contexts counted: {', '.join(stopped)}." if stopped else ""
    return f"""### Does the ridge depend on the layer?

Between the best and the worst ridge lie, of the nll, {"; ".join(spread)}. The ridge is a share of the Gram matrix's mean diagonal, so
it weighs more where a few channels of the state are huge. {told_apart(documents, {})}{unfinished}

{table(["producer → receiver", ">start", "variance explained, on the tokens fitted on"], explained_rows(documents))}
{map_table(documents, {})}
{sources(documents)}
"""


def shared():
    documents = pairs("maps", "-shared")
    if not documents:
        return ""
    names = {"lambda=1e-6": "own, `lambda=1e-6`", "file=shared.map.gguf": "shared by finder and clerk", "file=finder.map.gguf": "finder's", "file=clerk.map.gguf": "clerk's"}
    return f"""### One map for several receivers

Fitted on the same tokens with the same ridge, the best map for two receivers together is the mean of theirs
(`tools/family/map_tools.py mean`). Beside each receiver's own map and the other's. {told_apart(documents, names)}

{map_table(documents, names)}
{sources(documents)}
"""


def kept_tokens():
    rows, given = [], []
    for receiver in MEMBERS:
        document = load(f"maps-kept-base-{receiver}")
        if document is None:
            continue
        for r in document["results"]:
            rows.append([f"base → {receiver}", r["what"], str(r["questions"]), f"{r['exact']:.3f}", f"{r['low95']:.3f} to {r['high95']:.3f}",
                         f"{r['nll']:.4f}"])
        i = document["input"]
        given.append(f"- base → {receiver}: run {i['run'][0]}-{i['run'][1]}, `{i['rule']}`, {i['contexts']} contexts, SHA-256 of the questions "
                     f"{i['sha256'][:16]}\n")
    measured = ""
    if rows:
        head = ["producer → receiver", "entry and map", ">questions", ">exact", "95 %", ">nll"]
        measured = f"""Through `cairnd` and `cairn-worker` (`tools/family/map_kept.py`):

{table(head, rows)}
{"".join(given)}"""
    return f"""### Maps for the states of a pyramid's kept tokens

There are two cases. An entry that is cut at or after publishing (`--pyramid keep=`, `plan`, `--compress`) has sets of its own per layer
and KV head, so there is no one set of tokens that a run could go on with: its states are stored whole, the run is over all tokens,
and maps need nothing special; "Plans, tested" has such entries. A pyramid made while the producer prefills has one nested set per layer: its state
holds the rows that reached the layer, and the executor maps and recomputes these alone. The maps here were fitted on the states of all
tokens, as all plans' are.

{measured}
"""


def tuned_maps():
    """The loss on the receiver's logits: tuned maps beside the fitted ones that they started as, on the tests' questions."""
    rows, learnt = [], []
    for stage in ("test", "transfer"):
        for pair, document in pairs(stage):
            own = document["own"]
            for gap in document.get("paired", []):
                of_run = [p for p in document["points"] if p["run"] == gap["run"] and p["setting"] == 0]
                tuned = next((p for p in of_run if map_word(document, p) == "tuned map"), None)
                fitted = next((p for p in of_run if map_word(document, p) == "fitted map"), None)
                if tuned is None or fitted is None or {tuned["variant"], fitted["variant"]} != {0, gap["variant"]}:
                    continue
                sign = 1 if gap["variant"] == tuned["variant"] else -1
                rows.append([pair, "test" if stage == "test" else "other prose", run_name(tuned), str(tuned["questions"]), f"{quality(document, own):.3f}",
                             f"{quality(document, fitted):.3f}", f"{quality(document, tuned):.3f}", f"{own['nll']:.4f}", f"{fitted['nll']:.4f}",
                             f"{tuned['nll']:.4f}", f"{sign * gap['nll']:+.4f} ± {gap['error']:.4f}"])
    for pair, document in pairs("test"):
        for line in document.get("tuning", []):
            learnt.append([pair, f"{line['map']}-{line['last']}", str(line["contexts"] - line["held_out"]), str(line["held_out"]),
                           f"{line['kl_before']:.4f}", f"{line['kl_after']:.4f}", relative(line["kl_after"], line["kl_before"])])
    if not rows and not learnt:
        return ""
    head = ["producer → receiver", "questions of", "run", ">n", ">own", ">fitted", ">tuned", ">own nll", ">fitted", ">tuned", ">nll, tuned − fitted"]
    heads = ["producer → receiver", "run", ">contexts", ">held out", ">KL, fitted", ">KL, tuned", ">change"]
    return f"""### The loss on the receiver's logits instead of on the state

A map that starts as the closed form and is moved by gradient descent through the run towards the receiver's own answers
(`cairn profile --tune`, `tools/profile/tune.h`). The same size, the same cost when it is used. KL is that of the receiver's distributions
after an own prefill and after the run, per token of an answer, on contexts to fit on that were held out. Where it was no better there,
the fitted map was kept, and "tuned" is the same map below:

{table(heads, learnt)}
On the tests' questions, beside the fitted map that it started as:

{table(head, rows)}
"""


def open_questions():
    parts = [part for part in (tuned_maps(), rank_and_tokens(), ridge(), shared(), kept_tokens()) if part]
    return """## Open questions about state maps

Those of method.md 5.1. Differences are paired, question by question, with their standard error.

""" + "".join(parts)


def selectors():
    """Pages of other measurements that bring their own words: docs/data/quality/*.md."""
    parts = []
    for path in sorted(glob.glob(os.path.join(DATA, "*.md"))):
        with open(path, encoding="utf-8") as file:
            parts.append(file.read().rstrip() + "\n\n")
    return "".join(parts)


def reference():
    document = load("reference")
    if document is None:
        return ""
    rows = [[r["receiver"], r["what"], str(r["questions"]), f"{r['exact']:.3f}", f"{r['low95']:.3f} to {r['high95']:.3f}",
             f"{r['nll']:.4f}", f"{r['reference']:.3f} ± {r['reference_ci95']:.3f}" if r["reference"] is not None else "",
             {True: "yes", False: "**no**", None: ""}[r["overlaps"]]] for r in document["results"]]
    handbook = "".join(f"On the demo's handbook ({h['tokens']:,} tokens, longer than any of these) all {h['questions']} questions of the "
                       f"{h['member']} go {h['own']} right after an own prefill and {h['shared']} with the shared cache.\n"
                       for h in document.get("handbook", []))
    given = "".join(f"- {i['member']}: seed {i['seed']}, prose from {i['prose']}, SHA-256 of the questions {i['sha256'][:16]}\n"
                    for i in document["inputs"])
    return f"""## Against an independent implementation

The same settings beside `tests/data/golden/quality.json`, which another implementation measured on other contexts; through `cairnd`
and `cairn-worker` (`tools/family/evaluate.py --seed 1 --plans tests/data/plans`). The mapped runs here have the maps of the reference, fitted on other prose.
"overlap" says whether the intervals meet. Intervals are Wilson's for 95 %, questions taken as independent; nll is the mean negative log
likelihood of the right answer's tokens.

{table(["receiver", "setting", ">questions", ">exact match", "95 % interval", ">nll", "reference", "overlap"], rows)}
{given}
{handbook}"""


def main():
    text = f"""# Quality

How often siblings answer exactly right with another member's cache, beside what they reach after a prefill of their own. Written by
`make report` from `docs/data/quality/`; `tools/family/pairs.py` and `tools/family/evaluate.py` measure. Prose of installed
documentation differs between machines, so the digests of the questions do too.

{tests()}{facts()}{corners()}{transfer()}{maps()}{open_questions()}{profiles()}{selectors()}{reference()}"""
    with open(PAGE, "w", encoding="utf-8") as file:
        file.write(text.rstrip() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
