# SPDX-License-Identifier: MIT
"""The page of the method eap: what runs leave is drawn, and every optional group is shown."""

import json
import os
import re
import shutil
import subprocess
import sys

import files
import h5py
import numpy as np
import pytest
from test_report import PROMPTS, SCRIPT, read_page, run, text_type, write_head

sys.path.append(str(SCRIPT))

LAYERS, HEADS, WIDTH, PAIRS = 3, 4, 8, 12
LENGTH = len(PROMPTS[0])


def names_of(layers, heads, kv):
    """Sources and destinations in the order of the rows and columns."""
    sources, destinations = ["input"], []
    for layer in range(layers):
        sources += [f"a{layer}.h{head}" for head in range(heads)] + [f"m{layer}"]
        destinations += [f"a{layer}.h{head}<q>" for head in range(heads)]
        shared = "h" if kv == heads else "kv"
        destinations += [f"a{layer}.{shared}{head}<{port}>" for port in "kv" for head in range(kv)]
        destinations.append(f"m{layer}")
    return sources, destinations + ["logits"]


def edges_of(sources, destinations):
    """Which pairs are edges: a source below the layer of its reader, heads below their own MLP."""
    def height(name, reads):
        found = re.match(r"[am](\d+)", name)
        if not found:
            return -1 if name == "input" else 1000
        return 2 * int(found.group(1)) + (name[0] == "m") + (0 if reads else 0.5)
    return np.array([[height(u, False) < height(v, True) for v in destinations] for u in sources])


def write_edges(path, kv=HEADS, layers=LAYERS, heads=HEADS):
    rng = np.random.default_rng(5)
    sources, destinations = names_of(layers, heads, kv)
    valid = edges_of(sources, destinations)
    size = np.exp(3 * rng.standard_normal(valid.shape) - 6)
    score = np.where(valid, size * rng.choice([-1, 1], valid.shape, p=[0.3, 0.7]), np.nan)
    with h5py.File(path, "w", track_order=True) as file:
        write_head(file, "eap", [PROMPTS[0]] * PAIRS)
        group = file.create_group("edges")
        group["source"] = np.array(sources, dtype=text_type())
        group["destination"] = np.array(destinations, dtype=text_type())
        group["valid"], group["score"] = valid, score.astype(np.float32)
        group.attrs.update({"layers": layers, "heads": heads, "width": WIDTH, "kv_columns": kv,
                            "parallel": 0, "variant": "ig-inputs"})
        file["nodes/name"] = np.array(sources, dtype=text_type())
        file["nodes/score"] = np.nansum(score, axis=1).astype(np.float32)
        base = file.create_group("baseline")
        base.attrs.update({"metric": "logit_diff", "clean_mean": 3.5, "corrupted_mean": -0.5})
    return score


def write_circuits(path, score, sizes=(3, 10, 40, 80)):
    """The strongest n of each size, and metrics that rise from the corrupted to the clean run."""
    rng = np.random.default_rng(6)
    order = np.argsort(-np.nan_to_num(np.abs(score)), axis=None)
    inside = np.zeros((len(sizes), score.size), bool)
    for row, size in zip(inside, sizes):
        row[order[:size]] = True
    normalized = np.linspace(-0.1, 1.1, len(sizes))
    each = (-0.5 + 4 * normalized)[:, None] + rng.standard_normal((len(sizes), PAIRS))
    with h5py.File(path, "a") as file:
        edges = np.isfinite(score).sum()
        file["circuits/fraction"] = np.array(sizes) / edges
        file["circuits/requested"] = np.array(sizes)
        file["circuits/kept_edges"] = np.array(sizes)
        file["circuits/kept_nodes"] = np.array(sizes) // 2
        file["circuits/in_circuit"] = inside.reshape(len(sizes), *score.shape)
        group = file.create_group("faithfulness")
        group["metric"], group["per_example"] = each.mean(axis=1), each
        group["normalized"] = (each.mean(axis=1) + 0.5) / 4
        group.attrs.update({"clean": 3.5, "corrupted": -0.5, "cpr": 0.8125, "cmd": 0.0625})


