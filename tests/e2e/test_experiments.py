# SPDX-License-Identifier: MIT
"""The studies under experiments/: the series follow their rule, the prompts are what they claim."""

import csv
import importlib.util
import json
import pathlib
import re
import sys

import h5py
import numpy as np
import pytest

EXPERIMENTS = pathlib.Path(__file__).resolve().parents[2] / "experiments"
SERIES = EXPERIMENTS / "time-series"


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generate():
    return load(SERIES / "generate.py")


def stored(name):
    return {row["id"]: row["clean"] for row in json.loads((SERIES / name).read_text())}


def test_digits_are_cut_not_rounded(generate):
    assert generate.digits(0.15) == "14" and generate.digits(0.85) == "84"
    assert generate.serialise([3.0, 10.0]) == ["14", "84"]


@pytest.mark.parametrize("file, row, begins", [
    ("brownian.json", "brownian-4", "28,28,31,26,29,27,19,16,19,21,15,"),
    ("logistic.json", "logistic-0", "80,29,76,40,84,16,53,80,28,74,"),
])
def test_recorded_beginnings(file, row, begins):
    assert stored(file)[row].startswith(begins)


@pytest.mark.parametrize("file, count", [("brownian.json", 5), ("logistic.json", 5),
                                         ("lorenz.json", 10)])
def test_prompts_are_two_digit_numbers(file, count):
    rows = stored(file)
    assert len(rows) == count
    for text in rows.values():
        numbers = text.split(",")
        assert len(numbers) == 180
        assert all(re.fullmatch(r"[1-8]\d", number) and 14 <= int(number) <= 84 for number in numbers)


def test_stored_files_are_what_the_generator_writes(generate, tmp_path, monkeypatch):
    """Random walk and map exactly; of Lorenz the beginning, which no LSODA gets wrong."""
    monkeypatch.setattr("sys.argv", ["generate.py", str(tmp_path)])
    generate.main()
    for name in ("brownian.json", "logistic.json"):
        assert (tmp_path / name).read_bytes() == (SERIES / name).read_bytes()
    if not (tmp_path / "lorenz.json").exists():
        pytest.skip("scipy is missing")
    again = {row["id"]: row["clean"] for row in json.loads((tmp_path / "lorenz.json").read_text())}
    for name, text in stored("lorenz.json").items():
        assert [int(number) for number in again[name].split(",")[:50]] == pytest.approx(
            [int(number) for number in text.split(",")[:50]], abs=1)


def test_passages():
    """40 to 70 words, the last of them the target: no punctuation behind it."""
    rows = json.loads((EXPERIMENTS / "aopc" / "passages.json").read_text(encoding="utf-8"))
    assert len(rows) == 24 and len({row["id"] for row in rows}) == 24
    for row in rows:
        words = row["clean"].split()
        assert 40 <= len(words) <= 70, row["id"]
        assert row["clean"] == " ".join(words) and words[-1].isalpha(), row["id"]


def test_sentence_pairs():
    with (EXPERIMENTS / "translation" / "prompts.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    for row in rows:
        assert re.fullmatch(r"German: [^:]+ English: [^:]+\w", row["clean"]), row["id"]


def test_facts():
    """One fact a row: the subject stands once in the prompt, the answer is a word after it."""
    folder = EXPERIMENTS / "causal-tracing"
    for name, least in (("prompts.csv", 20), ("facts.csv", 20)):
        with (folder / name).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) >= least and len({row["id"] for row in rows}) == len(rows)
        for row in rows:
            assert row["clean"].count(row["subject"]) == 1, row["id"]
            assert re.fullmatch(r" \w+", row["answer"]) and row["answer"] not in row["clean"], row["id"]


