# SPDX-License-Identifier: MIT
"""The index of a sweep: a row a point, with its swept values and the headline numbers there are."""

import numpy as np

import page
from page import Section

NO_COLUMNS = {"point", "status"}


def sections(result, _figures):
    points, status = result.texts("/point"), result.texts("/status")
    if not points or not status:
        return [Section("Points", page.note("The file lists no points."))]
    columns, numbers = [("point", [page.code(point) for point in points])], set()
    for name in result.members("/"):
        cells, numeric = column(result, name, len(points))
        if cells is None:
            continue
        numbers |= {len(columns)} if numeric else set()
        columns.append((name, cells))
    failed = sum(text != "complete" for text in status)
    about = f"{len(points):,} points" + (f", {failed:,} of them failed" if failed else "")
    if failed:
        columns.append(("status", status))
    header = [title for title, _ in columns]
    rows = list(zip(*(cells for _, cells in columns)))
    note = page.note(f"{about}. Swept values first, then the headline numbers that any point has; "
                     "each point has a file of its own.")
    return [Section("Headline numbers by swept values", note + page.table(header, rows, numbers=numbers))]


def column(result, name, count):
    """Cells of a dataset [points], and whether they are numbers; None for others and for no values."""
    data = result.file[f"/{name}"]
    if name in NO_COLUMNS or getattr(data, "shape", None) != (count,):
        return None, False
    if data.dtype.kind not in "fiu":
        return result.texts(f"/{name}"), False
    values = data[()].astype(float)
    if np.isnan(values).all():
        return None, False
    digits = ".15g" if (values == np.round(values)).all() else ".5g"
    return ["–" if np.isnan(value) else f"{value:{digits}}" for value in values], True
