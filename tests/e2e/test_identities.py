# SPDX-License-Identifier: MIT
"""Identities that the scopes satisfy, on models small enough to try every token as the target.

Scores are stored as float32, each within 6e-8 of itself; sums of positive terms keep that.
"""

import itertools
import json
import struct

import files
import h5py
import numpy as np
import pytest

F64 = {"backend": "ref", "precision": "f64"}
VOCABULARY = 12
PROMPTS = [[3, 1, 4, 11, 9, 2], [5, 8, 9]]
EVERY = ["semantic", "temperature", "fisher", "input_x_gradient", "integrated_gradients",
         "path_semantic"]


def read_model(folder):
    raw = (folder / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header, data = json.loads(raw[8:8 + size]), raw[8 + size:]
    header.pop("__metadata__", None)
    return {name: np.frombuffer(data[slice(*entry["data_offsets"])], "<f4").reshape(entry["shape"])
            for name, entry in header.items()}


def write_model(folder, source, change, **config):
    """A fixture with its tensors changed: change(name, values) -> values."""
    header, parts, where = {}, [], 0
    for name, values in read_model(files.MODELS / source).items():
        values = np.ascontiguousarray(change(name, values), "<f4")
        header[name] = {"dtype": "F32", "shape": values.shape,
                        "data_offsets": [where, where + values.nbytes]}
        parts.append(values.tobytes())
        where += values.nbytes
    text = json.dumps(header).encode()
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(
        struct.pack("<Q", len(text)) + text + b"".join(parts))
    old = json.loads((files.MODELS / source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**old, **config}))
    return folder


def few_tokens(name, values):
    return values[:VOCABULARY] if name.endswith(("wte.weight", "embed_tokens.weight")) else values


@pytest.fixture(params=["gpt2", "llama3-gqa-new"])
def small_model(request, tmp_path):
    return write_model(tmp_path / "small", request.param, few_tokens, vocab_size=VOCABULARY)


@pytest.fixture
def sweep(causa, tmp_path):
    """sweep(model, targets, scope, dataset) -> float64 values [targets, T] of a dataset's full name."""
    def run(model, targets, scope, dataset, prompts=PROMPTS, **more):
        method = {"kind": "jacobian", "target": "argmax", "scopes": [scope], **more}
        config = files.write_config(tmp_path / "sweep.yaml", method,
                                    [{"clean_ids": p} for p in prompts], model=model, **F64,
                                    sweep={"method.target": targets})
        folder = tmp_path / f"sweep-{len(list(tmp_path.glob('sweep-*')))}"
        causa("run", config, f"output={folder}")
        points = sorted(folder.glob("point-*.h5"))
        assert len(points) == len(targets)
        values = []
        for point in points:
            with h5py.File(point) as file:
                values.append(file[dataset][:].astype(float))
        return np.array(values)

    return run


EVERY_TOKEN = [f"#{i}" for i in range(VOCABULARY)]
PAIRS = list(itertools.combinations(range(VOCABULARY), 2))


def probabilities(sweep, model, targets=EVERY_TOKEN, **prompts):
    """[N, V] in float64: the values of the targets are stored so, unlike captured logits."""
    z = sweep(model, targets, "semantic", "baseline/clean", **prompts).T
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def per_token(of_prompts):
    return np.repeat(of_prompts, [len(p) for p in PROMPTS], axis=0)


def pair_norms(sweep, model):
    """|J^T (w_i - w_k)| [pairs, T]."""
    return sweep(model, [f"#{i}:#{k}" for i, k in PAIRS], "semantic", "attribution/semantic/score")


def test_fisher_trace_is_the_mean_square_of_log_probability_gradients(run_ids, sweep, small_model):
    """sum_i p_i |grad log p_i|^2 = sum over pairs p_i p_k |J^T (w_i - w_k)|^2, the norms being
    semantic scores of contrasts: float32, whose squares are within 2e-7, and so is their sum."""
    norms, p = pair_norms(sweep, small_model), per_token(probabilities(sweep, small_model))
    expected = sum(p[:, i] * p[:, k] * norm ** 2 for (i, k), norm in zip(PAIRS, norms))
    path = run_ids(PROMPTS, {"kind": "jacobian", "target": "argmax", "scopes": ["fisher"],
                             "rank": "full"}, "backend=ref", "precision=f64", model=small_model)
    with h5py.File(path) as file:
        assert file["attribution/fisher/score"][:] == pytest.approx(expected, rel=1e-6)


