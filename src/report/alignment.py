# SPDX-License-Identifier: MIT
"""Matrices of explained tokens and source tokens, where several positions were read."""

import numpy as np

import charts
import page
from page import Section

MAX_PROMPTS = 12  # on the page
MAX_TOKENS = 120  # of a side that is drawn


def sections(result, figures, prompts):
    positions, of_prompt = (result.array(f"/attribution/{name}")
                            for name in ("positions", "position_offsets"))
    scopes = [s for s in result.members("/attribution") if result.has_in(f"/attribution/{s}", "matrix")]
    if not scopes or positions is None or of_prompt is None or max(np.diff(of_prompt), default=0) < 2:
        return []
    parts = [page.note(
        "Row: the token explained. Column: the token whose embedding moves it. Every row has its own "
        "colours, from its least to its greatest score, which stands at its right; grey tokens come "
        "too late to matter.")]
    for index in range(min(prompts.count, MAX_PROMPTS)):
        read = positions[of_prompt[index] : of_prompt[index + 1]]
        pieces = prompts.pieces(index)
        if max(len(read), len(pieces)) > MAX_TOKENS:
            drawn = page.note(f"{len(read)} × {len(pieces)} tokens are too many to draw.")
        else:
            drawn = "".join(picture(result, figures, prompts, index, scope, read) for scope in scopes)
        parts.append(f'<div class="prompt"><h3>{page.escape(prompts.ids[index])}</h3>'
                     f'<div class="side">{drawn}</div></div>')
    if prompts.count > MAX_PROMPTS:
        parts.append(page.note(f"{prompts.count - MAX_PROMPTS} more prompts are in the file but not "
                               "on this page."))
    return [Section("What each token rests on", "".join(parts))]


def picture(result, figures, prompts, index, scope, read):
    pieces = prompts.pieces(index)
    offsets = result.array(f"/attribution/{scope}/matrix_offsets")
    flat = result.file[f"/attribution/{scope}/matrix"][offsets[index] : offsets[index + 1]]
    block = flat.astype(float).reshape(len(read), len(pieces))
    unseen = np.arange(len(pieces))[None, :] > np.asarray(read)[:, None]
    block = np.where(unseen, np.nan, block)
    rows = [explained(prompts, index, int(position)) for position in read]
    png = charts.alignment(figures, f"prompt-{index:03d}-{scope}-matrix", block, rows, pieces,
                           scope.replace("_", " "))
    return page.picture(png, f"{scope} of {prompts.ids[index]}: explained tokens by source tokens")


def explained(prompts, index, position):
    """Text of the token after a position; after the last one the target or the prediction."""
    pieces = prompts.pieces(index)
    if position + 1 < len(pieces):
        return pieces[position + 1]
    predicted = prompts.predictions(index)
    return prompts.target(index) or (predicted[0][0] if predicted else "(next)")
