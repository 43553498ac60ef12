#!/usr/bin/env python3
"""Trains the drafter of the demo model by distillation and writes its checkpoint.

    python train_demo_assistant.py TARGET OUT [--steps N] [--minutes M] [--layers SF] [--seed S]

In        the finished demo model, which does not change; questions from demo_data.py, answers written by the target itself.
Out       OUT/{config.json, generation_config.json, model.safetensors}, weights in bf16.
Learns    what the drafter is asked at run time: from the token at position C, the target's row at C - 1 and the donor rows
          before C, guess the tokens after C one by one, fed with its own rows from the second guess on.
Needs     as train_demo.py, about 3 GB of memory.
Time      prints the processor time used. A run ends after M minutes at the latest, with its learning rate down to zero.
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

import tokenizers
import torch
import torch.distributed
import transformers
from safetensors.torch import save_file
from transformers import DynamicCache
from transformers.models.gemma4 import Gemma4ForConditionalGeneration
from transformers.models.gemma4_assistant import Gemma4AssistantConfig, Gemma4AssistantForCausalLM

import demo_data
import demo_words as words
from train_demo import PROCESSES, Optimizer, learning_rate, text_config

WIDTH, MLP_WIDTH, HEADS = 64, 256, 1
CHAIN = 4                         # draft steps of a training round
CHAIN_WEIGHTS = (1.0, 0.9, 0.8, 0.7)
ARGMAX_SHARE = 0.5                # of the learned distribution; the rest is the target's at temperature 1
STOP_IDS = (1, 106, 50)
TOP_P = 0.95                      # of the sampled half of the answers, as in the target's generation_config.json

SHORT, LONG = (256, 64), (512, 16)          # tokens x sequences that the target writes at a time
SHORT_TEXTS, LONG_TEXTS = 6, 1              # such batches, per process
SHORT_STEP, LONG_STEP = (32, 48), (16, 96)  # sequences x positions of a training step; one step in LONG_EVERY is long
LONG_EVERY = 8


def assistant_config(layers):
    kinds = {"S": "sliding_attention", "F": "full_attention"}
    text = text_config() | {
        "final_logit_softcapping": None, "hidden_size": WIDTH, "hidden_size_per_layer_input": 0, "intermediate_size": MLP_WIDTH,
        "layer_types": [kinds[c] for c in layers], "num_attention_heads": HEADS, "num_hidden_layers": len(layers),
        "num_kv_shared_layers": len(layers), "use_double_wide_mlp": False, "vocab_size_per_layer_input": 0}
    return {"architectures": ["Gemma4AssistantForCausalLM"], "backbone_hidden_size": text_config()["hidden_size"],
            "centroid_intermediate_top_k": 32, "dtype": "bfloat16", "model_type": "gemma4_assistant", "num_centroids": 2048,
            "text_config": text, "tie_word_embeddings": True, "transformers_version": transformers.__version__,
            "use_ordered_embeddings": False}


GENERATION = {"num_assistant_tokens": 4, "num_assistant_tokens_schedule": "constant",
              "transformers_version": transformers.__version__}


# ---------------------------------------------------------------------------------------------------------------- text

TURNS = [(0.12, demo_data.sum_turn), (0.17, demo_data.sequence_turn), (0.18, demo_data.json_turn),
         (0.15, demo_data.story_turn), (0.08, demo_data.greeting_turn), (0.08, demo_data.code_turn),
         (0.11, demo_data.fact_turn), (0.05, demo_data.small_sum_turn), (0.06, demo_data.unknown_turn)]


def kept_out(user):
    """Requests that the drafter never learns from: one in twelve; demo_data.py itself keeps out others."""
    return demo_data.held_out("assistant", user)


def request(rng, make):
    while True:
        user = make(rng).user
        if not kept_out(user):
            return demo_data.loosen(rng, user)


def requests(rng):
    """What the user says, turn by turn, without end. Sometimes a name is given and asked for later."""
    while True:
        users = [request(rng, rng.choices([m for _, m in TURNS], [s for s, _ in TURNS])[0]) for _ in range(4)]
        if rng.random() < 0.25:
            users[0] = rng.choice(["My name is {}.", "Hi, my name is {}.", "Hello, I am {}.", "I am {}."]).format(
                demo_data.pick(rng, words.NAMES))
            users[rng.randrange(1, 4)] = rng.choice(["What is my name?", "Do you remember my name?", "Who am I?"])
        yield from users


def turn_text(user, first):
    return demo_data.prompt_text(user) if first else demo_data.prompt_text(user).replace("<bos>", "\n")


def target_logits(target, hidden):
    """The target's logits of rows after its final norm."""
    cap = target.config.final_logit_softcapping
    return cap * torch.tanh(hidden @ target.embed_tokens.weight.T / cap)


