# SPDX-License-Identifier: MIT
"""Activation patching: maps of the mean effect over layers and tokens, and over layers and heads."""

import re

import numpy as np

import charts
import page
import tokens
from page import Section

STRONGEST = 20  # rows of the table
OUTSIDE = -1  # "layer" of sites that belong to no block


def sections(result, figures):
    if not result.has_in("/patch", "mean_effect"):
        return [Section("Patching", page.note("The file holds no finished map."))]
    maps = Maps(result)
    roles = Roles(result, maps) if result.has_in("/patch", "mean_effect_by_role") else None
    aligned = roles if roles is not None and maps.attributes.get("aligned_by") == "role" else maps
    parts = [Section("Strongest effects", strongest(maps, aligned))]
    if roles is not None:
        parts.append(Section("Where in the prompt", role_maps(figures, maps, roles)))
    for kind, members in maps.kinds().items():
        parts.append(Section(f"Patching {kind}", kind_maps(figures, maps, aligned, kind, members)))
    return parts


class Maps:
    """The means of a file by position, and names for its axes."""

    def __init__(self, result):
        self.names = result.texts("/patch/site")
        self.sites = [Site(index, name) for index, name in enumerate(self.names)]
        self.effect = result.array("/patch/mean_effect")
        self.interval = result.array("/patch/mean_effect_interval")
        values = np.isfinite(result.array("/patch/value"))
        self.common = 2 * values.sum(axis=0) >= len(values)
        self.attributes = result.attributes("/patch")
        self.positions = result.array("/patch/position").tolist()
        self.names_of_places = result.texts("/patch/position_name")
        self.labels = position_labels(result, self.positions, self.names_of_places)

    @property
    def metric(self):
        return self.attributes.get("metric", "the metric")

    def title(self, kind):
        """What a map shows; the stream between blocks is never patched in windows."""
        window = self.attributes.get("windows", 1)
        wide = window > 1 and kind.split(",")[0] not in ("embed", "resid_pre", "resid_post")
        windows = f" · windows of {window} layers" if wide else ""
        return f"{kind} · {self.attributes.get('style')}, {self.attributes.get('direction')}{windows}"

    def kinds(self):
        """Sites by the part of the model; those without heads and those with them apart."""
        found = {}
        for site in self.sites:
            found.setdefault(site.kind + (", one head at a time" if site.head is not None else ""),
                             []).append(site)
        return found


class Roles:
    """The means of a file by what a token is to the change, for prompts that are built differently.

    A subject of one token has a last token only. After Meng et al. 2022, figure 2.
    """

    def __init__(self, result, maps):
        self.labels = result.texts("/patch/role")
        self.effect = result.array("/patch/mean_effect_by_role")
        self.interval = result.array("/patch/mean_effect_interval_by_role")
        self.prompts = result.array("/patch/prompts_by_role")
        shared = 2 * self.prompts >= len(result.array("/baseline/clean"))
        self.common = np.tile(shared, (len(maps.names), 1))


class Site:
    def __init__(self, index, name):
        found = re.fullmatch(r"(?:blocks\.(\d+)\.)?([^\[]+)(?:\[(\d+)\])?", name)
        self.index = index
        self.name = name
        self.layer = int(found.group(1)) if found and found.group(1) else OUTSIDE
        self.kind = found.group(2) if found else name
        self.head = int(found.group(3)) if found and found.group(3) else None


def position_labels(result, positions, names):
    """Tokens by number, with their text where all prompts agree; sets of tokens by their name."""
    offsets, pieces = result.array("/data/offsets"), result.texts("/data/pieces")
    labels = []
    for position, name in zip(positions, names):
        if name != str(position):
            labels.append(name.replace("_", " "))
            continue
        found = set()
        for first, last in zip(offsets[:-1], offsets[1:]):
            at = first + position if position >= 0 else last + position
            found.add(pieces[at] if first <= at < last else None)
        piece = found.pop() if len(found) == 1 else None
        shown = tokens.visible(piece) if piece is not None else ""
        labels.append(f"{shown} {position}".strip())
    return labels


def number(value):
    return f"{value:.3f}" if np.isfinite(value) else "–"


def strongest(maps, aligned):
    """The cells whose patch moves the run most towards the run that it came from."""
    toward_clean = maps.attributes.get("direction") != "noise"
    ranked = np.isfinite(aligned.effect) & aligned.common
    score = np.where(ranked, aligned.effect if toward_clean else -aligned.effect, -np.inf)
    rows = []
    for cell in np.argsort(-score, axis=None, kind="stable")[:STRONGEST]:
        site, place = np.unravel_index(cell, score.shape)
        if np.isfinite(score[site, place]):
            rows.append([page.code(maps.names[site]), aligned.labels[place],
                         number(aligned.effect[site, place]), number(aligned.interval[site, place])])
    header = ["site", "token", "mean effect", "± 95 %"]
    about = page.note(f"Effect on {maps.metric}: 0 = the corrupted run, "
                      "1 = the clean run. ±: half the 95 % interval over prompts. "
                      "Cells that fewer than half of the prompts have are left out.")
    return about + page.table(header, rows, numbers={2, 3})


