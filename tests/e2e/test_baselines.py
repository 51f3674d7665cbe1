# SPDX-License-Identifier: MIT
"""Baselines of scopes that are integrated: paths from other embeddings than zero."""

import json
import shutil

import files
import h5py
import numpy as np
import pytest
from test_evaluation import BLANK, write_blank_model

SCOPES = ["integrated_gradients", "path_semantic"]
TOKEN = 7
PROMPTS = [[3, 1, 4, TOKEN, 9, 2, 6], [5, 35, 8]]


def method(baseline, steps=64, **more):
    return {"kind": "jacobian", "target": "#5", "scopes": SCOPES, "baseline": baseline, "steps": steps,
            **more}


def read(path):
    with h5py.File(path) as file:
        return {f"{scope}/{name}": file[f"attribution/{scope}/{name}"][:].astype(float)
                for scope in SCOPES for name in ("score", "signed", "residual")}


@pytest.mark.parametrize("model", ["gpt2", "llama3-gqa-new"])
@pytest.mark.float64
def test_path_runs_from_the_token_to_the_prompt(run_ids, model):
    """f(x) - f(b) is what two plain runs say, b the prompt of that token alone; a token that is the
    baseline's has nothing to explain; the residual falls as 1 / steps^2: a quarter, within 10 %."""
    residuals = []
    for steps in (64, 128):
        path = run_ids(PROMPTS, method(f"#{TOKEN}", steps), *files.EXACT, model=model, name=f"s{steps}")
        got = read(path)
        residuals.append({scope: got[f"{scope}/residual"] for scope in SCOPES})
    for scope in SCOPES:
        ratio = np.abs(residuals[0][scope] / residuals[1][scope])
        assert np.all(ratio > 3.6) and np.all(ratio < 4.4), (scope, ratio)
        assert got[f"{scope}/score"][3] == 0 and np.all(np.delete(got[f"{scope}/score"], 3) > 0)
    with h5py.File(path) as file:
        assert file["attribution/path_semantic"].attrs["baseline"] == f"#{TOKEN}"
        clean, start = file["baseline/clean"][:], file["data/offsets"][:-1]
    plain = {"kind": "jacobian", "target": "#5"}
    with h5py.File(run_ids([[TOKEN] * len(p) for p in PROMPTS], plain, *files.EXACT, model=model,
                           name="plain")) as file:
        change = clean - file["baseline/clean"][:]
    explained = np.add.reduceat(got["path_semantic/signed"], start) + got["path_semantic/residual"]
    assert explained == pytest.approx(change, abs=1e-5)  # float32 scores


@pytest.mark.float64
def test_mean_is_a_token_with_the_mean_embedding(run_ids, tmp_path):
    model = write_blank_model(tmp_path / "mean", "gpt2", mean=True)
    mean, blank, zero = (read(run_ids(PROMPTS, method(baseline, 5), *files.EXACT, model=model,
                                      name=baseline.strip("#")))
                         for baseline in ("mean", f"#{BLANK}", "zero"))
    for name, values in mean.items():
        assert values == pytest.approx(blank[name], abs=1e-5), name  # the row is float32
        assert not np.allclose(values, zero[name], atol=1e-3), name


def test_zero_is_a_token_without_an_embedding(run_ids, tmp_path):
    model = write_blank_model(tmp_path / "zero", "gpt2")
    zero, blank = (read(run_ids(PROMPTS, method(baseline, 5), *files.EXACT, model=model,
                                name=baseline.strip("#"))) for baseline in ("zero", f"#{BLANK}"))
    for name, values in zero.items():
        assert values == pytest.approx(blank[name], rel=1e-6, abs=1e-9), name


