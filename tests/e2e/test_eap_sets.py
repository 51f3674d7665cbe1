# SPDX-License-Identifier: MIT
"""Answers that are sets of tokens: prob_diff is of their sums, logit_diff of their means, in the
metric and, both being sums over tokens, in the scores."""

import csv
import sys

import files
import h5py
import numpy as np
import pytest
from test_eap import EAP, edges, near
from test_experiments import EXPERIMENTS, load

RIGHT, WRONG = [11, 3, 250], [7, 19]


@pytest.fixture
def scored(causa, tmp_path):
    """scored(metric, answers, wrongs) -> datasets of two pairs by their clean gradients, in float64."""
    def run(metric, answer, wrong):
        rows = [{**row, "answer_ids": answer, "wrong_ids": wrong} for row in files.id_pairs(2)]
        config = files.write_config(tmp_path / "s.yaml", {**EAP, "variant": "eap"}, rows, metric=metric,
                                    model=files.MODELS / "smollm2", backend="ref", precision="f64")
        causa("run", config, f"output={tmp_path / 's.h5'}", "--overwrite")
        return files.datasets(tmp_path / "s.h5")

    return run


@pytest.fixture
def logits(causa, tmp_path):
    """[2, V] at the last tokens of the clean prompts of `scored`."""
    method = {"kind": "capture", "sites": ["logits"], "positions": "last"}
    config = files.write_config(tmp_path / "l.yaml", method, files.id_pairs(2),
                                model=files.MODELS / "smollm2", backend="ref", precision="f64")
    causa("run", config, f"output={tmp_path / 'l.h5'}")
    return files.datasets(tmp_path / "l.h5")["activations/logits"].astype(np.float64)


def test_metrics_of_sets(scored, logits):
    """From the logits: sums of probabilities, means of logits. They are stored in float32."""
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    probability = scored("prob_diff", RIGHT, WRONG)["baseline/clean"]
    assert probability == pytest.approx(p[:, RIGHT].sum(axis=1) - p[:, WRONG].sum(axis=1), rel=1e-5)
    difference = scored("logit_diff", RIGHT, WRONG)["baseline/clean"]
    assert difference == pytest.approx(
        logits[:, RIGHT].mean(axis=1) - logits[:, WRONG].mean(axis=1), rel=1e-5)


def test_scores_of_sets(scored):
    """To first order a score is linear in the metric."""
    whole = edges(scored("prob_diff", RIGHT, WRONG))
    of = lambda token: edges(scored("prob", [token], [token + 1]))
    near(sum(map(of, RIGHT)) - sum(map(of, WRONG)), whole, 1e-6)
    whole = edges(scored("logit_diff", RIGHT, WRONG))
    each = [edges(scored("logit_diff", [a], [b])) for a in RIGHT for b in WRONG]
    near(np.mean(each, axis=0), whole, 1e-6)


def test_pairs_of_verbs(tmp_path, monkeypatch):
    """Either number equally often, all verbs of it right and of the other wrong; as generated."""
    folder = EXPERIMENTS / "eap"
    with (folder / "agreement.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len({row["clean"] for row in rows}) == 32
    sets = {}
    for row in rows:
        clean, corrupted = row["clean"].split(), row["corrupted"].split()
        assert [i for i, (a, b) in enumerate(zip(clean, corrupted)) if a != b] == [2]
        assert sets.setdefault(row["label"], (row["answer"], row["wrong"])) == (row["answer"], row["wrong"])
        assert row["id"].split("-")[0] == ("plural" if row["label"] == "1" else "singular")
    assert sets["0"] == sets["1"][::-1] and len(sets["0"][0].split("|")) == 8
    assert sum(row["label"] == "1" for row in rows) == 16
    monkeypatch.setattr("sys.argv", ["generate_agreement.py", str(tmp_path / "again.csv")])
    monkeypatch.setattr("sys.path", sys.path[:])
    load(folder / "generate_agreement.py").main()
    assert (tmp_path / "again.csv").read_bytes() == (folder / "agreement.csv").read_bytes()


def test_circuits_of_number(causa, tmp_path):
    """What experiments/eap/README.md says of the bundled model."""
    causa("run", "configs/agreement.yaml", f"output={tmp_path / 'a.h5'}")
    with h5py.File(tmp_path / "a.h5") as file:
        at = file["baseline"].attrs
        assert at["accuracy"] == 1 and at["clean_mean"] > 0.999 and at["corrupted_mean"] < -0.999
        assert (np.diff(file["data/answer_offsets"][:]) == 8).all()
        faithful = dict(zip(file["circuits/requested"][:].tolist(), file["faithfulness/normalized"][:]))
        assert abs(faithful[7]) < 0.05 and 0.8 < faithful[15] < 0.9 and faithful[30] > 0.99
        score, source = np.nan_to_num(file["edges/score"][:]), file["edges/source"].asstr()[:].tolist()
        best = np.unravel_index(np.abs(score).argmax(), score.shape)
        assert (source[best[0]], file["edges/destination"].asstr()[best[1]]) == ("input", "a0.h6<v>")
