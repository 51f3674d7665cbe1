# SPDX-License-Identifier: MIT
"""Circuits of a file, run in place of an attribution: the result has what every other one has."""

import json
import signal

import files
import h5py
import numpy as np
import pytest
from test_eap import EAP
from test_resume import start


@pytest.fixture(scope="module")
def attributed(causa, tmp_path_factory):
    """A result with scores and circuits of three pairs."""
    path = tmp_path_factory.mktemp("attributed") / "a.h5"
    causa("run", "configs/ioi-eap-ig.yaml", f"output={path}", "data.limit=3",
          "method.circuit.fractions=[0.05,0.3,1]")
    return path


@pytest.fixture
def given(causa, tmp_path):
    """given(file, key=value...) -> path of a result of a file's circuits, on the same pairs."""
    def run(circuit, *overrides):
        out = tmp_path / "given.h5"
        causa("run", "configs/ioi-eap-ig.yaml", f"output={out}", "data.limit=3", "--overwrite",
              f"method.circuit={{file: {circuit}}}", *overrides)
        return out

    return run


@pytest.mark.parametrize("more", [(), ("batch=1",), ("method.circuit.fractions=[0.1,0.5]",)])
def test_the_baseline_is_that_of_an_attribution(causa, attributed, given, more):
    path = given(attributed, *more)
    own, other = files.datasets(path), files.datasets(attributed)
    for name in ("baseline/clean", "baseline/corrupted"):
        assert np.allclose(own[name], other[name], rtol=1e-5), name
    for name in ("baseline/predicted", "data/position"):
        assert own[name].dtype == other[name].dtype and (own[name] == other[name]).all(), name
    told, theirs = files.attributes(path), files.attributes(attributed)
    assert told["baseline@metric"] == theirs["baseline@metric"] == "logit_diff"
    for name in ("clean_mean", "corrupted_mean", "accuracy"):
        assert float(told[f"baseline@{name}"]) == pytest.approx(
            float(theirs[f"baseline@{name}"]), rel=1e-5), name
    headlines = json.loads(causa("inspect", path, "--json").stdout)["headlines"]
    assert {"clean_mean", "corrupted_mean", "accuracy"} <= set(headlines)


def test_circuits_of_neurons(causa, tmp_path):
    """Of a result, and as JSON: the same neurons keep as much of the model."""
    config = files.write_config(tmp_path / "n.yaml", {**EAP, "steps": 2}, files.id_pairs(4), backend="ref",
                                model=files.MODELS / "smollm2")
    run = lambda name, *more: causa("run", config, f"output={tmp_path / name}.h5", *more)
    run("own", "method.level=neuron", "method.circuit.fractions=[0.2,0.6]", "method.evaluate.faithfulness=true")
    causa("convert", tmp_path / "own.h5", tmp_path / "one.json", "--circuit", "1")
    own = files.datasets(tmp_path / "own.h5")
    share = own["faithfulness/normalized"][1]
    assert abs(share - 1) > 1e-6
    for name, given in (("h5", f"{{file: {tmp_path / 'own.h5'}, number: 1}}"),
                        ("json", f"{{file: {tmp_path / 'one.json'}}}")):
        run(name, f"method.circuit={given}")
        result = files.datasets(tmp_path / f"{name}.h5")
        assert (result["circuits/neurons"][0] == own["circuits/neurons"][1]).all()
        assert result["circuits/kept_neurons"] == own["circuits/kept_neurons"][1]
        assert result["faithfulness/normalized"] == pytest.approx([share], rel=1e-12)


