# SPDX-License-Identifier: MIT
"""Figures beyond heat maps: series, alignments, ablation, spectra, effects of patching.

Every function draws one figure, writes it through plots.Figures and gives the PNG's bytes.
"""

import textwrap

import numpy as np
from matplotlib import pyplot

import plots
import tokens

BLUE, RED = (10 / 256, 110 / 256, 230 / 256), (230 / 256, 20 / 256, 20 / 256)
SOFT, LINE, GROUND = "#5d6670", "#dfe3e8", "#eef0f3"
COLOURS = {
    "semantic": "#2171b5", "temperature": "#e6740c", "fisher": "#6a51a3",
    "input_x_gradient": "#2f8f4e", "integrated_gradients": "#b0368c", "random": "#7c858e",
}
OTHERS = ["#8c6d31", "#17a2b8", "#c0392b", "#34495e"]


def colour_of(scope, names):
    """The scope's own colour, for an unknown one the next of a list."""
    unknown = [name for name in names if name not in COLOURS]
    return COLOURS.get(scope) or OTHERS[unknown.index(scope) % len(OTHERS)]


def soft_grid(axes, axis):
    axes.grid(axis=axis, color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


# ---- series of numbers


def series(figures, name, values, influence, target):
    """One panel a scope: bars of influence per number, the series as a line over them.

    influence: {scope: [numbers]}; target: index of the number explained, None when there is none.
    """
    figure, panels = pyplot.subplots(len(influence), 1, squeeze=False, sharex=True,
                                     figsize=(10.5, 0.55 + 1.75 * len(influence)))
    for axes, (scope, scores) in zip(panels[:, 0], influence.items()):
        series_panel(axes, values, scores, target)
        axes.set_title(scope.replace("_", " "), size=10, loc="left", weight="bold")
    step = 50 if len(values) > 100 else 10
    ticks = [index for index in range(0, len(values), step)
             if target is None or target - index > step // 4]
    axes.set_xticks(ticks + ([target] if target is not None else []))
    axes.set_xticklabels([str(index) for index in ticks] + (["target"] if target is not None else []))
    if target is not None:
        axes.get_xticklabels()[-1].set(color=RED, weight="bold")
    axes.set_xlabel("number")
    figure.align_ylabels(panels[:, 0])
    figure.tight_layout(h_pad=0.8)
    return figures.save(name, figure)


def series_panel(axes, values, scores, target):
    places = np.arange(len(values))
    scores = np.array(scores, dtype=float)
    top = np.nanmax(scores, initial=0) or 1.0
    axes.bar(places, scores, width=1.0, color=BLUE, alpha=0.9, edgecolor="black", linewidth=0.35)
    if target is not None:
        axes.bar([target], [top], width=1.0, color=RED, edgecolor="black", linewidth=0.35)
    axes.set(ylim=(0, 1.05 * top), xlim=(-1.5, len(values) + 0.5))
    axes.set_ylabel("Influence", color=BLUE)
    axes.tick_params(axis="x", length=0)
    axes.locator_params(axis="y", nbins=4)
    right = axes.twinx()
    right.plot(places, values, "-o", color=RED, linewidth=0.8, markersize=1.8, alpha=0.85)
    right.set_ylabel("Value", color=RED)
    right.locator_params(axis="y", nbins=4)
    right.spines["right"].set_visible(True)


# ---- explained tokens and their sources

CELL = 0.21  # inches


def alignment(figures, name, block, rows, columns, title, unit="token"):
    """Map of scores [explained tokens or words, source ones]; each row has its own colour scale.

    Cells that the row's position cannot see are NaN. Right of a row stands its greatest score.
    """
    high = np.nanmax(block, axis=1, keepdims=True, initial=0)
    low = np.nanmin(block, axis=1, keepdims=True, initial=np.inf)
    shares = (block - low) / np.where(high > low, high - low, 1)
    figure, axes = pyplot.subplots(figsize=(CELL * block.shape[1], CELL * block.shape[0]))
    axes.set_facecolor(GROUND)
    axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=0.6)
    axes.invert_yaxis()
    axes.xaxis.tick_top()
    label_tokens(axes.xaxis, columns, rotation=90)
    label_tokens(axes.yaxis, rows)
    axes.tick_params(length=0)
    for number, value in enumerate(high[:, 0]):
        axes.text(block.shape[1] + 0.4, number + 0.5, tokens.number(float(value)), size=6.5,
                  color=SOFT, va="center")
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel(f"{title}: source {unit} →", loc="left", size=9)
    axes.xaxis.set_label_position("top")
    axes.set_ylabel(f"← explained {unit}", loc="top", size=9)
    return figures.save(name, figure)


def label_tokens(axis, pieces, rotation=0):
    axis.set_ticks(np.arange(len(pieces)) + 0.5)
    shown = [tokens.visible(piece) for piece in pieces]
    shown = [text if len(text) <= 16 else text[:15] + "…" for text in shown]
    axis.set_ticklabels(shown, rotation=rotation, size=8, family=plots.FONTS)


# ---- ablation


def ablation(figures, name, fractions, curves, differences, baseline):
    """Left the mean change of log-probability, right the paired differences of AOPC.

    curves: {scope: (mean [F], half width [F])}; differences: {scope: (mean, half width)}.
    """
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(10.5, 3.7), gridspec_kw={"width_ratios": [1.35, 1]})
    ablation_curves(left, fractions, curves)
    ablation_differences(right, differences, list(curves), baseline)
    # below both panels: inside one it would cover curves, wherever they lie
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncol=min(len(names), 7), frameon=False,
                  fontsize=8.5)
    figure.tight_layout(w_pad=2.5, rect=(0, 0.08, 1, 1))
    return figures.save(name, figure)


