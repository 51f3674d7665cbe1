# SPDX-License-Identifier: MIT
"""`causa convert`: circuits from and to the JSON of EAP-IG and MIB."""

import json
import math
import random

import files
import h5py
import numpy as np
import pytest


def circuit(layers=2, heads=3, parallel=False, columns=None, nodes=False, chosen=0.4):
    """A graph as Graph.to_json of EAP-IG dumps it; `columns` shared key and value columns."""
    rng = random.Random(7)
    cfg = {"n_layers": layers, "n_heads": heads, "parallel_attn_mlp": parallel, "d_model": 24}
    if columns:
        cfg["kv_columns"] = columns
    sources, edges = ["input"], {}

    def add(source, destination):
        score = float(np.float32(rng.gauss(0, 10 ** rng.uniform(-8, 3))))
        edges[f"{source}->{destination}"] = {"score": score, "in_graph": rng.random() < chosen}

    for layer in range(layers):
        names = [f"a{layer}.h{head}" for head in range(heads)]
        if columns:
            inputs = [f"{name}<q>" for name in names]
            inputs += [f"a{layer}.kv{k}<{c}>" for k in range(columns) for c in "kv"]
        else:
            inputs = [f"{name}<{c}>" for name in names for c in "qkv"]
        for source in sources:
            for name in inputs:
                add(source, name)
            if parallel:
                add(source, f"m{layer}")
        for source in [] if parallel else sources + names:
            add(source, f"m{layer}")
        sources = sources + names + [f"m{layer}"]
    for source in sources:
        add(source, "logits")

    kept = {name for name, edge in edges.items() if edge["in_graph"]}
    readers = {}  # head or MLP of an edge in the circuit
    for name in kept:
        place = name.split("->")[1].split("<")[0]
        layer, _, group = place.partition(".kv")
        size = heads // columns if columns else 1
        for k in range(size) if group else [None]:
            readers[place if k is None else f"{layer}.h{int(group) * size + k}"] = True
    out = {}
    for index, name in enumerate(sources):
        feeds = any(edge.startswith(f"{name}->") for edge in kept)
        out[name] = {"in_graph": feeds and (name == "input" or name in readers)}
        if nodes:
            out[name]["score"] = index / 8
    out["logits"] = {"in_graph": True}
    return {"cfg": cfg, "nodes": out, "edges": edges}


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("kind", [{}, {"parallel": True, "nodes": True},
                                  {"heads": 4, "columns": 2}, {"layers": 1, "heads": 1},
                                  {"chosen": 0}])
def test_json_survives_a_result_file(causa, tmp_path, kind):
    """Byte for byte: the same order, the same digits, the same nodes."""
    graph = write(tmp_path / "in.json", circuit(**kind))
    causa("convert", graph, tmp_path / "x.h5")
    causa("convert", tmp_path / "x.h5", tmp_path / "out.json")
    content = json.loads(graph.read_text())
    if not kind.get("chosen", 1):
        for name in content["nodes"]:  # scores only: the peers' flags mean nothing
            content["nodes"][name]["in_graph"] = name == "logits"
    assert (tmp_path / "out.json").read_text() == json.dumps(content)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.json", "out.json", "x.h5"]


def test_literals_of_python(causa, tmp_path):
    graph = circuit()
    scores = [math.nan, math.inf, -math.inf, 0.0, -0.0]
    for edge, score in zip(graph["edges"].values(), scores):
        edge["score"] = score
    text = json.dumps(graph)
    assert "NaN" in text and "-Infinity" in text
    causa("convert", write(tmp_path / "in.json", text), tmp_path / "x.h5")
    causa("convert", tmp_path / "x.h5", tmp_path / "out.json")
    assert (tmp_path / "out.json").read_text() == text


