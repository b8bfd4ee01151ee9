"""Reads build/bench/results.jsonl: the latest record of each figure, a full run's before a quick one's."""
import json
import os

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
OUT = os.path.join(ROOT, "build", "bench")
GROUPS = ("attach", "publish", "prefill", "ttft", "agents", "decode", "spill", "gpu prefill", "gpu attach", "gpu tiers",
          "gpu batch")


def latest(path=os.path.join(OUT, "results.jsonl")):
    found = {}
    with open(path, encoding="utf-8") as file:
        for record in map(json.loads, file):
            key = (record["group"], record["figure"])
            if key in found and record["quick"] and not found[key]["quick"]:
                continue
            found.pop(key, None)
            found[key] = record
    return list(found.values())


def by_group(records):
    names = [*GROUPS, *dict.fromkeys(r["group"] for r in records if r["group"] not in GROUPS)]
    groups = {name: [r for r in records if r["group"] == name] for name in names}
    return {name: rows for name, rows in groups.items() if rows}
