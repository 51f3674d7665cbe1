# SPDX-License-Identifier: MIT
"""Puts a page together: a head common to all methods, the method's sections, the file's contents.

A method is one row of METHODS and one module with `sections(result, figures)`, which returns a
list of page.Section.
"""

import os

import capture
import eap
import jacobian
import overview
import page
import patch
import plots
import sweep

METHODS = {
    "jacobian": jacobian.sections,
    "capture": capture.sections,
    "patch": patch.sections,
    "eap": eap.sections,
    "sweep": sweep.sections,
}


def write(result, folder):
    """Writes <folder>/<name>.html and the figures in <folder>/<name>/; gives the page's path."""
    os.makedirs(folder, exist_ok=True)
    figures = plots.Figures(os.path.join(folder, result.name))
    method = METHODS.get(result.attribute("method"), no_sections)
    sections = overview.head(result) + method(result, figures) + overview.tail(result)
    path = os.path.join(folder, result.name + ".html")
    with open(path, "w", encoding="utf-8", errors="replace") as out:
        out.write(page.render(overview.title(result), overview.subtitle(result), sections))
    return path


def no_sections(_result, _figures):
    return []
