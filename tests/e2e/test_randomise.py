# SPDX-License-Identifier: MIT
"""Scores of a model whose blocks get random weights, and what the weights are."""


import files
import h5py
import numpy as np
import pytest
from test_identities import write_model

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
            shared = group[f"{scope}/top10_jaccard"][:]
            assert shared.shape == (4, 3) and np.all(shared[:, 0] == 1)
            # of one or two tokens: none, one or both
            assert set(np.unique(shared)) <= {0, 1 / 3, 1}
            assert group[f"{scope}/top10_jaccard_mean"][:] == pytest.approx(shared.mean(axis=0))
            for name in ("spearman_floor", "top10_jaccard_floor"):
                assert group[scope].attrs[name] == pytest.approx(group[f"{scope}/{name}"][:].mean())
        for name, value in files.datasets(plain).items():  # and the control changes nothing else
            assert np.array_equal(file[name][()], value), name
        assert "randomise" not in other.get("evaluation", {})


def test_trained_model_depends_on_its_weights(causa, tmp_path):
    """The bundled model is trained: the more of its blocks are random, the less is left of the
    scores' order. What is left with all of them random comes from positions and embeddings: 0.40
    over ten prompts, whose means scatter by 0.07 around chance alone."""
    path = tmp_path / "demo.h5"
    causa("run", "configs/demo.yaml", f"output={path}",
          "method.evaluate.randomise.fractions=[0, 0.5, 1]")
    with h5py.File(path) as file:
        rho = file["evaluation/randomise/semantic/spearman_mean"][:]
        assert rho[0] == 1 and 0.9 > rho[1] > rho[2] and rho[2] < 0.55


def changed(folder, source, change=lambda name, values: values, **config):
    return write_model(folder, source, change, **config)


@pytest.mark.parametrize("source", ["gpt2", "qwen3"])
def test_random_blocks_do_not_depend_on_the_trained_ones(run_ids, tmp_path, source):
    """Gain and bias of a norm, and the matrices that read it, times -1: the same function, bit for
    bit. What replaces them takes nothing from them, so that nothing is changed."""
    negated = ("ln_1.", "ln_2.", "input_layernorm", "post_attention_layernorm", "c_attn.weight",
               "c_fc.weight", "q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight",
               "up_proj.weight")
    touched = []

    def negate(name, values):
        if not any(part in name for part in negated):
            return values
        touched.append(name)
        return -values

    prompts, evaluation = prompts_of(), method([0.5, 1])
    plain = run_ids(prompts, evaluation, *F64, model=source, name="plain")
    other = run_ids(prompts, evaluation, *F64, model=changed(tmp_path / "n", source, negate), name="n")
    assert len(touched) >= 4
    files.same_bytes(plain, other)
    wider = run_ids(prompts, evaluation, *F64, model=changed(tmp_path / "w", source,
                                                             initializer_range=0.3), name="w")
    with h5py.File(plain) as file, h5py.File(wider) as more:
        for name in SCOPES:
            at = f"attribution/{name}/score"
            assert np.array_equal(file[at][:], more[at][:])
        at = "evaluation/randomise/semantic/spearman"
        assert not np.array_equal(file[at][:], more[at][:])


def test_blocks_of_next_to_nothing(run_ids, tmp_path):
    """With a deviation of 1e-9 only the position's own embedding reaches the logits: the first of ten
    tokens is shared if it is the best of the model's scores too."""
    prompts = [np.random.default_rng(seed).integers(0, 40, 9).tolist() for seed in range(12)]
    model = changed(tmp_path / "zero", "gpt2", initializer_range=1e-9)
    path = run_ids(prompts, {**method([1]), "scopes": ["semantic"]}, *F64, model=model)
    with h5py.File(path) as file:
        score = file["attribution/semantic/score"][:].reshape(12, 9)
        shared = file["evaluation/randomise/semantic/top10_jaccard"][:, 0]
        assert np.array_equal(shared, score.argmax(axis=1) == 8)
        assert 0 < shared.sum() < 12


def test_floors_are_those_of_chance(run_ids):
    """Means of 20 orders of each of 30 prompts of ten tokens: Spearman has a variance of 1 / 9, the
    one token of the tenth is shared in a tenth of the orders."""
    prompts = [np.random.default_rng(seed).integers(0, 40, 10).tolist() for seed in range(30)]
    path = run_ids(prompts, {**method([0]), "scopes": ["semantic"]}, *F64)
    with h5py.File(path) as file:
        group = file["evaluation/randomise/semantic"]
        rho, shared = group["spearman_floor"][:], group["top10_jaccard_floor"][:]
        assert rho.shape == shared.shape == (30,)
        assert abs(rho.mean()) < 4 / (9 * 20 * 30) ** 0.5
        assert abs(shared.mean() - 0.1) < 4 * (0.1 * 0.9 / 600) ** 0.5
        # of the prompts' means the deviations are those of 20 orders, within a half
        assert 0.5 < rho.std() * (9 * 20) ** 0.5 < 1.5
        assert np.allclose(shared * 20, np.round(shared * 20))


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