def kind_maps(figures, maps, aligned, kind, sites):
    name = re.sub(r"[^A-Za-z0-9]+", "-", kind).strip("-")
    if sites[0].head is not None:
        return head_maps(figures, maps, aligned, name, kind, sites)
    markup = position_maps(figures, maps, name, kind, sites)
    if aligned is maps:
        return markup
    return page.note("The prompts are built differently: the map by role is above.") + page.fold(
        "by token number, where tokens of different roles come together", markup)


def position_maps(figures, maps, name, kind, sites):
    """Layer × token, or a line where either is one."""
    sites = sorted(sites, key=lambda site: site.layer)
    index = [site.index for site in sites]
    layers = ["" if site.layer == OUTSIDE else str(site.layer) for site in sites]
    if len(sites) == 1 or len(maps.labels) == 1:
        x = maps.labels if len(sites) == 1 else layers
        png = charts.effect_line(figures, f"patch-{name}", maps.effect[index].reshape(-1),
                                 maps.interval[index].reshape(-1), x,
                                 "token" if len(sites) == 1 else "layer", maps.title(kind),
                                 f"mean effect on {maps.metric}")
        return page.picture(png, f"{kind}: mean effect with its interval")
    title = maps.title(kind)
    png = charts.effect_map(figures, f"patch-{name}", maps.effect[index], layers, maps.labels,
                            "token", title, f"mean effect on {maps.metric}")
    markup = page.picture(png, f"{kind}: mean effect by layer and token")
    if np.isfinite(maps.interval[index]).any():
        png = charts.effect_map(figures, f"patch-{name}-interval", maps.interval[index], layers,
                                maps.labels, "token", title,
                                f"± 95 % over prompts, {maps.metric}")
        markup += page.fold("intervals over prompts", page.picture(png, f"{kind}: half the interval"))
    return markup


def role_maps(figures, maps, roles):
    """One map for each kind of site: layers by role, as tables of causal tracing have it."""
    markup = page.note("Means by what a token is to the change, so that prompts of different length "
                       "come together. A subject of one token counts as a last subject token.")
    for kind, sites in maps.kinds().items():
        if sites[0].head is not None or len(sites) < 2:
            continue
        sites = sorted(sites, key=lambda site: site.layer)
        layers = ["" if site.layer == OUTSIDE else str(site.layer) for site in sites]
        held = [role for role in range(len(roles.labels)) if roles.prompts[role]][::-1]
        grid = roles.effect[[site.index for site in sites]].T[held]
        name = "patch-roles-" + re.sub(r"[^A-Za-z0-9]+", "-", kind).strip("-")
        png = charts.effect_map(figures, name, grid, [roles.labels[role] for role in held], layers,
                                "layer", maps.title(kind), f"mean effect on {maps.metric}",
                                rows_label="")
        markup += page.picture(png, f"{kind}: mean effect by layer and role of the token")
    return markup


def head_maps(figures, maps, aligned, name, kind, sites):
    """Layer × head: at the only place, or each head's strongest one, which its cell names."""
    layers = sorted({site.layer for site in sites})
    heads = sorted({site.head for site in sites})
    grid = np.full((len(layers), len(heads)), np.nan)
    places = np.full(grid.shape, -1)
    for site in sites:
        effects = np.where(aligned.common[site.index], aligned.effect[site.index], np.nan)
        if np.isfinite(effects).any():
            # where the patch does most: furthest from the run that is patched
            still = 0 if maps.attributes.get("direction") != "noise" else 1
            best = np.nanargmax(np.abs(effects - still))
            cell = layers.index(site.layer), heads.index(site.head)
            grid[cell], places[cell] = effects[best], best
    title, marks, legend = maps.title(kind), None, ""
    if len(aligned.labels) == 1:
        title += f" · at {aligned.labels[0]}"
    else:
        marks, legend = place_marks(places, aligned, maps)
    png = charts.effect_map(figures, f"patch-{name}", grid, [str(layer) for layer in layers],
                            [str(head) for head in heads], "head", title,
                            f"mean effect on {maps.metric}", marks=marks, legend=legend)
    return page.picture(png, f"{kind}: mean effect by layer and head", legend)


def place_marks(places, aligned, maps):
    """A short sign of every cell's place [rows, columns], and what the signs mean."""
    used = sorted({place for place in places.flat if place >= 0})
    if aligned is maps and all(maps.names_of_places[place].lstrip("-").isdigit() for place in used):
        signs = {place: maps.names_of_places[place] for place in used}
        legend = "in a cell: the token where its head does most"
    else:
        signs = {place: "abcdefghijklmnopqrstuvwxyz"[number % 26] * (1 + number // 26)
                 for number, place in enumerate(used)}
        legend = "where a head does most: " + " · ".join(
            f"{signs[place]} {aligned.labels[place]}" for place in used)
    return [[signs.get(place, "") for place in row] for row in places], legend
