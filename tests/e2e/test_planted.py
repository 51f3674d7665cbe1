# SPDX-License-Identifier: MIT
"""Edge scores find circuits that are known.

Of experiments/planted the circuit is known because the model was built around it. Of the bundled
model it is what exact patching of one edge at a time says. A copy of that model with most heads
zeroed would name its true edges too, but could fail no method: an edge from a zeroed head carries
nothing and one into it has no gradient, so that whatever scores such edges is exactly 0.
"""

import importlib.util
import json

import files
import h5py
import numpy as np
import pytest

STUDY = files.ROOT / "experiments" / "planted"
DEMO = files.ROOT / "experiments" / "demo-model"


@pytest.fixture(scope="module")
def study():
    """experiments/planted/make_induction.py as a module."""
    spec = importlib.util.spec_from_file_location("make_induction", STUDY / "make_induction.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run_planted(causa, tmp_path_factory):
    """run_planted(name, method) -> result of a method on the built model and its pairs."""
    folder = tmp_path_factory.mktemp("planted")
    rows = [json.loads(line) for line in (STUDY / "pairs.jsonl").read_text().splitlines()]

    def run(name, method, **more):
        config = files.write_config(folder / f"{name}.yaml", method, rows, model=STUDY, **more)
        causa("run", config, f"output={folder / name}.h5", "--overwrite")
        return folder / f"{name}.h5"

    return run


@pytest.fixture(scope="module")
def alone(study, run_planted, tmp_path_factory):
    """alone(name, edges) -> the faithfulness of this circuit, and that of the pairs of each leg."""
    folder = tmp_path_factory.mktemp("circuits")
    with h5py.File(run_planted("ends", {"kind": "eap"}, metric="logit_diff")) as file:
        leg = np.array([name.split("-")[0] for name in file["data/id"].asstr()])
        clean, ablated = (file[f"baseline/{end}"][()] for end in ("clean", "corrupted"))
        assert file["baseline"].attrs["accuracy"] == 1
    assert (clean - ablated > 2).all() and {*leg} == {*study.LEGS}

    def run(name, edges):
        circuit = folder / f"{name}.json"
        circuit.write_text(json.dumps(study.circuit(edges)))
        path = run_planted(name, {"kind": "eap", "circuit": {"file": str(circuit)},
                                  "evaluate": {"faithfulness": True}}, metric="logit_diff")
        with h5py.File(path) as file:
            value = file["faithfulness/per_example"][0]
            return file["faithfulness/normalized"][0], {
                name: (value - ablated)[leg == name].sum() / (clean - ablated)[leg == name].sum()
                for name in study.LEGS}

    return run


def area(score, truth):
    """Share of the pairs of a true and another edge in which the true one scores more."""
    more = np.sign(score[truth][:, None] - score[~truth][None, :])
    return (1 + more.mean()) / 2


def areas(path):
    with h5py.File(path) as file:
        return file["edges"].attrs["auroc"], file["edges"].attrs["auroc_absolute"]


# ---- the built model

def test_stored_files_are_what_the_generator_writes(study, tmp_path, monkeypatch):
    """Texts to the byte; of the weights what another machine's QR decomposition leaves the same."""
    monkeypatch.setattr("sys.argv", ["make_induction.py", str(tmp_path)])
    study.main()
    for name in ("config.json", "pairs.jsonl", "circuit.json"):
        assert (tmp_path / name).read_bytes() == (STUDY / name).read_bytes(), name
    written, stored = ((folder / "model.safetensors").read_bytes() for folder in (tmp_path, STUDY))
    size = 8 + int.from_bytes(stored[:8], "little")
    assert written[:size] == stored[:size]
    np.testing.assert_allclose(np.frombuffer(written[size:], "<f4"),
                               np.frombuffer(stored[size:], "<f4"), atol=1e-5)


def test_planted_heads_attend_where_they_should(run_planted):
    """Head 0 of layer 0 to the token before; that of layer 1 from the repetition to what followed."""
    path = run_planted("patterns", {"kind": "capture", "sites": ["blocks.*.attn.pattern"]})
    with h5py.File(path) as file:
        before, induction = (file[f"activations/blocks.{layer}.attn.pattern"][:, 0]
                             for layer in (0, 1))
        place = file["activations/rows"][:, 1]
        offsets, tokens = file["data/offsets"][()], file["data/tokens"][()]
    later = np.flatnonzero(place)
    assert before[later, place[later] - 1].min() > 0.95
    for first, end in zip(offsets, offsets[1:]):
        prompt = tokens[first:end].tolist()
        assert induction[end - 1, prompt.index(prompt[-1]) + 1] > 0.85


def test_the_planted_circuit_does_the_task_alone(study, alone, run_planted):
    true = sorted({edge for leg in study.LEGS.values() for edge in leg})
    assert len(true) == 5
    faithful, of_leg = alone("true", true)
    assert abs(faithful - 1) < 0.05 and all(abs(value - 1) < 0.05 for value in of_leg.values())
    others = [edge for edge in study.edges()[1] if edge not in true]
    assert len(others) == 105
    faithful, _ = alone("others", others)
    assert abs(faithful) < 0.05, faithful


@pytest.mark.parametrize("removed", ["input->a0.h0<v>", "a0.h0->a1.h0<k>", "input->a1.h0<q>",
                                     "input->a1.h0<v>", "a1.h0->logits"])
def test_every_planted_edge_is_needed(study, alone, removed):
    """Without an edge just those pairs fail whose change it carries."""
    true = {edge for leg in study.LEGS.values() for edge in leg}
    _, of_leg = alone("without", sorted(true - {removed}))
    for leg, edges in study.LEGS.items():
        assert abs(of_leg[leg] - (removed not in edges)) < 0.05, leg


@pytest.mark.parametrize("variant", ["ig-inputs", "ig-activations", "clean-corrupted", "exact"])
def test_scores_find_the_planted_edges(study, run_planted, variant):
    path = run_planted(variant, {"kind": "eap", "variant": variant, "evaluate": {
        "truth": str(STUDY / "circuit.json")}}, metric="logit_diff")
    signed, absolute = areas(path)
    assert signed >= 0.95 and absolute >= 0.95
    with h5py.File(path) as file:
        source, destination = (file[f"edges/{end}"].asstr()[()] for end in ("source", "destination"))
        valid, score = file["edges/valid"][()], file["edges/score"][()]
    true = {edge for leg in study.LEGS.values() for edge in leg}
    truth = np.array([[f"{u}->{v}" in true for v in destination] for u in source])[valid]
    assert truth.sum() == 5 and (score[valid] != 0).mean() > 0.9
    assert signed == pytest.approx(area(score[valid], truth), abs=1e-12)
    assert absolute == pytest.approx(area(np.abs(score[valid]), truth), abs=1e-12)


def test_gradients_at_the_clean_run_miss_planted_edges(run_planted):
    """The softmax of a head that has found its token is flat: what queries and keys do does not show
    in its slope, only along the way there. That is why paths are integrated."""
    signed, absolute = areas(run_planted("eap", {
        "kind": "eap", "variant": "eap", "evaluate": {"truth": str(STUDY / "circuit.json")}},
        metric="logit_diff"))
    assert signed < 0.9 and absolute < 0.9


# ---- the bundled model

@pytest.mark.parametrize("task, metric", [("ioi", "logit_diff"), ("price_tag", "logit_diff"),
                                          ("greater_than", "greater_than")])
def test_scores_find_the_edges_that_exact_patching_finds(causa, tmp_path, task, metric):
    """True are the edges that, patched alone, undo at least a share of what patching all undoes. With
    1519 edges one in a hundred of it is fifteen times an even share; half and twice as much are asked
    too, as the area must not hang on that choice. By magnitude: an edge that works against the task
    is as true as another."""
    exact, config = tmp_path / "exact.h5", tmp_path / "demo.yaml"
    config.write_text(json.dumps({
        "name": "demo", "model": str(DEMO), "metric": metric,
        "data": {"file": str(DEMO / f"{task}.csv"), "limit": 10}, "method": {"kind": "eap"}}))
    causa("run", config, f"output={exact}", "method.variant=exact")
    causa("convert", exact, tmp_path / "exact.json")
    form = json.loads((tmp_path / "exact.json").read_text())
    with h5py.File(exact) as file:
        ends = [float(file["baseline"].attrs[f"{end}_mean"]) for end in ("clean", "corrupted")]
    for share in (0.005, 0.01, 0.02):
        for edge in form["edges"].values():
            edge["in_graph"] = abs(edge["score"]) >= share * abs(ends[0] - ends[1])
        assert 10 <= sum(edge["in_graph"] for edge in form["edges"].values()) <= 100
        (tmp_path / "truth.json").write_text(json.dumps(form))
        result = tmp_path / f"{share}.h5"
        causa("run", config, f"output={result}", "method.variant=ig-inputs",
              f"method.evaluate.truth={tmp_path / 'truth.json'}")
        assert areas(result)[1] >= 0.95, share
