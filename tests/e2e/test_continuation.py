# SPDX-License-Identifier: MIT
"""Metrics of whole continuations: what they say is the mean of what `logprob` says of the prompt with
the first tokens of the continuation behind it, one run a token.
"""

import files
import numpy as np
import pytest
from test_patch import PAIR, id_pairs, stop_inside_an_example

PATCH = {"kind": "patch"}
SITES = ["embed", "blocks.*.resid_pre", "blocks.*.resid_post", "blocks.*.attn.pattern",
         "blocks.*.attn.z[*]", "blocks.*.mlp_out", "final_norm"]
TEXTS = {"answer_text": " the store to", "wrong_text": " a bar"}
ANSWERS, WRONGS = [[7, 8, 9], [10], [11, 12]], [[20, 21], [22, 23, 24], [25]]


def rows_with_texts():
    return [{**row, "answer_text_ids": a, "wrong_text_ids": w}
            for row, a, w in zip(id_pairs(3), ANSWERS, WRONGS)]


def token_by_token(row, ids):
    """One pair for every token: the prompts with the tokens before it, and the token as answer."""
    return [{"clean_ids": row["clean_ids"] + ids[:k], "corrupted_ids": row["corrupted_ids"] + ids[:k],
             "answer_ids": [ids[k]]} for k in range(len(ids))]


@pytest.fixture
def run(causa, tmp_path):
    """run(method, rows, metric, key=value...) -> the datasets of a result on ref, in float64."""
    def call(method, rows, metric, *overrides, model="smollm2", name="c"):
        config = files.write_config(tmp_path / f"{name}.yaml", method, rows, metric=metric,
                                    model=files.MODELS / model, backend="ref", precision="f64")
        causa("run", config, f"output={tmp_path / name}.h5", "--overwrite", *overrides)
        return files.datasets(tmp_path / f"{name}.h5")

    return call


def expected_of(run, method, row, ids, name):
    """Mean over the tokens of a dataset with examples as its first axis."""
    return run(method, token_by_token(row, ids), "logprob")[name].mean(axis=0)


