# SPDX-License-Identifier: MIT
"""Figures as PNG files, drawn with matplotlib without a display."""

import io
import logging
import math
import os
import unicodedata
import warnings

import matplotlib

matplotlib.use("Agg")

from matplotlib import colors, font_manager, pyplot  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402

import tokens  # noqa: E402

DPI = 160
# Names tried for glyphs that the first font lacks; those not installed are left out.
FALLBACK = ["DejaVu Sans Mono", "DejaVu Sans", "Noto Sans Mono CJK SC", "Noto Sans CJK SC",
            "Noto Sans CJK JP", "WenQuanYi Micro Hei", "Noto Emoji", "Symbola", "Unifont"]
_installed = {font.name for font in font_manager.fontManager.ttflist}
FONTS = [name for name in FALLBACK if name in _installed] or ["monospace"]

logging.getLogger("matplotlib").setLevel(logging.ERROR)
# A glyph that no font has is drawn as a box, which says enough.
warnings.filterwarnings("ignore", message="Glyph .* missing from .*")
pyplot.rcParams.update({
    "font.family": FONTS[1:2] or FONTS,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a929b",
    "axes.labelcolor": "#3a4048",
    "xtick.color": "#3a4048",
    "ytick.color": "#3a4048",
    "text.parse_math": False,
})


class Figures:
    """Writes figures into one folder, made with the first of them."""

    def __init__(self, folder):
        self.folder = folder

    def save(self, name, figure):
        """Writes <folder>/<name>.png and gives its bytes."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", facecolor="white",
                       pad_inches=0.12)
        pyplot.close(figure)
        return self.write(name, buffer.getvalue())

    def write(self, name, png):
        """Writes a picture that is one already; gives its bytes."""
        os.makedirs(self.folder, exist_ok=True)
        with open(os.path.join(self.folder, name + ".png"), "wb") as out:
            out.write(png)
        return png

    def heat_map(self, name, pieces, scores, target, at):
        """Token heat map with a colour bar; target, at: as of tokens.heat_map."""
        cells = heat_cells(pieces, scores, target, at)
        boxes, rows = wrap(cells, COLUMNS)
        size, line = 11, 2.2  # font points, line height in font sizes
        column, height = size * 0.602 / 72, size * line / 72  # inches
        columns = max(start + length for _, start, length, *_ in boxes) if boxes else 1
        width = columns * column
        figure = pyplot.figure(figsize=(width + 1.3, max(rows * height, 1.5)))
        axes = figure.add_axes([0, 0, width / (width + 1.3), 1])
        axes.set_xlim(0, columns)
        axes.set_ylim(max(rows, 1.5 / height), 0)
        axes.axis("off")
        for row, start, length, text, ground, ink in boxes:
            axes.add_patch(Rectangle((start, row + 0.16), length, 0.68, color=ground, linewidth=0))
            axes.text(start, row + 0.5, text, color=ink, size=size, family=FONTS, weight="bold",
                      va="center_baseline")
        self._influence_bar(figure, width, scores)
        return self.save(name, figure)

    @staticmethod
    def _influence_bar(figure, width, scores):
        finite = [score for score in scores if math.isfinite(score)]
        if not finite:
            return
        inches = figure.get_figheight()
        tall = min(inches, 2.2)
        axes = figure.add_axes([(width + 0.75) / (width + 1.3), 1 - tall / inches + 0.06,
                                0.14 / (width + 1.3), tall / inches - 0.12])
        norm = colors.Normalize(min(finite), max(finite) if max(finite) > min(finite)
                                else min(finite) + 1)
        bar = figure.colorbar(matplotlib.cm.ScalarMappable(norm, "Blues"), cax=axes)
        bar.outline.set_visible(False)
        axes.yaxis.set_ticks_position("left")
        axes.tick_params(labelsize=8)
        bar.set_label("Influence", size=9)
        axes.yaxis.set_label_position("right")

    def predictions(self, name, pieces, probabilities, red):
        """Bar chart of the most probable tokens, red or blue."""
        figure, axes = pyplot.subplots(figsize=(0.42 * len(pieces) + 0.7, 2.2))
        axes.bar(range(len(pieces)), probabilities, width=0.6,
                 color=[tokens.RED if one else tokens.BLUE for one in red])
        axes.set_xticks(range(len(pieces)))
        axes.set_xticklabels([tokens.visible(piece) for piece in pieces], rotation=90,
                             weight="bold", family=FONTS)
        axes.set_ylim(0, tokens.nice_ceiling(max(probabilities)))
        axes.set_ylabel("Probability")
        return self.save(name, figure)

    def grid(self, name, values, row_names, column_names, column_label, title):
        """Map of values [rows, columns]; layers upwards. A wide range gets a logarithmic scale."""
        rows, columns = values.shape
        figure, axes = pyplot.subplots(figsize=(min(2.2 + 0.28 * columns, 9.5),
                                                min(1.1 + 0.24 * rows, 7)))
        positive = values[values > 0]
        wide = positive.size and positive.max() > 50 * positive.min()
        norm = colors.LogNorm(positive.min(), positive.max()) if wide else None
        image = axes.imshow(values, cmap="Blues", aspect="auto", origin="lower", norm=norm,
                            interpolation="nearest")
        for axis, names in ((axes.xaxis, column_names), (axes.yaxis, row_names)):
            every = max(1, math.ceil(len(names) / 24))
            axis.set_ticks(range(0, len(names), every))
            axis.set_ticklabels(names[::every], size=8)
        axes.set_xlabel(column_label)
        axes.set_ylabel("layer" if any(row_names) else "")
        axes.set_title(title + (" (logarithmic)" if wide else ""), size=10, loc="left")
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        bar = figure.colorbar(image, ax=axes, pad=0.02)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8)
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        return self.save(name, figure)


# ---- laying tokens out in columns

COLUMNS = 62  # of one monospace character


def heat_cells(pieces, scores, target, at):
    """[(text, ground, ink)]; a newline in a text ends the row."""
    cells = []
    for index, (text, step) in enumerate(zip(pieces, tokens.steps(scores))):
        shown = tokens.visible(text, "\n")
        if index in at:
            cells.append((shown, tokens.RED, "white"))
        elif step is None:
            cells.append((shown, "white", "black"))
        else:
            ink = "white" if tokens.is_dark(step) else "black"
            cells.append((shown, tokens.colour(step), ink))
    if len(pieces) in at:
        cells.append((tokens.visible(target, "\n"), tokens.RED, "white"))
    return cells


def columns_of(char):
    if unicodedata.combining(char) or char in "\u200d\ufe0f":
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def wrap(cells, columns):
    """Boxes (row, first column, columns, text, ground, ink) and the number of rows.

    A token that does not fit the rest of a row moves to the next one; one longer than a row is cut.
    """
    boxes, row, column = [], 0, 0
    for text, ground, ink in cells:
        for number, line in enumerate(text.split("\n")):
            if number > 0:
                row, column = row + 1, 0
            if column > 0 and column + sum(map(columns_of, line)) > columns:
                row, column = row + 1, 0
            for part in split(line, columns):
                length = sum(map(columns_of, part))
                if column > 0 and column + length > columns:
                    row, column = row + 1, 0
                boxes.append((row, column, length, part, ground, ink))
                column += length
    return boxes, row + 1


def split(line, columns):
    """The line in parts of at most `columns` columns."""
    parts, part, used = [], "", 0
    for char in line:
        width = columns_of(char)
        if used + width > columns:
            parts.append(part)
            part, used = "", 0
        part, used = part + char, used + width
    return parts + [part] if part else parts