def ablation_curves(axes, fractions, curves):
    x = 100 * np.array(fractions)
    step = 0.012 * (x.max() - x.min() if len(x) > 1 else 1)  # apart, so that intervals are seen
    for number, (scope, (mean, half)) in enumerate(curves.items()):
        axes.errorbar(x + step * (number - (len(curves) - 1) / 2), mean, yerr=half,
                      color=colour_of(scope, curves), marker="o", markersize=4, linewidth=1.6,
                      elinewidth=1, capsize=2, linestyle="--" if scope == "random" else "-",
                      label=scope.replace("_", " "))
    axes.axhline(0, color="#8a929b", linewidth=0.8, zorder=1)
    axes.margins(y=0.08)
    axes.set_xticks(x)
    axes.set_xticklabels([f"{share:g} %" for share in x])
    axes.set_xlabel("tokens ablated")
    axes.set_ylabel("Δ log-probability")
    axes.set_title("Effect of ablating the most influential tokens", size=10, loc="left")
    soft_grid(axes, "y")


def ablation_differences(axes, differences, names, baseline):
    for number, (scope, (mean, half)) in enumerate(differences.items()):
        axes.errorbar([mean], [number], xerr=[half], color=colour_of(scope, names), marker="o",
                      markersize=6, linewidth=1.8, capsize=3)
    axes.axvline(0, color="#8a929b", linewidth=0.8)
    axes.set_yticks(range(len(differences)))
    axes.set_yticklabels([scope.replace("_", " ") for scope in differences])
    axes.set_ylim(len(differences) - 0.5, -0.5)
    axes.set_xlabel("difference of AOPC per prompt; left is better")
    axes.set_title(f"Paired with {baseline.replace('_', ' ')}", size=10, loc="left")
    axes.locator_params(axis="x", nbins=6)
    axes.spines["left"].set_visible(False)
    soft_grid(axes, "x")


# ---- Fisher information


