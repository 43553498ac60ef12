#!/usr/bin/env python3
"""Trains the demo model and writes its checkpoint.

    python train_demo.py OUT [--steps N] [--minutes M] [--start FOLDER] [--rate R] [--seed S]

In        nothing but a seed: the text comes from demo_data.py.
Out       OUT/{config.json, generation_config.json, model.safetensors, tokenizer.json}, weights in bf16.
Needs     requirements-train.txt, a C++ compiler (torch.compile), about 2 GB of memory. No GPU.
Threads   two processes of one thread each, which share every batch; the other half of a busy machine does not stop them
          at every barrier.
Time      prints the processor time used: about one second a step, so the default takes a quarter of an hour on two
          idle cores. A run ends after M minutes at the latest, with its learning rate down to zero.
"""

import argparse
import json
import math
import random
import re
import tempfile
import time
from pathlib import Path

import tokenizers
import torch
import torch.distributed
import transformers
from safetensors.torch import load_file, save_file
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from transformers.models.gemma4 import Gemma4Config, Gemma4ForConditionalGeneration

import demo_data
import demo_tokenizer

VOCAB = 1536
HIDDEN = 256          # one GGUF super-block, so that every ggml type can hold the weights
LAYERS = "SSFSSF"     # S sliding, F full; the last three borrow K and V: layers 1 and 2 are the donors
SHARED = 3
HEADS, KV_HEADS = 2, 1
MLP_WIDTH = 256       # doubled in the layers without K and V of their own
PLE_WIDTH = 32
WINDOW = 128
SOFTCAP = 30.0

SHORT, LONG = (16, 256), (4, 1024)  # sequences x tokens of a step; a step in LONG_EVERY is long
LONG_EVERY = 16
MATRIX_LR, OTHER_LR = 4e-3, 3e-3
WARMUP = 40
PROCESSES = 2


def text_config():
    kinds = {"S": "sliding_attention", "F": "full_attention"}
    return {
        "attention_bias": False, "attention_dropout": 0.0, "attention_k_eq_v": False, "bos_token_id": 2,
        "dtype": "bfloat16", "enable_moe_block": False, "eos_token_id": 1, "final_logit_softcapping": SOFTCAP,
        "global_head_dim": 512, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": HIDDEN,
        "hidden_size_per_layer_input": PLE_WIDTH, "initializer_range": 0.02, "intermediate_size": MLP_WIDTH,
        "layer_types": [kinds[c] for c in LAYERS], "max_position_embeddings": 4096, "model_type": "gemma4_text",
        "moe_intermediate_size": None, "num_attention_heads": HEADS, "num_experts": None,
        "num_global_key_value_heads": None, "num_hidden_layers": len(LAYERS), "num_key_value_heads": KV_HEADS,
        "num_kv_shared_layers": SHARED, "pad_token_id": 0, "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1000000.0, "rope_type": "proportional"},
            "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"}},
        "sliding_window": WINDOW, "tie_word_embeddings": True, "top_k_experts": None, "use_bidirectional_attention": None,
        "use_cache": True, "use_double_wide_mlp": True, "vocab_size": VOCAB, "vocab_size_per_layer_input": VOCAB,
    }


def model_config():
    media = demo_tokenizer.media_ids(VOCAB)
    return {
        "architectures": ["Gemma4ForConditionalGeneration"], "audio_config": None, "audio_token_id": media["<|audio|>"],
        "boa_token_id": media["<|audio>"], "boi_token_id": media["<|image>"], "dtype": "bfloat16",
        "eoa_token_index": media["<audio|>"], "eoi_token_id": media["<image|>"], "eos_token_id": [1, 106],
        "image_token_id": media["<|image|>"], "initializer_range": 0.02, "model_type": "gemma4",
        "text_config": text_config(), "tie_word_embeddings": True, "transformers_version": transformers.__version__,
        "video_token_id": media["<|video|>"], "vision_config": None,
    }


GENERATION = {"bos_token_id": 2, "do_sample": True, "eos_token_id": [1, 106, 50], "pad_token_id": 0, "temperature": 1.0,
              "top_k": 64, "top_p": 0.95, "transformers_version": transformers.__version__}