def test_repeated_names():
    """The clean prompt repeats one of its two names, the corrupted one has a third in that place."""
    with (EXPERIMENTS / "patch-ioi" / "names.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20 and len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        clean, corrupted = row["clean"].split(), row["corrupted"].split()
        (place,) = [t for t, (a, b) in enumerate(zip(clean, corrupted)) if a != b]
        assert len(clean) == len(corrupted) and corrupted[place] not in clean, row["id"]
        assert clean.count(clean[place]) == 2 and row["wrong"] == " " + clean[place], row["id"]
        assert row["clean"].count(row["answer"].strip()) == 1, row["id"]


def test_causal_tracing(patch_results):
    """What experiments/causal-tracing/README.md says of the bundled model."""
    with h5py.File(patch_results[0], "r") as file:
        baseline, site = file["baseline"].attrs, file["patch/site"].asstr()[()].tolist()
        assert baseline["clean_mean"] > 0.99 and 0.1 < baseline["corrupted_mean"] < 0.4
        assert baseline["accuracy"] == 1
        last = file["data/position"][()]
        effect = [file["patch/effect"][:, site.index(f"blocks.{layer}.resid_post")][
            np.arange(len(last)), last] for layer in (1, 3)]
        assert effect[0].mean() > 0.9 and abs(effect[1] - 1).max() < 1e-4
        assert file["patch/effect_interval"].shape == file["patch/effect"].shape


def test_patching_of_names(patch_results):
    """The name moves from its repetition to the last token, mostly by one head of the first block."""
    with h5py.File(patch_results[1], "r") as file:
        site, mean = file["patch/site"].asstr()[()].tolist(), file["patch/mean_effect"][()]
        best = np.nanmax(np.abs(mean), axis=1)
        heads = {name: value for name, value in zip(site, best) if "attn.z[" in name}
        assert max(heads, key=heads.get) == "blocks.0.attn.z[4]"
        assert best[site.index("blocks.0.resid_pre")] > 0.3
        assert best[site.index("blocks.3.resid_pre")] > 0.95


def test_pairs_of_names(tmp_path, monkeypatch):
    """One length, one place that differs, either name repeated equally often; as generated."""
    folder = EXPERIMENTS / "eap"
    with (folder / "ioi.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 64 and len({row["clean"] for row in rows}) == len(rows)
    for row in rows:
        clean, corrupted = row["clean"].split(), row["corrupted"].split()
        assert len(clean) == len(corrupted) == 13
        place, = [i for i, (a, b) in enumerate(zip(clean, corrupted)) if a != b]
        names = [clean[1], clean[3]]
        assert clean[place] in names and corrupted[place] not in names, row["id"]
        assert row["wrong"] == " " + clean[place]
        assert {row["answer"], row["wrong"]} == {" " + name for name in names}
        assert row["id"].split("-")[0] == ("first" if clean[place] == names[0] else "second")
    assert sum(row["id"].startswith("first") for row in rows) == 32
    monkeypatch.setattr("sys.argv", ["generate.py", str(tmp_path / "again.csv")])
    monkeypatch.setattr("sys.path", sys.path[:])
    load(folder / "generate.py").main()
    assert (tmp_path / "again.csv").read_bytes() == (folder / "ioi.csv").read_bytes()


def test_circuits_of_names(eap_results):
    """What experiments/eap/README.md says of the bundled model."""
    with h5py.File(eap_results[0], "r") as file:
        assert file["baseline"].attrs["accuracy"] == 1
        source = file["edges/source"].asstr()[:].tolist()
        destination = file["edges/destination"].asstr()[:].tolist()
        size = np.nan_to_num(np.abs(file["edges/score"][:]))
        best = [np.unravel_index(edge, size.shape) for edge in np.argsort(-size, axis=None)[:4]]
        assert {f"{source[u]} -> {destination[v]}" for u, v in best} == {
            "input -> a0.h4<v>", "a0.h4 -> m0", "a0.h4 -> logits", "m0 -> logits"}
        faithful = dict(zip(file["circuits/requested"][:].tolist(), file["faithfulness/normalized"][:]))
        assert list(faithful) == [1, 3, 7, 15, 30, 75, 151, 303, 759, 1519]
        assert abs(faithful[1]) < 1e-6 and 0.45 < faithful[7] < 0.6 and faithful[75] > 0.9
        assert abs(faithful[1519] - 1) < 1e-5
        at = file["faithfulness"].attrs
        assert at["cpr"] == pytest.approx(0.990, abs=0.01) and at["cmd"] == pytest.approx(0.016, abs=0.005)


def test_exact_patching_and_its_approximations(eap_results):
    """What experiments/eap/README.md says of years: for this model and task EAP is nearer."""
    with h5py.File(eap_results[1], "r") as file:
        assert set(file["compare"]) == {"eap", "ig-inputs"}
        r = {name: group.attrs["pearson_absolute"] for name, group in file["compare"].items()}
    assert r["eap"] == pytest.approx(0.963, abs=0.01)
    assert r["ig-inputs"] == pytest.approx(0.845, abs=0.01)


def test_sweep_over_steps(causa, tmp_path):
    causa("run", "configs/ioi-steps.yaml", "data.limit=4", f"output={tmp_path / 'steps'}")
    with h5py.File(tmp_path / "steps" / "index.h5", "r") as file:
        assert file["method.steps"][:].tolist() == 2 * [1, 2, 5, 10, 20]
        assert file["method.variant"].asstr()[:].tolist() == 5 * ["ig-inputs"] + 5 * ["ig-activations"]
        assert (file["status"].asstr()[:] == "complete").all()
        assert ((file["cpr"][:] > 0.5) & (file["cpr"][:] < 1.5)).all() and (file["cmd"][:] < 0.5).all()