def write_rest(path, score):
    rng = np.random.default_rng(7)
    with h5py.File(path, "a") as file:
        noise = np.abs(score) * rng.random(score.shape)
        file["edges"].attrs["resamples"] = 500
        bounds = np.stack([score - noise, score + noise], axis=-1).astype(np.float32)
        bounds[0] = np.where(np.isfinite(bounds[0]), (-9, 9), np.nan)
        file["edges/interval"] = bounds
        shares = rng.dirichlet(np.ones(LENGTH), score.shape).transpose(2, 0, 1)
        file["edges/score_by_position"] = (shares * score).astype(np.float32)
        file["neurons/name"] = file["nodes/name"][()]
        file["neurons/score"] = rng.standard_normal((score.shape[0], WIDTH)).astype(np.float32) ** 3
        file["hidden/score"] = rng.standard_normal((LAYERS, 20)).astype(np.float32) ** 3
        for variant, spread, r in (("eap", 1.0, 0.71), ("ig-inputs", 0.3, 0.97)):
            group = file.create_group(f"compare/{variant}")
            group["score"] = (score * np.exp(spread * rng.standard_normal(score.shape)) +
                              1e-4 * spread * rng.standard_normal(score.shape)).astype(np.float32)
            group["size"] = np.array([1, 10, 100])
            group["iou"] = np.array([1, 0.4, 0.6]) ** spread
            group["common_edges"] = np.array([0, 4, 60])
            group.attrs.update({"pearson": r - 0.01, "pearson_absolute": r, "kendall": 0.7,
                                "kendall_absolute": 0.8})


def figures_of(folder):
    found = {path.stem for path in folder.iterdir()}
    assert all((folder / f"{name}.png").read_bytes()[:4] == b"\x89PNG" for name in found)
    return found


def page_of(tmp_path, *arguments):
    done = run(tmp_path / "x.h5", *arguments)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return read_page(tmp_path / "x.html")


def opened(path):
    """The parts of the report, and the edges of a file."""
    import eap
    import edges
    import result
    file = result.Result(str(path))
    return eap, file, edges.Edges(file)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A file with every group: its folder, the scores, the text of its page."""
    folder = tmp_path_factory.mktemp("full")
    score = write_edges(folder / "x.h5")
    write_circuits(folder / "x.h5", score)
    write_rest(folder / "x.h5", score)
    return folder, score, page_of(folder)


def test_every_group_has_its_picture(full):
    folder, _, text = full
    for expected in ("Circuit", "Strongest edges", "Faithfulness of circuits", "CPR", "Nodes",
                     "Variants compared", "Edges between layers", "Where in the prompt", "Neurons",
                     "Hidden units", "0.710", "0.970", "Intervals: 500 resamples of the pairs."):
        assert expected in text, expected
    drawing = {"circuit"} if shutil.which("dot") else set()
    assert figures_of(folder / "x") == drawing | {
        "scores", "faithfulness", "comparison", "overlap", "nodes", "layers", "positions",
        "scores-neurons", "scores-units"}


def test_strongest_edges_and_their_intervals(full):
    """Rows fall by |score|; certain are those whose interval leaves out 0: all but the input's."""
    _, score, text = full
    best = np.unravel_index(np.nanargmax(np.abs(score)), score.shape)
    sources, destinations = names_of(LAYERS, HEADS, HEADS)
    header = "edgescore% of Σ |score|95 % interval"
    table = text[text.index(header) + len(header):]
    assert table.startswith(f"{sources[best[0]]} → {destinations[best[1]]}{score[best]:.4g}")
    edges, of_input = int(np.isfinite(score).sum()), int(np.isfinite(score[0]).sum())
    assert f"The interval of {edges - of_input:,} of {edges:,} edges leaves out 0." in text