# ---------------------------------------------------------------------------------------------------------------- text


def train_tokenizer(seed):
    """tokenizer.json learned from a sample of the training text without its control tokens."""
    rng = random.Random(f"tokenizer {seed}")
    pieces = [text for _ in range(6000) for text, _ in demo_data.conversation(rng, 4)]
    return demo_tokenizer.build(re.sub(r"<(\|?\w+\|?)>", "", "\n".join(pieces)), VOCAB)


class Batches:
    """This process's share of batch number `step`, the same for the same seed."""

    def __init__(self, tokenizer, seed, rank):
        self.tokenizer, self.seed, self.rank = tokenizer, seed, rank

    def sequence(self, rng, tokens):
        """ids and loss weights, both tokens + 1 long: one conversation, cut at the end, or sometimes plain text."""
        ids, weights = [], []
        while len(ids) <= tokens:
            plain = not ids and rng.random() < 0.06
            pieces = demo_data.document(rng) if plain else demo_data.conversation(rng, max(3, tokens // 32))
            for text, weight in pieces:
                part = self.tokenizer.encode(text).ids
                ids += part
                weights += [weight] * len(part)
        return ids[:tokens + 1], weights[:tokens + 1]

    def __call__(self, step):
        rng = random.Random(f"batch {self.seed} {step} {self.rank}")
        rows, tokens = LONG if step % LONG_EVERY == LONG_EVERY - 1 else SHORT
        ids, weights = zip(*(self.sequence(rng, tokens) for _ in range(rows // PROCESSES)))
        return torch.tensor(ids), torch.tensor(weights)


# ------------------------------------------------------------------------------------------------------------ training


def new_model(seed):
    torch.manual_seed(seed)
    config = Gemma4Config(**model_config())
    config._attn_implementation = "eager"
    model = Gemma4ForConditionalGeneration(config).float().train()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("q_norm.weight", "k_norm.weight")):
                weight.fill_(weight.numel() ** -0.25)  # scores of unit variance: the attention scale is 1
            elif "post_" in name and name.endswith("norm.weight"):
                weight.fill_(0.5)
            elif name.endswith("embed_tokens.weight"):
                weight.normal_(std=HIDDEN**-0.5)
    return model


def over_processes(tensors, exchange):
    """Runs `exchange` on the tensors as one flat buffer and writes the result back."""
    flat = _flatten_dense_tensors(tensors)
    exchange(flat)
    for tensor, value in zip(tensors, _unflatten_dense_tensors(flat, tensors)):
        tensor.copy_(value)


class Optimizer:
    """Muon for the matrices, AdamW for tables and norms. Every process updates its share of the matrices."""

    def __init__(self, model, rank):
        matrices = [w for n, w in model.named_parameters() if w.ndim == 2 and "embed_tokens" not in n]
        others = [w for n, w in model.named_parameters() if w.ndim != 2 or "embed_tokens" in n]
        self.params, self.shares = matrices + others, [matrices[r::PROCESSES] for r in range(PROCESSES)]
        self.opts = [torch.optim.Muon(self.shares[rank], lr=MATRIX_LR, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
                     torch.optim.AdamW(others, lr=OTHER_LR, betas=(0.9, 0.98), weight_decay=0.0, fused=True)]

    def step(self, rate):
        """One update with the mean gradient of all processes; `rate` scales the learning rates."""
        with torch.no_grad():
            over_processes([w.grad for w in self.params], torch.distributed.all_reduce)
            for w in self.params:
                w.grad /= PROCESSES
            torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        for opt, base in zip(self.opts, (MATRIX_LR, OTHER_LR)):
            opt.param_groups[0]["lr"] = base * rate
            opt.step()
        with torch.no_grad():
            for rank, share in enumerate(self.shares):
                over_processes(share, lambda flat: torch.distributed.broadcast(flat, rank))
        for w in self.params:
            w.grad = None


def learning_rate(step, progress):
    """Share of the full rate: a short warm-up, then a cosine over `progress` from 0 to 1."""
    return min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * progress))


def weighted_loss(hidden, head, targets, weights):
    """Mean cross entropy of soft-capped logits; hidden [rows, HIDDEN], head [VOCAB, HIDDEN]."""
    logits = SOFTCAP * torch.tanh((hidden @ head.to(hidden.dtype).T).float() / SOFTCAP)
    return (torch.nn.functional.cross_entropy(logits, targets, reduction="none") * weights).sum() / weights.sum()


def train(model, batches, steps, minutes, rate, rank, save):
    """Ends after `steps`, or after `minutes` on a slow machine; the learning rate has fallen to zero either way.
    Returns the number of steps made."""
    language_model = model.model.language_model
    forward = torch.compile(language_model, dynamic=False)  # one graph for each of the two batch shapes
    loss_of = torch.compile(weighted_loss, dynamic=True)
    optimizer, shown, started = Optimizer(model, rank), [], time.monotonic()
    for step in range(steps):
        progress = torch.tensor([max(step / steps, (time.monotonic() - started) / (60 * minutes))])
        torch.distributed.broadcast(progress, 0)
        if progress.item() >= 1:
            return step
        ids, weights = batches(step)
        targets, weights = ids[:, 1:].flatten(), weights[:, 1:].flatten()
        learned = weights.nonzero()[:, 0]
        with torch.autocast("cpu", torch.bfloat16):
            hidden = forward(input_ids=ids[:, :-1].contiguous(), use_cache=False).last_hidden_state
            loss = loss_of(hidden.flatten(0, 1)[learned], language_model.embed_tokens.weight, targets[learned], weights[learned])
        loss.backward()
        optimizer.step(rate * learning_rate(step, progress.item()))
        shown.append(loss.item())
        if rank == 0 and (step + 1) % 50 == 0:
            print(f"step {step + 1} ({progress.item():.0%}) loss {sum(shown) / len(shown):.4f} "
                  f"cpu_s {time.process_time():.0f} (this process)", flush=True)
            shown.clear()
        if rank == 0 and (step + 1) % 100 == 0:
            save()
    return steps


def worker(rank, meeting_point, args):
    """One of the PROCESSES; the first one writes the checkpoint."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=meeting_point, rank=rank, world_size=PROCESSES)
    spec = json.loads((args.start / "tokenizer.json").read_text()) if args.start else train_tokenizer(args.seed)
    model = new_model(args.seed)
    if args.start:
        model.load_state_dict(load_file(args.start / "model.safetensors"), strict=False)  # all but the tied head
    batches = Batches(tokenizers.Tokenizer.from_str(json.dumps(spec)), args.seed, rank)
    done = train(model, batches, args.steps, args.minutes, args.rate, rank, lambda: write_checkpoint(model, spec, args.out))
    seconds = torch.tensor([time.process_time()])
    torch.distributed.all_reduce(seconds)
    if rank == 0:
        write_checkpoint(model, spec, args.out)
        print(f"wrote {args.out}: {done} steps, {sum(w.numel() for w in model.parameters())} parameters, "
              f"{seconds.item():.0f} s of processor time")
    torch.distributed.destroy_process_group()


# ---------------------------------------------------------------------------------------------------------- checkpoint


def write_checkpoint(model, spec, folder):
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.detach().to(torch.bfloat16).contiguous() for name, t in model.state_dict().items()
               if name != "lm_head.weight"}  # tied
    save_file(dict(sorted(tensors.items())), folder / "model.safetensors", {"format": "pt"})
    for name, value in (("config.json", model_config()), ("generation_config.json", GENERATION)):
        (folder / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    (folder / "tokenizer.json").write_text(demo_tokenizer.to_json(spec), encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--rate", type=float, default=1.0, help="scales the learning rates; below 1 with --start")
    parser.add_argument("--start", type=Path, metavar="FOLDER", help="go on from this checkpoint")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(worker, (f"file://{folder}/meeting", args), nprocs=PROCESSES)


if __name__ == "__main__":
    main()
