# SPDX-License-Identifier: MIT
"""Write the held-out prompts as CSV (RFC 4180) and, on request, training text.

    python generate.py [--text N]

Training itself draws its sentences from tasks.py without a file in between.
"""

import argparse
import csv
import random
from pathlib import Path

from tasks import TASKS, draw, make_last_span, make_price_swap

HERE = Path(__file__).resolve().parent
HELD_OUT_SEED = 7
HELD_OUT_ROWS = 200


def training_rows(task, count, rng):
    """Training sentences of a task as (prompt, answer, ending) triples."""
    return [TASKS[task][1](rng) for _ in range(count)]


def held_out_rows(make, count, rng):
    """Held-out rows of a task, all different, as many as exist up to count."""
    rows, seen, tries = [], set(), 0
    while len(rows) < count and tries < 50 * count:
        row = draw(make, True, rng=rng)
        key = row.get("clean") or row["base"] + row["source"]
        if key not in seen:
            seen.add(key)
            rows.append(row)
        tries += 1
    return rows


def write_csv(path, columns, rows):
    """Write rows with an id column in front, lines ended by CRLF."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("id", *columns))
        for index, row in enumerate(rows, 1):
            writer.writerow((index, *(row[column] for column in columns)))


def rows_to_show(task, rows, rng):
    """Two rows of a task that have one right answer each."""
    if task == "greater_than":
        return held_out_rows(make_last_span, 2, rng)
    return [rows[0], next(row for row in rows if row["answer"] != rows[0]["answer"])]


def write_held_out(folder, count=HELD_OUT_ROWS):
    """Write the held-out prompts of every task, and two of each to show."""
    show = []
    for task, (make, _, columns) in TASKS.items():
        rng = random.Random(f"{HELD_OUT_SEED} {task}")
        rows = held_out_rows(make, count, rng)
        write_csv(folder / f"{task}.csv", columns, rows)
        show += rows_to_show(task, rows, rng)
    write_csv(folder / "prompts.csv", ("clean", "answer"), show)
    rng = random.Random(f"{HELD_OUT_SEED} price_swap")
    write_csv(folder / "price_swap.csv", ("base", "source", "answer", "wrong"),
              held_out_rows(make_price_swap, count, rng))


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to")
    parser.add_argument("--text", type=int, metavar="N",
                        help="also write train.txt with N sentences of each task")
    parser.add_argument("--seed", type=int, default=1, help="seed of train.txt")
    args = parser.parse_args()
    write_held_out(args.out)
    if args.text:
        rng = random.Random(args.seed)
        with open(args.out / "train.txt", "w", encoding="utf-8") as file:
            for task in TASKS:
                for parts in training_rows(task, args.text, rng):
                    file.write("".join(parts) + "\n")


if __name__ == "__main__":
    main()
