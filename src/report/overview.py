# SPDX-License-Identifier: MIT
"""The sections that every method shares: what ran, conventions, headline numbers, contents."""

import math
import re

import numpy as np

import circuits
import page
from page import Section


def title(result):
    found = re.search(r"^name:\s*(\S+)", result.attribute("config"), re.MULTILINE)
    return found.group(1).strip("\"'") if found else result.name


def subtitle(result):
    parts = [result.attribute(name) for name in ("method", "model_path", "backend", "precision")]
    return " · ".join(part for part in parts if part)


def head(result):
    sections = [Section("What ran", what_ran(result))]
    lines = result.attribute("conventions", [])
    lines = lines.splitlines() if isinstance(lines, str) else lines
    if lines:
        items = "".join(f"<li>{page.escape(line)}</li>" for line in lines)
        sections.append(Section("Conventions", f"<ul>{items}</ul>"))
    tiles = headline(result)
    if tiles:
        sections.append(Section("Headline numbers", page.numbers(tiles)))
    return sections


def tail(result):
    sections = []
    run = result.attributes("/run")
    if run:
        rows = [(name.replace("_", " "), with_unit(name, value)) for name, value in run.items()]
        sections.append(Section("Run", page.facts(rows) + log(result)))
    sections.append(Section("Contents of the file", contents(result), folded=True))
    return sections


# ---- what ran


def what_ran(result):
    at = result.attribute
    file_of_data = re.search(r"^data:\s*\n(?:\s+.*\n)*?\s+file:\s*(.+)$", at("config"), re.MULTILINE)
    offsets = result.array("/data/offsets")
    rows = [
        ("method", at("method")),
        ("status", at("status")),
        ("model", join(at("model_path"), at("model_type"))),
        ("data", file_of_data.group(1).strip("\"' ") if file_of_data else ""),
        ("prompts", f"{len(offsets) - 1:,}" if offsets is not None else ""),
        ("tokens", f"{int(offsets[-1]):,}" if offsets is not None else ""),
        ("backend", join(at("backend"), at("precision"))),
        ("seed", str(at("seed"))),
        ("tool", join(at("tool_version"), at("git_revision"))),
        ("result file", result.path),
    ]
    digests = [
        (name.replace("_sha256", ""), page.code(at(name)))
        for name in ("config_sha256", "model_sha256", "tokenizer_sha256", "data_sha256")
        if at(name)
    ]
    markup = page.facts(rows)
    if at("config"):
        markup += page.fold("configuration", f"<pre>{page.escape(at('config'))}</pre>")
    if digests:
        markup += page.fold("SHA-256", page.facts(digests))
    return markup


def join(*parts):
    return ", ".join(str(part) for part in parts if part != "")


# ---- numbers


AREAS = {"cpr", "cmd"}  # under a curve that may be a part of the whole one

# Not headlines: the run has a section, and of an evaluation only AOPC stands outside its tables.
NO_HEADLINE = re.compile(r"/run(/.*)?@.*|/evaluation/.*@(?!aopc$).*")


def headline(result):
    """Floating-point attributes of groups, as (label, text)."""
    tiles = []
    for path, item in result.walk():
        for name, value in item.attrs.items():
            if isinstance(value, (float, np.floating)) and not NO_HEADLINE.fullmatch(f"{path}@{name}"):
                about = circuits.covered(result) if path == "/faithfulness" and name in AREAS else ""
                tiles.append((f"{path.split('/')[-1]}: {name.replace('_', ' ')}{about}", f"{value:.5g}"))
    return tiles


def with_unit(name, value):
    if name.endswith("bytes") and isinstance(value, (int, float)):
        return f"{value / 2**20:,.1f} MiB"
    if name == "wall_seconds":
        return f"{value:,.2f} s"
    if name == "flops" and value > 0:
        power = min(int(math.log10(value)) // 3, 6)
        return f"{value / 1000**power:.3g} {['', 'k', 'M', 'G', 'T', 'P', 'E'][power]}FLOP"
    if isinstance(value, float):
        return f"{value:,.1f}"
    return str(value)


def log(result):
    messages, levels = result.texts("/run/log/message"), result.texts("/run/log/level")
    if not messages or not levels:
        return ""
    return page.fold(f"log ({len(messages)} lines)", page.table(["level", "message"],
                                                                list(zip(levels, messages))))


def contents(result):
    rows = []
    for path, dataset in result.datasets():
        shape = " × ".join(str(size) for size in dataset.shape) or "scalar"
        axes = ", ".join(dimension.label or "–" for dimension in dataset.dims)
        kind = "text" if dataset.dtype.kind == "O" else str(dataset.dtype)
        rows.append([page.code(path), shape, axes, kind])
    return page.table(["dataset", "shape", "axes", "type"], rows)