def test_result_file_from_json(causa, tmp_path):
    """Every edge lies where its names say, and the groups are those of every result."""
    graph = circuit(parallel=True, nodes=True)
    causa("convert", write(tmp_path / "in.json", graph), tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5") as file:
        assert file.attrs["tool"] == "causa" and file.attrs["status"] == "complete"
        assert file.attrs["method"] == "eap" and file.attrs["schema_version"] == 1
        assert file.attrs["source"].endswith("in.json")
        sizes = {name: int(file["edges"].attrs[name])
                 for name in ("layers", "heads", "width", "kv_columns", "parallel")}
        assert sizes == {"layers": 2, "heads": 3, "width": 24, "kv_columns": 3, "parallel": 1}
        rows = {name: i for i, name in enumerate(file["edges/source"].asstr())}
        columns = {name: i for i, name in enumerate(file["edges/destination"].asstr())}
        score, valid = file["edges/score"][:], file["edges/valid"][:]
        kept = file["circuits/in_circuit"][:]
        assert valid.dtype == bool and score.dtype == np.float32
        assert list(file["nodes/name"].asstr()) == list(rows)
        assert list(file["nodes/score"][:]) == [i / 8 for i in range(len(rows))]
        assert kept.shape == (1, *valid.shape) and valid.sum() == len(graph["edges"])
        assert np.isnan(score[~valid]).all() and not kept[0][~valid].any()
        for name, edge in graph["edges"].items():
            source, destination = name.split("->")
            place = rows[source], columns[destination]
            assert valid[place] and score[place] == np.float32(edge["score"])
            assert kept[0][place] == edge["in_graph"]
        count = sum(edge["in_graph"] for edge in graph["edges"].values())
        nodes = sum(node["in_graph"] for name, node in graph["nodes"].items() if name != "logits")
        assert file["circuits/kept_edges"][:] == [count]
        assert file["circuits/requested"][:] == [count]
        assert file["circuits/kept_nodes"][:] == [nodes]
        assert file["circuits/fraction"][0] == count / len(graph["edges"])


def test_other_commands_read_it(causa, tmp_path):
    causa("convert", write(tmp_path / "in.json", circuit()), tmp_path / "x.h5")
    assert "/circuits/in_circuit" in causa("inspect", tmp_path / "x.h5").stdout
    causa("report", tmp_path / "x.h5")


def test_one_of_several_circuits(causa, tmp_path):
    """The last one, or the one that is asked for."""
    result = tmp_path / "x.h5"
    causa("convert", write(tmp_path / "in.json", circuit()), result)
    with h5py.File(result, "r+") as file:
        first = file["circuits/in_circuit"][0]
        del file["circuits/in_circuit"]
        file["circuits/in_circuit"] = np.stack([first, file["edges/valid"][:], ~first])

    def edges(*options):
        causa("convert", result, tmp_path / "out.json", "--overwrite", *options)
        graph = json.loads((tmp_path / "out.json").read_text())
        return np.array([edge["in_graph"] for edge in graph["edges"].values()])

    assert edges("--circuit", 1).all()
    assert (edges("--circuit", "0") == ~edges()).all()
    assert (edges("--circuit=2") == edges()).all()
    done = causa("convert", result, tmp_path / "out.json", "--overwrite", "--circuit", 3,
                 check=False)
    assert done.returncode == 3 and "expected an entry from 0 to 2, got 3" in done.stderr
    done = causa("convert", tmp_path / "in.json", tmp_path / "y.h5", "--circuit", 1, check=False)
    assert done.returncode == 3 and "one circuit at most" in done.stderr


def test_files_are_kept(causa, tmp_path):
    graph, result = write(tmp_path / "in.json", circuit()), write(tmp_path / "x.h5", "mine")
    done = causa("convert", graph, result, check=False)
    assert done.returncode == 2 and "exists already" in done.stderr and "--overwrite" in done.stderr
    assert result.read_text() == "mine"
    causa("convert", graph, result, "--overwrite")
    with h5py.File(result) as file:
        assert "edges" in file


@pytest.mark.parametrize("words, part", [
    ([], "expected a file to read and a file to write, got 0"),
    (["a.json"], "got 1"),
    (["a.json", "b.json"], "one name that ends in .h5 and one that ends in .json"),
    (["a.h5", "b.h5"], "one name that ends in .h5 and one that ends in .json"),
    (["a.pt", "b.json"], "got 'a.pt' and 'b.json'"),
    (["a.h5", "b.json", "--circuit", "x"], "--circuit: expected a number from 0 on, got 'x'"),
    (["a.h5", "b.json", "--circuit", "-1"], "--circuit: expected a number from 0 on, got '-1'"),
])
def test_usage(causa, tmp_path, words, part):
    done = causa("convert", *words, check=False, cwd=tmp_path)
    assert done.returncode == 2 and part in done.stderr
    assert not list(tmp_path.iterdir())


def changed(change):
    graph = circuit()
    change(graph)
    return graph


@pytest.mark.parametrize("content, part", [
    ("", "line 1, column 0"),
    ('{"cfg": {}\n "nodes": 1}', "line 2, column 8"),
    ("{}", "cfg: expected an object, got nothing"),
    (changed(lambda g: g.pop("edges")), "edges: expected an object, got nothing"),
    (changed(lambda g: g["cfg"].pop("d_model")), "cfg: d_model: expected a whole number"),
    (changed(lambda g: g["cfg"].update(n_layers=3)),
     "edges: expected all 172 of a graph of 3 layers and 3 heads, got 75"),
    (changed(lambda g: g["cfg"].update(n_heads=2)),
     "edges: expected names of a graph of 2 layers and 2 heads, got 'input->a0.h2<q>'"),
    (changed(lambda g: g["edges"].update({"m1->m0": {"score": 1}})),
     "edges: expected names of a graph of 2 layers and 3 heads, got 'm1->m0'"),
    (changed(lambda g: g["edges"].pop("input->m1")), "edges: expected all 75"),
    (changed(lambda g: g["nodes"].update(a9={})),
     "nodes: expected names of a graph of 2 layers and 3 heads, got 'a9'"),
    (changed(lambda g: g["nodes"].pop("a1.h2")),
     "nodes: expected all 9 and the logits, got 8"),
    (changed(lambda g: g["edges"]["input->m1"].update(score="big")),
     "edges: input->m1: score: expected a number, got a text"),
])
def test_bad_json(causa, tmp_path, content, part):
    """Exit code 3, the file and the key named, nothing written."""
    graph = write(tmp_path / "in.json", content)
    done = causa("convert", graph, tmp_path / "x.h5", check=False)
    assert done.returncode == 3 and f"{graph}: {part}" in done.stderr, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.json"]


def masked(node, mask, **scores):
    """The graph with the neurons of a node that a mask of the peers keeps."""
    return changed(lambda graph: graph["nodes"][node].update(neurons=mask, **scores))


def test_masks_of_neurons(causa, tmp_path):
    """The peers' lists of a node go into a result file and back; other nodes keep all."""
    mask, scores = [True] * 5 + [False] * 2 + [True] * 17, [0.5] * 23 + [-2.0]
    causa("convert", write(tmp_path / "in.json", masked("m0", mask, neurons_scores=scores)), tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5") as file:
        row = file["edges/source"].asstr()[:].tolist().index("m0")
        kept, score = file["circuits/neurons"][0], file["neurons/score"][:]
        assert (kept[row] == mask).all() and np.delete(kept, row, axis=0).all()
        assert file["circuits/kept_neurons"][:] == [kept.sum()] == [kept.size - 2]
        assert (score[row] == scores).all() and np.isnan(np.delete(score, row, axis=0)).all()
    causa("convert", tmp_path / "x.h5", tmp_path / "out.json")
    nodes = json.loads((tmp_path / "out.json").read_text())["nodes"]
    assert nodes["m0"]["neurons"] == mask and nodes["m0"]["neurons_scores"] == scores
    assert nodes["input"]["neurons"] == [True] * 24 and "neurons" not in nodes["logits"]


@pytest.mark.parametrize("mask, scores, part", [
    ("all", {}, "neurons: expected a list, got a text"),
    ([True] * 23, {}, "neurons: expected 24 times true or false, got 23"),
    ([True] * 23 + [1], {}, "neurons[23]: expected true or false, got another number"),
    ([True] * 24, {"neurons_scores": [1, 2]}, "neurons_scores: expected 24 numbers, got 2"),
    ([True] * 24, {"neurons_scores": [0.5] * 23 + [True]}, "neurons_scores[23]: expected a number, got"),
])
def test_bad_masks(causa, tmp_path, mask, scores, part):
    done = causa("convert", write(tmp_path / "in.json", masked("m0", mask, **scores)), tmp_path / "x.h5",
                 check=False)
    assert done.returncode == 3 and f"nodes: m0: {part}" in done.stderr, done.stderr


@pytest.mark.parametrize("name", ["circuits/neurons", "neurons/score"])
def test_neurons_of_another_width(causa, tmp_path, name):
    whole = masked("m0", [True] * 24, neurons_scores=[0.5] * 24)
    causa("convert", write(tmp_path / "in.json", whole), tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "a") as file:
        values = file[name][..., 1:]
        del file[name]
        file[name] = values
    done = causa("convert", tmp_path / "x.h5", tmp_path / "out.json", check=False)
    assert done.returncode == 3 and f"/{name}: its sizes do not fit" in done.stderr, done.stderr


@pytest.mark.parametrize("level, what", [("node", "nodes"), ("neuron", "neurons"),
                                         ("hidden", "hidden units")])
def test_levels_without_edges(causa, tmp_path, level, what):
    """What the result scores instead, and what to do."""
    config = files.write_config(tmp_path / "n.yaml", {"kind": "eap", "variant": "eap", "level": level},
                                files.id_pairs(2), model=files.MODELS / "gpt2")
    causa("run", config, f"output={tmp_path / 'n.h5'}")
    done = causa("convert", tmp_path / "n.h5", tmp_path / "out.json", check=False)
    assert done.returncode == 3 and not (tmp_path / "out.json").exists()
    assert f"got scores of {what} alone (method.level: {level})" in done.stderr
    assert "hint: method.level: edge" in done.stderr
    assert ("method.circuit.fractions" in done.stderr) == (level != "hidden")


def test_columns_that_heads_share_are_told(causa, tmp_path):
    """The peers know no a0.kv0<k>."""
    for columns, heads in ((2, 4), (None, 4)):
        graph = write(tmp_path / "in.json", circuit(heads=heads, columns=columns))
        into = causa("convert", graph, tmp_path / "x.h5", "--overwrite")
        back = causa("convert", tmp_path / "x.h5", tmp_path / "out.json", "--overwrite")
        told = "EAP-IG and MIB cannot read it" in back.stderr and "a0.kv0<k>" in back.stderr
        assert told == (columns is not None) and "cannot read" not in into.stderr


def test_other_results_have_no_edges(causa, tmp_path, demo_result):
    done = causa("convert", demo_result, tmp_path / "out.json", check=False)
    assert done.returncode == 3 and "/edges" in done.stderr
    done = causa("convert", tmp_path / "none.h5", tmp_path / "out.json", check=False)
    assert done.returncode == 3 and "none.h5" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_default_circuit_is_told(causa):
    """That of method.circuit.number: auto."""
    text = " ".join(causa("help", "convert").stdout.split())
    assert "default: the smallest with a faithfulness of 0.9 or more, else the last" in text
