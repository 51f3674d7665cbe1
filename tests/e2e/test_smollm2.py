# SPDX-License-Identifier: MIT
"""A real model, SmolLM2-135M, against values that other implementations computed.

The references lie in tests/fixtures/smollm2, whose README says how they were made.
"""

import json
import pathlib

import h5py
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "build" / "models" / "smollm2.gguf"
REFERENCE = ROOT / "tests" / "fixtures" / "smollm2"

pytestmark = pytest.mark.skipif(not MODEL.exists(), reason="make smollm2 fetches the model")


def run(causa, tmp_path, rows, method):
    data, config, result = tmp_path / "rows.json", tmp_path / "run.yaml", tmp_path / "run.h5"
    data.write_text(json.dumps(rows))
    config.write_text(f"name: run\nmodel: {MODEL}\ndata: {{file: {data}}}\nmethod: {method}\n")
    causa("run", config, f"output={result}")
    return result


def test_logits_and_greedy_continuations(causa, tmp_path):
    """Last logits within 1e-4 of the largest, and every greedy token that the reference is sure of.

    The continuation is fed back: each position's argmax must be the token that follows. Where the
    reference's two best logits are nearer than 0.05, a float32 run may differ.
    """
    cases = [json.loads(line) for line in (REFERENCE / "continuations.jsonl").open()]
    rows = [{"clean_ids": case["ids"] + case["continuation_ids"]} for case in cases]
    result = run(causa, tmp_path, rows,
                 "{kind: capture, sites: [logits], positions: %s}" % list(range(-17, -1)))
    with h5py.File(result) as file, h5py.File(REFERENCE / "logits.h5") as reference:
        logits = file["activations/logits"][:].reshape(len(cases), 16, -1)
        for i, case in enumerate(cases):
            expected = reference[f"{i}/last_logits"][:]
            assert np.abs(logits[i, 0] - expected).max() <= 1e-4 * np.abs(expected).max(), i
            for step, gap in enumerate(case["logit_gap"]):
                if gap >= 0.05:
                    assert logits[i, step].argmax() == case["continuation_ids"][step], (i, step)


def test_prompts_have_the_reference_ids(causa):
    for line in (REFERENCE / "continuations.jsonl").open():
        case = json.loads(line)
        printed = json.loads(causa("tokens", MODEL, "--json", case["prompt"]).stdout)
        assert [1] + printed["ids"] == case["ids"]


def test_scopes_equal_the_published_implementation(causa, tmp_path):
    """Within 1e-3 of the largest score of a prompt; that implementation ran in float32."""
    scopes = ["semantic", "temperature"]
    with h5py.File(REFERENCE / "jacobian-scopes.h5") as reference:
        names = sorted(reference)
        rows = [{"id": name, "clean_ids": reference[name]["ids"][:].tolist()} for name in names]
        result = run(causa, tmp_path, rows, "{kind: jacobian, scopes: %s, target: gold}" % scopes)
        with h5py.File(result) as file:
            offsets = file["data/offsets"][:]
            scores = {scope: file[f"attribution/{scope}/score"][:] for scope in scopes}
        for i, name in enumerate(names):
            for scope in scopes:
                expected, got = reference[name][scope][:], scores[scope][offsets[i]:offsets[i + 1]]
                assert np.abs(got - expected).max() <= 1e-3 * expected.max(), (name, scope)
                assert got[-1] == 0


def test_evaluation_leaves_bos_alone(causa, tmp_path):
    """BOS and the target are never ablated; without its strongest tokens the prediction falls."""
    rows = [{"clean": "The Eiffel Tower stands in the middle of the capital of France, the city of Paris"}]
    data, config, result = tmp_path / "rows.json", tmp_path / "run.yaml", tmp_path / "run.h5"
    data.write_text(json.dumps(rows))
    config.write_text(f"name: run\nmodel: {MODEL}\ndata: {{file: {data}, bos: true}}\n"
                      "method: {kind: jacobian, target: gold, evaluate: {loo: true, "
                      "aopc: {fractions: [0.1, 0.3, 1.0]}}}\n")
    causa("run", config, f"output={result}")
    with h5py.File(result) as file:
        kl, aopc = file["evaluation/loo/kl"][:], file["evaluation/aopc"]
        assert np.isnan(kl[[0, -1]]).all() and (kl[1:-1] >= -1e-6).all()
        for scope in ("semantic", "random"):
            delta = aopc[f"{scope}/delta_logprob"][0]
            assert 0 not in aopc[f"{scope}/ablated"][:] and delta[-1] < -1
        assert aopc["semantic/delta_logprob"][0, 1] < -1
