# SPDX-License-Identifier: MIT
"""Prompts that are series of numbers: which numbers they hold and the influence of each.

A number is found by its characters, since tokenizers cut numbers differently; its influence is
that of the embeddings of all its tokens taken together.
"""

import re

import numpy as np

LEAST_NUMBERS = 16
MOST_LETTERS = 0.1  # share of a series' characters

# Scores that add up as they are (squared norms, divergences); of the others the squares add up.
ADDITIVE = {"fisher", "leave-one-out"}

NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?!\w)")


class Series:
    """values [n]; spans [n] of (first, last) tokens; target: index of the number explained."""

    def __init__(self, values, spans, target):
        self.values, self.spans, self.target = values, spans, target

    def influence(self, scope, scores):
        """Influence [n] of each number from the scores of the tokens."""
        scores = np.asarray(scores, dtype=float)
        if scope in ADDITIVE:
            return [scores[first:last].sum() for first, last in self.spans]
        return [np.sqrt(np.square(scores[first:last]).sum()) for first, last in self.spans]


def find(pieces, position):
    """The series in a prompt, None for a prompt of another kind. position: last token read."""
    bodies = ["" if is_special(piece) else piece for piece in pieces]
    text = "".join(bodies)
    found = list(NUMBER.finditer(text))
    letters = sum(char.isalpha() for char in text)
    if len(found) < LEAST_NUMBERS or letters > MOST_LETTERS * len(text):
        return None
    ends = np.cumsum([len(body) for body in bodies])
    spans = [(int(np.searchsorted(ends, number.start(), side="right")),
              int(np.searchsorted(ends, number.end(), side="left")) + 1) for number in found]
    after = [index for index, (_, last) in enumerate(spans) if last > position + 1]
    target = after[0] if position >= 0 and after else None
    count = len(spans) if target is None else target + 1
    return Series([float(number.group()) for number in found][:count], spans[:count], target)


def is_special(piece):
    """A token such as <|endoftext|> or <s>, whose text belongs to no number."""
    return re.fullmatch(r"<[^<>\s]+>", piece) is not None