def test_intervals_over_pairs(tmp_path):
    """Without resampling the scores of every pair give the interval: ± 1.96 s / √N."""
    score = write_edges(tmp_path / "x.h5")
    spread = np.resize([-1.0, 1.0], PAIRS)
    with h5py.File(tmp_path / "x.h5", "a") as file:
        file["edges/score_per_example"] = (np.nan_to_num(score) + spread[:, None, None]).astype(np.float32)
    eap, file, edges = opened(tmp_path / "x.h5")
    with file:
        title, cells, words = eap.intervals(file, edges, edges.strongest(3))
    half = 1.96 * spread.std(ddof=1) / PAIRS ** 0.5
    assert title == "± 95 %" and cells == 3 * [f"{half:.2g}"] and f"over {PAIRS} pairs" in words


def test_statements_of_faithfulness(full):
    folder, score, text = full
    with h5py.File(folder / "x.h5", "r") as file:
        each, normalized = file["faithfulness/per_example"][()], file["faithfulness/normalized"][()]
    table = text[text.rindex("Faithfulness of circuits"):]
    half = 1.96 * each[2].std(ddof=1) / PAIRS ** 0.5
    edges = np.isfinite(score).sum()
    assert f"40{100 * 40 / edges:.3g}4020{each[2].mean():.4g}{half:.2g}{normalized[2]:.3f}" in table
    if shutil.which("dot"):
        assert "The 60 strongest edges of circuit 3 (numbered from 0), of 80; 20 are left out." in text


@pytest.mark.parametrize("sizes, partial, empty", [((3, 10, 40), True, False), ((0, 3, 40), True, True),
                                                    ((0, 10, None), False, True)])
def test_areas_and_axes_say_what_they_leave_out(tmp_path, monkeypatch, sizes, partial, empty):
    """Areas under a part of the curve are no benchmark's, and 0 edges have no place on a logarithmic
    axis: page, tiles and picture say so."""
    import circuits
    score = write_edges(tmp_path / "x.h5")
    edges = int(np.isfinite(score).sum())
    sizes = tuple(edges if size is None else size for size in sizes)
    write_circuits(tmp_path / "x.h5", score, sizes)
    text = page_of(tmp_path)
    range_ = f"from {sizes[0] / edges:.3g} to {sizes[-1] / edges:.3g} of all, not up to 1"
    areas = f"CPR 0.812, CMD 0.062 {range_}" if partial else "CPR 0.812, CMD 0.062"
    assert f"Here: {areas}. " in text and (range_ in text) == partial
    assert (f"cpr {range_}" in text and f"cmd {range_}" in text) == partial
    assert ("A circuit of 0 edges has no place on the logarithmic axis" in text) == empty
    drawn = {}
    monkeypatch.setattr(circuits.edge_charts, "faithfulness",
                        lambda figures, name, counts, mean, half, clean, ablated, labels:
                        drawn.update(counts=counts, labels=labels) or b"0" * 24)
    with opened(tmp_path / "x.h5")[1] as file:
        circuits.faithfulness(file, None)
    assert drawn["labels"][2].endswith(areas) and (drawn["counts"] > 0).all()
    assert ("(a circuit of 0 edges is not drawn)" in drawn["labels"][0]) == empty


@pytest.mark.parametrize("sizes, share, count, words", [
    ((3, 50, 70), (0.1, 0.95, 0.99), 50, "circuit 1 (numbered from 0) of 50 edges"),
    ((50, 3, 70), (0.95, 0.9, 0.99), 3, "circuit 1 (numbered from 0) of 3 edges"),
    ((3, 10, 20), (0.1, 0.2, 0.3), 20, "circuit 2 (numbered from 0) of 20 edges"),
    ((3, 50, 70), None, 60, "the 60 strongest edges of circuit 2 (numbered from 0), of 70; 10 are left out"),
    ((40,), (0.5,), 40, "circuit of 40 edges"),
    ((0, 3), (0.95, 0.1), 60, "the 60 strongest of {all} edges; {rest} are left out"),
    ((0,), (0.1,), 60, "the 60 strongest of {all} edges; {rest} are left out"),
    (None, None, 60, "the 60 strongest of {all} edges; {rest} are left out")])
