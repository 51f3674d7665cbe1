# SPDX-License-Identifier: MIT
"""precision=bf16: weight matrices and what they multiply in bf16, sums and values in f32."""

import json
import os
import subprocess

import files
import h5py
import numpy as np
import pytest

MODELS = ["gpt2", "llama3-gqa", "qwen2"]
BF16 = "precision=bf16"


def logits(run_ids, model, prompts, *overrides, name):
    method = {"kind": "capture", "sites": ["logits"], "positions": "all"}
    with h5py.File(run_ids(prompts, method, *overrides, model=model, name=name)) as file:
        assert file.attrs["precision"] == name.split("-")[-1]
        return file["activations/logits"][:]


@pytest.mark.parametrize("model", MODELS)
def test_logits_are_near_those_of_f32(run_ids, auto_backend, model):
    """Every factor of a product moves by up to 2^-9 of itself, so the branch that a layer adds to
    the stream by some 2^-8 of its size, as independent noise. The 2 L + 1 products in a row of
    these models add up to sqrt(2 L + 1) of that, times what their norms amplify (below 4 here);
    the worst of thousands of values lies some 4 deviations out: 2^-8 sqrt(2 4 + 1) 4 4 is 0.19
    of the typical size, and the largest value, which is the measure, is 3 times that."""
    prompts = [prompt["ids"].tolist() for prompt in files.reference(model)]
    exact = logits(run_ids, model, prompts, "backend=ref", "precision=f64", name="f64")
    ref = logits(run_ids, model, prompts, "backend=ref", BF16, name="ref-bf16")
    fast = logits(run_ids, model, prompts, "backend=auto", BF16, name="auto-bf16")
    assert 1e-4 < files.share(ref, exact) < 0.06  # below, nothing would have been rounded
    # Values halfway between two bf16 numbers may be rounded to either: see `causa doctor`. A GPU
    # rounds what attention multiplies too.
    assert files.share(fast, ref) < (0.01 if auto_backend == "cpu" else 0.05)


@pytest.mark.parametrize("model", MODELS)
def test_scopes(run_ids, model):
    """All scopes run and rank the tokens as f32 does, but for near ties."""
    prompts = [prompt["ids"].tolist() for prompt in files.reference(model)]
    scopes = ["semantic", "fisher", "temperature", "input_x_gradient", "integrated_gradients"]
    method = {"kind": "jacobian", "target": "#5:#9", "scopes": scopes, "rank": 3,
              "evaluate": {"randomise": {"fractions": [0.5, 1]}, "loo": True}}
    wide = run_ids(prompts, method, model=model, name="f32")
    narrow = run_ids(prompts, method, BF16, model=model, name="bf16")
    with h5py.File(wide) as expected, h5py.File(narrow) as got:
        assert got.attrs["precision"] == "bf16" and "precision: bf16" in got.attrs["config"]
        for scope in scopes:
            a, b = (file[f"attribution/{scope}/score"][:] for file in (got, expected))
            assert np.corrcoef(a, b)[0, 1] > 0.99, scope
        one, other = (file["attribution/fisher/trace"][:] for file in (got, expected))
        np.testing.assert_allclose(one, other, rtol=0.1)


def test_embedding_noise(causa, text_model, tmp_path):
    """The deviation of a table of bf16 numbers is that of the table, but for their rounding: the
    noise in its units, and with it the corrupted run, stay what they are."""
    method = {"kind": "patch", "style": "restore", "sites": ["blocks.0.mlp_out"],
              "noise": {"sigma": 3, "draws": 2}}
    rows = [{"text": "John gave a drink to", "subject": "John", "answer_ids": [7]}]
    values = []
    for precision in ("f32", "bf16"):
        path = tmp_path / f"{precision}.h5"
        config = files.write_config(tmp_path / f"{precision}.yaml", method, rows, model=text_model,
                                    metric="logprob", precision=precision)
        causa("run", config, f"output={path}")
        with h5py.File(path) as file:
            values.append(file["baseline/corrupted"][0])
            assert file["baseline/clean"][0] != file["baseline/corrupted"][0]
    np.testing.assert_allclose(values[1], values[0], rtol=0.05)


def test_edge_scores(causa, auto_backend, tmp_path):
    """The factors of a score are rounded after they were made: the sums over an output's edges miss
    its node's score, which no such product makes, by what that is, and by no more. A term moves by
    up to 2^-8 of itself; a score has thousands, of both signs."""
    demo = files.ROOT / "experiments" / "demo-model"

    def run(level, *overrides):
        path = tmp_path / "r.h5"
        method = {"kind": "eap", "variant": "eap", "level": level}
        config = files.write_config(tmp_path / "r.yaml", method, [{"clean": "unused"}], model=demo)
        causa("run", config, f"data.file={demo / 'ioi.csv'}", "data.limit=7", f"output={path}",
              "--overwrite", *overrides)
        return np.nan_to_num(files.datasets(path)[f"{level}s/score"])

    exact, narrow = run("edge"), run("edge", BF16)
    ref = run("edge", BF16, "backend=ref")
    assert np.corrcoef(narrow.ravel(), exact.ravel())[0, 1] > 0.999
    assert files.share(narrow, ref) < (0.01 if auto_backend == "cpu" else 0.05)
    nodes = run("node", BF16, "backend=ref")
    assert 1e-5 < files.share(ref.sum(axis=1), nodes) < 2**-8


def peak_bytes(config, output, precision):
    """Peak resident memory of a run. The kernel counts what a process was before it became this
    program: a shell in between is small, this interpreter is not."""
    binary = os.environ.get("CAUSA", files.ROOT / "build" / "causa")
    command = [str(binary), "run", str(config), f"precision={precision}", f"output={output}",
               "backend=cpu", "--threads", "1", "-q"]
    subprocess.run(["sh", "-c", '"$@"; exit $?', "sh", *command], cwd=files.ROOT, check=True,
                   env=files.environment())
    with h5py.File(output) as file:
        return file["run"].attrs["peak_host_bytes"]


def test_weights_take_half(causa, tmp_path):
    """In the plan to the byte, and resident but for the 8 MiB of tiles that products go through."""
    folder = files.write_text_model(tmp_path / "large", vocabulary=300_000)
    (folder / "tokenizer.json").unlink()
    method = {"kind": "capture", "sites": ["blocks.0.resid_post"]}
    config = files.write_config(tmp_path / "c.yaml", method, [{"clean_ids": [1, 2, 3]}],
                                model=folder)
    plans = {precision: json.loads(causa("plan", config, "--json", "backend=cpu",
                                         f"precision={precision}").stdout)
             for precision in ("f32", "bf16")}
    assert plans["bf16"]["dtype"] == "bf16"
    weights = {precision: plan["weight_bytes"] for precision, plan in plans.items()}
    assert plans["bf16"]["work_bytes"] == plans["f32"]["work_bytes"]
    assert 0.5 <= weights["bf16"] / weights["f32"] < 0.51
    peak = {precision: peak_bytes(config, tmp_path / f"{precision}.h5", precision)
            for precision in weights}
    saved = peak["f32"] - peak["bf16"]
    assert abs(saved - (weights["f32"] - weights["bf16"])) < 10 << 20


def test_doctor(causa):
    stored = files.MODELS / "llama3-gqa" / "reference.h5"
    text = causa("doctor", stored.parent, "--reference", stored, "--precision", "bf16").stdout
    assert "cpu bf16" in text and "against ref bf16" in text and "failed: 0" in text
    done = causa("doctor", stored.parent, "--precision", "f16", check=False)
    assert done.returncode == 2 and "--precision: expected f32 or bf16, got 'f16'" in done.stderr