def near(got, expected):
    """Sums of the same terms in another order."""
    assert np.isfinite(expected).all()
    assert np.allclose(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("model", ["smollm2", "gpt2"])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_patch(run, model, direction):
    method, rows = {**PATCH, "sites": SITES, "direction": direction}, rows_with_texts()
    one = run(method, rows, "continuation", model=model)
    two = run(method, rows, "continuation_diff", model=model, name="d")
    assert one["patch/value"].shape[2] == max(len(row["clean_ids"]) for row in rows)
    for i, row in enumerate(rows):
        length = len(row["clean_ids"])
        for name in ("patch/value", "baseline/clean", "baseline/corrupted"):
            cut = lambda values: values[:, :length] if values.ndim == 2 else values
            answer, wrong = (cut(run(method, token_by_token(row, ids), "logprob", model=model,
                                     name="t")[name].mean(axis=0))
                             for ids in (row["answer_text_ids"], row["wrong_text_ids"]))
            near(cut(one[name][i]), answer)
            near(cut(two[name][i]), answer - wrong)
        gap = two["baseline/clean"][i] - two["baseline/corrupted"][i]
        near(two["patch/effect"][i, :, :length],
             (two["patch/value"][i, :, :length] - two["baseline/corrupted"][i]) / gap)
        assert np.isnan(two["patch/value"][i, :, length:]).all()
    assert two["data/position"].tolist() == [len(row["clean_ids"]) - 1 for row in rows]
    assert two["data/answer_text_ids"].tolist() == sum(ANSWERS, [])
    assert two["data/wrong_text_ids"].tolist() == sum(WRONGS, [])
    assert two["data/wrong_text_offsets"].tolist() == [0, 2, 5, 6]


@pytest.mark.long
def test_patch_does_not_depend_on_the_batch(run):
    method, rows = {**PATCH, "sites": SITES}, rows_with_texts()
    expected = run(method, rows, "continuation_diff")
    for batch in (1, 7, 40):
        got = run(method, rows, "continuation_diff", f"batch={batch}", name="b")
        for name in ("patch/value", "patch/effect", "baseline/clean", "baseline/corrupted"):
            assert got[name].tobytes() == expected[name].tobytes(), (batch, name)
    long = [{**row, "answer_text_ids": list(range(1, 80))} for row in rows]
    expected = run(method, long, "continuation")
    got = run(method, long, "continuation", "batch=16", name="b")
    assert got["patch/value"].tobytes() == expected["patch/value"].tobytes()


def test_noise_is_that_of_the_prompt(causa, tmp_path, text_model):
    """Both continuations, and every other metric, see the same corrupted runs."""
    def call(metric, **more):
        method = {**PATCH, "sites": ["blocks.*.resid_pre"], "style": "restore", "noise": {"draws": 2}}
        config = files.write_config(tmp_path / "n.yaml", method, [{**PAIR, **TEXTS, **more}],
                                    metric=metric, model=text_model, backend="ref", precision="f64")
        causa("run", config, f"output={tmp_path / 'n.h5'}", "--overwrite")
        return files.datasets(tmp_path / "n.h5")

    one = call("continuation", answer_text=PAIR["answer"])
    word = call("logprob")
    for name in ("patch/value", "patch/effect", "patch/effect_interval", "baseline/corrupted"):
        near(one[name], word[name])
    answer = call("continuation")
    wrong = call("continuation", answer_text=TEXTS["wrong_text"])
    both = call("continuation_diff")
    near(both["patch/value"], answer["patch/value"] - wrong["patch/value"])
    near(both["baseline/corrupted"], answer["baseline/corrupted"] - wrong["baseline/corrupted"])


@pytest.mark.parametrize("method", [
    {"variant": "eap"}, {"variant": "ig-inputs", "steps": 3, "rule": "midpoint"},
    {"variant": "ig-activations", "steps": 2}, {"variant": "clean-corrupted"}, {"variant": "exact"},
    {"variant": "eap", "ablation": "zero"}, {"variant": "exact", "level": "node"},
], ids=lambda method: "-".join(map(str, method.values())))
def test_eap(run, method):
    """Scores are linear in the metric; those of edges per pair, those of nodes as means."""
    method, rows = {"kind": "eap", **method}, rows_with_texts()
    edges = "level" not in method
    name = "edges/score_per_example" if edges else "nodes/score"
    method = {**method, "per_example": edges}
    one = run(method, rows, "continuation")
    two = run(method, rows, "continuation_diff", name="d")
    expected_one, expected_two = [], []
    for row in rows:
        found = [run(method, token_by_token(row, ids), "logprob", name="t")
                 for ids in (row["answer_text_ids"], row["wrong_text_ids"])]
        answer, wrong = (f[name].astype(float) if not edges else f[name].astype(float).mean(axis=0)
                         for f in found)
        expected_one.append(answer)
        expected_two.append(answer - wrong)
        clean = [f["baseline/clean"].mean() for f in found]
        i = len(expected_one) - 1
        near(one["baseline/clean"][i], clean[0])
        near(two["baseline/clean"][i], clean[0] - clean[1])
    for got, expected in ((one, expected_one), (two, expected_two)):
        expected = np.array(expected) if edges else np.mean(expected, axis=0)
        known = np.isfinite(got[name])
        assert known.any() and (known == np.isfinite(expected)).all()
        # scores are stored in float32
        assert files.share(got[name][known], expected[known]) < 2e-6


def test_eap_does_not_depend_on_the_batch(run):
    method, rows = {"kind": "eap", "steps": 3, "per_example": True}, rows_with_texts()
    expected = run(method, rows, "continuation_diff")
    for batch in (1, 12, 60):
        got = run(method, rows, "continuation_diff", f"batch={batch}", name="b")
        for name in ("edges/score_per_example", "edges/score", "baseline/clean", "baseline/residual"):
            assert files.share(np.nan_to_num(got[name]), np.nan_to_num(expected[name])) < 1e-6, name


def test_circuits(run):
    """Circuits of one continuation are those of its tokens, whatever runs beside them."""
    rows, name = rows_with_texts(), "faithfulness/per_example"
    method = {"kind": "eap", "variant": "eap", "circuit": {"sizes": [0, 12, 40]},
              "evaluate": {"faithfulness": True}}
    two = run(method, rows, "continuation_diff")
    # no edges: the ablated run; all of them: the clean one
    near(two[name][0], two["baseline/corrupted"])
    every = {**method, "circuit": {"fractions": [1.0]}}
    full = run(every, rows, "continuation_diff", name="f")
    near(full[name][0], full["baseline/clean"])
    for i, row in enumerate(rows):
        alone = run(every, token_by_token(row, row["answer_text_ids"]), "logprob", name="t")
        other = run(every, token_by_token(row, row["wrong_text_ids"]), "logprob", name="t")
        near(full[name][0, i], alone[name][0].mean() - other[name][0].mean())
    for lanes in ("batch=1", "batch=30"):
        assert files.share(run(method, rows, "continuation_diff", lanes, name="l")[name],
                           two[name]) < 1e-10


@pytest.mark.parametrize("method, row, metric, code, words", [
    (PATCH, {}, "continuation", 3, "column answer_text: the metric continuation needs a value"),
    (PATCH, {"answer_text_ids": [1]}, "continuation_diff", 3, "column wrong_text: the metric"),
    (PATCH, {"answer_text_ids": [1], "wrong_text_ids": [1]}, "continuation_diff", 3,
     "column wrong_text: expected other tokens"),
    (PATCH, {"answer_text_ids": [1] * 600}, "continuation", 3,
     "column answer_text: prompt and continuation have"),
    ({"kind": "eap", "variant": "information-flow"}, {"answer_text_ids": [1]}, "continuation", 2,
     "metric: expected a metric of the prompt's last token"),
    ({"kind": "eap", "by_position": True, "variant": "eap"},
     {"answer_text_ids": [1], "wrong_text_ids": [2, 3]}, "continuation_diff", 3,
     "by_position needs prompts of one length"),
], ids=["no answer", "no wrong", "equal", "long", "flow", "lengths"])
def test_bad_input(causa, tmp_path, method, row, metric, code, words):
    pair = {"clean_ids": [1, 2, 3], "corrupted_ids": [1, 5, 3], **row}
    method = {"sites": ["blocks.*.resid_pre"], **method} if method is PATCH else method
    config = files.write_config(tmp_path / "x.yaml", method, [pair], metric=metric,
                                model=files.MODELS / "smollm2")
    done = causa("run", config, f"output={tmp_path / 'x.h5'}", check=False)
    assert done.returncode == code and words in done.stderr, done.stderr
    assert not list(tmp_path.glob("x.h5*"))


@pytest.mark.long
def test_stop_inside_an_example(causa, tmp_path):
    """What is done of the two sequences of a pair is kept, and the run goes on behind it."""
    method = {**PATCH, "sites": ["blocks.*.attn.q[*]", "blocks.*.attn.z[*]"]}
    clean = [(7 * t + 3) % 390 for t in range(60)]
    pair = {"clean_ids": clean, "corrupted_ids": [clean[0], 5, *clean[2:]],
            "answer_text_ids": [1, 2, 3], "wrong_text_ids": [4, 5]}
    config = files.write_config(tmp_path / "one.yaml", method, [pair], backend="ref", batch=64,
                                metric="continuation_diff", model=files.MODELS / "smollm2")
    path, whole = tmp_path / "out.h5", tmp_path / "whole.h5"
    stop_inside_an_example(causa, config, path, 2)
    causa("run", config, f"output={path}", "--resume")
    causa("run", config, f"output={whole}")
    files.same_bytes(path, whole)
