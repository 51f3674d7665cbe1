# SPDX-License-Identifier: MIT
"""results/README.md: its snippets run, and it documents every dataset that the runs wrote."""

import pathlib
import re
import subprocess
import sys

import h5py
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_there_are_snippets():
    assert len(SNIPPETS) >= 5


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippet(number, results, demo_result, capture_result, sweep_result, matrix_result,
                 evaluation_result, patch_results, eap_results):
    done = subprocess.run([sys.executable, "-c", SNIPPETS[number]], cwd=results.parent,
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def datasets(path):
    found = {}
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, item: found.update({"/" + name: item.dtype})
                        if isinstance(item, h5py.Dataset) else None)
    return found


def test_every_dataset_is_documented(demo_result, capture_result, matrix_result, evaluation_result,
                                     patch_results, eap_results, tmp_path, causa):
    """Paths of the first column of the tables; <name> stands for any one name."""
    rows = re.findall(r"^\| (`/[^|]+) \|", README, re.MULTILINE)
    documented = [re.escape(path) for row in rows for path in re.findall(r"`(/[^`]+)`", row)]
    patterns = [re.compile(re.sub(r"<\w+>", "[^/]+", path)) for path in documented]
    more = tmp_path / "more.h5"
    causa("run", "configs/ioi-eap-ig.yaml", f"output={more}", "data.limit=4", "method.per_example=true",
          "method.by_position=true", "method.bootstrap=10",
          "method.circuit={select: threshold, thresholds: [0.1]}")
    units = []
    for level in ("neuron", "hidden"):
        units.append(tmp_path / f"{level}.h5")
        causa("run", "configs/demo.yaml", "data.file=experiments/eap/ioi.csv", "data.limit=2",
              f"output={units[-1]}", f"method={{kind: eap, level: {level}}}",
              *(["method.circuit.sizes=[9]"] if level == "neuron" else []))
    for path in (demo_result, capture_result, matrix_result, evaluation_result, *patch_results,
                 *eap_results, more, *units):
        for dataset in datasets(path):
            assert any(pattern.fullmatch(dataset) for pattern in patterns), dataset


def test_texts_are_str(demo_result):
    with h5py.File(demo_result, "r") as file:
        for name in ("tool", "method", "status", "config", "backend", "model_path"):
            assert type(file.attrs[name]) is str, name
        assert file.attrs["tool"] == "causa" and file.attrs["status"] == "complete"
        assert all(type(line) is str for line in file.attrs["conventions"])
        info = h5py.check_string_dtype(file["/data/pieces"].dtype)
        assert info.encoding == "utf-8" and info.length is None
        assert file["/data/offsets"].dtype == "int64" and file["/data/tokens"].dtype == "int32"
        assert file["/data/pieces"].dims[0].label == "token"


def test_equal_runs_give_equal_datasets(causa, results, demo_result):
    again = results / "again.h5"
    causa("run", "configs/demo.yaml", f"output={again}")
    with h5py.File(demo_result, "r") as first, h5py.File(again, "r") as second:
        names = [name for name in datasets(demo_result) if not name.startswith("/run/")]
        assert names
        for name in names:
            one, other = first[name][()], second[name][()]
            same = one.tolist() == other.tolist() if one.dtype == object else \
                one.tobytes() == other.tobytes()
            assert same, name


def test_report_of_the_demo(causa, results, demo_result):
    done = causa("report", demo_result, "-o", results / "pages")
    page = results / "pages" / "demo.html"
    assert str(page) in done.stdout
    assert "Influence" in page.read_text(encoding="utf-8")