@pytest.mark.parametrize("form", ["h5", "json"])
@pytest.mark.parametrize("level", ["node", "neuron"])
def test_scores_of_the_level(causa, tmp_path, level, form):
    """Nodes and neurons are picked by their own scores of the file, as they were by those of the run;
    a level that the file does not score is refused, where all circuits would be empty."""
    config = files.write_config(tmp_path / "n.yaml", {**EAP, "steps": 2}, files.id_pairs(3), backend="ref",
                                model=files.MODELS / "smollm2")
    own, again = tmp_path / "own.h5", tmp_path / "again.h5"
    shares, at = "fractions: [0.2, 0.6]", f"method.level={level}"
    causa("run", config, f"output={own}", at, f"method.circuit={{{shares}}}", "method.evaluate.faithfulness=true")
    file = own
    if form == "json":
        file = tmp_path / "own.json"
        causa("convert", own, file)
    causa("run", config, f"output={again}", at, f"method.circuit={{file: {file}, {shares}}}")
    first, second = files.datasets(own), files.datasets(again)
    assert 0 < first["circuits/kept_edges"][0] < first["circuits/kept_edges"][1]
    for name in ("circuits/in_circuit", "circuits/requested", *(["circuits/neurons"] * (level == "neuron"))):
        assert (first[name] == second[name]).all(), name
    assert second["faithfulness/normalized"] == pytest.approx(first["faithfulness/normalized"], rel=1e-12)

    others = ["edge"] + ["neuron"] * (level == "node")
    lists = {"fractions": "[0.2]", "sizes": "[3]", "thresholds": "[0.1], select: threshold"}
    for other in others:
        for key, value in lists.items():
            done = causa("run", config, f"output={tmp_path / 'bad.h5'}", f"method.level={other}",
                         f"method.circuit={{file: {file}, {key}: {value}}}", check=False)
            words = ["method.circuit.file", f"expected scores of {other}s beside method.circuit.{key}",
                     "got a file with node scores", "hint: method.level=node"]
            assert done.returncode == 3 and all(word in done.stderr for word in words), done.stderr
    done = causa("run", config, f"output={tmp_path / 'bad.h5'}", at, f"method.circuit={{file: {file}}}",
                 check=False)
    assert done.returncode == 2 and f"run as it is, got {level}" in done.stderr, done.stderr


@pytest.mark.parametrize("content", [None, "{"], ids=["missing", "invalid"])
@pytest.mark.parametrize("form", ["h5", "json"])
def test_files_that_cannot_be_read_are_bad_data(causa, tmp_path, form, content):
    """As a missing file of prompts is: exit code 3."""
    path = tmp_path / f"circuit.{form}"
    if content:
        path.write_text(content)
    config = files.write_config(tmp_path / "c.yaml", {**EAP, "variant": "eap"}, files.id_pairs(1))
    for option in ("circuit.file", "evaluate.truth"):
        done = causa("plan", config, f"method.{option}={path}", check=False)
        assert done.returncode == 3 and f"method.{option}: {path}: " in done.stderr, done.stderr
    done = causa("convert", path, tmp_path / f"out.{'json' if form == 'h5' else 'h5'}", check=False)
    assert done.returncode == 3 and f"{path}: " in done.stderr, done.stderr


@pytest.mark.long
def test_stop_and_resume(causa, tmp_path):
    """The baseline of the pairs that were done is kept."""
    config = files.write_config(tmp_path / "long.yaml", {**EAP, "variant": "eap", "circuit": {"sizes": [9]}},
                                files.id_pairs(300, least=12, most=20), backend="ref", batch=32,
                                model=files.MODELS / "smollm2")
    circuit, path, whole = (tmp_path / f"{name}.h5" for name in ("circuit", "out", "whole"))
    causa("run", config, f"output={circuit}", "data.limit=2")
    given = f"method.circuit={{file: {circuit}, fractions: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]}}"
    process = start(causa, config, path, given)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    with h5py.File(f"{path}.checkpoint", "r") as file:
        clean = file["baseline/clean"][()]
        assert np.isnan(clean).any() and not np.isnan(clean).all()
    done = causa("run", config, f"output={path}", given, "--resume")
    assert "going on at example" in done.stderr
    causa("run", config, f"output={whole}", given)
    files.same_bytes(path, whole)
    told = [files.attributes(p) for p in (path, whole)]
    assert told[0]["baseline@clean_mean"] == told[1]["baseline@clean_mean"]
