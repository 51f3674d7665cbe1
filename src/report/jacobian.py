# SPDX-License-Identifier: MIT
"""Token attribution: per prompt one heat map a scope and the most probable next tokens."""

import numpy as np

import page
import tokens
from page import Section

MAX_PROMPTS = 50  # on the page
MAX_FIGURES = 4  # prompts that are also drawn as PNG files
MAX_BARS = 7

# Scopes that explain the whole predicted distribution and have no single target token.
OF_DISTRIBUTION = {"fisher", "temperature"}


def sections(result, figures):
    scopes = [s for s in result.members("/attribution") if result.has(f"/attribution/{s}/score")]
    prompts = Prompts(result)
    if not scopes or prompts.count == 0:
        return [Section("Attribution", page.note("The file holds no attribution scores."))]
    return [
        Section("Targets", targets(prompts)),
        Section("Influence of each token", heat_maps(result, figures, prompts, scopes)),
    ]


class Prompts:
    """The prompts of a result: pieces, position read, target and predictions of each."""

    def __init__(self, result):
        self.ids = result.texts("/data/id") or []
        self.count = len(self.ids)
        self.offsets = result.array("/data/offsets")
        self._pieces = result.texts("/data/pieces") or []
        self._position = result.array("/data/position")
        self._target = result.array("/data/target")
        self._target_piece = result.texts("/data/target_piece")
        self._predicted = result.texts("/predictions/pieces")
        self._predicted_id = result.array("/predictions/token_ids")
        self._probability = result.array("/predictions/probability")

    def pieces(self, index):
        return self._pieces[self.offsets[index] : self.offsets[index + 1]]

    def position(self, index):
        return int(self._position[index]) if self._position is not None else -1

    def target_id(self, index):
        return int(self._target[index]) if self._target is not None else -1

    def target(self, index):
        """Text of the target token, None when there is none."""
        if self._target_piece is None or self.target_id(index) < 0:
            return None
        return self._target_piece[index]

    def predictions(self, index):
        """[(piece, probability)], the most probable first."""
        if self._predicted is None or self._probability is None:
            return []
        return list(zip(self._predicted[index], self._probability[index].astype(float)))

    def probability_of(self, index, token):
        """Probability of a token id when it is among the predictions, else None."""
        if self._predicted_id is None or self._probability is None:
            return None
        found = np.flatnonzero(self._predicted_id[index] == token)
        return float(self._probability[index][found[0]]) if len(found) else None


def targets(prompts):
    rows = []
    shown = min(prompts.count, MAX_PROMPTS)
    for index in range(shown):
        target, predicted = prompts.target(index), prompts.predictions(index)
        probability = prompts.probability_of(index, prompts.target_id(index))
        rows.append([
            prompts.ids[index],
            str(prompts.position(index)),
            page.piece(target) if target is not None else "–",
            str(prompts.target_id(index)) if target is not None else "–",
            f"{probability:.4f}" if probability is not None else "–",
            page.piece(predicted[0][0]) if predicted else "–",
            f"{predicted[0][1]:.4f}" if predicted else "–",
        ])
    header = ["prompt", "position", "target", "id", "p(target)", "predicted", "p(predicted)"]
    markup = page.table(header, rows, numbers={1, 3, 4, 6}) + left_out(prompts)
    return markup if shown <= 12 else page.fold(f"{shown} targets", markup)


def left_out(prompts):
    more = prompts.count - MAX_PROMPTS
    return page.note(f"{more} more prompts are in the file but not on this page.") if more > 0 else ""


def caption(result, scope):
    about = result.attributes(f"/attribution/{scope}")
    words = [str(about[name]) for name in ("target", "units") if about.get(name, "") != ""]
    rest = f" · {page.escape(' · '.join(words))}" if words else ""
    return f"<figcaption><b>{page.escape(scope.replace('_', ' '))}</b>{rest}</figcaption>"


def heat_maps(result, figures, prompts, scopes):
    scores = {scope: result.array(f"/attribution/{scope}/score") for scope in scopes}
    parts = [page.note("Darker is more influential; colours span the least to the greatest score "
                       "of one prompt and scope. The target is red. Hover a token for its score.")]
    for index in range(min(prompts.count, MAX_PROMPTS)):
        first, last = prompts.offsets[index], prompts.offsets[index + 1]
        pieces, maps = prompts.pieces(index), []
        for scope in scopes:
            target = tokens.DISTRIBUTION if scope in OF_DISTRIBUTION else prompts.target(index)
            at = tokens.place_target(len(pieces), prompts.position(index), target)
            values = scores[scope][first:last].astype(float).tolist()
            maps.append(f"<figure>{caption(result, scope)}"
                        f"{tokens.heat_map(pieces, values, target, at)}</figure>")
            if index < MAX_FIGURES:
                figures.heat_map(f"prompt-{index:03d}-{scope}", pieces, values, target, at)
        parts.append(f'<div class="prompt"><h3>{page.escape(prompts.ids[index])}</h3>'
                     f'<div class="pair"><div>{"".join(maps)}</div>'
                     f"{predictions(figures, prompts, index)}</div></div>")
    return "".join(parts) + left_out(prompts)


def predictions(figures, prompts, index):
    found = prompts.predictions(index)[:MAX_BARS]
    if not found:
        return ""
    pieces, values = [piece for piece, _ in found], [value for _, value in found]
    if index < MAX_FIGURES:
        figures.predictions(f"prompt-{index:03d}-predictions", pieces, values)
    return (f"<figure><figcaption><b>prediction</b> · top {len(found)}</figcaption>"
            f"{tokens.prediction_bars(pieces, values)}</figure>")
