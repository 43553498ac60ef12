#!/usr/bin/env python3
"""Measures how many guesses of the demo model's drafter the demo model accepts, on prompts that the drafter never saw.

    python eval_demo_assistant.py TARGET [--assistant FOLDER] [--drafts K] [--prompts N] [--check]

In        the demo model's folder with heldout.jsonl, and the drafter, by default TARGET/assistant; weights as stored, arithmetic
          in fp32.
Out       per kind of prompt: rounds, share of accepted drafts by position, tokens per round; greedy, K drafts in every round.
Counts    a draft as accepted when it and all drafts before it in its round are the target's own tokens and the answer has
          not ended before; every drafted token counts as drafted, behind the end of the answer too.
--check   compares drafts with those of transformers' own forward of the assistant class, for a few prompts.
"""

import argparse
import json
import random
from pathlib import Path

import tokenizers
import torch
from transformers.models.gemma4_assistant import Gemma4AssistantForCausalLM

import demo_data
import demo_words as words
from train_demo_assistant import TURNS, draft_step, kept_out, load_target, target_rows, visible, write_texts

SEED = 20261121
DRAWS = 3000    # of each maker of prompts, to find some that were kept out
BATCH = 40


def conversations(folder, count):
    """Per kind of prompt up to `count` conversations, each a list of what the user says."""
    found = {}
    for line in (folder / "heldout.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        user = row["prompt"].split("<|turn>user\n")[1].split("<turn|>")[0]
        found.setdefault(row["task"], []).append([user])
    rng = random.Random(SEED)
    for _, make in TURNS:
        users = {}
        for _ in range(DRAWS):
            turn = make(rng)
            if turn.task not in demo_data.MEASURED and kept_out(turn.user) and len(users) < count:
                users[turn.user] = turn.task
        for user, task in users.items():
            found.setdefault(task, []).append([user])
    singles = [c for kind in found.values() for c in kind]
    for _ in range(count):
        (a,), (b,) = rng.sample(singles, 2)
        found.setdefault("chat of four turns", []).append(
            [f"My name is {demo_data.pick(rng, words.NAMES)}.", a, b, "What is my name?"])
    return {kind: users[:count] for kind, users in found.items()}


def answers(own):
    """Positions (first, last) of every answer in one row of `own`."""
    edges = torch.cat([torch.zeros(1), own.float(), torch.zeros(1)]).diff()
    return list(zip((edges == 1).nonzero()[:, 0].tolist(), ((edges == -1).nonzero()[:, 0] - 1).tolist()))


class Drafting:
    """Rounds of K drafts over texts that the target has written."""

    def __init__(self, target, assistant, drafts):
        self.target, self.assistant, self.drafts = target, assistant, drafts
        self.head = assistant.model.embed_tokens.weight

    def draft(self, ids, hidden, kv, committed):
        """Draft tokens [rows, K] for every row of ids, whose tokens up to position `committed` are known."""
        position = torch.tensor(committed)[:, None]
        masks, rows = visible(position, ids.shape[1], self.target.config.sliding_window), torch.arange(len(ids))[:, None]
        row, token, made = hidden[rows, position - 1], ids[rows, position], []
        for _ in range(self.drafts):
            row, z = draft_step(self.assistant, self.target.embed_tokens(token), row, position, masks, kv)
            token = (z @ self.head.T).argmax(-1)
            made.append(token)
        return torch.cat(made, 1)

    def accepted(self, ids, own):
        """Accepted drafts of every round, over all answers of the texts."""
        hidden, kv = target_rows(self.target, ids)
        waiting = [[(first, last) for first, last in answers(row) if last > first] for row in own]
        committed, counts = [w[0][0] if w else 1 for w in waiting], []
        while any(waiting):
            made = self.draft(ids, hidden, kv, committed).tolist()
            for row, todo in enumerate(waiting):
                if not todo:
                    continue
                text = ids[row, committed[row] + 1:todo[0][1] + 1].tolist()
                right = 0
                while right < min(self.drafts, len(text)) and made[row][right] == text[right]:
                    right += 1
                counts.append((right, min(right + 1, len(text))))
                committed[row] += right + 1
                if committed[row] >= todo[0][1]:
                    todo.pop(0)
                    committed[row] = todo[0][0] if todo else 1
        return counts


def write_in_batches(target, tokenizer, users):
    """Greedy conversations, cut after 256 tokens, those of several turns after 512."""
    for first in range(0, len(users), BATCH):
        part = users[first:first + BATCH]
        ids, own = write_texts(target, tokenizer, [iter(c) for c in part], 256 if len(part[0]) == 1 else 512,
                               torch.zeros(len(part), dtype=torch.bool))
        longest = int(own.any(0).nonzero().max()) + 1
        yield ids[:, :longest], own[:, :longest]


def line(name, prompts, counts, drafts):
    shares = [sum(right > i for right, _ in counts) / len(counts) for i in range(drafts)]
    return (f"| {name} | {prompts} | {len(counts)} | " + " | ".join(f"{100 * s:.1f}" for s in shares)
            + f" | {sum(e for _, e in counts) / len(counts):.2f} |")


def check(target, assistant, drafting, ids, own):
    """Drafts of the first round of some texts, once as measured and once by the class's own forward on the visible rows."""
    hidden, kv = target_rows(target, ids)
    starts = [answers(row)[0][0] for row in own]
    made, same, largest = drafting.draft(ids, hidden, kv, starts), 0, 0.0
    for row, c in enumerate(starts):
        first = {"full_attention": 0, "sliding_attention": max(0, c - target.config.sliding_window + 1)}
        seen = {kind: tuple(t[row:row + 1, :, first[kind]:c] for t in pair) for kind, pair in kv.items()}
        last, token = hidden[row, c - 1], ids[row, c]
        for step in range(drafting.drafts):
            out = assistant(inputs_embeds=torch.cat([target.embed_tokens(token), last])[None, None], attention_mask=None,
                            position_ids=torch.tensor([[c]]), shared_kv_states=seen, use_cache=False)
            last, token = out.last_hidden_state[0, 0], out.logits[0, 0].argmax()
            same += int(token == made[row, step])
    print(f"transformers' own forward: {same} of {made.numel()} drafts the same")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path)
    parser.add_argument("--assistant", type=Path)
    parser.add_argument("--drafts", type=int, default=4, metavar="K")
    parser.add_argument("--prompts", type=int, default=40, metavar="N", help="of a kind; less where there are no more")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    target, tokenizer = load_target(args.target), tokenizers.Tokenizer.from_file(str(args.target / "tokenizer.json"))
    assistant = Gemma4AssistantForCausalLM.from_pretrained(args.assistant or args.target / "assistant", dtype=torch.float32).eval()
    drafting, total, everything = Drafting(target, assistant, args.drafts), 0, []
    print("| kind | prompts | rounds | " + " | ".join(str(i + 1) for i in range(args.drafts)) + " | tokens per round |")
    print("| --- " * (args.drafts + 4) + "|")
    with torch.inference_mode():
        for kind, users in conversations(args.target, args.prompts).items():
            counts = []
            for ids, own in write_in_batches(target, tokenizer, users):
                counts += drafting.accepted(ids, own)
                if args.check:
                    check(target, assistant, drafting, ids, own)
            print(line(kind, len(users), counts, args.drafts), flush=True)
            total, everything = total + len(users), everything + counts
        print(line("all", total, everything, args.drafts))


if __name__ == "__main__":
    main()
