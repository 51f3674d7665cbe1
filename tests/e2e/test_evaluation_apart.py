# SPDX-License-Identifier: MIT
"""Evaluations read with care: targets that continue a word apart from those that begin one, and
leave-one-out beside scores drawn at random."""

import files
import h5py
import numpy as np
import pytest

TEXTS = ["When John and Mary went to the station", "The man who saw John left", "So did John and",
         "The station", "Mary had seen the other and the", "When the mann left to"]
AOPC = {"aopc": {"fractions": [0.2, 0.5]}}


def test_targets_that_continue_words_stand_apart(causa, tmp_path, text_model):
    method = {"kind": "jacobian", "scopes": ["semantic", "temperature"], "target": "gold",
              "evaluate": AOPC}
    config = files.write_config(tmp_path / "c.yaml", method, [{"text": text} for text in TEXTS],
                                model=text_model, backend=files.BACKEND)
    done = causa("run", config, f"output={tmp_path / 'c.h5'}")
    with h5py.File(tmp_path / "c.h5") as file:
        pieces = file["data/target_piece"].asstr()[:]
        whole = np.array([piece.startswith(" ") for piece in pieces])
        assert 2 <= whole.sum() <= len(TEXTS) - 2, list(pieces)  # or nothing is told apart
        aopc = file["evaluation/aopc"]
        assert aopc["whole_word"][:].tolist() == whole.tolist()
        assert (aopc.attrs["whole_words"], aopc.attrs["word_parts"]) == (whole.sum(), (~whole).sum())
        right = file["data/target"][:] == file["baseline/predicted"][:]
        for kind, chosen in (("whole_words", whole), ("word_parts", ~whole)):
            assert aopc.attrs[f"accuracy_{kind}"] == pytest.approx(right[chosen].mean())
            for scope in ("semantic", "temperature", "random"):
                area = aopc[f"{scope}/aopc_per_example"][:][chosen]
                assert aopc[scope].attrs[f"aopc_{kind}"] == pytest.approx(area.mean())
                assert aopc[scope].attrs[f"sem_{kind}"] == pytest.approx(
                    area.std(ddof=1) / len(area) ** 0.5)
        overall = aopc["semantic"].attrs["aopc"]
    assert f"over {whole.sum()} whose target begins a word" in done.stdout
    line, = [line for line in done.stdout.splitlines() if line.startswith("    semantic  ") and "(" in line
             and "," in line and "'" not in line]
    assert f"{overall:.3f}" in line
    causa("report", tmp_path / "c.h5", "-o", tmp_path / "pages")
    assert f"AOPC, {whole.sum()} targets that begin a word" in (tmp_path / "pages" / "c.html").read_text()


@pytest.mark.parametrize("target, words", [(" the", "begin a word"), ("he", "continue one")])
def test_targets_of_one_kind_have_no_other(causa, tmp_path, text_model, target, words):
    method = {"kind": "jacobian", "target": target, "evaluate": AOPC}
    config = files.write_config(tmp_path / "c.yaml", method, [{"text": text} for text in TEXTS],
                                model=text_model, backend=files.BACKEND)
    done = causa("run", config, f"output={tmp_path / 'c.h5'}")
    head, *rows = done.stdout[done.stdout.index("AOPC over"):].splitlines()
    assert head == f"AOPC over {len(TEXTS)} prompts, whose targets all {words}"
    assert "nan" not in done.stdout and [len(row.split()) for row in rows] == [2, 2]
    causa("report", tmp_path / "c.h5", "-o", tmp_path / "pages")
    page = (tmp_path / "pages" / "c.html").read_text()
    assert ">nan" not in page


def test_without_a_tokenizer_there_are_no_words(run_ids):
    method = {"kind": "jacobian", "target": "argmax", "evaluate": AOPC}
    with h5py.File(run_ids([[1, 2, 3, 4]], method)) as file:
        assert "whole_word" not in file["evaluation/aopc"]


def prompts(count):
    rng = np.random.default_rng(5)
    return [rng.integers(0, 390, 24).tolist() for _ in range(count)]


@pytest.mark.long
def test_leave_one_out_of_random_scores(run_ids):
    """Chance: of 60 prompts the mean rank correlation of 24 tokens has a standard deviation of
    1 / sqrt(23 x 60) = 0.027, the mean percentile one of 29 / sqrt(60) = 3.7; four of them. Scores
    belong to the prompt and the seed."""
    method = {"kind": "jacobian", "target": "argmax", "evaluate": {"loo": True}}
    rows, random = prompts(60), {}
    for name, order, seed in (("one", rows, 1), ("turned", rows[::-1], 1), ("other", rows, 2)):
        path = run_ids(order, method, f"seed={seed}", model="smollm2", name=name)
        with h5py.File(path) as file:
            group = file["evaluation/loo/random"]
            random[name] = group["spearman"][:]
            assert abs(group.attrs["spearman"]) < 0.11 and abs(group.attrs["kendall"]) < 0.11
            assert abs(group.attrs["top1_percentile"] - 48) < 15
            assert group.attrs["spearman_sem"] == pytest.approx(
                random[name].std(ddof=1) / 60 ** 0.5)
    assert len(np.unique(random["one"])) > 30
    assert (random["one"] == random["turned"][::-1]).mean() > 0.9
    assert (random["one"] != random["other"]).mean() > 0.9
