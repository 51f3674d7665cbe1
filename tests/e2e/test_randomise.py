# SPDX-License-Identifier: MIT
"""Scores of a model whose blocks get random weights, and what the weights are."""


import files
import h5py
import numpy as np
import pytest

F64 = ("backend=ref", "precision=f64")
SCOPES = ["semantic", "temperature", "fisher", "input_x_gradient", "path_semantic"]


def method(fractions, **more):
    return {"kind": "jacobian", "scopes": SCOPES, "target": "argmax", "steps": 3,
            "evaluate": {"randomise": {"fractions": fractions}}, **more}


def prompts_of(count=4, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 40, rng.integers(5, 14)).tolist() for _ in range(count)]


@pytest.mark.parametrize("model", ["gpt2", "qwen3"])
def test_nothing_random_is_the_same(run_ids, model):
    """No random block: exactly 1. All of them: an order that has little to do with the model's."""
    plain = run_ids(prompts_of(), {**method([0]), "evaluate": {}}, *F64, model=model, name="plain")
    path = run_ids(prompts_of(), method([0, 0.5, 1]), *F64, model=model)
    with h5py.File(path) as file, h5py.File(plain) as other:
        group, layers = file["evaluation/randomise"], file["evaluation/randomise/blocks"][:]
        assert group["fraction"][:].tolist() == [0, 0.5, 1]
        assert layers[0] == 0 and 0 < layers[1] < layers[2]
        for scope in SCOPES:
            rho = group[f"{scope}/spearman"][:]
            assert rho.shape == (4, 3) and np.all(rho[:, 0] == 1)
            assert np.all(rho[:, 1:] < 1) and np.all(np.abs(rho) <= 1)
            assert group[f"{scope}/spearman_mean"][:] == pytest.approx(rho.mean(axis=0))
            assert group[f"{scope}/spearman_sem"][:] == pytest.approx(rho.std(axis=0, ddof=1) / 2)
        for name, value in files.datasets(plain).items():  # and the control changes nothing else
            assert np.array_equal(file[name][()], value), name
        assert "randomise" not in other.get("evaluation", {})


def test_trained_model_depends_on_its_weights(causa, tmp_path):
    """The bundled model is trained: the more of its blocks are random, the less is left of the
    scores' order. What is left with all of them random comes from positions and embeddings: 0.36
    over ten prompts, whose means scatter by 0.07 around chance alone."""
    path = tmp_path / "demo.h5"
    causa("run", "configs/demo.yaml", f"output={path}",
          "method.evaluate.randomise.fractions=[0, 0.5, 1]")
    with h5py.File(path) as file:
        rho = file["evaluation/randomise/semantic/spearman_mean"][:]
        assert rho[0] == 1 and 0.9 > rho[1] > rho[2] and rho[2] < 0.55


def test_batches_do_not_matter(run_ids):
    prompts, evaluation = prompts_of(6), method([0.5, 1])
    whole = run_ids(prompts, evaluation, *F64, name="whole")
    files.same_bytes(whole, run_ids(prompts, evaluation, *F64, "batch=13", name="parts"))
    other = run_ids(prompts, evaluation, *F64, "seed=7", name="other")
    with h5py.File(whole) as one, h5py.File(other) as two:
        name = "evaluation/randomise/semantic/spearman"
        assert not np.array_equal(one[name][:], two[name][:])


@pytest.mark.parametrize("fractions, more, message", [
    ([0.5, 0.5], {}, "expected rising fractions, got 0.5 after 0.5"),
    ([0.5, 1.5], {}, "method.evaluate.randomise.fractions"),
    ([], {}, "method.evaluate.randomise.fractions"),
    ([0.5], {"position": "all", "scopes": ["semantic"]}, "expected one position per prompt"),
])
def test_bad_options(run_ids, fractions, more, message):
    done = run_ids([[1, 2, 3]], method(fractions, **more), check=False)
    assert done.returncode == 2 and message in done.stderr, done.stderr
