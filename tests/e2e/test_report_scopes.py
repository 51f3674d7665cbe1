# SPDX-License-Identifier: MIT
"""Pages of attribution results on small files made here: series, words, alignments, evaluations."""

import importlib.util
import re
import sys

import files
import h5py
import numpy as np
import pytest
from test_report import SCRIPT, read_page, run, text_type, write_head

VALUES = [30 + int(25 * np.sin(i / 4)) for i in range(60)]
SERIES = ["<|bos|>"] + [piece for v in VALUES for piece in (*str(v), ",")][:-1]
SENTENCES = [
    ["German", ":", " Der", " Hund", " schl", "äft", ".", " English", ":", " The", " dog", " sleeps"],
    ["German", ":", " Ja", ".", " English", ":", " Yes"],
]
SCOPES = ["semantic", "temperature", "fisher", "input_x_gradient"]
FRACTIONS = [0.05, 0.1, 0.2]


@pytest.fixture(scope="module")
def series():
    """The module of the report; its folder is no package."""
    sys.path.insert(0, str(SCRIPT))
    try:
        spec = importlib.util.spec_from_file_location("report_series", SCRIPT / "series.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(SCRIPT))


def write_scopes(path, prompts, positions, targets):
    """Head, targets and scores of every scope; positions: token read of each prompt."""
    rng = np.random.default_rng(5)
    with h5py.File(path, "w", track_order=True) as file:
        total = write_head(file, "jacobian", prompts)
        file["data/position"][:] = positions
        file["data/target"] = np.full(len(prompts), 7, np.int32)
        file["data/target_piece"] = np.array(targets, dtype=text_type())
        for scope in SCOPES:
            group = file.create_group(f"attribution/{scope}", track_order=True)
            score = rng.random(total) ** 6 * 8
            offsets = file["data/offsets"][:]
            for start, end, read in zip(offsets[:-1], offsets[1:], positions):
                score[start + read + 1:end] = 0
            group["score"] = score.astype(np.float32)
            group.attrs.update({"target": "logit of the target", "units": "norm"})


def write_matrices(path, prompts, scopes=("semantic", "fisher")):
    """Every position but the last is read, and explains the token after it."""
    rng = np.random.default_rng(6)
    counts = [len(prompt) - 1 for prompt in prompts]
    targets = [piece for prompt in prompts for piece in prompt[1:]]
    with h5py.File(path, "w", track_order=True) as file:
        write_head(file, "jacobian", prompts)
        del file["data/position"]
        positions = np.concatenate([np.arange(count) for count in counts])
        file["data/position"] = file["attribution/positions"] = positions
        file["data/target"] = np.arange(len(targets), dtype=np.int32)
        file["data/target_piece"] = np.array(targets, dtype=text_type())
        file["attribution/position_offsets"] = np.concatenate([[0], np.cumsum(counts)])
        for scope in scopes:
            blocks = [np.tril(rng.random((n, n + 1)) ** 3 * 10) for n in counts]
            group = file.create_group(f"attribution/{scope}")
            group["matrix"] = np.concatenate([b.ravel() for b in blocks]).astype(np.float32)
            group["matrix_offsets"] = np.concatenate([[0], np.cumsum([b.size for b in blocks])])


def write_evaluations(path, prompts=24):
    """The true order is known: temperature < fisher = semantic - 0.5 < semantic < random."""
    write_scopes(path, SENTENCES[:1] * prompts, [10] * prompts, [" sleeps"] * prompts)
    rng = np.random.default_rng(7)
    with h5py.File(path, "a", track_order=True) as file:
        rows = rng.normal(0, 1, (prompts, 1))
        shift = {"semantic": 0.0, "temperature": -1.0, "fisher": -0.5, "random": 5.0}
        for scope, by in shift.items():
            group = file.create_group(f"evaluation/aopc/{scope}")
            noise = rng.normal(0, 0.3, (prompts, 3)) if scope in ("temperature", "random") else 0
            group["delta_logprob"] = np.array([-6.0, -8.0, -9.5]) + by + rows + noise
            group.attrs.update({"aopc": -1.25, "sem": 0.02, "published_sem": 0.01})
        file["evaluation/aopc"].attrs["fractions"] = FRACTIONS
        file["evaluation/loo/kl"] = file["attribution/semantic/score"][:] ** 2
        for scope in SCOPES:
            file.create_group(f"evaluation/loo/{scope}").attrs.update(
                {"spearman": 0.55, "spearman_sem": 0.01, "kendall": 0.4, "top1_percentile": 7.5})
        values = np.sort(rng.random((prompts, 16)) ** 4, axis=1)[:, ::-1]
        file["attribution/fisher/eigenvalues"] = values.astype(np.float32)
        file["attribution/fisher/trace"] = values.sum(axis=1) / 0.9


def page_of(path):
    done = run(path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return read_page(path.with_suffix(".html"))


def figures_of(path):
    return {figure.name for figure in path.with_suffix("").iterdir()}


# ---- series


def test_a_number_is_found_by_its_characters(series):
    """One token a digit and one token a number: the same values, and spans that cover them."""
    read = len(SERIES) - 3  # the last comma
    found = series.find(SERIES, read)
    assert found.values == VALUES and found.target == 59
    assert found.spans[0] == (1, 3) and found.spans[59] == (len(SERIES) - 2, len(SERIES))
    whole = ["<s>"] + [piece for v in VALUES for piece in (str(v), ",")]
    found = series.find(whole[:-1], len(whole) - 3)
    assert found.values == VALUES and found.spans[1] == (3, 4) and found.target == 59


def test_influence_of_a_number_is_that_of_its_tokens_together(series):
    found = series.find(SERIES, len(SERIES) - 3)
    scores = np.zeros(len(SERIES))
    scores[1:3] = 3, 4
    assert found.influence("semantic", scores)[0] == 5
    assert found.influence("fisher", scores)[0] == 7


def test_text_is_no_series(series):
    assert series.find(SENTENCES[0], 10) is None
    assert series.find(["In ", "1999", " he had "] * 40, 10) is None
    assert series.find(SERIES[:20], 10) is None


def test_series_page(tmp_path):
    path = tmp_path / "series.h5"
    write_scopes(path, [SERIES, SENTENCES[0]], [len(SERIES) - 3, 10], [SERIES[-2], " sleeps"])
    text = page_of(path)
    assert "bars: influence of a number" in text
    assert "prompt-000-series.png" in figures_of(path)
    assert "prompt-001-series.png" not in figures_of(path)


def test_predictions_of_a_series_stand_by_value(tmp_path):
    """And what is no number is left out; of text the order stays that of the probabilities. The true
    next value is red, the other ones blue; of text all are red."""
    path, true = tmp_path / "series.h5", SERIES[-2]
    for next_, words in ((true, "numbers by value, the true next one red"),
                         ("41", f"numbers by value, the true next one, {true}, is not among them")):
        write_scopes(path, [SERIES, SENTENCES[0]], [len(SERIES) - 3, 10], [true, " sleeps"])
        with h5py.File(path, "a") as file:
            file["predictions/pieces"] = np.array([[next_, " 9", ",", "127"]] * 2, dtype=text_type())
            file["predictions/probability"] = np.array([[0.4, 0.3, 0.1, 0.05]] * 2, np.float32)
        page_of(path)
        source = path.with_suffix(".html").read_text(encoding="utf-8")
        charts = [chart.split("</svg>")[0] for chart in source.split('<svg class="bars"')[1:]]
        shown = [re.findall(r"<title>([^:]*):", chart) for chart in charts]
        by_value = sorted([" 9", next_, "127"], key=int)
        assert shown == [by_value, [next_, " 9", ",", "127"]]
        red = [[colour == "#d00000" for colour in re.findall(r'fill="(#\w+)"', chart)]
               for chart in charts]
        assert red == [[piece == true for piece in by_value], [True] * 4]
        assert words in source


# ---- words and matrices


def test_words(tmp_path):
    path = tmp_path / "words.h5"
    write_scopes(path, SENTENCES, [10, 5], [" sleeps", " Yes"])
    with h5py.File(path, "a") as file:
        file["data/word_offsets"] = np.array([0, 2, 3, 4, 7, 9, 10, 11, 12, 14, 16, 18, 19])
        file["attribution/semantic/word_score"] = np.arange(12, dtype=np.float32)
    page_of(path)
    source = path.with_suffix(".html").read_text(encoding="utf-8")
    cards = [re.findall(r'<span class="(\w+)" title="[^"]*">([^<]*)<', part.split("</div>")[0])
             for part in source.split('class="card"')[1:]]
    assert [word for _, word in cards[1]] == ["German:", " Der", " Hund", " schläft.", " English:",
                                              " The", " dog", " sleeps"]
    assert cards[1][-1][0] == "target" and cards[1][0][0] == "c0"
    assert "semantic</b> · words" in source and "fisher</b> · words" not in source


def test_matrix_page(tmp_path):
    path = tmp_path / "translation.h5"
    write_matrices(path, SENTENCES)
    text = page_of(path)
    assert "What each token rests on" in text and "Influence of each token" not in text
    assert "17 targets" in text
    assert figures_of(path) == {f"prompt-{i:03d}-{scope}-matrix.png" for i in range(2)
                                for scope in ("semantic", "fisher")}


def test_a_large_matrix_is_named_and_not_drawn(tmp_path):
    path = tmp_path / "large.h5"
    write_matrices(path, [["a"] * 130, ["b"] * 3], ["fisher"])
    assert "129 × 130 tokens are too many to draw." in page_of(path)
    assert figures_of(path) == {"prompt-001-fisher-matrix.png"}


# ---- evaluations


def test_evaluation_page(tmp_path):
    path = tmp_path / "aopc.h5"
    write_evaluations(path)
    text = page_of(path)
    for expected in ("Ablation (AOPC)", "− random", "Spearman ρ", "Kendall τ", "0.550 ± 0.020", "7.500",
                     "leave-one-out", "semantic: aopc", "Fisher spectrum", "90.0 ± 0.0 %"):
        assert expected in text, expected
    assert "published sem" not in text and "semantic: spearman" not in text
    assert {"aopc.png", "fisher-spectrum.png"} <= figures_of(path)


def test_paired_difference(tmp_path):
    """Fisher is semantic minus 0.5 everywhere: a difference of exactly -0.15 * 0.5 without width."""
    path = tmp_path / "aopc.h5"
    write_evaluations(path)
    with h5py.File(path, "a") as file:
        file.move("evaluation/aopc/semantic", "evaluation/aopc/input_x_gradient")
    text = page_of(path)
    assert "− input x gradient" in text
    assert re.search(r"fisher-\d\.\d{3}.*?-0\.07500\.0000100 %", text) and "Wilcoxon" not in text
    with h5py.File(path, "a") as file:
        file["evaluation/aopc/fisher"].attrs["paired_wilcoxon"] = 0.0123
        file["evaluation/aopc/random"].attrs["paired_wilcoxon"] = np.nan
    text = page_of(path)
    assert "p (Wilcoxon)" in text and "-0.07500.0000100 %0.012" in text and "nan" not in text.lower()


def test_prompts_that_were_not_reached_are_left_out(tmp_path):
    path = tmp_path / "partial.h5"
    write_evaluations(path)
    with h5py.File(path, "a") as file:
        file["evaluation/aopc/random/delta_logprob"][20:] = np.nan
        file["attribution/fisher/eigenvalues"][22:] = np.nan
        file["attribution/fisher/trace"][22:] = np.nan
    text = page_of(path)
    assert "1.96 standard errors over 20 prompts" in text and "prompts22" in text
    assert "nan" not in text.lower()


def test_one_prompt_and_one_fraction(tmp_path):
    path = tmp_path / "one.h5"
    write_evaluations(path, prompts=1)
    with h5py.File(path, "a") as file:
        for scope in list(file["evaluation/aopc"]):
            delta = file[f"evaluation/aopc/{scope}/delta_logprob"][:, :1]
            del file[f"evaluation/aopc/{scope}/delta_logprob"]
            file[f"evaluation/aopc/{scope}/delta_logprob"] = delta
        del file["evaluation/aopc"].attrs["fractions"]
        file["evaluation/aopc/fraction"] = FRACTIONS[:1]
        first = file["attribution/fisher/eigenvalues"][:, :1]
        del file["attribution/fisher/eigenvalues"]
        file["attribution/fisher/eigenvalues"] = first
    text = page_of(path)
    assert "Δ at 5 %" in text and "nan" not in text.lower()
    assert "fisher-spectrum.png" not in figures_of(path)


# ---- spans, probes and random weights, of results of the tool itself


def test_page_of_spans_words_and_probes(causa, text_model, tmp_path):
    rows = [{"clean": "Mary and John went to", "answer_text": " the store"}]
    method = {"kind": "jacobian", "target": "answer_text", "scopes": ["semantic"]}
    config = files.write_config(tmp_path / "span.yaml", method, rows, model=text_model, backend="ref")
    path = tmp_path / "span.h5"
    causa("run", config, f"output={path}")
    with h5py.File(path) as file:
        positions, pieces = file["data/position"][:], file["data/pieces"].asstr()[:].tolist()
    text = page_of(path)
    assert "Influence of each token" in text and "semantic · words" in text.replace("\n", " ")
    source = path.with_suffix(".html").read_text(encoding="utf-8")
    first, second = source.split('class="card"')[1:3]
    red = re.findall(r'class="target" title="[^"]*">([^<]*)<', first.split("</div>")[0])
    assert red == [pieces[at + 1] for at in positions]
    assert re.findall(r'class="target" title="[^"]*">([^<]*)<', second.split("</div>")[0]) == [
        " the", " store"]


def test_page_of_probes_and_random_weights(run_ids):
    method = {"kind": "jacobian", "target": "argmax", "scopes": ["fisher"],
              "fisher": {"estimator": "hutchinson", "probes": 8},
              "evaluate": {"randomise": {"fractions": [0, 1]}}}
    text = page_of(run_ids([[1, 2, 3, 4, 5], [6, 7, 8, 9]], method))
    assert "8 probes, standard error" in text
    assert "Random weights" in text and "0 blocks random" in text and "1.000 ± 0.000" in text
    assert "random order" in text
