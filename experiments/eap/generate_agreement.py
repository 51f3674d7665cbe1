# SPDX-License-Identifier: MIT
"""Writes agreement.csv: pairs of sentence beginnings whose subject has the other number.

    python3 experiments/eap/generate_agreement.py [FILE]

What is right is no single verb but the set of all verbs of the subject's number, as for
subject-verb agreement in Hanna et al. 2024: `answer` and `wrong` are lists, `label` is 1 where
the subject of the clean prompt is plural. The words are those of ../demo-model; the combination of
subject, attractor and verb that the opening asks for stood in no sentence of its training.
"""

import csv
import pathlib
import random
import sys

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent / "demo-model"))

from lists import VERBS  # noqa: E402
from tasks import draw, make_agreement  # noqa: E402

COLUMNS = ["id", "clean", "corrupted", "answer", "wrong", "label"]
PAIRS, SEED = 32, 11


def rows():
    rng = random.Random(SEED)
    sets = ["|".join(f" {verbs[number]}" for verbs in VERBS.values()) for number in (0, 1)]
    seen = set()
    while len(seen) < PAIRS:
        row = draw(make_agreement, True, rng=rng)
        plural = int(row["answer"].strip() in [verbs[1] for verbs in VERBS.values()])
        if row["clean"] in seen or plural != len(seen) % 2:
            continue
        seen.add(row["clean"])
        yield {
            "id": f"{'plural' if plural else 'singular'}-{len(seen)}",
            "clean": row["clean"],
            "corrupted": row["corrupted"],
            "answer": sets[plural],
            "wrong": sets[1 - plural],
            "label": plural,
        }


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else FOLDER / "agreement.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows())


if __name__ == "__main__":
    main()