def test_the_circuit_that_is_drawn(causa, tmp_path, sizes, share, count, words):
    """That which is converted; a large one is cut."""
    score = write_edges(tmp_path / "x.h5")
    if sizes:
        write_circuits(tmp_path / "x.h5", score, sizes)
        with h5py.File(tmp_path / "x.h5", "a") as file:
            del file["faithfulness/normalized"]
            if share:
                file["faithfulness/normalized"] = np.array(share)
    eap, file, edges = opened(tmp_path / "x.h5")
    with file:
        chosen, what = eap.drawn_edges(file, edges)
    assert what == words.format(all=edges.count, rest=edges.count - count)
    best = np.argsort(-np.nan_to_num(np.abs(score)), axis=None)[:count]
    assert sorted(chosen) == sorted(best)
    if what.startswith("circuit"):
        causa("convert", tmp_path / "x.h5", tmp_path / "x.json")
        converted = json.loads((tmp_path / "x.json").read_text())["edges"].values()
        assert sum(edge["in_graph"] for edge in converted) == count


@pytest.mark.parametrize("sizes, count, words", [
    ((10, 40, 80), 40, "circuit 1 (numbered from 0), the largest that can be drawn, of 40 edges"),
    ((70, 80), 0, "circuit 1 (numbered from 0), of 80 edges, too many to draw without scores")])
def test_large_circuits_without_scores(tmp_path, sizes, count, words):
    """No edge is stronger than another, so none can be left out."""
    score = write_edges(tmp_path / "x.h5")
    write_circuits(tmp_path / "x.h5", score, sizes)
    with h5py.File(tmp_path / "x.h5", "a") as file:
        del file["edges/score"]
    eap, file, edges = opened(tmp_path / "x.h5")
    with file:
        chosen, what = eap.drawn_edges(file, edges)
    assert what == words and len(chosen) == count
    assert words[1:] in page_of(tmp_path)
    assert ("circuit" in figures_of(tmp_path / "x")) == (count > 0 and bool(shutil.which("dot")))


def test_circuits_of_neurons(tmp_path):
    """The table counts what was asked for and what is kept; what is ablated is said."""
    score = write_edges(tmp_path / "x.h5")
    write_circuits(tmp_path / "x.h5", score, (20, 40))
    with h5py.File(tmp_path / "x.h5", "a") as file:
        del file["edges/score"]
        file["neurons/name"] = file["nodes/name"][()]
        file["neurons/score"] = np.ones((score.shape[0], WIDTH), np.float32)
        file["circuits/neurons"] = np.ones((2, score.shape[0], WIDTH), bool)
        file["circuits/kept_neurons"] = np.array([1017, 2034])
    text = page_of(tmp_path)
    for expected in ("neurons asked for", "neurons kept", "1,017", "2,034", "all but the neurons kept"):
        assert expected in text, expected


def test_circuit_without_scores(tmp_path):
    """A circuit that was given is drawn in grey; nodes that were asked for are called nodes."""
    import circuits
    score = write_edges(tmp_path / "x.h5")
    write_circuits(tmp_path / "x.h5", score, (20,))
    with h5py.File(tmp_path / "x.h5", "a") as file:
        del file["edges/score"], file["edges/valid"]
        file["edges/valid"] = np.isfinite(score)
    eap, file, edges = opened(tmp_path / "x.h5")
    with file:
        chosen, _ = eap.drawn_edges(file, edges)
        assert circuits.chosen(file) == "nodes"
    assert len(chosen) == 20
    circuit_graph, _ = load_graph(tmp_path / "x.h5")
    lines = [line for line in circuit_graph.text(edges, chosen, "c").splitlines() if ":out:n ->" in line]
    assert len(lines) == 20 and all(circuit_graph.UNSCORED in line for line in lines)


def test_without_dot(tmp_path):
    """A sentence says what to install; the rest of the page is there."""
    write_edges(tmp_path / "x.h5")
    (tmp_path / "bin").mkdir()
    done = subprocess.run([sys.executable, "-B", str(SCRIPT), str(tmp_path / "x.h5")], text=True,
                          capture_output=True, timeout=120,
                          env={**os.environ, "PATH": str(tmp_path / "bin")})
    assert done.returncode == 0 and done.stderr == ""
    text = read_page(tmp_path / "x.html")
    assert "the program dot is missing: install the package graphviz" in text
    assert "circuit" not in figures_of(tmp_path / "x") and "scores" in figures_of(tmp_path / "x")


