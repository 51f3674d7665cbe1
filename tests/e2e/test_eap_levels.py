# SPDX-License-Identifier: MIT
"""Edge attribution at every level: scores of single pairs, intervals, ablations, sites and shared
columns, of nodes, neurons and hidden units as of edges.
"""

import json
import signal
import time

import files
import h5py
import numpy as np
import pytest
from test_eap import DEMO, EAP, HEADS, LAYERS, demo, near, pairs  # noqa: F401 (fixtures)
from test_patch import id_pairs


# ---- single pairs and resamples


def node_sums(result):
    """The nodes' scores that the edges leaving them add up to."""
    return np.nansum(result["edges/score_per_example"].astype(np.float64), axis=2)


@pytest.mark.parametrize("method", [{"variant": "eap"}, {"steps": 3}, {"compat": "eap-ig", "steps": 2},
                                    {"variant": "ig-activations", "steps": 2}], ids=str)
def test_nodes_of_pairs(demo, method):
    """Of every pair a node has the sum of its edges, and their mean is the score, with compat too."""
    method = {"rule": "right", "batch_size": 3, **method, "per_example": True}
    result = demo({**method, "level": "node"})
    each = result["nodes/score_per_example"]
    assert each.shape == (7, 1 + LAYERS * (HEADS + 1))
    near(each, node_sums(demo(method)), 1e-5)
    near(result["nodes/score"], each.astype(np.float64).mean(axis=0), 1e-6)


def test_finer_scores_of_pairs(demo):
    """They sum to those of nodes; an interval of each is there too."""
    nodes = demo({"steps": 3, "level": "node", "per_example": True})["nodes/score_per_example"]
    for level, width, expected in (("neuron", 128, nodes), ("hidden", 352, nodes[:, HEADS + 1::HEADS + 1])):
        group = "neurons" if level == "neuron" else level
        result = demo({"steps": 3, "level": level, "per_example": True, "bootstrap": 20})
        each = result[f"{group}/score_per_example"].astype(np.float64)
        assert each.shape == (*expected.shape, width)
        near(each.sum(axis=2), expected, 1e-5)
        near(result[f"{group}/score"], each.mean(axis=0), 1e-6)
        low, high = np.moveaxis(result[f"{group}/interval"], -1, 0)
        assert (low <= high).all() and (low >= each.min(axis=0) - 1e-6).all()
        assert (high <= each.max(axis=0) + 1e-6).all() and (low < high).any()


def test_intervals_of_nodes(demo, tmp_path):
    """The resamples are those of edges, so the last MLP has the interval of its only edge; as wide
    as resamples that are drawn here make them."""
    method = {"variant": "eap", "bootstrap": 400, "per_example": True}
    nodes, result = demo({**method, "level": "node"}), demo(method)
    assert files.attributes(tmp_path / "r.h5")["edges@resamples"] == "400"
    near(nodes["nodes/interval"][-1], result["edges/interval"][-1, -1], 1e-5)
    each = nodes["nodes/score_per_example"].astype(np.float64)
    low, high = nodes["nodes/interval"].T
    assert ((low <= nodes["nodes/score"]) & (nodes["nodes/score"] <= high)).mean() > 0.95
    drawn = np.random.default_rng(1).integers(0, len(each), (4000, len(each)))
    bounds = np.quantile(each[drawn].mean(axis=1), [0.025, 0.975], axis=0)
    width = bounds[1] - bounds[0]
    some = width > 1e-3 * width.max()
    assert some.sum() > 20 and 0.7 < np.median((high - low)[some] / width[some]) < 1.3


# ---- circuits of neurons