def choose(logits, sampled):
    """The next token of every sequence: the most probable one, or where `sampled` one drawn from the best TOP_P."""
    ordered, ids = logits.softmax(-1).sort(-1, descending=True)
    ordered[ordered.cumsum(-1) - ordered >= TOP_P] = 0.0
    drawn = ids.gather(1, torch.multinomial(ordered, 1))[:, 0]
    return torch.where(sampled, drawn, ids[:, 0])


@torch.inference_mode()
def write_texts(target, tokenizer, users, tokens, sampled):
    """Conversations between `users` (one iterator per sequence) and the target: ids and whether the target wrote them, both
    [sequences, tokens]. A sequence whose iterator ends is filled up with padding."""
    waiting = [tokenizer.encode(turn_text(next(u), True)).ids for u in users]
    ids, own = torch.zeros(len(users), tokens, dtype=torch.long), torch.zeros(len(users), tokens, dtype=torch.bool)
    cache, chosen, open_rows = DynamicCache(config=target.config), [0] * len(users), [True] * len(users)
    for t in range(tokens):
        for row, queue in enumerate(waiting):
            if not queue and ids[row, t - 1] in STOP_IDS and own[row, t - 1]:
                user = next(users[row], None)
                open_rows[row] = user is not None
                queue += tokenizer.encode(turn_text(user, False)).ids if open_rows[row] else [0] * tokens
            own[row, t] = not queue
            ids[row, t] = queue.pop(0) if queue else chosen[row]
        if not any(open_rows):
            break
        hidden = target(input_ids=ids[:, t:t + 1], past_key_values=cache, use_cache=True).last_hidden_state[:, 0]
        chosen = choose(target_logits(target, hidden), sampled).tolist()
    return ids, own


@torch.inference_mode()
def target_rows(target, ids):
    """What the drafter reads of the target: rows after the final norm, and K and V of the donor per layer type."""
    out = target(input_ids=ids, use_cache=False, return_shared_kv_states=True)
    return out.last_hidden_state, {kind: (k, v) for kind, (k, v) in out.shared_kv_states.items()}


class Texts:
    """Texts of one length with the target's rows, all in memory; hands out training rounds."""

    def __init__(self, target, tokenizer, rng, batches, shape):
        tokens, rows = shape
        written = [write_texts(target, tokenizer, [requests(rng) for _ in range(rows)], tokens, torch.arange(rows) % 2 == 1)
                   for _ in range(batches)]
        ids, own = (torch.cat(parts) for parts in zip(*written))
        start = own & torch.cat([own[:, 1:], torch.zeros(len(own), 1, dtype=torch.bool)], 1)
        good = start.any(1)
        self.ids, self.own, self.start = ids[good], own[good], start[good]  # start: a round may begin at C; x_{C+1} is known too
        hidden, kv = zip(*(target_rows(target, part) for part in self.ids.split(16)))
        self.hidden = torch.cat([part.bfloat16() for part in hidden])
        self.kv = {kind: tuple(torch.cat([part[kind][i].bfloat16() for part in kv]) for i in range(2)) for kind in kv[0]}

    def rounds(self, rng, shape):
        """Rounds for `shape` = sequences x positions: the positions C, and ids, own, hidden and kv of the sequences."""
        rows, count = shape
        picked = torch.randint(len(self.ids), (rows,), generator=rng)
        positions = torch.multinomial(self.start[picked].float(), count, replacement=True, generator=rng)
        return positions, self.ids[picked], self.own[picked], self.hidden[picked], {
            kind: tuple(t[picked] for t in pair) for kind, pair in self.kv.items()}


# ------------------------------------------------------------------------------------------------------------- drafter