def test_other_scopes_and_later_paths_do_not_see_it(run_ids):
    """The leaf that products are taken with is the embedding again."""
    both = method(f"#{TOKEN}", 3, scopes=["input_x_gradient", *SCOPES], evaluate={"loo": True})
    alone = method(f"#{TOKEN}", 3, scopes=["path_semantic"])
    with h5py.File(run_ids(PROMPTS, both, *files.EXACT, "batch=7", name="both")) as file, \
            h5py.File(run_ids(PROMPTS, alone, *files.EXACT, name="alone")) as one, \
            h5py.File(run_ids(PROMPTS, {**both, "baseline": "zero"}, *files.EXACT, name="zero")) as zero:
        at = "attribution/path_semantic/signed"
        assert np.array_equal(file[at][:], one[at][:])
        at = "attribution/input_x_gradient/signed"
        assert np.array_equal(file[at][:], zero[at][:])


def test_tokens_that_the_tokenizer_names(causa, text_model, tmp_path):
    model = tmp_path / "named"
    shutil.copytree(text_model, model)
    ids = {"bos": 5, "eos": 6, "pad": 8}
    names = {v: k for k, v in json.loads((model / "tokenizer.json").read_text())["model"]["vocab"].items()}
    config = {"bos_token": names[5], "eos_token": {"content": names[6]}, "pad_token": names[8]}
    (model / "tokenizer_config.json").write_text(json.dumps(config))

    def scores(baseline, folder=model, check=True):
        where = files.write_config(tmp_path / "c.yaml", method(baseline, 3), [{"clean": "When John"}],
                                   model=folder, backend="ref")
        done = causa("run", where, f"output={tmp_path / 'c.h5'}", "--overwrite", check=check)
        return read(tmp_path / "c.h5") if check else done

    seen = []
    for word, id_ in ids.items():
        named, numbered = scores(word), scores(f"#{id_}")
        assert all(np.array_equal(named[name], numbered[name]) for name in named)
        seen.append(named["path_semantic/signed"])
    assert not np.array_equal(seen[0], seen[1]) and not np.array_equal(seen[1], seen[2])
    done = scores("pad", folder=text_model, check=False)
    assert done.returncode == 2 and "method.baseline: the tokenizer names no pad token" in done.stderr


def test_ablation_pads_with_the_token_that_the_tokenizer_names(causa, text_model, tmp_path):
    """Unless another one is given; a tokenizer that names none needs one."""
    model = tmp_path / "named"
    shutil.copytree(text_model, model)
    vocabulary = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    name, = [text for text, id_ in vocabulary.items() if id_ == 8]
    (model / "tokenizer_config.json").write_text(json.dumps({"pad_token": name}))

    def run(folder=model, check=True, **pad):
        aopc = {"fractions": [0.2, 0.5], "ablation": "pad", **pad}
        where = files.write_config(tmp_path / "c.yaml", method("zero", 3, evaluate={"aopc": aopc}),
                                   [{"clean": "When John and Mary went"}], model=folder, backend="ref")
        done = causa("run", where, f"output={tmp_path / 'c.h5'}", "--overwrite", check=check)
        if not check:
            return done
        with h5py.File(tmp_path / "c.h5") as file:
            group = file["evaluation/aopc"]
            return group.attrs["pad"], group["path_semantic/delta_logprob"][:].tolist()

    named, given, other = run(), run(pad="#8"), run(pad="#9")
    assert named == given and named[0] == 8
    assert other[0] == 9 and other[1] != named[1]
    done = run(text_model, check=False)
    assert done.returncode == 2 and "names no pad token: give it as text or #id in" in done.stderr


@pytest.mark.parametrize("baseline, more, words", [
    ("mean", {"compat": "jacobian-scopes"}, "method.baseline: expected zero with compat"),
    ("#9999", {}, "method.baseline: expected a token id from #0"),
    ("eos", {}, "method.baseline: the tokenizer names no eos token"),
    ("one", {}, "the model has no tokenizer"),
])
def test_bad_baselines(run_ids, baseline, more, words):
    done = run_ids(PROMPTS, method(baseline, **more), check=False)
    assert done.returncode == 2 and words in done.stderr, done.stderr