def test_circuits_of_neurons(demo, causa, tmp_path):
    """The largest scores; every edge out of a node that keeps one; all of them are the model."""
    method = {"steps": 3, "level": "neuron", "evaluate": {"faithfulness": True}}
    fractions = [0.003, 0.1, 0.5, 1]
    result = demo({**method, "circuit": {"fractions": fractions}})
    score = np.abs(result["neurons/score"].astype(np.float64))
    masks, inside = result["circuits/neurons"].astype(bool), result["circuits/in_circuit"].astype(bool)
    assert (result["circuits/requested"] == [int(q * score.size) for q in fractions]).all()
    assert (result["circuits/kept_neurons"] == masks.sum(axis=(1, 2))).all()
    assert result["circuits/kept_neurons"][-1] == score.size
    for mask, edges, count in zip(masks, inside, result["circuits/requested"]):
        least = np.sort(score, axis=None)[-count]
        assert (mask <= (score >= least * (1 - 1e-6))).all()  # pruning takes whole nodes only
        kept = mask.any(axis=1)
        assert (mask[kept] >= (score > least * (1 + 1e-6))[kept]).all()
        assert (edges.any(axis=1) == kept).all() and edges[kept, -1].all()
    share = result["faithfulness/normalized"]
    assert share[-1] == pytest.approx(1, abs=1e-6) and abs(share[-2] - 1) > 1e-4
    for ablation in ("zero", "mean"):
        share = demo({**method, "variant": "eap", "ablation": ablation,
                      "circuit": {"sizes": [0, score.size]}})["faithfulness/normalized"]
        assert share == pytest.approx([0, 1], abs=1e-5)
    said = causa("run", tmp_path / "r.yaml", f"output={tmp_path / 'said.h5'}", "data.limit=2",
                 f"data.file={DEMO / 'ioi'}.csv").stdout
    assert "circuits: neurons asked for, neurons and edges kept, faithfulness" in said


def test_room_for_the_sources_of_circuits(causa, tmp_path, pairs):  # noqa: F811
    """Circuits of few nodes or edges are planned with as many, not with all of the model's; they run
    as before."""
    rows, sizes = files.id_pairs(3), {}
    for level in ("node", "edge"):
        for asked in ([2, 3, 4], [21, 21, 21], [2, 21, 21]):
            method = {"variant": "eap", "level": level, "circuit": {"sizes": asked}, "evaluate": {"faithfulness": True}}
            config = files.write_config(tmp_path / "c.yaml", {**EAP, **method}, rows, backend="ref",
                                        model=files.MODELS / "smollm2")
            plan = json.loads(causa("plan", config, "--json", "batch=40").stdout)
            sizes[level, len(set(asked))] = plan["work_bytes"]
    assert sizes["node", 3] < sizes["node", 2] < sizes["node", 1]
    assert sizes["edge", 3] < sizes["edge", 2] < sizes["edge", 1]
    for level in ("node", "edge"):
        method = {"variant": "eap", "level": level, "evaluate": {"faithfulness": True}}
        few = pairs({**method, "circuit": {"sizes": [2, 3, 4]}}, rows)["faithfulness/per_example"]
        more = pairs({**method, "circuit": {"sizes": [2, 3, 4, 21, 20, 21]}}, rows)["faithfulness/per_example"]
        assert few == pytest.approx(more[:3], rel=1e-12)


def stop_among_circuits(causa, config, path, seconds):
    """Stops a run of that many seconds while its circuits are run, and gives its checkpoint back."""
    for share in (0.6, 0.8, 0.7, 0.5, 0.9):
        process = causa("run", config, f"output={path}", wait=False)
        time.sleep(share * seconds)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        checkpoint = path.with_name(path.name + ".checkpoint")
        if process.returncode == 75 and checkpoint.exists():
            with h5py.File(checkpoint) as file:
                done = file["unfinished/faithfulness"][()] if "unfinished/faithfulness" in file else np.ones(1)
            if np.isnan(done).any() and not np.isnan(done).all():
                return
        for left in (path, checkpoint):
            left.unlink(missing_ok=True)
    raise AssertionError(f"no run was among its circuits when it was stopped: {errors}")


