# SPDX-License-Identifier: MIT
"""The frame of a report: one HTML file without outside references, for light and dark screens.

Every function that takes text escapes it; functions that take `markup` do not.
"""

import base64
import html
from dataclasses import dataclass

import tokens


@dataclass
class Section:
    title: str
    markup: str
    folded: bool = False


CSS = """
:root { --ink: #1c1f23; --soft: #5d6670; --line: #dfe3e8; --ground: #f6f7f9; --card: #fff;
  --accent: #2171b5; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #9aa4af; --line: #343a42;
  --ground: #16191d; --card: #1f2329; --accent: #6baed6; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
.subtitle { color: var(--soft); margin: 4px 0 20px; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; margin-bottom: 8px; font-size: 14px; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 20px 24px; margin-top: 20px; }
h2 { font-size: 18px; margin: 0 0 12px; } h3 { font-size: 15px; margin: 28px 0 8px; }
h3:first-child { margin-top: 0; }
p { margin: 8px 0; } .note { color: var(--soft); font-size: 14px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; }
th, td { text-align: left; vertical-align: top; padding: 4px 18px 4px 0;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
tr:last-child > td, tr:last-child > th[scope=row] { border-bottom: 0; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code, pre, .piece { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, "Noto Sans Mono",
  "Noto Sans Mono CJK SC", "Noto Color Emoji", monospace; font-size: 13px; }
.piece { white-space: pre-wrap; background: var(--ground); border-radius: 4px; padding: 1px 5px; }
pre { margin: 8px 0 0; padding: 12px 14px; overflow-x: auto; background: var(--ground);
  border-radius: 8px; line-height: 1.5; }
summary { cursor: pointer; } .folded > summary { font-size: 18px; font-weight: 700; }
details { margin-top: 6px; } details[open] > summary { margin-bottom: 10px; }
ul { margin: 0; padding-left: 20px; }
.numbers { display: flex; flex-wrap: wrap; gap: 12px; }
.numbers div { border: 1px solid var(--line); border-radius: 8px; padding: 8px 14px; }
.numbers b { display: block; font-size: 20px; font-variant-numeric: tabular-nums; }
.numbers span { color: var(--soft); font-size: 13px; }
figure { margin: 0 0 18px; } figcaption { color: var(--soft); font-size: 14px; margin-bottom: 6px; }
figcaption b { color: var(--ink); }
figure img { max-width: 100%; height: auto; background: #fff; border-radius: 8px;
  border: 1px solid var(--line); }
.prompt { border-top: 1px solid var(--line); padding-top: 18px; margin-top: 18px; }
.prompt:first-of-type { border-top: 0; }
.pair { display: flex; flex-wrap: wrap; gap: 0 28px; align-items: flex-start; }
.side { display: flex; flex-wrap: wrap; gap: 0 20px; align-items: flex-start; }
.side figure { flex: 0 1 auto; }
.heat { display: flex; align-items: flex-start; gap: 6px; }
.card { background: #fff; color: #000; border: 1px solid var(--line); border-radius: 8px;
  padding: 20px; max-width: 600px; min-width: 220px; line-height: 2.2; font-weight: 700;
  font-size: 16px; white-space: pre-wrap; overflow-wrap: anywhere; tab-size: 4;
  font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, "Noto Sans Mono",
  "Noto Sans Mono CJK SC", "Noto Color Emoji", monospace; }
.card span { display: inline-block; line-height: 1.45; max-width: 100%; unicode-bidi: isolate;
  cursor: default; vertical-align: middle; }
.card .target { background: #d00000; color: #fff; }
.bar text, .bars text { fill: var(--soft); font-size: 12px; }
.bars text.tick { fill: var(--ink); font-weight: 700; white-space: pre;
  font-family: ui-monospace, "DejaVu Sans Mono", monospace; }
.bar line, .bars line { stroke: var(--line); }
@media print { section { break-inside: avoid-page; } body { background: #fff; } }
"""


def escape(text):
    return html.escape(str(text), quote=True)


def render(title, subtitle, sections):
    links, parts = [], []
    for number, section in enumerate(sections):
        anchor = f"s{number}"
        links.append(f'<a href="#{anchor}">{escape(section.title)}</a>')
        if section.folded:
            body = (f'<details class="folded"><summary>{escape(section.title)}</summary>'
                    f"{section.markup}</details>")
        else:
            body = f"<h2>{escape(section.title)}</h2>{section.markup}"
        parts.append(f'<section id="{anchor}">{body}</section>')
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}{tokens.css()}</style></head><body>{tokens.gradient()}<main>"
        f'<h1>{escape(title)}</h1><p class="subtitle">{escape(subtitle)}</p>'
        f'<nav>{"".join(links)}</nav>\n{chr(10).join(parts)}\n</main></body></html>\n'
    )


def table(header, rows, numbers=()):
    """header: texts; rows: lists of texts or Markup; numbers: indices of right-aligned columns."""

    def cell(tag, index, content):
        kind = ' class="number"' if index in numbers else ""
        markup = content.markup if isinstance(content, Markup) else escape(content)
        return f"<{tag}{kind}>{markup}</{tag}>"

    head = "".join(cell("th", i, text) for i, text in enumerate(header))
    body = "".join(
        "<tr>" + "".join(cell("td", i, text) for i, text in enumerate(row)) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def facts(rows):
    """A table of two columns, name and value; rows without a value are left out."""
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>'
        f"{value.markup if isinstance(value, Markup) else escape(value)}</td></tr>"
        for name, value in rows
        if not isinstance(value, str) or value != ""
    )
    return f'<div class="scroll"><table><tbody>{body}</tbody></table></div>'


@dataclass
class Markup:
    """HTML that is put into a table as it is."""

    markup: str


def piece(text):
    return Markup(f'<span class="piece">{escape(tokens.visible(text))}</span>')


def code(text):
    return Markup(f"<code>{escape(text)}</code>")


def note(text):
    return f'<p class="note">{escape(text)}</p>'


def numbers(pairs):
    """Headline numbers as tiles: (label, text)."""
    tiles = "".join(
        f"<div><b>{escape(value)}</b><span>{escape(label)}</span></div>" for label, value in pairs
    )
    return f'<div class="numbers">{tiles}</div>'


SHOWN = 0.625  # dots of a screen per dot of a picture: drawn with 160 an inch, shown with 100


def picture(png, alt, caption=""):
    """An embedded PNG; caption: plain text."""
    width = round(SHOWN * int.from_bytes(png[16:20], "big"))  # of the header IHDR
    data = base64.b64encode(png).decode("ascii")
    words = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure>{words}<img width="{width}" alt="{escape(alt)}" src="data:image/png;base64,{data}"></figure>'
    )


def fold(summary, markup):
    return f"<details><summary>{escape(summary)}</summary>{markup}</details>"