def load_graph(path):
    import circuit_graph
    _, file, edges = opened(path)
    file.file.close()
    return circuit_graph, edges


def test_drawing_has_every_edge_once(tmp_path):
    """Wider for larger |score|, blue or red by sign, into the port that the destination names."""
    score = write_edges(tmp_path / "x.h5")
    circuit_graph, edges = load_graph(tmp_path / "x.h5")
    chosen = edges.strongest(30)
    lines = [line for line in circuit_graph.text(edges, chosen, "c").splitlines() if ":out:n ->" in line]
    assert len(lines) == 30
    widths = [float(re.search(r"penwidth=([\d.]+)", line).group(1)) for line in lines]
    assert widths == sorted(widths, reverse=True) and widths[0] == 6
    for line, edge in zip(lines, chosen):
        positive = score.flat[edge] > 0
        assert (circuit_graph.POSITIVE if positive else circuit_graph.NEGATIVE) in line
        source, destination = edges.ends(edge)
        into = f'"{destination.node}":{destination.port}:s' if destination.port else \
            f'"{destination.node}":s'
        assert line.startswith(f'"{source.node}":out:n -> {into} ')


def test_shared_keys_are_drawn_under_their_heads(tmp_path):
    """Two key and value inputs for four heads: a1.kv1 serves heads 2 and 3."""
    write_edges(tmp_path / "x.h5", kv=2)
    circuit_graph, edges = load_graph(tmp_path / "x.h5")
    everything = [int(edge) for edge in np.flatnonzero(edges.valid)]
    dotted = {tuple(re.findall(r'"([^"]+)":', line))
              for line in circuit_graph.text(edges, everything, "c").splitlines() if "dotted" in line}
    assert dotted == {(f"a{layer}.kv{head // 2}", f"a{layer}.h{head}")
                      for layer in range(LAYERS) for head in range(HEADS)}
    if shutil.which("dot"):
        assert circuit_graph.draw(edges, everything, "c")[:4] == b"\x89PNG"


def test_layers_hold_all_scores(tmp_path):
    """No edge is lost between the map of layers and the scores."""
    import eap
    import edge_charts
    write_edges(tmp_path / "x.h5")
    _, edges = load_graph(tmp_path / "x.h5")
    seen = {}
    keep = edge_charts.layer_map
    try:
        edge_charts.layer_map = lambda figures, name, panels, *rest: seen.update(panels) or b"0" * 24
        eap.between_layers(None, edges)
    finally:
        edge_charts.layer_map = keep
    assert list(seen) == ["q", "k", "v", "mlp", "logits"]
    assert sum(np.nansum(panel) for panel in seen.values()) == pytest.approx(edges.size.sum())
    # a head of layer 1 reads the input and layer 0, and nothing above
    assert np.isfinite(seen["q"][:, 1]).tolist() == [True, True, False, False]


@pytest.fixture(scope="module")
def pair_rows():
    return [{"clean_ids": [3, 1, 4, i], "corrupted_ids": [3, 2, 4, i], "answer_ids": [5],
             "wrong_ids": [6]} for i in range(3)]


@pytest.mark.parametrize("method, words", [
    ({"variant": "ig-inputs", "steps": 2}, "to first order"),
    ({"variant": "exact"}, "when this edge alone is ablated"),
    ({"variant": "information-flow"}, "It has no sign"),
    ({"variant": "exact", "level": "node"}, "when all edges that leave the node are ablated"),
])
def test_pages_of_runs(causa, run_ids, pair_rows, tmp_path, method, words):
    path = run_ids(pair_rows, {"kind": "eap", **method})
    causa("report", path, "-o", tmp_path / "pages")
    text = read_page(tmp_path / "pages" / "result.html")
    assert words in text
    figures = figures_of(tmp_path / "pages" / "result")
    assert "nodes" in figures
    assert ("layers" in figures) == (method.get("level") != "node")