@pytest.mark.parametrize("ablation", ["patching", "mean"])
def test_stop_among_circuits_of_neurons(causa, tmp_path, ablation):
    """The circuits are made again from the scores that the checkpoint keeps, and the pairs that they
    were run on are not run again."""
    config = files.write_config(
        tmp_path / "long.yaml", {**EAP, "variant": "eap", "level": "neuron", "ablation": ablation,
                                 "circuit": {"fractions": [i / 10 for i in range(1, 11)]},
                                 "evaluate": {"faithfulness": True}},
        files.id_pairs(200, least=12, most=20), backend="ref", batch=32, model=files.MODELS / "smollm2")
    path, whole = tmp_path / "out.h5", tmp_path / "whole.h5"
    began = time.monotonic()
    causa("run", config, f"output={whole}")
    stop_among_circuits(causa, config, path, time.monotonic() - began)
    done = causa("run", config, f"output={path}", "--resume")
    assert "going on after the first pass over 200 examples" in done.stderr
    files.same_bytes(path, whole)
    same = [{key: value for key, value in files.attributes(p).items() if not key.startswith("@")}
            for p in (path, whole)]
    assert same[0] == same[1] and "faithfulness@cpr" in same[0]
    assert len(np.unique(files.datasets(whole)["faithfulness/metric"])) == 10  # or any mask would do


# ---- paths and ablations


def test_nodes_of_information_flow(demo):
    """They sum what their edges carry, of every pair and on average."""
    routes = demo({"variant": "information-flow", "per_example": True})
    nodes = demo({"variant": "information-flow", "level": "node", "per_example": True})
    near(nodes["nodes/score"], np.nansum(routes["edges/score"].astype(np.float64), axis=1), 1e-6)
    near(nodes["nodes/score_per_example"], node_sums(routes), 1e-6)
    assert not any(name.startswith("edges/") for name in nodes)


def test_own_sites_of_neurons_and_hidden_units(demo):
    """A point at the clean end is the plain variant, coordinate by coordinate; two points take
    another path for every site, that of the input being ig-inputs."""
    for level, group in (("neuron", "neurons"), ("hidden", "hidden")):
        plain = demo({"variant": "eap", "level": level})[f"{group}/score"]
        method = {"variant": "ig-activations", "level": level}
        near(demo({**method, "steps": 1})[f"{group}/score"], plain, 1e-5)
        assert files.share(demo({**method, "steps": 3})[f"{group}/score"], plain) > 1e-2
    own = demo({"variant": "ig-activations", "steps": 2, "level": "neuron"})["neurons/score"]
    path = demo({"rule": "right", "steps": 2, "level": "neuron"})["neurons/score"]
    near(own[0], path[0], 1e-5)
    assert files.share(own, path) > 1e-2


