# SPDX-License-Identifier: MIT
"""Figures of the method eap: maps of nodes and layers, distributions, curves of circuits.

Every function draws one figure, writes it through plots.Figures and gives the PNG's bytes.
Colours of maps grow with the square root of a score, so that small ones are seen beside large.
"""

import numpy as np
from matplotlib import colors, pyplot, ticker

import charts
import plots
from charts import BLUE, GROUND, LINE, RED, SOFT

COMPARED = ["#e6740c", "#2f8f4e", "#6a51a3", "#b0368c", "#17a2b8", "#8c6d31"]


def power_of_ten(value, _):
    """Ticks of a logarithmic axis: powers of ten as such, others without text."""
    power = round(np.log10(value)) if value > 0 else 0
    if not np.isclose(value, 10.0 ** power, rtol=1e-6, atol=0):
        return ""
    return "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def whole_number(value, _):
    return f"{value:,.0f}"


def log_axis(axis, form):
    low, high = axis.get_view_interval()
    if form is whole_number and high < 1000 * low:  # powers of ten alone would be too few
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(ticker.FuncFormatter(form))
    axis.set_minor_formatter(ticker.NullFormatter())
    axis.set_tick_params(which="both", length=0)


def root_norm(values, signed):
    limit = np.nanmax(np.abs(values), initial=0) or 1.0
    if not signed:
        return colors.PowerNorm(0.5, 0, limit)
    return colors.FuncNorm((lambda x: np.sign(x) * np.abs(x) ** 0.5, lambda x: np.sign(x) * x ** 2),
                           -limit, limit)


def map_axes(axes, values, norm, columns, rows, turned):
    axes.set_facecolor(GROUND)
    image = axes.imshow(values, cmap="RdBu" if isinstance(norm, colors.FuncNorm) else "Blues",
                        norm=norm, aspect="auto", origin="lower", interpolation="nearest")
    for axis, names, most in ((axes.xaxis, columns, 34), (axes.yaxis, rows, 32)):
        every = -(-len(names) // most)
        axis.set_ticks(range(0, len(names), every))
        axis.set_ticklabels(names[::every], size=8, family=plots.FONTS,
                            rotation=90 if turned and axis is axes.xaxis else 0)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return image


def colour_bar(figure, image, axes, label):
    bar = figure.colorbar(image, ax=axes, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8)
    bar.set_label(label, size=9)
    if isinstance(image.norm, colors.FuncNorm):
        limit = image.norm.vmax
        bar.set_ticks([-limit, -limit / 4, 0, limit / 4, limit])
        bar.ax.set_yticklabels([f"{tick:.2g}" for tick in (-limit, -limit / 4, 0, limit / 4, limit)])


def node_map(figures, name, values, title):
    """Scores [layers, heads + 1], the MLP in the last column."""
    layers, columns = values.shape
    figure, axes = pyplot.subplots(figsize=(min(2.4 + 0.3 * columns, 10.5),
                                            min(1.4 + 0.24 * layers, 7.5)))
    names = [str(head) for head in range(columns - 1)] + ["MLP"]
    image = map_axes(axes, values, root_norm(values, np.nanmin(values, initial=0) < 0), names,
                     [str(layer) for layer in range(layers)], turned=columns > 20)
    axes.axvline(columns - 1.5, color="white", linewidth=3)
    axes.set(xlabel="head", ylabel="layer")
    axes.set_title(title, size=10, loc="left")
    colour_bar(figure, image, axes, "score")
    return figures.save(name, figure)


def layer_map(figures, name, panels, rows, columns):
    """Sums of |score|: {kind: [source layers, destination layers]}, one column of logits.

    rows, columns: names of the source layers, the first of them the input, and of the others.
    """
    everything = np.concatenate([values.ravel() for values in panels.values()])
    norm = root_norm(everything, signed=False)
    widths = [len(columns) if values.shape[1] > 1 else max(1.6, 0.1 * len(columns))
              for values in panels.values()]
    figure, all_axes = pyplot.subplots(
        1, len(panels), sharey=True, squeeze=False, figsize=(11, min(1.5 + 0.2 * len(rows), 5.2)),
        gridspec_kw={"width_ratios": widths}, layout="constrained")
    for axes, (kind, values) in zip(all_axes[0], panels.items()):
        names = columns if values.shape[1] > 1 else [""]
        step = -(-len(names) // 8)
        names = [text if index % step == 0 else "" for index, text in enumerate(names)]
        image = map_axes(axes, values, norm, names, rows, turned=False)
        axes.set_title(kind, size=10, loc="left")
        axes.set_xlabel("into layer" if values.shape[1] > 1 else "")
    all_axes[0][0].set_ylabel("from layer")
    colour_bar(figure, image, all_axes[0].tolist(), "Σ |score|")
    return figures.save(name, figure)


def distribution(figures, name, score, what):
    """Left how many scores of which size, right the share of Σ |score| that the first n hold."""
    size = np.sort(np.abs(score))[::-1]
    size = size[size > 0]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10.5, 3.3))
    bins = np.logspace(np.log10(size[-1]) - 0.05, np.log10(size[0]) + 0.05,
                       int(np.clip(2 * len(size) ** 0.5, 8, 60)))
    for values, colour, label in ((score[score > 0], BLUE, "positive"),
                                  (-score[score < 0], RED, "negative")):
        if len(values):
            left.hist(values, bins, histtype="step", color=colour, linewidth=1.5,
                      label=f"{label} ({len(values):,})")
    left.set(xscale="log", yscale="log", xlabel="|score|", ylabel=f"{what} a bin")
    left.set_ylim(top=left.get_ylim()[1] * 4)  # room for the names
    left.legend(frameon=False, fontsize=8.5, loc="upper left", ncol=2)
    right.plot(np.arange(1, len(size) + 1), 100 * np.cumsum(size) / size.sum(), color=BLUE,
               linewidth=1.8)
    right.set(xscale="log", ylim=(0, 103), xlabel=f"strongest {what}", ylabel="% of Σ |score|")
    for axis, form in ((left.xaxis, power_of_ten), (left.yaxis, whole_number),
                       (right.xaxis, whole_number)):
        log_axis(axis, form)
    for axes in (left, right):
        charts.soft_grid(axes, "y")
    figure.tight_layout(w_pad=2.5)
    return figures.save(name, figure)


