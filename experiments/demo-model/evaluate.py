# SPDX-License-Identifier: MIT
"""Measure the saved model on the held-out prompts and record reference logits.

    python evaluate.py

The model is loaded with Hugging Face's transformers, so this also shows that
the files here are a model of the stated architecture. The stored BF16 weights
are used in float32 arithmetic. Prints a table in Markdown and writes
reference.json, the five largest last-position logits of each prompt in
prompts.csv.
"""

import argparse
import csv
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from generate import HERE
from tasks import TASKS

TOP = 5


def read_csv(path):
    """The rows of a CSV file as dictionaries."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@torch.no_grad()
def last_logits(model, tokenizer, text):
    """Token ids of a prompt and the logits of the token that follows it."""
    ids = tokenizer(text)["input_ids"]
    return ids, model(torch.tensor([ids])).logits[0, -1]


def token_id(tokenizer, text):
    """The id of a text that is one token."""
    (token,) = tokenizer(text, add_special_tokens=False)["input_ids"]
    return token


def score_pair(model, tokenizer, row):
    """Whether the answer is the most likely token, and how far its logit lies
    above the wrong answer's on the clean and on the corrupted prompt."""
    answer, wrong = (token_id(tokenizer, row[column]) for column in ("answer", "wrong"))
    clean_ids, clean = last_logits(model, tokenizer, row["clean"])
    corrupted_ids, corrupted = last_logits(model, tokenizer, row["corrupted"])
    if len(clean_ids) != len(corrupted_ids):
        raise SystemExit(f"prompts differ in length: {row}")
    margins = [(logits[answer] - logits[wrong]).item() for logits in (clean, corrupted)]
    return clean.argmax().item() == answer, *margins


def score_span(model, tokenizer, row):
    """Whether more than half of the probability, and the most likely token,
    lie on later years; and the probability of later less that of earlier
    years, on the clean and on the corrupted prompt."""
    years = torch.tensor([token_id(tokenizer, f"{year:02d}") for year in range(100)])
    later = torch.arange(100) > int(row["label"])
    clean_ids, clean = last_logits(model, tokenizer, row["clean"])
    corrupted_ids, corrupted = last_logits(model, tokenizer, row["corrupted"])
    if len(clean_ids) != len(corrupted_ids):
        raise SystemExit(f"prompts differ in length: {row}")
    shares = [logits.softmax(-1)[years] for logits in (clean, corrupted)]
    right = shares[0][later].sum() > 0.5 and clean.argmax() in years[later]
    margins = [(share[later].sum() - share[~later].sum()).item() for share in shares]
    return bool(right), *margins


def evaluate(model, tokenizer, folder):
    """Print accuracy and mean margins for every task."""
    print("| task | n | accuracy | clean margin | corrupted margin |")
    print("|---|---:|---:|---:|---:|")
    for task in TASKS:
        score = score_span if task == "greater_than" else score_pair
        rows = [score(model, tokenizer, row) for row in read_csv(folder / f"{task}.csv")]
        means = torch.tensor(rows, dtype=torch.float64).mean(0).tolist()
        print(f"| {task} | {len(rows)} | {100 * means[0]:.1f} % | {means[1]:.2f} | {means[2]:.2f} |")


def write_reference(model, tokenizer, folder):
    """Record token ids and largest logits of the prompts to show."""
    entries = []
    for row in read_csv(folder / "prompts.csv"):
        ids, logits = last_logits(model, tokenizer, row["clean"])
        top = logits.topk(TOP)
        entries.append({
            "id": int(row["id"]),
            "clean": row["clean"],
            "token_ids": ids,
            "log_sum_exp": round(logits.logsumexp(-1).item(), 5),
            "top": [{"token_id": token, "token": tokenizer.decode([token]),
                     "logit": round(value, 5)}
                    for token, value in zip(top.indices.tolist(), top.values.tolist())],
        })
    text = json.dumps({"arithmetic": "BF16 weights in float32", "prompts": entries}, indent=1)
    (folder / "reference.json").write_text(text + "\n")


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=HERE, help="folder of the model")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    evaluate(model, tokenizer, args.model)
    write_reference(model, tokenizer, args.model)


if __name__ == "__main__":
    main()
