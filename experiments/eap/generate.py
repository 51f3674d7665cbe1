# SPDX-License-Identifier: MIT
"""Writes ioi.csv: pairs of sentences whose repeated name is a third one in the corrupted prompt.

    python3 experiments/eap/generate.py [FILE]

The words are those of ../demo-model that are one token each of SmolLM2 too, and all sentences
have equally many tokens: one file serves both models, and means at positions exist.
The two names of a pair stand together in no sentence that the bundled model was trained on.
In half of the pairs the name that comes first is repeated, in half the second.
"""

import csv
import pathlib
import random
import sys

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent / "demo-model"))

from lists import NAMES, OBJECTS, PLACES  # noqa: E402
from tasks import is_held_out  # noqa: E402

TWO_TOKENS_OF_SMOLLM2 = {"Irene", "Olga", "cafe"}
TEMPLATES = [
    "When {a} and {b} went to the {place}, {s} gave a {thing} to",
    "After {a} and {b} met at the {place}, {s} handed a {thing} to",
    "While {a} and {b} worked at the {place}, {s} brought a {thing} to",
]
PAIRS, SEED = 64, 7


def known(words):
    return [word for word in words if word not in TWO_TOKENS_OF_SMOLLM2]


def rows():
    rng = random.Random(SEED)
    names = known(NAMES)
    held_out = [(a, b) for i, a in enumerate(names) for b in names[i + 1:]
                if is_held_out("ioi", *sorted([a, b]))]
    for number, pair in enumerate(rng.sample(held_out, PAIRS)):
        a, b = rng.sample(pair, 2)
        subject, answer = (a, b) if number % 2 == 0 else (b, a)
        third = rng.choice([name for name in names if name not in pair])
        template = TEMPLATES[number // 2 % len(TEMPLATES)]
        slots = {"a": a, "b": b, "place": rng.choice(known(PLACES)), "thing": rng.choice(OBJECTS)}
        yield {
            "id": f"{'first' if subject == a else 'second'}-{number + 1}",
            "clean": template.format(s=subject, **slots),
            "corrupted": template.format(s=third, **slots),
            "answer": " " + answer,
            "wrong": " " + subject,
        }


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else FOLDER / "ioi.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["id", "clean", "corrupted", "answer", "wrong"])
        writer.writeheader()
        writer.writerows(rows())


if __name__ == "__main__":
    main()
