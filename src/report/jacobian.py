# SPDX-License-Identifier: MIT
"""Token attribution: per prompt one heat map a scope and the most probable next tokens.

A prompt that is a series of numbers is drawn as one. Matrices, evaluations and spectra have
modules of their own.
"""

import numpy as np

import alignment
import charts
import evaluation
import page
import series
import spectrum
import tokens
from page import Section

MAX_PROMPTS = 50  # on the page
MAX_FIGURES = 4  # prompts that are also drawn as PNG files
MAX_BARS = 7
LARGE_RESIDUAL = 0.1  # of the change that the signed scores of a path divide up

# Scopes that explain the whole predicted distribution and have no single target token.
LEAVE_ONE_OUT = "leave-one-out"
OF_DISTRIBUTION = {"fisher", "temperature", LEAVE_ONE_OUT}


def sections(result, figures):
    prompts = Prompts(result)
    maps = score_maps(result)
    aligned = alignment.sections(result, figures, prompts)
    if prompts.count == 0 or not (maps or aligned):
        return [Section("Attribution", page.note("The file holds no attribution scores."))]
    parts = [Section("Targets", targets(prompts))] + evaluation.sections(result, figures)
    if maps:
        parts.append(Section("Influence of each token", heat_maps(result, figures, prompts, maps)))
    return parts + aligned + spectrum.sections(result, figures)


class Map:
    """Scores of one scope: of all tokens, and of words where the file has them."""

    def __init__(self, name, tokens_scores, word_scores, about):
        self.name, self.scores, self.words = name, tokens_scores, word_scores
        title = page.escape(name.replace("_", " "))
        rest = f" · {page.escape(' · '.join(about))}" if about else ""
        self.caption = f"<figcaption><b>{title}</b>{rest}</figcaption>"
        self.word_caption = f"<figcaption><b>{title}</b> · words</figcaption>"


def score_maps(result):
    """One Map a scope, then the leave-one-out reference if it was evaluated."""
    maps = []
    for scope in result.members("/attribution"):
        folder = f"/attribution/{scope}"
        if result.has_in(folder, "score"):
            about = result.attributes(folder)
            about = [str(about[name]) for name in ("target", "units") if about.get(name, "") != ""]
            about += probes(result, folder) + completeness(result, folder)
            maps.append(Map(scope, result.array(f"{folder}/score"),
                            result.array(f"{folder}/word_score"), about))
    reference = result.array("/evaluation/loo/kl")
    if maps and reference is not None:
        maps.append(Map(LEAVE_ONE_OUT, reference, None, ["KL divergence when the token is ablated"]))
    return maps


def probes(result, folder):
    """How exact an estimate from random probes is, for the caption."""
    score, error = result.array(f"{folder}/score"), result.array(f"{folder}/standard_error")
    if error is None or not np.nansum(score) > 0:
        return []
    count, share = result.attributes(folder).get("probes"), np.nansum(error) / np.nansum(score)
    return [f"{count} probes, standard error {100 * share:.0f} % of the scores"]


def completeness(result, folder):
    """How far the signed scores of a path miss what they divide up, for the caption."""
    share = result.attributes(folder).get("residual_share")
    if share is None or not np.isfinite(share):
        return []
    warning = ": more steps needed" if share > LARGE_RESIDUAL else ""
    return [f"residual {100 * share:.2g} % of the change (median){warning}"]