def faithfulness(figures, name, counts, mean, half, clean, ablated, labels):
    """The metric of circuits [S] over their size, between the runs that it is measured against.

    labels: of the x axis, of the y axis, title.
    """
    figure, axes = pyplot.subplots(figsize=(8.2, 3.8), layout="constrained")
    below = clean > ablated  # the ablated run: names stand where the curve does not go
    for level, text, side, low in ((clean, "clean run", 0, not below),
                                   (ablated, "ablated run", 1, below)):
        axes.axhline(level, color=SOFT, linewidth=1, linestyle="--")
        axes.annotate(f"{text} {level:.3g}", (side, level), xycoords=("axes fraction", "data"),
                      xytext=(-4 if side else 4, -4 if low else 4), textcoords="offset points",
                      size=8.5, color=SOFT, ha="right" if side else "left",
                      va="top" if low else "bottom")
    axes.errorbar(counts, mean, yerr=half, color=BLUE, marker="o", markersize=5, linewidth=1.6,
                  elinewidth=1, capsize=2.5)
    axes.set(xscale="log", xlabel=labels[0], ylabel=labels[1])
    axes.margins(x=0.06, y=0.14)
    log_axis(axes.xaxis, whole_number)
    axes.set_title(labels[2], size=10, loc="left")
    charts.soft_grid(axes, "y")
    if clean != ablated:
        right = axes.secondary_yaxis("right", functions=(
            lambda value: (value - ablated) / (clean - ablated),
            lambda share: ablated + share * (clean - ablated)))
        right.set_ylabel("faithfulness")
        right.spines["right"].set_visible(True)
        right.tick_params(length=0)
    return figures.save(name, figure)


def comparison(figures, name, one, others, own, titles):
    """Scatter of |score| of the run over that of each other variant, red where signs differ.

    one: [edges]; others: {variant: [edges]}; own: name of the run's variant.
    """
    columns = min(len(others), 3)
    rows = -(-len(others) // columns)
    figure, panels = pyplot.subplots(rows, columns, squeeze=False, layout="constrained",
                                     figsize=(3.6 * columns + 0.4, 3.5 * rows))
    for axes in panels.ravel()[len(others):]:
        axes.axis("off")
    for axes, (variant, scores) in zip(panels.ravel(), others.items()):
        both = (one != 0) & (scores != 0)
        for chosen, colour in ((both & (one * scores > 0), BLUE), (both & (one * scores < 0), RED)):
            axes.scatter(np.abs(scores[chosen]), np.abs(one[chosen]), s=7, color=colour,
                         alpha=0.5 if both.sum() < 5000 else 0.12, linewidth=0, rasterized=True)
        if both.any():
            ends = [np.abs(np.r_[one[both], scores[both]]).min(),
                    np.abs(np.r_[one[both], scores[both]]).max()]
            axes.plot(ends, ends, color=SOFT, linewidth=0.9)
        axes.set(xscale="log", yscale="log", xlabel=f"|score| of {variant}",
                 ylabel=f"|score| of {own}")
        axes.set_title(titles.get(variant, variant), size=9.5, loc="left")
        log_axis(axes.xaxis, power_of_ten)
        log_axis(axes.yaxis, power_of_ten)
        axes.grid(color=LINE, linewidth=0.7)
        axes.set_axisbelow(True)
    return figures.save(name, figure)


def overlap(figures, name, curves, what):
    """How far circuits of n edges of two variants are the same: {variant: (sizes, shares)}."""
    figure, axes = pyplot.subplots(figsize=(7.4, 3.2), layout="constrained")
    for number, (variant, (sizes, shares)) in enumerate(curves.items()):
        axes.plot(sizes, shares, marker="o", markersize=4, linewidth=1.6, label=variant,
                  color=COMPARED[number % len(COMPARED)])
    axes.set(xscale="log", ylim=(0, 1.04), xlabel=f"{what} asked for of either",
             ylabel="in both / in any")
    log_axis(axes.xaxis, whole_number)
    charts.soft_grid(axes, "y")
    axes.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.01, 1))
    return figures.save(name, figure)


def position_map(figures, name, values, rows, columns, title):
    """Sums of |score| [source layers, positions]."""
    figure, axes = pyplot.subplots(figsize=(min(2.4 + 0.32 * len(columns), 11),
                                            min(1.7 + 0.24 * len(rows), 7.5)))
    image = map_axes(axes, values, root_norm(values, signed=False), columns, rows, turned=True)
    axes.set(xlabel="token", ylabel="from layer")
    axes.set_title(title, size=10, loc="left")
    colour_bar(figure, image, axes, "Σ |score|")
    return figures.save(name, figure)
