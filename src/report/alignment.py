# SPDX-License-Identifier: MIT
"""Matrices of explained tokens and source tokens, where several positions were read; by words where
the file has these too."""

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
        "too late to matter. With words, scores of their tokens are taken together.")]
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
    """The matrix of words with that of tokens folded away, or that of tokens alone."""
    tokens = token_picture(result, figures, prompts, index, scope)
    if not result.has_in(f"/attribution/{scope}", "word_matrix"):
        return tokens
    return word_picture(result, figures, prompts, index, scope) + page.fold("tokens", tokens)


def token_picture(result, figures, prompts, index, scope):
    pieces, reads = prompts.pieces(index), prompts.reads(index)
    flat = block_of(result, scope, "matrix", index)
    positions = np.array([prompts.position(read) for read in reads])
    unseen = np.arange(len(pieces)) > positions[:, None]
    block = np.where(unseen, np.nan, flat.reshape(len(reads), len(pieces)))
    png = charts.alignment(figures, f"prompt-{index:03d}-{scope}-matrix", block,
                           [explained(prompts, read) for read in reads], pieces,
                           scope.replace("_", " "))
    return page.picture(png, f"{scope} of {prompts.ids[index]}: explained tokens by source tokens")


def word_picture(result, figures, prompts, index, scope):
    """A row is about the word that its positions predict; behind the prompt about the target."""
    pieces, (start, spans) = prompts.pieces(index), prompts.words(index)
    words = ["".join(pieces[first:last]) for first, last in spans]
    first, last = result.array("/attribution/word_row_offsets")[index : index + 2]
    rows = [int(word) - start if word >= 0 else len(words)
            for word in result.array("/attribution/word_rows")[first:last]]
    flat = block_of(result, scope, "word_matrix", index)
    # a word is seen by the rows of later words, and by its own when it has a token before its last
    alone = np.array([last - first == 1 for first, last in spans])
    later = np.arange(len(words)) - np.array(rows)[:, None]
    unseen = (later > 0) | ((later == 0) & alone)
    block = np.where(unseen, np.nan, flat.reshape(len(rows), len(words)))
    names = [words[row] if row < len(words) else explained(prompts, prompts.reads(index)[-1])
             for row in rows]
    rule = result.attributes(f"/attribution/{scope}/word_matrix").get("aggregate", "")
    png = charts.alignment(figures, f"prompt-{index:03d}-{scope}-matrix-words", block, names, words,
                           f"{scope.replace('_', ' ')}, {rule} of tokens", "word")
    return page.picture(png, f"{scope} of {prompts.ids[index]}: explained words by source words")


def block_of(result, scope, name, index):
    first, last = result.array(f"/attribution/{scope}/{name}_offsets")[index : index + 2]
    return result.file[f"/attribution/{scope}/{name}"][first:last].astype(float)


def explained(prompts, read):
    """The token that a row is about: the target, without one the prediction."""
    target, predicted = prompts.target(read), prompts.predictions(read)
    return target if target is not None else predicted[0][0] if predicted else "(next)"
