#!/usr/bin/env python3
"""Measures the demo model on prompts that training never sees, greedily, with transformers.

    python eval_demo.py CHECKPOINT [--write-heldout FILE] [--show N]

In        a checkpoint folder; the prompts come from demo_data.py with a fixed seed.
Out       a table of right answers per task; FILE with one prompt per line: task, prompt (chat text as the model reads
          it), answer.
Right     an answer that is the expected text, character for character.
"""

import argparse
import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers.models.gemma4 import Gemma4ForConditionalGeneration

import demo_data

COUNT = 200
BATCH = 50
SEED = 20260501
STOP_IDS = [1, 106, 50]
SAMPLES = ["Hello!", "Who are you?", "Tell me a story about a fox.", "Tell me a story about a dragon and a mouse.",
           "Write a Python function that reverses a string.", "What is the capital of France?", "Spell moon.",
           "Count from 7 to 14.", "Who invented chess?", "What is 8 * 7?"]


def heldout():
    rng = random.Random(SEED)
    return [turn for task in demo_data.MEASURED for turn in demo_data.heldout_turns(rng, task, COUNT)]


def reproduced(model, tokenizer, turns):
    """For every turn whether greedy decoding gives exactly its answer and stops: one pass over prompt and answer, in which
    every token of the answer has to be the most probable one."""
    rows = []
    for t in turns:
        prompt = tokenizer.encode(demo_data.prompt_text(t.user)).ids
        rows.append((prompt, tokenizer.encode(t.model + "<turn|>").ids))
    good = []
    for first in range(0, len(rows), BATCH):
        part = rows[first:first + BATCH]
        longest = max(len(prompt) + len(answer) for prompt, answer in part)
        ids = [prompt + answer + [0] * (longest - len(prompt) - len(answer)) for prompt, answer in part]
        best = model(input_ids=torch.tensor(ids)).logits.argmax(-1).tolist()  # the padding is behind: nothing sees it
        for row, (prompt, answer) in zip(best, part):
            good.append(row[len(prompt) - 1:len(prompt) + len(answer) - 1] == answer)
    return good


def greedy_answer(model, tokenizer, user):
    ids = tokenizer.encode(demo_data.prompt_text(user)).ids
    made = model.generate(input_ids=torch.tensor([ids]), max_new_tokens=260, do_sample=False, temperature=None, top_k=None,
                          top_p=None, eos_token_id=STOP_IDS, pad_token_id=0)
    return tokenizer.decode(made[0, len(ids):].tolist(), skip_special_tokens=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--write-heldout", type=Path, metavar="FILE")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print N wrong answers and some sample chats")
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(args.checkpoint / "tokenizer.json"))
    model = Gemma4ForConditionalGeneration.from_pretrained(args.checkpoint, dtype=torch.float32).eval()
    turns = heldout()
    if args.write_heldout:
        lines = [json.dumps({"task": t.task, "prompt": demo_data.prompt_text(t.user), "answer": t.model}) for t in turns]
        args.write_heldout.write_text("\n".join(lines) + "\n", encoding="utf-8")

    print("| task | right | of |\n| --- | --- | --- |")
    with torch.inference_mode():
        good = reproduced(model, tokenizer, turns)
        for task in demo_data.MEASURED:
            verdicts = [ok for ok, t in zip(good, turns) if t.task == task]
            print(f"| {task} | {sum(verdicts)} | {len(verdicts)} |")
        for t in [t for ok, t in zip(good, turns) if not ok][:args.show]:
            print(f"\n{t.user!r}\n  expected {t.model!r}\n  answered {greedy_answer(model, tokenizer, t.user)!r}")
        if args.show:
            for user in SAMPLES:
                print(f"\n> {user}\n{greedy_answer(model, tokenizer, user)}")


if __name__ == "__main__":
    main()
