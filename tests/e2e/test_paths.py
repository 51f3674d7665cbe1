# SPDX-License-Identifier: MIT
"""Scopes that are integrated, of several positions and with later leaves.

test_baselines.py has where their paths begin, test_scopes.py that they add up at the embeddings.
"""

import files
import h5py
import numpy as np
import pytest

SCOPES = ["integrated_gradients", "path_semantic"]
PROMPTS = [[3, 1, 4, 7, 9, 2, 6, 5, 35], [8, 5, 30]]
TOKEN = "#7"


def method(**more):
    return {"kind": "jacobian", "target": "#5", "scopes": SCOPES, "steps": 5, **more}


def read(path, *names):
    with h5py.File(path) as file:
        return [file[name][:].astype(float) for name in names]


@pytest.mark.parametrize("model", ["gpt2", "llama3-gqa-new"])
@pytest.mark.parametrize("more", [{}, {"layer": 1}, {"layer": 1, "baseline": TOKEN},
                                  {"baseline": "mean", "target": "#5:#9"},
                                  {"compat": "jacobian-scopes"}], ids=str)
def test_rows_of_a_matrix_are_its_positions(run_ids, model, more):
    """Bit for bit, and whatever shares a batch: both scopes of nine positions are two tiles of lanes.
    `all` begins with position 0, a list holds what is asked."""
    parts = [f"attribution/{scope}/{name}" for scope in SCOPES
             for name in ("matrix", "signed_matrix", "residual")]
    whole = read(run_ids(PROMPTS, method(position="all", **more), *files.EXACT, model=model), *parts)
    again = read(run_ids(PROMPTS, method(position="all", **more), "batch=9", *files.EXACT, model=model,
                         name="batch"), *parts)
    for a, b in zip(whole, again):
        assert np.array_equal(a, b)
    some = read(run_ids(PROMPTS, method(position=[0, 2], **more), *files.EXACT, model=model,
                        name="some"), *parts)
    of_first, of_second = len(PROMPTS[0]) ** 2, len(PROMPTS[1]) ** 2
    assert [len(a) for a in whole] == 2 * [of_first + of_second, of_first + of_second, 12]
    for position in (0, 2):
        one = read(run_ids(PROMPTS, method(position=position, **more), *files.EXACT, model=model,
                           name=f"p{position}"),
                   *(part.replace("signed_matrix", "signed").replace("matrix", "score")
                     for part in parts))
        for matrix, list_, vector in zip(whole, some, one):
            if len(matrix) == 12:  # residuals
                assert matrix[[position, 9 + position]].tolist() == vector.tolist()
                assert list_[[position // 2, 2 + position // 2]].tolist() == vector.tolist()
                continue
            first = matrix[:of_first].reshape(9, 9)[position]
            second = matrix[of_first:].reshape(3, 3)[position]
            assert np.array_equal(np.concatenate([first, second]), vector)
            assert np.abs(first[:position + 1]).min() > 0 and (first[position + 1:] == 0).all()
            assert np.array_equal(list_[:18].reshape(2, 9)[position // 2], first)


@pytest.mark.parametrize("position", ["last", "all"])
@pytest.mark.parametrize("layer", [0, 1])
def test_one_published_node_is_the_gradient_at_the_input(run_ids, layer, position):
    """Of any leaf, where the log-probability's gradient is multiplied by the leaf itself."""
    scopes, one = ["input_x_gradient", "integrated_gradients"], []
    path = run_ids(PROMPTS, method(scopes=scopes, steps=1, compat="jacobian-scopes", layer=layer,
                                   position=position), *files.EXACT)
    name = "signed_matrix" if position == "all" else "signed"
    for scope in scopes:
        one += read(path, f"attribution/{scope}/{name}")
    assert np.abs(one[0]).max() > 0 and one[0] == pytest.approx(one[1], rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("layer", [0, 1])
def test_zero_is_a_uniform_guess(run_ids, layer):
    """RMS norms, no biases: a stream of zeros stays zero, all logits are zero. What signed scores and
    residuals add up to is the target's logit, or its log-probability against one in all tokens."""
    names = [f"attribution/{scope}/{name}" for scope in SCOPES for name in ("signed_matrix", "residual")]
    path = run_ids(PROMPTS, method(layer=layer, position="all"), *files.EXACT, model="llama3-gqa-new")
    log_p, log_p_rest, logit, logit_rest = read(path, *names)
    clean, entropy = read(path, "baseline/clean", "predictions/entropy")
    rows = [block.sum(axis=1) for block in (log_p[:81].reshape(9, 9), log_p[81:].reshape(3, 3))]
    log_p = np.concatenate(rows) + log_p_rest
    rows = [block.sum(axis=1) for block in (logit[:81].reshape(9, 9), logit[81:].reshape(3, 3))]
    assert np.concatenate(rows) + logit_rest == pytest.approx(clean, abs=1e-5)
    plain = {"kind": "capture", "sites": ["logits"]}
    logits, = read(run_ids(PROMPTS, plain, *files.EXACT, model="llama3-gqa-new", name="logits"),
                   "activations/logits")
    lse = np.log(np.exp(logits).sum(axis=1))
    assert log_p == pytest.approx(logits[:, 5] - lse + np.log(logits.shape[1]), abs=1e-5)
    assert entropy == pytest.approx(lse - (np.exp(logits - lse[:, None]) * logits).sum(axis=1), abs=1e-5)


@pytest.mark.parametrize("model", ["gpt2", "llama3-gqa-new"])
@pytest.mark.long
def test_later_leaf_adds_up_from_the_run_of_the_baseline(run_ids, model):
    """At every leaf the two ends are the same two runs; the residual falls as 1 / steps^2: a quarter,
    within 10 %."""
    rests = []
    for steps in (64, 128):
        ends = []
        for layer in (0, 1):
            path = run_ids(PROMPTS, method(baseline=TOKEN, steps=steps, layer=layer), *files.EXACT,
                           model=model, name=f"l{layer}-{steps}")
            signed, rest = read(path, "attribution/path_semantic/signed",
                                "attribution/path_semantic/residual")
            ends.append(np.add.reduceat(signed, [0, len(PROMPTS[0])]) + rest)
        assert ends[0] == pytest.approx(ends[1], abs=1e-5) and np.abs(ends[0]).min() > 0.01
        rests.append(rest)
    ratio = np.abs(rests[0] / rests[1])
    assert (ratio > 3.6).all() and (ratio < 4.4).all(), ratio


@pytest.mark.parametrize("layer", [0, 1])
def test_evaluation_reads_the_run_of_the_prompts(run_ids, layer):
    """Whatever the paths left behind: the divergences of leave-one-out are those without paths."""
    seen = [read(run_ids(PROMPTS, method(scopes=scopes, layer=layer, evaluate={"loo": True}),
                         *files.EXACT, name=scopes[0]), "evaluation/loo/kl")[0]
            for scopes in (["semantic"], ["path_semantic", "semantic"])]
    assert np.array_equal(*seen) and seen[0].max() > 0


def test_residuals_of_a_matrix_are_told(causa, tmp_path):
    """On the terminal of the last position shown; with a warning over all of them."""
    config = files.write_config(tmp_path / "c.yaml", method(scopes=["path_semantic"], steps=1,
                                                            position="all"),
                                [{"clean_ids": ids} for ids in PROMPTS], backend="ref")
    done = causa("run", config, f"output={tmp_path / 'c.h5'}")
    rest, = read(tmp_path / "c.h5", "attribution/path_semantic/residual")
    signed, = read(tmp_path / "c.h5", "attribution/path_semantic/signed_matrix")
    rows = [block.sum(axis=1) for block in (signed[:81].reshape(9, 9), signed[81:].reshape(3, 3))]
    share = np.abs(rest / (np.concatenate(rows) + rest))
    assert f"in {(share > 0.1).sum()} of 12 positions" in done.stderr
    for i in (8, 11):
        assert f"residual {rest[i]:.3g}\n" in done.stdout
    with h5py.File(tmp_path / "c.h5") as file:
        group = file["attribution/path_semantic"]
        assert group.attrs["residual_share"] == pytest.approx(np.median(share), rel=1e-5)
        assert group["residual"].dims[0].label == "position"


@pytest.mark.parametrize("backend", sorted({files.BACKEND, "cpu"}))
def test_log_probabilities_keep_their_digits(causa, tmp_path, backend):
    """Where the target has all but some millionths of the probability, its log-probability hardly
    moves: float32 has the gradient to 5e-5 of the largest score of a prompt (some hundred roundings),
    where 1 less a rounded probability has two digits."""
    scopes = ["input_x_gradient", "integrated_gradients"]
    rounded = []
    for name, where in (("exact", ("backend=ref", "precision=f64")), ("f32", (f"backend={backend}",))):
        path = tmp_path / f"{name}.h5"
        causa("run", "configs/demo.yaml", f"method.scopes=[{','.join(scopes)}]", "method.target=argmax",
              "method.compat=jacobian-scopes", *where, f"output={path}")
        rounded.append(read(path, "predictions/probability", "data/offsets",
                            *(f"attribution/{scope}/score" for scope in scopes)))
    (p, start, *exact), (_, _, *got) = rounded
    assert (p[:, 0] > 1 - 1e-5).sum() >= 3
    for a, b in zip(exact, got):
        for first, last in zip(start[:-1].astype(int), start[1:].astype(int)):
            assert files.share(b[first:last], a[first:last]) <= 5e-5