def test_predicted_divergence_is_that_of_contrasts(run_ids, sweep, small_model):
    """1/2 (J x)^T F (J x) = 1/2 sum over pairs p_i p_k (x . J^T (w_i - w_k))^2, the products being
    signed semantic scores of contrasts; probes estimate the same without bias."""
    signed = sweep(small_model, [f"#{i}:#{k}" for i, k in PAIRS], "semantic",
                   "attribution/semantic/signed")
    p = per_token(probabilities(sweep, small_model))
    expected = sum(p[:, i] * p[:, k] * s ** 2 for (i, k), s in zip(PAIRS, signed)) / 2
    method = {"kind": "jacobian", "target": "argmax", "scopes": ["fisher"], "rank": "full"}
    exact = ["backend=ref", "precision=f64"]
    with h5py.File(run_ids(PROMPTS, method, *exact, model=small_model)) as file:
        fisher = file["attribution/fisher"]
        # float32 products that may be small beside their terms
        assert fisher["predicted_kl"][:] == pytest.approx(expected, rel=1e-5, abs=1e-6 * expected.max())
        assert fisher["root"][:] ** 2 == pytest.approx(fisher["score"][:], rel=1e-6)
    method["fisher"] = {"estimator": "hutchinson", "probes": 4096}
    with h5py.File(run_ids(PROMPTS, method, *exact, model=small_model, name="probes")) as file:
        probes = file["attribution/fisher/predicted_kl"][:]
        # squares of sums of many signs vary by sqrt(2) of their mean: four of their errors
        assert np.abs(probes / expected - 1).max() <= 4 * np.sqrt(2 / 4096)
    with h5py.File(run_ids(PROMPTS, {**method, "fisher": {}, "position": "all", "rank": 2},
                           *exact, model=small_model, name="matrix")) as file:
        fisher = file["attribution/fisher"]
        assert fisher["root_matrix"][:] ** 2 == pytest.approx(fisher["matrix"][:], rel=1e-6)
        assert fisher["predicted_kl_matrix"].shape == fisher["matrix"].shape


@pytest.mark.parametrize("source", ["gpt2", "llama3-gqa-new"])
def test_predicted_divergence_is_the_limit_of_small_steps(run_ids, sweep, tmp_path, source):
    """A token whose embedding is a little nearer to zero, by h of it, changes the distribution by a
    divergence of h^2 times that predicted for all of it, and terms of h^3: their share falls with h.
    """
    token, near = 4, VOCABULARY  # the prompt's token, and the one that is nearly it
    prompts = [[3, 1, token, 11, 9, 2], [3, 1, near, 11, 9, 2]]
    method = {"kind": "jacobian", "target": "argmax", "scopes": ["fisher"], "rank": "full"}
    errors = []
    for step in (1e-2, 1e-3, 1e-4):
        def add_near(name, values):
            if not name.endswith(("wte.weight", "embed_tokens.weight")):
                return values
            values = values[:VOCABULARY + 1].copy()
            values[near] = values[token] * np.float32(1 - step)
            return values

        folder = tmp_path / f"{source}-{step}"
        model = write_model(folder, source, add_near, vocab_size=VOCABULARY + 1)
        p, q = probabilities(sweep, model, [*EVERY_TOKEN, f"#{near}"], prompts=prompts)
        path = run_ids(prompts[:1], method, "backend=ref", "precision=f64", model=model,
                       name=f"r{step}")
        with h5py.File(path) as file:
            predicted = file["attribution/fisher/predicted_kl"][2]
        errors.append((p * np.log(p / q)).sum() / step ** 2 / predicted - 1)
    errors = np.abs(errors)
    # at 1e-4 the embeddings' own rounding, 6e-8 of them, is 6e-4 of the step
    assert errors[0] < 0.3 and errors[1] < 0.03 and errors[2] < 0.005, errors


def test_fisher_of_the_likeliest_tokens(run_ids, sweep, small_model):
    """Eigenvalues from the Gram matrix of the m likeliest rows sqrt(p_i) (w_i - mu) are low by at
    most the trace of the rows left out. The vector u = A^T q / |A^T q| of all rows gives the score:
    its weights a on the w_i add up to 0, so |J^T u|^2 = -1/2 sum_ik a_i a_k |J^T (w_i - w_k)|^2,
    terms of float32 norms that partly cancel."""
    p = probabilities(sweep, small_model)
    distance = np.zeros((VOCABULARY, VOCABULARY, sum(map(len, PROMPTS))))
    for (i, k), norm in zip(PAIRS, pair_norms(sweep, small_model)):
        distance[i, k] = distance[k, i] = norm ** 2
    w, = (values.astype(float) for name, values in read_model(small_model).items()
          if name.endswith(("wte.weight", "embed_tokens.weight")))
    path = run_ids(PROMPTS, {"kind": "jacobian", "target": "argmax", "scopes": ["fisher"]},
                   "backend=ref", "precision=f64", model=small_model)
    with h5py.File(path) as file:
        stored = file["attribution/fisher/eigenvalues"][:, 0]
        scores = np.split(file["attribution/fisher/score"][:].astype(float), [len(PROMPTS[0])])
    parts = np.split(distance, [len(PROMPTS[0])], axis=2)
    for p_i, largest, score, squares in zip(p, stored, scores, parts):
        rows = np.sqrt(p_i)[:, None] * (w - p_i @ w)
        likeliest = np.argsort(-p_i)
        for m in range(1, VOCABULARY + 1):
            kept, left = rows[likeliest[:m]], rows[likeliest[m:]]
            values, q = np.linalg.eigh(kept @ kept.T)
            # pairs converge to 1e-5 of the largest, and eigenvalues to the square of that
            assert -1e-9 <= largest / values[-1] - 1 + 1e-9
            assert largest - values[-1] <= (left ** 2).sum() + 1e-9 * largest
        b = np.zeros(VOCABULARY)
        b[likeliest] = np.sqrt(p_i[likeliest]) * q[:, -1] / np.sqrt(values[-1])
        a = b - p_i * b.sum()
        expected = -0.5 * largest * np.einsum("i,k,ikt->t", a, a, squares)
        assert score == pytest.approx(expected, rel=1e-4)