def visible(positions, tokens, window):
    """Additive masks [rows, 1, count, tokens]: the donor rows that a round at position C may read, all of them before C."""
    row, position = torch.arange(tokens), positions[:, None, :, None]
    seen = {"full_attention": row < position}
    seen["sliding_attention"] = seen["full_attention"] & (row > position - window)
    return {kind: torch.zeros(s.shape).masked_fill(~s, torch.finfo(torch.bfloat16).min) for kind, s in seen.items()}


def draft_step(assistant, embedded, hidden, positions, masks, kv, stack=None):
    """One step for all rounds: embedded tokens and hidden rows [rows, count, D]. Returns the row for the next step and z."""
    x = assistant.pre_projection(torch.cat([embedded, hidden], -1))
    stack = assistant.model if stack is None else stack
    z = stack(inputs_embeds=x, attention_mask=masks, position_ids=positions, shared_kv_states=dict(kv),
              use_cache=False).last_hidden_state
    return assistant.post_projection(z), z


def new_assistant(config, target, seed):
    torch.manual_seed(seed)
    config = Gemma4AssistantConfig(**config)
    config._attn_implementation = config.text_config._attn_implementation = "eager"
    assistant = Gemma4AssistantForCausalLM(config).float().train()
    donors = {kind: layer for kind, layer in zip(target.config.layer_types, target.layers)
              if not layer.self_attn.is_kv_shared_layer}  # the last one of its kind
    with torch.no_grad():
        for name, weight in assistant.named_parameters():
            if "post_" in name and name.endswith("norm.weight"):
                weight.fill_(0.5)
            elif weight.ndim == 2:
                weight.normal_(std=weight.shape[1] ** -0.5)
        for kind, layer in zip(config.text_config.layer_types, assistant.model.layers):
            layer.self_attn.q_norm.weight.copy_(donors[kind].self_attn.q_norm.weight)
        # The head starts as the best approximation of the target's of this width, and the way back as its inverse.
        table = target.embed_tokens.weight * target.norm.weight
        _, _, axes = torch.linalg.svd(table, full_matrices=False)
        assistant.model.embed_tokens.weight.copy_(table @ axes[:WIDTH].T)
        assistant.post_projection.weight.copy_((axes[:WIDTH] * target.norm.weight).T)
    return assistant


def soft_loss(z, head, wanted):
    """Cross entropy against whole distributions, summed over n; z [n, WIDTH], head [V, WIDTH], wanted [n, V]."""
    logits = (z @ head.to(z.dtype).T).float()
    return -(wanted * logits.log_softmax(-1)).sum()


def round_loss(assistant, stack, loss_of, target, batch):
    """Mean loss of a chain of CHAIN steps over all rounds, and for each step [right, asked]."""
    positions, ids, own, hidden_rows, kv = batch
    masks = visible(positions, ids.shape[1], target.config.sliding_window)
    hidden = hidden_rows.gather(1, (positions - 1)[..., None].expand(-1, -1, hidden_rows.shape[-1])).float()
    going, total, weight_sum, right = torch.ones_like(positions, dtype=torch.bool), 0.0, 0.0, []  # going: in the answer still
    for step in range(CHAIN):
        here = (positions + step).clamp(max=ids.shape[1] - 2)
        going = going & (positions + step < ids.shape[1] - 1) & own.gather(1, here + 1) & own.gather(1, here)
        going = going & ~torch.isin(ids.gather(1, here), torch.tensor(STOP_IDS))
        with torch.no_grad():
            row = hidden_rows.gather(1, here[..., None].expand(-1, -1, hidden_rows.shape[-1]))[going]
            probabilities = target_logits(target, row.float()).softmax(-1)
            best = probabilities.argmax(-1)
            wanted = (1 - ARGMAX_SHARE) * probabilities
            wanted[torch.arange(len(best)), best] += ARGMAX_SHARE
        hidden, z = draft_step(assistant, target.embed_tokens(ids.gather(1, here)), hidden, positions, masks, kv, stack)
        z = z[going]
        total = total + CHAIN_WEIGHTS[step] * loss_of(z, assistant.model.embed_tokens.weight, wanted)
        weight_sum += CHAIN_WEIGHTS[step] * len(best)
        with torch.no_grad():
            guess = (z @ assistant.model.embed_tokens.weight.to(z.dtype).T).argmax(-1)
            right.append([(guess == best).sum().item(), len(best)])
    return total / weight_sum, torch.tensor(right, dtype=torch.float)


