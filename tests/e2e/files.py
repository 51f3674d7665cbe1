# SPDX-License-Identifier: MIT
"""What the end-to-end tests write and read: configs, prompts, a model that reads text, results."""

import csv
import json
import os
import pathlib
import struct

import h5py
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODELS = ROOT / "tests" / "fixtures" / "models"
TOKENIZERS = ROOT / "tests" / "fixtures" / "tokenizers"

# The backend of tests that could run on any, and its widest dtype: checks of laws want float64.
BACKEND = os.environ.get("CA_TEST_BACKEND", "ref")
PRECISION = "f64" if BACKEND == "ref" else "f32"
EXACT = (f"backend={BACKEND}", f"precision={PRECISION}")

JACOBIAN = {"kind": "jacobian", "target": "#5:#9"}


def environment(**more):
    """One sleeping thread: the models are too small for more, and tests share their machine."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", **more}


def write_prompts(path, rows):
    """Rows as JSON, JSON lines or CSV, by the suffix."""
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows, ensure_ascii=False))
    return path


def write_config(path, method, rows, model=MODELS / "gpt2", suffix=".json", **more):
    """A config (JSON is YAML too) beside its prompts."""
    data = write_prompts(path.with_suffix(suffix), rows)
    config = {"name": path.stem, "model": str(model), "data": {"file": str(data)},
              "method": method, **more}
    path.write_text(json.dumps(config, indent=1))
    return path


def write_text_model(folder, tokenizer="gpt2", vocabulary=640):
    """The fixture smollm2 with `vocabulary` rows of embedding and a tokenizer."""
    raw = (MODELS / "smollm2" / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header, data = json.loads(raw[8:8 + size]), raw[8 + size:]
    name, = [key for key in header if "embed_tokens" in key]
    width = header[name]["shape"][1]
    rng = np.random.default_rng(3)
    parts, where = {}, 0
    for key, entry in header.items():
        if key == "__metadata__":
            continue
        first, last = entry["data_offsets"]
        parts[key] = (entry["shape"], data[first:last])
    parts[name] = ([vocabulary, width],
                   rng.standard_normal((vocabulary, width)).astype(np.float32).tobytes())
    for key, (shape, content) in parts.items():
        header[key] = {"dtype": "F32", "shape": shape,
                       "data_offsets": [where, where + len(content)]}
        where += len(content)
    text = json.dumps(header).encode()
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(
        struct.pack("<Q", len(text)) + text + b"".join(content for _, content in parts.values()))
    config = json.loads((MODELS / "smollm2" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": vocabulary}))
    (folder / "tokenizer.json").write_bytes((TOKENIZERS / tokenizer / "tokenizer.json").read_bytes())
    return folder


def write_changed_model(folder, value=3.0):
    """The fixture smollm2 with another number at the end of its last tensor."""
    raw = bytearray((MODELS / "smollm2" / "model.safetensors").read_bytes())
    raw[-4:] = struct.pack("<f", value)
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(raw)
    (folder / "config.json").write_bytes((MODELS / "smollm2" / "config.json").read_bytes())
    return folder


def id_pairs(count, seed=1, least=6, most=14, vocabulary=390):
    """Pairs of token ids of several lengths that differ somewhere behind the first token."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        clean = rng.integers(0, vocabulary, rng.integers(least, most))
        corrupted = clean.copy()
        first = rng.integers(1, len(clean) - 2)
        corrupted[first] = (corrupted[first] + 1) % vocabulary
        rows.append({"id": f"p{i}", "clean_ids": clean.tolist(), "corrupted_ids": corrupted.tolist(),
                     "answer_ids": [int(i)], "wrong_ids": [int(i) + 7]})
    return rows


def reference(model):
    """Prompts of a fixture's reference as dicts of arrays, with the token ids a and b."""
    with h5py.File(MODELS / model / "reference.h5", "r") as file:
        return [{**{key: value[()] for key, value in group.items()},
                 "a": int(group.attrs["a"]), "b": int(group.attrs["b"])}
                for _, group in sorted(file["prompt"].items(), key=lambda item: int(item[0]))]


def datasets(path):
    """All datasets outside /run."""
    found = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset) and not name.startswith("run/"):
            found[name] = item[()]

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return found


def attributes(path):
    """Attributes of the root and of every object outside /run, as text."""
    found = {}

    def visit(name, item):
        if not (name == "run" or name.startswith("run/")):
            found.update({f"{name}@{key}": str(value) for key, value in item.attrs.items()})

    with h5py.File(path, "r") as file:
        visit("", file)
        file.visititems(visit)
    return found


def same_bytes(one, other):
    """Fails unless two results hold the same datasets, byte for byte."""
    first, second = datasets(one), datasets(other)
    assert first.keys() == second.keys() and first
    for name, value in first.items():
        expected = second[name]
        assert value.dtype == expected.dtype and value.shape == expected.shape, name
        if value.dtype == object:
            assert (value == expected).all(), name
        else:
            assert value.tobytes() == expected.tobytes(), name


def share(got, expected):
    """Largest error as a share of the largest value."""
    assert got.shape == expected.shape
    return np.abs(got - expected).max() / np.abs(expected).max()
