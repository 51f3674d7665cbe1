# SPDX-License-Identifier: MIT
"""Matrices of explained tokens and source tokens, where several positions were read."""

import numpy as np

import charts
import page
from page import Section

MAX_PROMPTS = 12  # on the page
MAX_TOKENS = 120  # of a side that is drawn


def sections(result, figures, prompts):
    scopes = [s for s in result.members("/attribution") if result.has_in(f"/attribution/{s}", "matrix")]
    if prompts.one_read or not scopes:
        return []
    parts = [page.note(
        "Row: the token explained. Column: the token whose embedding moves it. Every row has its own "
        "colours, from its least to its greatest score, which stands at its right; grey tokens come "
        "too late to matter.")]
    for index in range(min(prompts.count, MAX_PROMPTS)):
        rows, columns = len(prompts.reads(index)), len(prompts.pieces(index))
        if rows == 0 or columns == 0:
            continue
        if max(rows, columns) > MAX_TOKENS:
            drawn = page.note(f"{rows} × {columns} tokens are too many to draw.")
        else:
            drawn = "".join(picture(result, figures, prompts, index, scope) for scope in scopes)
        parts.append(f'<div class="prompt"><h3>{page.escape(prompts.ids[index])}</h3>'
                     f'<div class="side">{drawn}</div></div>')
    if prompts.count > MAX_PROMPTS:
        parts.append(page.note(f"{prompts.count - MAX_PROMPTS} more prompts are in the file but not "
                               "on this page."))
    return [Section("What each token rests on", "".join(parts))]


def picture(result, figures, prompts, index, scope):
    pieces, reads = prompts.pieces(index), prompts.reads(index)
    first, last = result.array(f"/attribution/{scope}/matrix_offsets")[index : index + 2]
    flat = result.file[f"/attribution/{scope}/matrix"][first:last].astype(float)
    positions = np.array([prompts.position(read) for read in reads])
    unseen = np.arange(len(pieces)) > positions[:, None]
    block = np.where(unseen, np.nan, flat.reshape(len(reads), len(pieces)))
    png = charts.alignment(figures, f"prompt-{index:03d}-{scope}-matrix", block,
                           [explained(prompts, read) for read in reads], pieces,
                           scope.replace("_", " "))
    return page.picture(png, f"{scope} of {prompts.ids[index]}: explained tokens by source tokens")


def explained(prompts, read):
    """The token that a row is about: the target, without one the prediction."""
    target, predicted = prompts.target(read), prompts.predictions(read)
    return target if target is not None else predicted[0][0] if predicted else "(next)"