class Prompts:
    """The prompts of a result, and what was read of them: position, target and predictions.

    A prompt has one read, of its own index, or several when the file has matrices or spans.
    """

    def __init__(self, result):
        self.ids = result.texts("/data/id") or []
        self.count = len(self.ids)
        self.offsets = result.array("/data/offsets")
        self._pieces = result.texts("/data/pieces") or []
        self._word_offsets = result.array("/data/word_offsets")
        self._reads = result.array("/attribution/position_offsets")
        self.one_read = self._reads is None
        self._position = result.array("/data/position")
        self._target = result.array("/data/target")
        self._target_piece = result.texts("/data/target_piece")
        self._contrast_piece = result.texts("/data/contrast_piece")
        self._predicted = result.texts("/predictions/pieces")
        self._predicted_id = result.array("/predictions/token_ids")
        self._probability = result.array("/predictions/probability")
        self._entropy = result.array("/predictions/entropy")

    def pieces(self, index):
        return self._pieces[self.offsets[index] : self.offsets[index + 1]]

    def words(self, index):
        """First word of the prompt, and its words as (first, last) tokens of the prompt.

        /data/word_offsets [words + 1]: where each word begins among the tokens of all prompts.
        """
        if self._word_offsets is None:
            return 0, []
        first, last = self.offsets[index], self.offsets[index + 1]
        start = int(np.searchsorted(self._word_offsets, first))
        end = int(np.searchsorted(self._word_offsets, last))
        bounds = (self._word_offsets[start : end + 1] - first).tolist()
        return start, list(zip(bounds[:-1], bounds[1:]))

    def reads(self, index):
        return range(index, index + 1) if self.one_read else range(*self._reads[index : index + 2])

    def position(self, read):
        return int(self._position[read]) if self._position is not None else -1

    def target_id(self, read):
        return int(self._target[read]) if self._target is not None else -1

    def target(self, read):
        """Text of the target token, None when there is none."""
        if self._target_piece is None or self.target_id(read) < 0:
            return None
        return self._target_piece[read]

    def next_piece(self, index, read):
        """The token that follows the one read; behind the prompt the target."""
        pieces, after = self.pieces(index), self.position(read) + 1
        return pieces[after] if 0 < after < len(pieces) else self.target(read)

    @property
    def contrasts(self):
        return self._contrast_piece is not None

    def contrast(self, read):
        """Text of the token that the target is compared with."""
        return self._contrast_piece[read]

    def predictions(self, read):
        """[(piece, probability)], the most probable first."""
        if self._predicted is None or self._probability is None:
            return []
        return list(zip(self._predicted[read], self._probability[read].astype(float)))

    def entropy(self, read):
        """In nats, None when the file does not say."""
        return float(self._entropy[read]) if self._entropy is not None else None

    def probability_of(self, read, token):
        """Probability of a token id when it is among the predictions, else None."""
        if self._predicted_id is None or self._probability is None:
            return None
        found = np.flatnonzero(self._predicted_id[read] == token)
        return float(self._probability[read][found[0]]) if len(found) else None


def targets(prompts):
    rows = []
    for index in range(min(prompts.count, MAX_PROMPTS)):
        rows += [target_row(prompts, index, read) for read in prompts.reads(index)]
    header = ["prompt", "position", "target", "id", "p(target)", "predicted", "p(predicted)",
              "entropy"]
    if prompts.contrasts:
        header.append("rather than")
    markup = page.table(header, rows, numbers={1, 3, 4, 6, 7}) + left_out(prompts)
    return markup if len(rows) <= 12 else page.fold(f"{len(rows)} targets", markup)


def target_row(prompts, index, read):
    target, predicted = prompts.target(read), prompts.predictions(read)
    probability = prompts.probability_of(read, prompts.target_id(read))
    return [
        prompts.ids[index],
        str(prompts.position(read)),
        page.piece(target) if target is not None else "–",
        str(prompts.target_id(read)) if target is not None else "–",
        f"{probability:.4f}" if probability is not None else "–",
        page.piece(predicted[0][0]) if predicted else "–",
        f"{predicted[0][1]:.4f}" if predicted else "–",
        f"{prompts.entropy(read):.3f}" if prompts.entropy(read) is not None else "–",
    ] + ([page.piece(prompts.contrast(read))] if prompts.contrasts else [])


def left_out(prompts):
    more = prompts.count - MAX_PROMPTS
    return page.note(f"{more} more prompts are in the file but not on this page.") if more > 0 else ""


