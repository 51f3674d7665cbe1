# SPDX-License-Identifier: MIT
"""Draws a circuit, its input below and the logits above, through the program `dot` of Graphviz."""

import shutil
import subprocess

import edges as graph

POSITIVE, NEGATIVE, UNSCORED = "#2166ac", "#b2182b", "#8a929b"
FILLS = {  # kind: ground and border
    graph.INPUT: ("#eef0f3", "#7c858e"), graph.LOGITS: ("#eef0f3", "#7c858e"),
    graph.HEAD: ("#e3edf8", "#6b93b8"), graph.KEY_VALUE: ("#f3f7fb", "#9db6cf"),
    graph.MLP: ("#fdebd3", "#c98a3c"),
}
FONT = "DejaVu Sans"
SECONDS = 60  # that a drawing may take


class NoDrawing(Exception):
    """Why there is no picture."""


def draw(edges, chosen, caption):
    """PNG of the edges with these flat indices."""
    if not shutil.which("dot"):
        raise NoDrawing("the program dot is missing: install the package graphviz to have it drawn")
    try:
        done = subprocess.run(["dot", "-Tpng"], input=text(edges, chosen, caption).encode(),
                              capture_output=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise NoDrawing(f"dot found no layout within {SECONDS} s")
    if done.returncode != 0 or not done.stdout:
        raise NoDrawing("dot failed: " + done.stderr.decode("utf-8", "replace").strip())
    return done.stdout


def text(edges, chosen, caption):
    """The graph in the language of dot; nodes of one depth stand side by side."""
    nodes = {}
    for edge in chosen:
        for end in edges.ends(edge):
            nodes.setdefault(end.node, end)
    strongest = max((edges.size.flat[edge] for edge in chosen), default=0) or 1.0
    lines = ["digraph circuit {",
             f'graph [rankdir=BT, dpi=160, ranksep=0.42, nodesep=0.16, size="11.5,17", pad=0.1, '
             f'fontname="{FONT}", fontsize=11, labelloc=b, label="{caption}\\n "];',
             f'node [shape=plain, fontname="{FONT}", fontsize=11];',
             'edge [arrowsize=0.35];']
    lines += [declaration(node) for node in nodes.values()]
    lines += ranks(nodes.values(), bool(edges.attributes.get("parallel", 0)), edges.layers)
    lines += [arrow(edges, edge, strongest) for edge in chosen]
    lines += shared_keys(edges, nodes)
    return "\n".join(lines + ["}"])


def declaration(node):
    ground, border = FILLS[node.kind]
    ports = {graph.HEAD: "qkv", graph.KEY_VALUE: "kv"}.get(node.kind, "")
    cells = "".join(f'<TD PORT="{port}"><FONT POINT-SIZE="8" COLOR="#5d6670">{port}</FONT></TD>'
                    for port in ports)
    below = f"<TR>{cells}</TR>" if cells else ""
    return (f'"{node.node}" [label=<<TABLE BORDER="1" CELLBORDER="0" CELLSPACING="0" CELLPADDING="3" '
            f'STYLE="ROUNDED" BGCOLOR="{ground}" COLOR="{border}"><TR><TD PORT="out" '
            f'COLSPAN="{max(len(ports), 1)}">{node.node}</TD></TR>{below}</TABLE>>];')


def depth(node, parallel, layers):
    """Rank from below; key and value inputs that heads share stand under their heads."""
    if node.kind == graph.LOGITS:
        return 3 * layers
    return {graph.INPUT: -1, graph.KEY_VALUE: 3 * node.layer, graph.HEAD: 3 * node.layer + 1,
            graph.MLP: 3 * node.layer + (1 if parallel else 2)}[node.kind]


def ranks(nodes, parallel, layers):
    """One rank a depth, held in order by a chain that is not seen."""
    rows = {}
    for node in nodes:
        rows.setdefault(depth(node, parallel, layers), []).append(node.node)
    order = sorted(rows)
    chain = " -> ".join(f'"rank {row}"' for row in order)
    lines = ["node [shape=point, style=invis, width=0];", f"{chain} [style=invis, weight=0];"]
    for row in order:
        members = " ".join(f'"{name}";' for name in [f"rank {row}", *rows[row]])
        lines.append(f"{{ rank=same; {members} }}")
    return lines


def arrow(edges, edge, strongest):
    source, destination = edges.ends(edge)
    score = edges.score.flat[edge]
    colour = UNSCORED if score != score else POSITIVE if score > 0 else NEGATIVE
    width = 0.5 + 5.5 * (edges.size.flat[edge] / strongest) ** 0.5
    into = f'"{destination.node}":{destination.port}:s' if destination.port else \
        f'"{destination.node}":s'
    return f'"{source.node}":out:n -> {into} [color="{colour}d0", penwidth={width:.2f}];'


def shared_keys(edges, nodes):
    """Thin lines from key and value inputs to those heads of the picture that read them."""
    groups = max(int(edges.attributes.get("kv_columns", 0)), 1)
    lines = []
    for shared in nodes.values():
        if shared.kind != graph.KEY_VALUE:
            continue
        for head in nodes.values():
            if (head.kind == graph.HEAD and head.layer == shared.layer and
                    head.head // (edges.heads // groups) == shared.head):
                lines.append(f'"{shared.node}":out:n -> "{head.node}":s '
                             f'[color="{UNSCORED}", penwidth=0.8, style=dotted];')
    return lines
