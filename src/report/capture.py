# SPDX-License-Identifier: MIT
"""Captured activations: the sites with their shapes, and mean norms over layers and positions."""

import re

import numpy as np

import page
from page import Section

BLOCK_ROWS = 4096  # read at a time: captures may be larger than memory
OUTSIDE = -1  # "layer" of sites that belong to no block


def sections(result, figures):
    sites = [Site(result, name) for name in result.members("/activations") if name != "rows"]
    if not sites:
        return [Section("Activations", page.note("The file holds no activations."))]
    rows = [[page.code(s.name), s.shape, s.type, f"{s.mean:.4g}", f"{s.low:.4g}", f"{s.high:.4g}"]
            for s in sites]
    header = ["site", "shape", "type", "mean norm", "least", "greatest"]
    parts = [Section("Sites", page.table(header, rows, numbers={3, 4, 5}))]
    maps = "".join(norm_maps(figures, kind, members) for kind, members in by_kind(sites).items())
    about = page.note("Mean L2 norm of the captured vectors over all prompts, by layer and position.")
    return parts + [Section("Norms", about + maps)]


class Site:
    """One captured site and the L2 norms of its rows."""

    def __init__(self, result, name):
        values = result.file[f"/activations/{name}"]
        rows = result.array("/activations/rows")
        found = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
        self.name = name
        self.layer = int(found.group(1)) if found else OUTSIDE
        self.kind = found.group(2) if found else name
        self.shape = " × ".join(str(size) for size in values.shape)
        self.type = str(values.dtype)
        self.norms, self.head_norms = norms(values)
        self.positions = rows[:, 1].astype(int)
        self.mean = float(np.mean(self.norms)) if len(self.norms) else float("nan")
        self.low = float(np.min(self.norms, initial=np.inf))
        self.high = float(np.max(self.norms, initial=-np.inf))

    def by_position(self, length):
        """Mean norm at each position, NaN where nothing was captured."""
        total, count = np.zeros(length), np.zeros(length)
        np.add.at(total, self.positions, self.norms)
        np.add.at(count, self.positions, 1)
        with np.errstate(invalid="ignore"):
            return total / count


def norms(values):
    """Norm of every row, and the mean norm of every head (None for sites without heads)."""
    rows, heads = values.shape[0], values.shape[1] if values.ndim == 3 else 0
    of_row, of_head = np.zeros(rows), np.zeros(heads)
    for first in range(0, rows, BLOCK_ROWS):
        block = values[first : first + BLOCK_ROWS].astype(np.float64)
        squares = np.sum(block * block, axis=-1)
        if heads:
            of_head += np.sum(np.sqrt(squares), axis=0)
            squares = np.sum(squares, axis=1)
        of_row[first : first + BLOCK_ROWS] = np.sqrt(squares)
    return of_row, of_head / max(rows, 1) if heads else None


def by_kind(sites):
    kinds = {}
    for site in sites:
        kinds.setdefault(site.kind, []).append(site)
    return kinds


def norm_maps(figures, kind, sites):
    """Pictures of one kind of site: layer × position, and layer × head where there are heads."""
    sites = sorted(sites, key=lambda site: site.layer)
    layers = ["" if site.layer == OUTSIDE else str(site.layer) for site in sites]
    length = max((int(site.positions.max()) + 1 for site in sites if len(site.positions)), default=0)
    if length == 0:
        return ""
    name = re.sub(r"[^A-Za-z0-9]+", "-", kind).strip("-")
    grid = np.array([site.by_position(length) for site in sites])
    used = np.flatnonzero(np.isfinite(grid).any(axis=0))
    png = figures.grid(f"norms-{name}", grid[:, used], layers, [str(p) for p in used],
                       "position", f"{kind}: mean L2 norm")
    markup = page.picture(png, f"{kind}: mean norm by layer and position")
    if all(site.head_norms is not None for site in sites):
        heads = np.array([site.head_norms for site in sites])
        png = figures.grid(f"norms-{name}-heads", heads, layers,
                           [str(h) for h in range(heads.shape[1])], "head",
                           f"{kind}: mean L2 norm per head")
        markup += page.picture(png, f"{kind}: mean norm by layer and head")
    return markup