def heat_maps(result, figures, prompts, maps):
    parts = [page.note(
        "Darker is more influential; every map has its own colours, from the least to the greatest "
        "score of one prompt and scope. The Fisher score is a sum of squared norms, those of other "
        "scopes are norms: compare orders, not sizes. The target is red. Hover a token for its score.")]
    for index in range(min(prompts.count, MAX_PROMPTS)):
        read = prompts.reads(index)[-1]
        numbers = series.find(prompts.pieces(index), prompts.position(read))
        cards = "".join(card(figures, prompts, index, one) for one in maps)
        if numbers is not None:
            cards = series_plot(figures, prompts, index, numbers, maps) + page.fold("tokens", cards)
        beside = predictions(figures, prompts, index, numbers is not None)
        parts.append(f'<div class="prompt"><h3>{page.escape(prompts.ids[index])}</h3>'
                     f'<div class="pair"><div>{cards}</div>{beside}</div></div>')
    return "".join(parts) + left_out(prompts)


def card(figures, prompts, index, one):
    """The heat map of one prompt and scope, with that of its words below."""
    first, last = prompts.offsets[index], prompts.offsets[index + 1]
    pieces = prompts.pieces(index)
    target, at = explained(prompts, index, one.name)
    values = one.scores[first:last].astype(float).tolist()
    if index < MAX_FIGURES:
        figures.heat_map(f"prompt-{index:03d}-{one.name}", pieces, values, target, at)
    markup = f"<figure>{one.caption}{tokens.heat_map(pieces, values, target, at)}</figure>"
    start, spans = prompts.words(index)
    if one.words is None or not spans:
        return markup
    words = ["".join(pieces[first:last]) for first, last in spans]
    values = one.words[start : start + len(spans)].astype(float).tolist()
    at = {next((i for i, (_, last) in enumerate(spans) if last > target), len(spans))
          for target in at}  # the words that hold the targets
    return (f"{markup}<figure>{one.word_caption}"
            f"{tokens.heat_map(words, values, target, at)}</figure>")


def explained(prompts, index, scope):
    """Text of the target behind the prompt, and where the targets stand: from place_target."""
    count, at, target = len(prompts.pieces(index)), set(), None
    for read in prompts.reads(index):
        target = tokens.DISTRIBUTION if scope in OF_DISTRIBUTION else prompts.target(read)
        at |= tokens.place_target(count, prompts.position(read), target)
    return target, at


def series_plot(figures, prompts, index, numbers, maps):
    first, last = prompts.offsets[index], prompts.offsets[index + 1]
    influence = {one.name: numbers.influence(one.name, one.scores[first:last]) for one in maps}
    png = charts.series(figures, f"prompt-{index:03d}-series", numbers.values, influence,
                        numbers.target)
    return page.picture(png, f"{prompts.ids[index]}: influence of each number",
                        "bars: influence of a number, all its tokens taken together · line: its value")


def predictions(figures, prompts, index, of_series):
    """Of the last read; of a series of numbers those that are one, by their value, in blue but for
    the one that comes next in the prompt."""
    read = prompts.reads(index)[-1]
    found = prompts.predictions(read)
    order, true = f"top {min(len(found), MAX_BARS)}", None
    numbers = [one for one in found if of_series and one[0].strip().isdecimal()]
    if numbers:
        found, true = sorted(numbers, key=lambda one: int(one[0])), prompts.next_piece(index, read)
        order = "numbers by value" + next_number([piece for piece, _ in found], true)
    else:
        found = found[:MAX_BARS]
    if not found:
        return ""
    pieces, values = [piece for piece, _ in found], [value for _, value in found]
    red = [not numbers or piece == true for piece in pieces]
    if index < MAX_FIGURES:
        figures.predictions(f"prompt-{index:03d}-predictions", pieces, values, red)
    return (f"<figure><figcaption><b>prediction</b> · {order}</figcaption>"
            f"{tokens.prediction_bars(pieces, values, red)}</figure>")


def next_number(pieces, true):
    """What the caption says of the true next value."""
    if true is None:
        return ""
    return ", the true next one red" if true in pieces else \
        f", the true next one, {page.escape(true.strip())}, is not among them"