# ------------------------------------------------------------------------------------------------------------ training


def train(assistant, target, short, long, args, rank, save):
    """Ends after args.steps, or after args.minutes on a slow machine. Returns the number of steps made."""
    stack = torch.compile(assistant.model, dynamic=False)  # one graph for each of the two batch shapes
    loss_of = torch.compile(soft_loss, dynamic=True)
    optimizer, rng, started = Optimizer(assistant, rank), torch.Generator().manual_seed(args.seed * 100 + rank), time.monotonic()
    shown, right = [], torch.zeros(CHAIN, 2)
    for step in range(args.steps):
        progress = torch.tensor([max(step / args.steps, (time.monotonic() - started) / (60 * args.minutes))])
        torch.distributed.broadcast(progress, 0)
        if progress.item() >= 1:
            return step
        batch = long.rounds(rng, LONG_STEP) if step % LONG_EVERY == LONG_EVERY - 1 else short.rounds(rng, SHORT_STEP)
        with torch.autocast("cpu", torch.bfloat16):
            loss, counts = round_loss(assistant, stack, loss_of, target, batch)
        loss.backward()
        optimizer.step(learning_rate(step, progress.item()))
        shown.append(loss.item())
        right += counts
        if rank == 0 and (step + 1) % 50 == 0:
            print(f"step {step + 1} ({progress.item():.0%}) loss {sum(shown) / len(shown):.4f} guessed "
                  + " ".join(f"{r / n:.3f}" for r, n in right.tolist())
                  + f" cpu_s {time.process_time():.0f} wall_s {time.monotonic() - started:.0f} (this process)", flush=True)
            shown.clear()
            right.zero_()
        if rank == 0 and (step + 1) % 200 == 0:
            save()
    return args.steps


def load_target(folder):
    """The language model of a demo checkpoint, in fp32, frozen."""
    config = Gemma4ForConditionalGeneration.config_class.from_pretrained(folder)
    config._attn_implementation = config.text_config._attn_implementation = "eager"
    model = Gemma4ForConditionalGeneration.from_pretrained(folder, config=config, dtype=torch.float32).eval().requires_grad_(False)
    return model.model.language_model


def worker(rank, meeting_point, args):
    """One of the PROCESSES, with texts of its own; the first one writes the checkpoint."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=meeting_point, rank=rank, world_size=PROCESSES)
    target, tokenizer = load_target(args.target), tokenizers.Tokenizer.from_file(str(args.target / "tokenizer.json"))
    torch.manual_seed(args.seed * 100 + rank)
    rng = random.Random(f"assistant {args.seed} {rank}")
    short = Texts(target, tokenizer, rng, SHORT_TEXTS, SHORT)
    long = Texts(target, tokenizer, rng, LONG_TEXTS, LONG)
    if rank == 0:
        print(f"texts of {short.ids.numel() + long.ids.numel()} tokens, {short.own.sum() + long.own.sum()} of them by the target, "
              f"cpu_s {time.process_time():.0f} (this process)", flush=True)
    config = assistant_config(args.layers)
    assistant = new_assistant(config, target, args.seed)
    done = train(assistant, target, short, long, args, rank, lambda: write_checkpoint(assistant, config, args.out))
    seconds = torch.tensor([time.process_time()])
    torch.distributed.all_reduce(seconds)
    if rank == 0:
        write_checkpoint(assistant, config, args.out)
        print(f"wrote {args.out}: {done} steps, {sum(w.numel() for w in assistant.parameters())} parameters, "
              f"{seconds.item():.0f} s of processor time")
    torch.distributed.destroy_process_group()


def write_checkpoint(assistant, config, folder):
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.detach().to(torch.bfloat16).contiguous() for name, t in assistant.state_dict().items()
               if name != "lm_head.weight"}  # tied
    save_file(dict(sorted(tensors.items())), folder / "model.safetensors", {"format": "pt"})
    for name, value in (("config.json", config), ("generation_config.json", GENERATION)):
        (folder / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--minutes", type=float, default=25.0, help="for the steps, without the writing of the texts")
    parser.add_argument("--layers", default="SSSF", help="S sliding, F full")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(worker, (f"file://{folder}/meeting", args), nprocs=PROCESSES)


if __name__ == "__main__":
    main()