def test_page_of_a_converted_file(causa, run_ids, pair_rows, tmp_path):
    """Scores that came as JSON have no prompts and no baseline."""
    path = run_ids(pair_rows, {"kind": "eap", "variant": "eap"})
    causa("convert", path, tmp_path / "c.json")
    causa("convert", tmp_path / "c.json", tmp_path / "back.h5")
    causa("report", tmp_path / "back.h5", "-o", tmp_path)
    text = read_page(tmp_path / "back.html")
    assert "Sign and scale of the scores are those of the file that they came from." in text
    assert "scores" in figures_of(tmp_path / "back")


def test_infinite_scores_are_left_out(causa, tmp_path):
    """JSON of the peers may hold them; the other edges are drawn as without them."""
    score = write_edges(tmp_path / "x.h5")
    causa("convert", tmp_path / "x.h5", tmp_path / "x.json")
    text = json.loads((tmp_path / "x.json").read_text())
    strongest = np.nanargmax(np.abs(score))
    edge, name = "m1->logits", opened(tmp_path / "x.h5")[2].name(strongest)
    text["edges"][edge]["score"] = float("inf")
    text["edges"]["input->logits"]["score"] = float("-inf")
    text["nodes"]["m1"]["score"] = float("inf")
    (tmp_path / "x.json").write_text(json.dumps(text))
    causa("convert", tmp_path / "x.json", tmp_path / "x.h5", "--overwrite")
    page = page_of(tmp_path)
    assert "2 have an infinite one and are left out" in page
    assert "Left out, because their scores are infinite: m1." in page
    assert name in page and "no score" not in page
    parts, _, edges = opened(tmp_path / "x.h5")
    rest = np.isfinite(edges.score)
    assert rest.sum() == edges.count - 2
    assert np.allclose(edges.size.sum(), np.abs(score.astype(np.float32)[rest]).sum())
    assert str(edges.size.max()) not in ("inf", "nan")


def test_page_of_a_sweep(causa, tmp_path, pair_rows):
    """A row a point: what was swept, then the headline numbers that there are."""
    config = files.write_config(tmp_path / "s.yaml", {"kind": "eap", "evaluate": {"faithfulness": True}},
                                pair_rows, sweep={"method.variant": ["ig-inputs", "ig-activations"],
                                                  "method.steps": [1, 3]})
    causa("run", config, f"output={tmp_path / 's'}")
    causa("report", tmp_path / "s" / "index.h5", "-o", tmp_path / "pages")
    text = read_page(tmp_path / "pages" / "index.html")
    with h5py.File(tmp_path / "s" / "index.h5") as file:
        rows = [(point, variant, f"{steps:g}", *(f"{file[name][i]:.5g}" for name in
                 ("clean_mean", "corrupted_mean", "accuracy", "cpr", "cmd")))
                for i, (point, variant, steps) in enumerate(zip(
                    file["point"].asstr()[:], file["method.variant"].asstr()[:], file["method.steps"][:]))]
    assert "Headline numbers by swept values" in text and "4 points." in text
    header = "pointmethod.variantmethod.stepsclean_meancorrupted_meanaccuracycpr"
    assert header + "cmd" + "".join("".join(row) for row in rows) in text


def test_page_of_a_sweep_with_a_failed_point(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w", track_order=True) as file:
        file.attrs.update({"tool": "causa", "method": "sweep", "status": "complete"})
        file["point"] = np.array(["point-00000", "point-00001"], dtype=text_type())
        file["status"] = np.array(["complete", "failed"], dtype=text_type())
        file["seed"], file["cpr"] = np.array([1.0, 1234567.0]), np.array([0.5, np.nan])
        file["cmd"] = np.array([np.nan, np.nan])
    text = page_of(tmp_path)
    assert "2 points, 1 of them failed." in text
    assert "pointseedcprstatuspoint-0000010.5completepoint-000011234567–failed" in text
