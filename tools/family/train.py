#!/usr/bin/env python3
"""Fine-tunes a sibling: LoRA on all projections of all layers, on contexts that are made as they are needed.

The committed adapters were made this way (rank 16, alpha 32, learning rate 8e-4), on prose from the documentation of PostgreSQL
and Python and from the Jargon File. Each sample is one context with eight questions in one conversation; the loss counts the
answers only. Contexts grow in the course of the training, from a few hundred tokens to the limit.
"""
import argparse
import math
import os
import random
import time

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file

import base
import prose
import tasks

LIMIT = 2400      # tokens of a context
QUESTIONS = 8     # of a sample
SAMPLES = 2       # of a step
WARM_UP = 20      # steps
IGNORED = -100    # label of tokens that do not count


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--member", choices=tasks.MEMBERS, required=True)
    parser.add_argument("--prose", action="append", required=True, metavar="DIR", help="prose to train on, may be repeated")
    parser.add_argument("--output", required=True, metavar="DIR", help="where the adapter goes, in PEFT's format")
    parser.add_argument("--base", default=base.default_path(), metavar="FILE", help="GGUF of the foundation")
    parser.add_argument("--minutes", type=float, default=60, help="how long to train, default 60")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=8e-4, help="highest learning rate, default 8e-4")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--start-from", metavar="DIR", help="go on from this adapter, with long contexts at once")
    parser.add_argument("--dtype", choices=("bf16", "f32"), default="bf16", help="f32: for CPUs without bf16 arithmetic")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    return parser.parse_args()


def draw_sample(rng, tokenizer, pool, member, share):
    """Token ids and labels of one conversation; share: 0..1, how far contexts have grown."""
    facts = tasks.draw_facts(rng, rng.randint(3, 5 + int(12 * share)))
    n_paragraphs = rng.randint(1, int(4 + 14 * share))
    start = rng.randrange(max(1, len(pool) - n_paragraphs))
    context = tasks.build_context(rng, pool[start : start + n_paragraphs], facts)

    def encode(text):
        return tokenizer.encode(text, add_special_tokens=False).ids

    ids = encode(tasks.chat(context, "")[0])[:LIMIT]
    labels = [IGNORED] * len(ids)
    for i in range(QUESTIONS):
        question, answer = tasks.draw_questions(rng, member, facts, 1)[0]
        opening, asked = tasks.chat("", question)
        asked = encode(asked if i == 0 else opening + asked)
        answered = encode(answer + tasks.END)
        ids += asked + answered
        labels += [IGNORED] * len(asked) + answered
    return torch.tensor([ids]), torch.tensor(labels)


def answer_loss(model, ids, labels):
    """Cross entropy and accuracy over the answers' tokens; logits are computed for these only."""
    inner = model.base_model.model
    hidden = inner.model(ids).last_hidden_state[0]
    counted = (labels[1:] != IGNORED).nonzero()[:, 0]
    logits = inner.lm_head(hidden[counted]).float()
    wanted = labels[1:][counted]
    loss = torch.nn.functional.cross_entropy(logits, wanted)
    return loss, (logits.argmax(-1) == wanted).float().mean().item()


def build_model(arguments):
    model = base.load_model(arguments.base, torch.bfloat16 if arguments.dtype == "bf16" else torch.float32)
    model.config.use_cache = False
    model = get_peft_model(model, LoraConfig(
        r=arguments.rank, lora_alpha=2 * arguments.rank, task_type="CAUSAL_LM",
        target_modules=[name.split(".")[1] for name in base.TARGETS]))
    if arguments.start_from:
        set_peft_model_state_dict(model, load_file(os.path.join(arguments.start_from, "adapter_model.safetensors")))
    model.train()
    return model


def train(arguments, model, tokenizer, pool):
    rng = random.Random(arguments.seed)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=arguments.rate, betas=(0.9, 0.95), weight_decay=0.0)
    head_start = 0.35 if arguments.start_from else 0.0
    started, step, recent = time.monotonic(), 0, []
    while (done := (time.monotonic() - started) / (60 * arguments.minutes)) < 1:
        cosine = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = arguments.rate * min(1, (step + 1) / WARM_UP) * cosine
        optimizer.zero_grad(set_to_none=True)
        for _ in range(SAMPLES):
            ids, labels = draw_sample(rng, tokenizer, pool, arguments.member, min(1, 1.5 * done + head_start))
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=arguments.dtype == "bf16"):
                loss, accuracy = answer_loss(model, ids, labels)
            (loss / SAMPLES).backward()
            recent = recent[-39:] + [(loss.item(), accuracy)]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        step += 1
        if step % 10 == 0:
            means = [sum(column) / len(recent) for column in zip(*recent)]
            print(f"step {step}  {100 * done:.0f} %  loss {means[0]:.3f}  accuracy {means[1]:.3f}", flush=True)
        if step % 100 == 0:
            model.save_pretrained(arguments.output, save_embedding_layers=False)
    model.save_pretrained(arguments.output, save_embedding_layers=False)
    return step


def main():
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    pool, source = prose.collect(arguments.prose, 100, exclude=None)
    print(f"{len(pool)} paragraphs from {source}")
    steps = train(arguments, build_model(arguments), base.load_tokenizer(arguments.base), pool)
    print(f"{steps} steps; adapter in {arguments.output}")


if __name__ == "__main__":
    main()
