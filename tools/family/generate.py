#!/usr/bin/env python3
"""Makes contexts with facts in real prose, and questions about them, for the siblings of the family.

Writes JSON lines {"context", "question", "answer", "member"}. The same options on the same documentation give the same bytes.
"""
import argparse
import json
import os
import random
import sys

import prose
import tasks

# Characters per token of English prose under the model's tokenizer; only --tokens uses it, and only as a guess.
CHARACTERS_PER_TOKEN = 4.4


def span(text):
    """'8-14' or '8' as a pair of limits."""
    low, _, high = text.partition("-")
    low, high = int(low), int(high or low)
    if not 0 <= low <= high:
        raise argparse.ArgumentTypeError(f"not a range: {text}")
    return low, high


def part(text):
    """'2/3' as a pair."""
    k, _, n = text.partition("/")
    k, n = int(k), int(n)
    if not 1 <= k <= n:
        raise argparse.ArgumentTypeError(f"not a part: {text}")
    return k, n


def positive(text):
    if int(text) <= 0:
        raise argparse.ArgumentTypeError("must be positive")
    return int(text)


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--member", choices=tasks.MEMBERS, required=True, help="whose questions")
    parser.add_argument("--contexts", type=positive, default=20, metavar="N", help="default 20")
    parser.add_argument("--questions", type=positive, default=6, metavar="M", help="of each context, default 6")
    parser.add_argument("--seed", type=int, default=1, help="default 1")
    parser.add_argument("--facts", type=span, default=(8, 14), metavar="A-B", help="services in a context, default 8-14")
    parser.add_argument("--paragraphs", type=span, default=(5, 9), metavar="A-B", help="of prose, default 5-9")
    parser.add_argument("--tokens", type=positive, metavar="N", help="as many paragraphs as give about N tokens")
    parser.add_argument("--prose", action="append", metavar="DIR",
                        help="directory to take prose from, may be repeated (default: "
                        + " ".join(prose.SYSTEM_DIRECTORIES) + "; 'built-in': share/demo/prose.txt)")
    parser.add_argument("--part", type=part, default=(1, 1), metavar="K/N",
                        help="use only the K-th of N parts of the prose, so that what is fitted, chosen and tested shares no paragraph")
    parser.add_argument("--output", metavar="FILE", help="default: standard output")
    parser.add_argument("--self-check", action="store_true", help="check what was made; write nothing without --output")
    arguments = parser.parse_args(argv)
    if arguments.facts[0] < 1:
        parser.error("--facts: a context needs one at least")
    return arguments


def find_prose(directories, at_least):
    """The pool of paragraphs. A directory that the user names must be there; the default ones may be missing or poor."""
    if directories == ["built-in"]:
        return prose.collect([], at_least)
    for directory in directories or []:
        if not os.path.isdir(directory):
            raise SystemExit(f"generate: no such directory: {directory}")
    return prose.collect(directories or prose.SYSTEM_DIRECTORIES, at_least)


def draw_paragraphs(rng, pool, arguments, facts):
    """Neighbours in the pool, so that a context reads as if it came from one place."""
    start = rng.randrange(len(pool))
    neighbours = pool[start:] + pool[:start]
    if arguments.tokens is None:
        return neighbours[: rng.randint(*arguments.paragraphs)]
    room = arguments.tokens * CHARACTERS_PER_TOKEN - sum(len(f.sentence(tasks.FORMS[0])) + 2 for f in facts)
    taken = []
    for paragraph in neighbours:
        if room <= len(paragraph) / 2:
            break
        taken.append(paragraph)
        room -= len(paragraph) + 2
    return taken


def generate(arguments, pool):
    """All lines, as dictionaries, context by context."""
    k, n = arguments.part
    pool = pool[len(pool) * (k - 1) // n:len(pool) * k // n]
    rng = random.Random(arguments.seed)
    lines = []
    for _ in range(arguments.contexts):
        facts = tasks.draw_facts(rng, rng.randint(*arguments.facts))
        context = tasks.build_context(rng, draw_paragraphs(rng, pool, arguments, facts), facts)
        for question, answer in tasks.draw_questions(rng, arguments.member, facts, arguments.questions):
            lines.append({"context": context, "question": question, "answer": answer, "member": arguments.member})
    return lines


def check(arguments, pool, lines):
    """What is wrong with the lines; empty when nothing is."""
    wrong = []
    if generate(arguments, pool) != lines:
        wrong.append("a second run with the same seed differs")
    contexts = list(dict.fromkeys(line["context"] for line in lines))
    if len(contexts) != arguments.contexts:
        wrong.append(f"{len(contexts)} different contexts instead of {arguments.contexts}")
    for i, context in enumerate(contexts):
        facts = tasks.read_facts(context)
        if not arguments.facts[0] <= len(facts) <= arguments.facts[1]:
            wrong.append(f"context {i}: {len(facts)} facts")
        for what in ("service", "port"):
            if len({getattr(f, what) for f in facts}) != len(facts):
                wrong.append(f"context {i}: two facts with one {what}")
        if not context.startswith(tasks.TITLE + "\n\n") or not context.endswith("\n\n") or "<|" in context:
            wrong.append(f"context {i}: wrong frame")
        if any(context.count(f.service) != 1 for f in facts):
            wrong.append(f"context {i}: a service is named twice")
    for i, line in enumerate(lines):
        if tasks.answer_from(line["context"], line["member"], line["question"]) != line["answer"]:
            wrong.append(f"line {i}: the answer does not follow from the context: {line['question']}")
    if len({(line["context"], line["question"]) for line in lines}) != len(lines):
        wrong.append("a question is asked twice")
    return wrong


def main(argv=None):
    arguments = parse_arguments(argv)
    least = 10 * arguments.paragraphs[1] if arguments.tokens is None else arguments.tokens // 50
    pool, source = find_prose(arguments.prose, max(50, least))
    lines = generate(arguments, pool)
    sizes = [len(line["context"]) for line in lines]
    print(f"{len(lines)} questions on {arguments.contexts} contexts of about "
          f"{sum(sizes) / len(sizes) / CHARACTERS_PER_TOKEN:.0f} tokens; {len(pool)} paragraphs from {source}", file=sys.stderr)
    if arguments.self_check:
        wrong = check(arguments, pool, lines)
        for line in wrong[:20]:
            print("wrong: " + line, file=sys.stderr)
        if wrong:
            return 1
        print("self-check passed", file=sys.stderr)
        if arguments.output is None:
            return 0
    out = open(arguments.output, "w", encoding="utf-8") if arguments.output else sys.stdout
    with out:
        for line in lines:
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
