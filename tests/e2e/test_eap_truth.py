# SPDX-License-Identifier: MIT
"""A circuit that is known to be the true one, beside scores and circuits of nodes and neurons; those
of edges: test_planted.py, test_eap.py."""

import json

import files
import h5py
import numpy as np
import pytest
from test_eap import EAP, demo, kept  # noqa: F401 (demo is a fixture)
from test_planted import area


def areas(path, group):
    told = files.attributes(path)
    return [float(told[f"{group}@{name}"]) for name in ("auroc", "auroc_absolute")]


@pytest.fixture
def truth(demo, causa, tmp_path):  # noqa: F811
    """truth(method) -> JSON of a result's last circuit, and what [F] of its nodes and [F, D] of their
    neurons is in it."""
    def run(method):
        result = demo({"variant": "eap", **method}, name="truth")
        causa("convert", tmp_path / "truth.h5", tmp_path / "truth.json", "--overwrite")
        with h5py.File(tmp_path / "truth.h5") as file:
            names = [file[f"edges/{end}"].asstr()[()] for end in ("source", "destination")]
        nodes = kept(result["circuits/in_circuit"][-1].astype(bool), *names)
        masks = result.get("circuits/neurons")
        return tmp_path / "truth.json", nodes, None if masks is None else masks[-1].astype(bool)

    return run


@pytest.mark.parametrize("variant", ["ig-inputs", "exact"])
def test_nodes_of_the_true_circuit(demo, truth, tmp_path, variant):  # noqa: F811
    """True are the nodes that its edges keep."""
    path, nodes, _ = truth({"circuit": {"sizes": [60]}})
    assert 5 < nodes.sum() < len(nodes) - 5
    method = {"variant": variant, "steps": 3, "level": "node", "circuit": {"sizes": [3, 12]}}
    result = demo({**method, "evaluate": {"truth": str(path)}})
    score = result["nodes/score"].astype(np.float64)
    assert areas(tmp_path / "r.h5", "nodes") == pytest.approx(
        [area(score, nodes), area(np.abs(score), nodes)], abs=1e-6)
    assert (result["circuits/truth/nodes/common"] <= [3, 12]).all()
    assert "circuits/truth/neurons/iou" not in result


def test_neurons_of_the_true_circuit(demo, truth, causa, tmp_path):  # noqa: F811
    """Its masks say which; a node without one, or a circuit without any, has all neurons of its
    nodes. The circuits' neurons in common are counted, too."""
    path, nodes, masks = truth({"level": "neuron", "circuit": {"sizes": [300]}})
    assert 200 < masks.sum() <= 300 and not masks[~nodes].any()
    method = {"steps": 3, "level": "neuron", "circuit": {"sizes": [100, 900]}}
    form = json.loads(path.read_text())
    name = next(name for name, node in form["nodes"].items() if any(node.get("neurons", [])))
    del form["nodes"][name]["neurons"]
    whole = masks.copy()
    with h5py.File(tmp_path / "truth.h5") as file:
        whole[file["edges/source"].asstr()[()].tolist().index(name)] = True
    (tmp_path / "one.json").write_text(json.dumps(form))
    for node in form["nodes"].values():
        node.pop("neurons", None)
    (tmp_path / "none.json").write_text(json.dumps(form))
    all_of_nodes = np.repeat(nodes[:, None], masks.shape[1], axis=1)
    for file, true in ((path, masks), (tmp_path / "truth.h5", masks), (tmp_path / "one.json", whole),
                       (tmp_path / "none.json", all_of_nodes)):
        result = demo({**method, "evaluate": {"truth": str(file)}})
        score = result["neurons/score"].astype(np.float64).ravel()
        assert areas(tmp_path / "r.h5", "neurons") == pytest.approx(
            [area(score, true.ravel()), area(np.abs(score), true.ravel())], abs=1e-6), file
        own = result["circuits/neurons"].astype(bool)
        both = (own & true).sum(axis=(1, 2))
        assert (result["circuits/truth/neurons/common"] == both).all() and both.all()
        assert result["circuits/truth/neurons/iou"] == pytest.approx(both / (own | true).sum(axis=(1, 2)))
        assert result["circuits/truth/neurons/recall"] == pytest.approx(both / true.sum())
    causa("report", tmp_path / "r.h5", "-o", tmp_path)
    assert "IoU of neurons" in (tmp_path / "r.html").read_text()


def test_hidden_units_are_in_no_circuit(demo, truth):  # noqa: F811
    path, *_ = truth({"circuit": {"sizes": [60]}})
    done = demo({"level": "hidden", "evaluate": {"truth": str(path)}}, check=False)
    assert done.returncode == 2
    assert "method.evaluate.truth: expected level edge, node or neuron beside it" in done.stderr


def test_an_index_has_the_areas_of_every_level(causa, truth, tmp_path):
    path, *_ = truth({"level": "neuron", "circuit": {"sizes": [300]}})
    config = tmp_path / "truth.yaml"
    causa("run", config, f"data.file={files.ROOT / 'experiments/demo-model/ioi.csv'}", "data.limit=7",
          f"output={tmp_path / 'out'}", "method.circuit={}", f"method.evaluate.truth={path}",
          "sweep={method.level: [edge, node, neuron]}")
    with h5py.File(tmp_path / "out" / "index.h5") as index:
        for i, name in enumerate(("auroc", "auroc_absolute")):
            assert index[name][()].tolist() == [areas(tmp_path / "out" / f"point-{p:05d}.h5", group)[i]
                                                for p, group in enumerate(("edges", "nodes", "neurons"))]
