#!/usr/bin/env python3
"""Prints what the demo measured: per agent its answers, the time to the first token and the KV bytes, both ways.

usage: demo_table.py DIRECTORY AGENT...   (DIRECTORY holds what demo.sh wrote: entries.json, AGENT.shared.jsonl, AGENT.own.jsonl,
tier-PLACE.jsonl and tier-PLACE.entries.json)
Exit code 1 when an agent did not use the shared cache, or when an answer depends on where the cache was; one that differs from an own
prefill's is marked and is no failure.
"""
import json
import os
import sys

MEGA = 1e6


def read_lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def refuse(agent, why):
    print(f"demo_table: {agent}: {why}", file=sys.stderr)
    sys.exit(1)


def read_agent(directory, agent):
    """Questions with both answers, and the figures of both ways."""
    questions = read_lines(f"share/demo/questions-{agent}.jsonl")
    shared = read_lines(os.path.join(directory, f"{agent}.shared.jsonl"))
    own = read_lines(os.path.join(directory, f"{agent}.own.jsonl"))
    if not len(questions) == len(shared) == len(own) > 0:
        refuse(agent, f"{len(questions)} questions, {len(shared)} and {len(own)} answers")
    for answer in shared:
        if answer["class"] != "approx" or answer["reused_tokens"] != answer["context_tokens"]:
            refuse(agent, f"no reuse: class {answer['class']}, reason {answer['reason']}")
    if any(answer["reused_tokens"] for answer in own):
        refuse(agent, "the comparison reused a cache")
    return questions, shared, own


def print_answers(questions, shared, own):
    rows = [(q["question"], s["answer"], o["answer"], q["answer"]) for q, s, o in zip(questions, shared, own)]
    for question, with_cache, alone, expected in rows:
        verdict = "same" if with_cache == alone else "DIFFERENT"
        print(f"  {question}")
        print(f"    {with_cache}   [{verdict}]")
        if with_cache != alone:
            print(f"    {alone}   [after its own prefill]")
        if expected not in (with_cache, alone):
            print(f"    {expected}   [expected]")


def print_figures(shared, own):
    """Times and bytes belong to the batch of questions, so each line of an agent carries the same."""
    with_cache, alone = shared[0], own[0]
    first, last = with_cache["run"]
    parts = with_cache["ttft_parts"]
    print(f"  recomputed   layers {first}-{last}" + (", from a mapped state" if with_cache["map"] else ""))
    print(f"  first token  {with_cache['ttft_s']:.2f} s with the shared cache, {alone['ttft_s']:.2f} s after its own prefill: "
          f"{alone['ttft_s'] / with_cache['ttft_s']:.1f} times as fast")
    print(f"               attach {parts['attach'] * 1e3:.1f} ms, map {parts['map'] * 1e3:.0f} ms, "
          f"run {parts['run']:.2f} s, question {parts['suffix']:.2f} s")
    print(f"  KV           {with_cache['kv_private_bytes'] / MEGA:.1f} MB private + "
          f"{with_cache['kv_shared_bytes'] / MEGA:.1f} MB shared, instead of {alone['kv_private_bytes'] / MEGA:.1f} MB private")


def print_total(entries, agents):
    """All agents and the publisher against one full cache each."""
    entry = sum(entry["bytes"] for entry in entries)
    full = sum(own[0]["kv_private_bytes"] for _, _, own in agents.values())
    private = sum(shared[0]["kv_private_bytes"] for _, shared, _ in agents.values())
    saved = full - private - entry
    asked = [pair for _, shared, own in agents.values() for pair in zip(shared, own)]
    same = sum(s["answer"] == o["answer"] for s, o in asked)
    print(f"{same} of {len(asked)} answers are the same as after an own prefill.")
    print(f"KV of {len(agents)} agents: {full / MEGA:.0f} MB with one full cache each; with one shared cache "
          f"{entry / MEGA:.0f} + {private / MEGA:.0f} = {(entry + private) / MEGA:.0f} MB, saved {saved / MEGA:.0f} MB;")
    more = (full - private) / len(agents)
    print(f"each further agent saves {more / MEGA:.0f} MB more ({100 * more * len(agents) / full:.0f} % of its cache).")


PLACES = (("resident", "in memory"), ("nvme", "after the second handbook"), ("restart", "after kill -9 of cairnd"))


def read_place(directory, place, n_tokens):
    """The answer, and how many bytes of the handbook's cache were not in memory when it was asked for."""
    answers = read_lines(os.path.join(directory, f"tier-{place}.jsonl"))
    if len(answers) != 1 or answers[0]["class"] != "approx" or answers[0]["reused_tokens"] != answers[0]["context_tokens"]:
        refuse("finder", f"no reuse of the cache {place}")
    with open(os.path.join(directory, f"tier-{place}.entries.json"), encoding="utf-8") as file:
        entries = [e for e in json.load(file)["entries"] if e["tokens"] == n_tokens]
    if len(entries) != 1:
        refuse("finder", f"{len(entries)} caches of the handbook {place}")
    return answers[0], entries[0]["bytes"] - entries[0]["resident_bytes"], entries[0]["bytes"]


def print_tiers(directory, n_tokens):
    """The same question about the first handbook, wherever its cache is."""
    rows = [(text, *read_place(directory, place, n_tokens)) for place, text in PLACES]
    print("finder, one question about the first handbook; memory holds only one of two:")
    print(f"  {'its cache is':27} {'on NVMe':>8}   {'first token':>11}   answer")
    for text, answer, away, whole in rows:
        print(f"  {text:27} {100 * away / whole:6.0f} %   {answer['ttft_s']:9.2f} s   {answer['answer']}")
    if rows[0][2] > 0 or rows[1][2] < rows[1][3] // 10 or rows[2][2] < rows[2][3] * 9 // 10:
        refuse("finder", "the cache was not where it should have been")
    if len({answer["answer"] for _, answer, _, _ in rows}) != 1:
        refuse("finder", "the answer depends on where the cache was")


def main():
    directory, names = sys.argv[1], sys.argv[2:]
    with open(os.path.join(directory, "entries.json"), encoding="utf-8") as file:
        entries = json.load(file)["entries"]
    if len(entries) != 1:
        refuse("base", f"{len(entries)} entries published instead of 1")
    agents = {name: read_agent(directory, name) for name in names}
    for name, (questions, shared, own) in agents.items():
        print(f"{name}: {shared[0]['context_tokens']} tokens of context, read by base")
        print_answers(questions, shared, own)
        print_figures(shared, own)
        print()
    print_total(entries, agents)
    print()
    print_tiers(directory, next(iter(agents.values()))[1][0]["context_tokens"])


if __name__ == "__main__":
    main()
