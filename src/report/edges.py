# SPDX-License-Identifier: MIT
"""What the method eap wrote, read by name: sources, destinations, scores, circuits."""

import re
from dataclasses import dataclass

import numpy as np

INPUT, HEAD, KEY_VALUE, MLP, LOGITS = "input", "head", "key-value", "mlp", "logits"
KINDS = ["q", "k", "v", "mlp", "logits"]  # of destinations, in the order of the pictures
OUTSIDE = -1  # "layer" of the input and of the logits
NAME = re.compile(r"(?:a(?P<layer>\d+)\.(?P<shared>kv|h)(?P<head>\d+)|m(?P<mlp>\d+)|"
                  r"(?P<end>input|logits))(?:<(?P<port>[qkv])>)?")


@dataclass(frozen=True)
class Place:
    """A node of the graph, and for destinations that are heads which of their inputs."""

    node: str
    kind: str
    layer: int = OUTSIDE
    head: int = OUTSIDE
    port: str = ""

    @property
    def reads(self):
        """Row of KINDS for a destination."""
        return KINDS.index(self.port or self.kind)


def place(name):
    found = NAME.fullmatch(name)
    if not found:
        raise ValueError(f"expected the name of a node, got {name!r}")
    node = name.split("<")[0]
    if found["end"]:
        return Place(node, found["end"])
    if found["mlp"]:
        return Place(node, MLP, int(found["mlp"]))
    kind = KEY_VALUE if found["shared"] == "kv" else HEAD
    return Place(node, kind, int(found["layer"]), int(found["head"]), found["port"] or "")


def finite(score):
    """NaN in place of what is infinite: such a score has no colour, no width and no share of a sum."""
    return np.where(np.isinf(score), np.nan, score)


class Edges:
    """Scores [F, R] and the names of their axes; `score` is NaN where no edge is or none has a finite
    one; `infinite` counts the edges whose score the file has as infinite."""

    def __init__(self, result):
        self.sources = [place(name) for name in result.texts("/edges/source")]
        self.destination_names = result.texts("/edges/destination")
        self.destinations = [place(name) for name in self.destination_names]
        self.valid = result.array("/edges/valid").astype(bool)
        score = result.array("/edges/score") if result.has_in("/edges", "score") else np.nan
        score = np.where(self.valid, score, np.nan).astype(float)
        self.infinite = int(np.isinf(score).sum())
        self.score = finite(score)
        self.size = np.nan_to_num(np.abs(self.score))
        self.attributes = result.attributes("/edges")
        self.layers = int(self.attributes.get("layers", 1 + max(p.layer for p in self.sources)))
        self.heads = int(self.attributes.get("heads", 1 + max(p.head for p in self.sources)))

    @property
    def count(self):
        return int(self.valid.sum())

    def strongest(self, most, among=None):
        """Flat indices of the largest |score| above 0, falling."""
        size = self.size if among is None else np.where(among, self.size, 0)
        order = np.argsort(-size, axis=None, kind="stable")[:most]
        return [int(edge) for edge in order if size.flat[edge] > 0]

    def ends(self, edge):
        """Source and destination of a flat index."""
        source, destination = divmod(int(edge), len(self.destinations))
        return self.sources[source], self.destinations[destination]

    def name(self, edge):
        source, destination = divmod(int(edge), len(self.destinations))
        return f"{self.sources[source].node} → {self.destination_names[destination]}"


def variant(result):
    """The variant that a run was asked for; nothing for scores that came from elsewhere."""
    named = result.attributes("/edges").get("variant")
    found = re.search(r"^\s+variant:\s*(\S+)", result.attribute("config"), re.MULTILINE)
    return named or (found.group(1) if found else "")