def test_log_probability_is_the_logit_less_the_mean_logit(sweep, small_model):
    """One node at the input: the cotangent of log p is w_y - mu, so x . grad log p_y is that of the
    logit of y less the mean over p of all."""
    logit = sweep(small_model, EVERY_TOKEN, "semantic", "attribution/semantic/signed")
    log_p = sweep(small_model, EVERY_TOKEN, "integrated_gradients",
                  "attribution/integrated_gradients/signed", steps=1, compat="jacobian-scopes")
    mean = (per_token(probabilities(sweep, small_model)).T * logit).sum(axis=0)
    assert np.abs(log_p - (logit - mean)).max() <= 2e-7 * np.abs(logit).max()


def test_tokens_after_the_position_score_zero(run_ids):
    for scope in EVERY:
        path = run_ids(PROMPTS, {"kind": "jacobian", "target": "gold", "scopes": [scope],
                                 "position": 1, "steps": 3},
                       "backend=ref", "precision=f64", name=scope)
        with h5py.File(path) as file:
            score, start = file[f"attribution/{scope}/score"][:], file["data/offsets"][:]
        for first, last in zip(start[:-1], start[1:]):
            assert np.all(score[first:first + 2] > 0) and np.all(score[first + 2:last] == 0), scope


def test_temperature_needs_a_gain_that_is_not_uniform(run_ids, tmp_path):
    """With a uniform gain |y| is sqrt(D) but for the norm's epsilon, 1e-6 beside mean squares of
    about 1: what is left is that, and rounding."""
    def uniform(name, values):
        return np.ones_like(values) if name == "model.norm.weight" else values

    def scores(model, name):
        done = run_ids(PROMPTS, {"kind": "jacobian", "target": "argmax", "scopes": ["temperature"]},
                       "backend=ref", "precision=f64", model=model, name=name, check=False)
        assert ("its scores are rounding" in done.stderr) == (name == "flat"), done.stderr
        with h5py.File(tmp_path / f"{name}.h5") as file:
            return file["attribution/temperature/score"][:]

    flat = write_model(tmp_path / "flat", "llama3-gqa-new", uniform, rms_norm_eps=1e-13)
    assert scores(flat, "flat").max() <= 1e-9
    assert scores(files.MODELS / "llama3-gqa-new", "perturbed").min() > 1e-4


def test_entropy_falls_with_the_norm(run_ids):
    """dH / d beta = -beta Var(z / beta) = -beta u'Fu with u = y / beta, at the captured y. Central
    differences with a step of 1e-4 of beta have an error of some 1e-8, their rounding 1e-11."""
    path = run_ids(PROMPTS, {"kind": "capture", "sites": ["final_norm", "logits"],
                             "positions": "last"}, "backend=ref", "precision=f64")
    tensors = read_model(files.MODELS / "gpt2")
    w, = (values.astype(float) for name, values in tensors.items() if name.endswith("wte.weight"))
    with h5py.File(path) as file:
        captured = file["activations/final_norm"][:].astype(float)

    def entropy(beta, fixed):
        p = np.exp(beta * fixed - (beta * fixed).max())
        p /= p.sum()
        return -(p * np.log(p)).sum(), p

    for y in captured:
        beta = np.linalg.norm(y)
        fixed, step = w @ y / beta, 1e-4 * beta
        _, p = entropy(beta, fixed)
        centred = np.sqrt(p)[:, None] * (w - p @ w)
        variance = y / beta @ (centred.T @ centred) @ y / beta
        slope = (entropy(beta + step, fixed)[0] - entropy(beta - step, fixed)[0]) / (2 * step)
        assert slope == pytest.approx(-beta * variance, rel=1e-5)
