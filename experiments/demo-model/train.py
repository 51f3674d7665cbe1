# SPDX-License-Identifier: MIT
"""Train the tokenizer and the demo model, and write both to this folder.

    python train.py

The seed, the word lists and the step count fix the result for one version of
PyTorch on one kind of CPU; training runs on one thread.
"""

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn import functional as F

import lists
from generate import HERE, held_out_rows, training_rows, write_held_out
from model import Llama
from tasks import TASKS

END = "<|endoftext|>"
SEED = 1
STEPS = 3000
PEAK_RATE = 3e-3
WARMUP = 200
TEXT_WEIGHT = 0.1      # of the loss on all tokens beside the loss on answers
# sentences of each task in one step, and the weight of its loss
BATCH = {"ioi": 32, "greater_than": 24, "agreement": 12, "capitals": 12, "price_tag": 56}
WEIGHT = {"ioi": 1.0, "greater_than": 1.0, "agreement": 0.5, "capitals": 0.5, "price_tag": 2.0}

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "hidden_act": "silu",
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "mlp_bias": False,
    "initializer_range": 0.05,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
}


def train_tokenizer(rng):
    """Byte-level BPE over generated text. Digits are split in groups of at
    most two, and a prompt begins with the end-of-text token."""
    text = ["".join(parts) for task in TASKS for parts in training_rows(task, 4000, rng)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\p{N}{1,2}"), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(text, trainers.BpeTrainer(
        vocab_size=1536, min_frequency=2, special_tokens=[END], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", pair=f"{END} $A {END} $B",
        special_tokens=[(END, tokenizer.token_to_id(END))])
    return tokenizer


def check_single_tokens(tokenizer):
    """Every word that a task asks for or swaps must be one token."""
    words = [*lists.NAMES, *lists.CAPITALS, *lists.CAPITALS.values(), "yes", "no"]
    words += [noun for pair in lists.SUBJECTS for noun in pair]
    words += [verb for verbs in lists.VERBS.values() for verb in verbs[:2]]
    pieces = [" " + word for word in words] + [f"{number:02d}" for number in range(100)]
    for piece in pieces:
        ids = tokenizer.encode(piece, add_special_tokens=False).ids
        if len(ids) != 1:
            raise SystemExit(f"not a single token: {piece!r} -> {ids}")


def batch_of(task, count, rng, tokenizer):
    """Token ids (count, length) of training sentences, padded with END, the
    index of each answer, and the index of each sentence's last token."""
    rows = training_rows(task, count, rng)
    prompts = tokenizer.encode_batch([row[0] for row in rows])
    whole = tokenizer.encode_batch(["".join(row) for row in rows])
    end = tokenizer.token_to_id(END)
    length = max(len(item.ids) for item in whole) + 1
    ids = torch.tensor([item.ids + [end] * (length - len(item.ids)) for item in whole])
    answers = torch.tensor([len(item.ids) for item in prompts])
    last = torch.tensor([len(item.ids) for item in whole])
    return ids, answers, last


def task_loss(model, ids, answers, last):
    """Loss on the answer tokens and a small part of the loss on all tokens."""
    logits = model(ids[:, :-1])
    losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    losses = losses.view(ids.shape[0], -1)
    on_answers = losses.gather(1, answers[:, None] - 1).mean()
    real = torch.arange(losses.shape[1]) < last[:, None]
    return on_answers + TEXT_WEIGHT * losses[real].mean(), on_answers


def learning_rate(step, steps):
    """Linear warm-up, then a cosine down to zero."""
    if step < WARMUP:
        return PEAK_RATE * (step + 1) / WARMUP
    return PEAK_RATE * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (steps - WARMUP)))


@torch.no_grad()
def quick_accuracy(model, tokenizer, task, rows):
    """Share of held-out rows whose most likely next token is right."""
    encoded = tokenizer.encode_batch([row["clean"] for row in rows])
    length = max(len(item.ids) for item in encoded)
    ids = torch.tensor([item.ids + [0] * (length - len(item.ids)) for item in encoded])
    last = torch.tensor([len(item.ids) - 1 for item in encoded])
    best = model(ids)[torch.arange(len(rows)), last].argmax(-1).tolist()
    words = [tokenizer.decode([token]) for token in best]
    if task == "greater_than":
        right = [w.isdigit() and int(w) > row["label"] for w, row in zip(words, rows)]
    else:
        right = [w == row["answer"] for w, row in zip(words, rows)]
    return sum(right) / len(right)


def train(model, tokenizer, steps, seed):
    """Train on freshly drawn sentences and print progress."""
    rng = random.Random(f"{seed} training")
    checks = {task: held_out_rows(make, 200, random.Random(f"{seed} checks"))
              for task, (make, _, _) in TASKS.items()}
    matrices = [p for p in model.parameters() if p.dim() == 2]
    gains = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": gains, "weight_decay": 0.0}],
        betas=(0.9, 0.98))
    start = time.time()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        seen = {}
        for task, count in BATCH.items():
            loss, seen[task] = task_loss(model, *batch_of(task, count, rng, tokenizer))
            (WEIGHT[task] * loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 200 == 0 or step + 1 == steps:
            parts = [f"{task} {seen[task]:.3f} {quick_accuracy(model, tokenizer, task, rows):.3f}"
                     for task, rows in checks.items()]
            print(f"step {step + 1:5d} {time.time() - start:5.0f} s | " + " | ".join(parts),
                  flush=True)


def save(model, tokenizer, folder):
    """Write config, BF16 weights and tokenizer in Hugging Face's format."""
    end = tokenizer.token_to_id(END)
    config = CONFIG | {"vocab_size": tokenizer.get_vocab_size(),
                       "bos_token_id": end, "eos_token_id": end}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END, "eos_token": END,
        "pad_token": END, "clean_up_tokenization_spaces": False,
        "model_max_length": CONFIG["max_position_embeddings"]}, indent=2) + "\n")
    tokenizer.save(str(folder / "tokenizer.json"))
    weights = {name: tensor.to(torch.bfloat16).contiguous()
               for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=SEED)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    tokenizer = train_tokenizer(random.Random(f"{args.seed} tokenizer"))
    check_single_tokens(tokenizer)
    model = Llama(CONFIG | {"vocab_size": tokenizer.get_vocab_size()})
    count = sum(p.numel() for p in model.parameters())
    print(f"vocabulary {tokenizer.get_vocab_size()}, {count} parameters")
    train(model, tokenizer, args.steps, args.seed)
    save(model, tokenizer, args.out)
    write_held_out(args.out)


if __name__ == "__main__":
    main()