def down_weights(model):
    """[layers, D, d_ff] of the output projections of a fixture's MLPs."""
    raw = (files.MODELS / model / "model.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header, body = json.loads(raw[8:8 + size]), raw[8 + size:]
    found = [(int(key.split(".")[2]), header[key]) for key in header if key.endswith("down_proj.weight")]
    return np.stack([np.frombuffer(body[slice(*entry["data_offsets"])], np.float32).reshape(entry["shape"])
                     for _, entry in sorted(found, key=lambda item: item[0])]).astype(np.float64)


def test_ablated_hidden_units(pairs, causa, tmp_path):
    """Of prompts of one token a hidden unit's score is what takes its place less its value, times
    the gradient at its MLP's output through the projection, which coordinates' scores give."""
    rows = [{"clean_ids": [5 + i], "answer_ids": [i], "wrong_ids": [i + 7]} for i in range(4)]
    config = files.write_config(tmp_path / "c.yaml", {"kind": "capture", "sites": [
        "blocks.*.mlp_out", "blocks.*.mlp.post"]}, rows, model=files.MODELS / "smollm2",
        backend="ref", precision="f64")
    causa("run", config, f"output={tmp_path / 'c.h5'}")
    kept = files.datasets(tmp_path / "c.h5")
    out, hidden = (np.stack([kept[f"activations/blocks.{l}.{site}"] for l in (0, 1)], axis=1)
                   .astype(np.float64) for site in ("mlp_out", "mlp.post"))
    each = {"variant": "eap", "per_example": True}
    score = pairs({**each, "level": "neuron", "ablation": "zero"}, rows)["neurons/score_per_example"]
    slope = -score[:, [10, 20]] / out
    slope = np.einsum("nld,ldf->nlf", slope, down_weights("smollm2"))
    for ablation, instead in (("zero", 0), ("mean", hidden.mean(axis=0)),
                              ("mean-positional", hidden.mean(axis=0))):
        got = pairs({**each, "level": "hidden", "ablation": ablation}, rows)
        near(got["hidden/score_per_example"], (instead - hidden) * slope, 1e-5)


@pytest.mark.parametrize("method", [{"variant": "eap"}, {"rule": "right", "steps": 2},
                                    {"variant": "ig-activations", "steps": 2}], ids=str)
def test_means_of_hidden_units(pairs, method):
    """Over several tokens too: what an MLP's bias adds is in its output and its mean alike."""
    rows = id_pairs(3)
    for ablation, some in (("mean", rows), ("mean-positional", id_pairs(3, least=9, most=10))):
        nodes = pairs({**method, "level": "node", "ablation": ablation}, some)["nodes/score"]
        hidden = pairs({**method, "level": "hidden", "ablation": ablation}, some)["hidden/score"]
        near(hidden.astype(np.float64).sum(axis=1), nodes[[10, 20]], 1e-5)


# ---- shared columns


def test_shared_columns_of_exact_patching(pairs, tmp_path):
    """Ablating an edge into shared keys or values is the circuit of all other edges; every other
    column has the scores that it has beside columns of query heads."""
    rows = id_pairs(3)
    method = {"variant": "exact", "kv_columns": "native", "circuit": {"fractions": [1]}}
    native, query = pairs(method, rows, name="native"), pairs({"variant": "exact"}, rows)
    columns = {name: i for i, name in enumerate(query["edges/destination"])}
    same = [(i, columns[name]) for i, name in enumerate(native["edges/destination"]) if name in columns]
    valid = native["edges/valid"].astype(bool)
    assert len(same) == 1 + 2 * (9 + 1)
    for mine, other in same:
        some = valid[:, mine]
        near(native["edges/score"][some, mine], query["edges/score"][some, other], 1e-6)
    names = [name.decode() for name in native["edges/destination"]]
    for source, into in ((0, "a0.kv1<v>"), (0, "a1.kv2<k>"), (3, "a1.kv0<v>"), (10, "a1.kv1<k>")):
        edge = source, names.index(into)
        with h5py.File(tmp_path / "native.h5", "r+") as file:
            inside = valid.copy()
            inside[edge] = False
            file["circuits/in_circuit"][0] = inside
        given = {**method, "circuit": {"file": str(tmp_path / "native.h5")}}
        circuit = pairs(given, rows, name="given")["faithfulness/per_example"][0]
        change = native["baseline/clean"] - circuit
        assert abs(change).max() > 1e-6
        assert native["edges/score"][edge] == pytest.approx(change.mean(), rel=1e-6)


def test_shared_columns_of_information_flow(demo):
    """What reaches a head's keys is what reaches its queries: a shared column has the same shares."""
    query = demo({"variant": "information-flow"})
    native = demo({"variant": "information-flow", "kv_columns": "native"})
    q, kv = ([i for i, name in enumerate(result["edges/destination"]) if letter in name]
             for result, letter in ((query, b"<q>"), (native, b"<k>")))
    near(native["edges/score"][:9, kv[4:8]], query["edges/score"][:9, q[8:12]], 1e-6)
    assert np.nansum(native["edges/score"], axis=0) == pytest.approx(1, rel=1e-5)
    near(native["nodes/score"], np.nansum(native["edges/score"].astype(np.float64), axis=1), 1e-6)
