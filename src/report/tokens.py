# SPDX-License-Identifier: MIT
"""Token heat maps as HTML and the rules they share with the PNG figures: colours, visible text.

Colour map Blues in 256 steps; a token's step is its score between the least and the greatest
finite score of the prompt. White text on dark grounds, the target solid red.
"""

import html
import math
import unicodedata

from matplotlib import colormaps

STEPS = 256
COLUMNS = 58  # characters that a row of the card takes, about
RED, BLUE = "#d00000", "#0a6ee6"
DISTRIBUTION = "<predicted distribution>"

_blues = colormaps["Blues"]


def colour(step):
    """'#rrggbb' of a step."""
    return "#" + "".join(f"{int(255 * channel):02x}" for channel in _blues(step)[:3])


def is_dark(step):
    red, green, blue, _ = _blues(step)
    return 0.299 * red + 0.587 * green + 0.114 * blue < 0.5


def css():
    return "".join(
        f".c{step}{{background:{colour(step)}{';color:#fff' if is_dark(step) else ''}}}"
        for step in range(STEPS)
    )


def steps(scores):
    """The step of each score; None where it is not finite. Equal scores all get step 0."""
    finite = [score for score in scores if math.isfinite(score)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    width = high - low
    return [
        (min(int((score - low) / width * STEPS), STEPS - 1) if width > 0 else 0)
        if math.isfinite(score)
        else None
        for score in scores
    ]


def visible(text, line_break=""):
    """Text in which nothing is invisible: line ends, tabs and control characters get signs.

    line_break: put after the sign of a line end.
    """
    if text == "":
        return "·"
    shown = []
    for char in text.replace("\r\n", "\n"):
        if char == "\n":
            shown.append("⏎" + line_break)
        elif char == "\t":
            shown.append("⇥")
        elif ord(char) < 32:
            shown.append(chr(0x2400 + ord(char)))
        elif unicodedata.category(char) in ("Cc", "Cf") and char != "\u200d":
            shown.append(f"‹U+{ord(char):04X}›")
        else:
            shown.append(char)
    return "".join(shown)


def number(value):
    """A score in few digits."""
    return f"{value:.4g}" if math.isfinite(value) else "–"


def place_target(count, position, target):
    """{index of the target among the tokens}, {count} when it follows them, empty without one.

    position: index of the last token read, negative when unknown.
    """
    if target is None:
        return set()
    return {position + 1 if 0 <= position < count else count}


def heat_map(pieces, scores, target, at):
    """Contiguous spans on a white card with a colour bar. at: all places of targets; target: text of
    the one behind the tokens."""
    spans = []
    for index, (text, score, step) in enumerate(zip(pieces, scores, steps(scores))):
        kind = f"c{step}" if step is not None else "none"
        if index in at:
            kind = "target"
        spans.append(_span(text, kind, f"token {index}: {number(score)}"))
    if len(pieces) in at:
        spans.append(_span(target, "target", "target"))
    finite = [score for score in scores if math.isfinite(score)]
    rows = 1 + sum(map(len, pieces)) // COLUMNS
    bar = colour_bar(min(finite), max(finite), min(120, 24 + 35 * rows)) if finite else ""
    return f'<div class="heat"><div class="card">{"".join(spans)}</div>{bar}</div>'


def _span(text, kind, title):
    """One box a line of the token; the line ends stand between the boxes."""
    attributes = f'class="{kind}" title="{html.escape(title, quote=True)}"'
    lines = visible(text, "\n").split("\n")
    return "\n".join(f"<span {attributes}>{html.escape(line)}</span>" if line else "" for line in lines)


def gradient():
    """What the colour bars are filled with; a page holds it once, before the first of them."""
    stops = "".join(
        f'<stop offset="{i / 8:.3f}" stop-color="{colour(255 - i * 255 // 8)}"/>' for i in range(9)
    )
    return (
        '<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>'
        f'<linearGradient id="blues" x2="0" y2="1">{stops}</linearGradient></defs></svg>'
    )


def tick(value, greatest):
    """A tick label with as many decimals as the greatest value of the axis needs."""
    size = math.floor(math.log10(greatest)) if greatest > 0 else 0
    return f"{value:.{max(0, 1 - size)}f}" if -4 < size < 6 else f"{value:.1e}"


def colour_bar(low, high, height):
    """Vertical SVG with the raw scores on its left and the word Influence on its right."""
    ticks = ""
    for share in (0.0, 0.5, 1.0):
        y = 8 + (1 - share) * height
        ticks += (
            f'<text x="52" y="{y + 4:.1f}" text-anchor="end">{tick(low + share * (high - low), high)}'
            f'</text><line x1="55" x2="60" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
    middle = 8 + height / 2
    return (
        f'<svg class="bar" width="100" height="{height + 16}" role="img" '
        f'aria-label="colour bar: influence from {number(low)} to {number(high)}">'
        f'<rect x="60" y="8" width="14" height="{height}" fill="url(#blues)"/>{ticks}'
        f'<text x="90" y="{middle}" text-anchor="middle" '
        f'transform="rotate(-90 90 {middle})">Influence</text></svg>'
    )


def prediction_bars(pieces, probabilities, red, height=140):
    """Bars, red or blue, with a probability axis and bold vertical labels, as inline SVG."""
    top = nice_ceiling(max(probabilities))
    left, step, below = 52, 32 if len(pieces) <= 10 else 22, 96
    width = left + step * len(pieces) + 10
    parts = []
    for share in (0.0, 0.5, 1.0):
        y = 10 + (1 - share) * height
        parts.append(
            f'<line x1="{left}" x2="{width - 4}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{share * top:.3g}</text>'
        )
    for index, (text, value) in enumerate(zip(pieces, probabilities)):
        x = left + 8 + index * step
        bar = height * value / top if math.isfinite(value) else 0
        label = visible(text)
        label = html.escape(label if len(label) <= 11 else label[:10] + "…")
        middle, colour = x + 9, RED if red[index] else BLUE
        parts.append(
            f'<rect x="{x}" y="{10 + height - bar:.1f}" width="20" height="{bar:.1f}" fill="{colour}">'
            f"<title>{label}: {value:.4g}</title></rect>"
            f'<text class="tick" text-anchor="end" '
            f'transform="translate({middle + 4} {height + 18}) rotate(-90)">{label}</text>'
        )
    parts.append(
        f'<text x="12" y="{10 + height / 2}" text-anchor="middle" '
        f'transform="rotate(-90 12 {10 + height / 2})">Probability</text>'
    )
    return (
        f'<svg class="bars" width="{width}" height="{height + below + 14}" role="img" '
        f'aria-label="most probable next tokens">{"".join(parts)}</svg>'
    )


def nice_ceiling(value):
    """The next of 1, 2, 5 times a power of ten."""
    if not math.isfinite(value) or value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    for factor in (1, 2, 5, 10):
        if value <= factor * power * (1 + 1e-9):
            return factor * power
    return 10 * power