def spectrum(figures, name, values, trace):
    """Eigenvalues [N, r] over their number, and the share of the trace [N] that the first r hold."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10.5, 3.3))
    ranks = np.arange(1, values.shape[1] + 1)
    for row in values:
        left.plot(ranks, np.where(row > 0, row, np.nan), color=BLUE, linewidth=0.8,
                  alpha=max(0.12, 0.8 / len(values) ** 0.5))
    positive = np.where(values > 0, values, np.nan)
    left.plot(ranks, np.exp(np.nanmean(np.log(positive), axis=0)), color="black", marker="o",
              markersize=3, label="geometric mean")
    left.set(xscale="log", yscale="log", xlabel="number of the eigenvalue", ylabel="eigenvalue")
    left.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    left.legend(frameon=False, fontsize=8.5)
    shares = np.cumsum(values, axis=1) / trace[:, None]
    mean, spread = shares.mean(axis=0), shares.std(axis=0, ddof=1) if len(shares) > 1 else 0
    right.fill_between(ranks, mean - spread, np.minimum(mean + spread, 1), color=BLUE, alpha=0.18,
                       linewidth=0, label="± standard deviation over prompts")
    right.plot(ranks, mean, color=BLUE, marker="o", markersize=3, label="mean")
    right.set(xscale="log", ylim=(0, 1.03), xlabel="eigenvalues kept",
              ylabel="share of the trace")
    right.legend(frameon=False, fontsize=8.5, loc="lower right")
    for axes in (left, right):
        ticks = [rank for rank in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024) if rank <= ranks[-1]]
        axes.set_xticks(ticks)
        axes.set_xticklabels(map(str, ticks))
        axes.minorticks_off()
        soft_grid(axes, "y")
    figure.tight_layout(w_pad=2.5)
    return figures.save(name, figure)


# ---- effects of patching


def effect_map(figures, name, values, row_names, column_names, column_label, title, bar_label,
               rows_label="layer", marks=None, legend=""):
    """Map of effects [rows, columns], first row below: white is 0, blue towards 1, red below 0.

    Cells that do not exist are NaN. marks [rows][columns]: a few letters in each cell, which the
    legend explains.
    """
    rows, columns = values.shape
    figure, axes = pyplot.subplots(figsize=(min(2.0 + 0.3 * columns, 10.5), min(1.4 + 0.24 * rows, 7.5)))
    limit = np.nanmax(np.abs(values), initial=0) or 1.0
    axes.set_facecolor(GROUND)
    image = axes.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto",
                        origin="lower", interpolation="nearest")
    for axis, names, rotation in ((axes.xaxis, column_names, 90), (axes.yaxis, row_names, 0)):
        every = max(1, len(names) // 30)
        axis.set_ticks(range(0, len(names), every))
        turned = rotation if max(map(len, names), default=0) > 2 else 0
        axis.set_ticklabels(names[::every], size=8, rotation=turned, family=plots.FONTS)
    axes.set_xlabel("\n".join([column_label, *textwrap.wrap(legend, 60)]), size=8 if legend else None)
    axes.set_ylabel(rows_label if any(row_names) else "")
    axes.set_title(title, size=10, loc="left")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(image, ax=axes, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8)
    bar.set_label(bar_label, size=8)
    for row, signs in enumerate(marks or []):
        for column, sign in enumerate(signs):
            dark = abs(values[row, column]) > 0.6 * limit
            axes.text(column, row, sign, size=6, ha="center", va="center",
                      color="white" if dark else "black")
    return figures.save(name, figure)


def effect_line(figures, name, values, half_widths, labels, axis_label, title, value_label):
    """Effects along one axis with their intervals."""
    figure, axes = pyplot.subplots(figsize=(min(2.0 + 0.3 * len(values), 10.5), 2.8))
    places = np.arange(len(values))
    axes.errorbar(places, values, yerr=np.nan_to_num(half_widths), color=BLUE, marker="o",
                  markersize=4, linewidth=1.4, elinewidth=1, capsize=2)
    every = max(1, len(labels) // 30)
    axes.set_xticks(places[::every])
    axes.set_xticklabels(labels[::every], size=8, family=plots.FONTS,
                         rotation=90 if max(map(len, labels), default=0) > 2 else 0)
    for level in (0, 1):
        axes.axhline(level, color=SOFT, linewidth=0.8, linestyle=":")
    axes.set_xlabel(axis_label)
    axes.set_ylabel(value_label)
    axes.set_title(title, size=10, loc="left")
    soft_grid(axes, "y")
    return figures.save(name, figure)
