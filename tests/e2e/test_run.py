# SPDX-License-Identifier: MIT
"""`causa run` against independent values, and the laws that its results keep."""

import json

import files
import h5py
import numpy as np
import pytest
from files import JACOBIAN, MODELS

FAMILIES = sorted(path.parent.name for path in MODELS.glob("*/reference.h5"))
# float32 rounding amplified by small norms; scores of f64 runs are stored as float32.
LIMITS = {"auto": (1e-4, 3e-4), "ref": (1e-9, 1e-7)}
ON = {"auto": ["backend=auto"], "ref": ["backend=ref", "precision=f64"]}


def contrast(prompt):
    return {"kind": "jacobian", "target": f"#{prompt['a']}:#{prompt['b']}"}


def some_prompts(count, seed=1, shortest=3, longest=40, vocabulary=400):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocabulary, rng.integers(shortest, longest)).tolist()
            for _ in range(count)]


# ---- values ----


@pytest.mark.parametrize("backend", ["auto", "ref"])
@pytest.mark.parametrize("model", FAMILIES)
def test_jacobian_scores(run_ids, model, backend):
    for prompt in files.reference(model):
        path = run_ids([prompt["ids"].tolist()], contrast(prompt), *ON[backend], "--overwrite",
                       model=model)
        values, gradients = LIMITS[backend]
        with h5py.File(path, "r") as file:
            score = file["attribution/semantic/score"]
            assert score.dtype == np.float32
            norms = np.linalg.norm(prompt["grad_embed"], axis=1)
            assert files.share(score[()], norms) <= gradients
            last = prompt["logits"][-1]
            assert abs(file["baseline/clean"][0] - (last[prompt["a"]] - last[prompt["b"]])) \
                <= values * np.abs(last).max()
            assert file["baseline/predicted"][0] == last.argmax()
            best = np.argsort(-last)[:10]
            assert file["predictions/token_ids"].shape == (1, 30)
            assert file["predictions/token_ids"][0, :10].tolist() == best.tolist()
            probability = np.exp(last[best] - last.max()) / np.exp(last - last.max()).sum()
            assert np.allclose(file["predictions/probability"][0, :10], probability, rtol=1e-3)
            assert file["data/position"][0] == len(norms) - 1


@pytest.mark.parametrize("backend", ["auto", "ref"])
@pytest.mark.parametrize("model", FAMILIES)
def test_captured_values(run_ids, model, backend):
    prompts = files.reference(model)
    sites = ["embed", "blocks.*.resid_pre", "blocks.*.hook_resid_post", "final_norm", "logits"]
    path = run_ids([p["ids"].tolist() for p in prompts], {"kind": "capture", "sites": sites},
                   *ON[backend], model=model)
    resid = np.concatenate([p["resid"] for p in prompts], axis=1)
    with h5py.File(path, "r") as file:
        stored = file["activations"]
        rows = [(i, t) for i, p in enumerate(prompts) for t in range(len(p["ids"]))]
        assert stored["rows"][()].tolist() == [list(row) for row in rows]
        limit = LIMITS[backend][0]
        for layer in range(len(resid) - 1):
            for site, expected in (("resid_pre", resid[layer]), ("resid_post", resid[layer + 1])):
                got = stored[f"blocks.{layer}.{site}"][()]
                assert got.dtype == (np.float64 if backend == "ref" else np.float32)
                assert files.share(got, expected) <= limit, (layer, site)
        added = stored["blocks.0.resid_pre"][()] - stored["embed"][()]  # learned positions
        table = {t: row for (_, t), row in zip(rows, added)}
        assert all(np.allclose(row, table[t], atol=1e-6) for (_, t), row in zip(rows, added))
        assert added.any() == model.startswith("gpt2")
        for site in ("final_norm", "logits"):
            expected = np.concatenate([p[site] for p in prompts])
            assert files.share(stored[site][()], expected) <= limit, site


def test_attention_adds_up(run_ids):
    """Patterns are distributions over earlier tokens; heads sum to what attention adds."""
    ids = [p["ids"].tolist() for p in files.reference("gpt2")]
    sites = [f"blocks.1.{s}" for s in ("attn.pattern", "attn.v", "attn.z", "attn.result", "attn_out",
                                       "resid_pre", "resid_mid", "mlp_out", "resid_post")]
    path = run_ids(ids, {"kind": "capture", "sites": sites}, "backend=ref", "precision=f64")
    with h5py.File(path, "r") as file:
        v = {name.split(".", 2)[-1]: item[()] for name, item in file["activations"].items()}
    example, position = v["rows"].T
    longest = max(map(len, ids))
    assert v["attn.pattern"].shape == (len(example), 3, longest)
    assert np.allclose(v["attn.pattern"].sum(axis=2), 1, atol=1e-12)
    later = np.arange(longest)[None, :] > position[:, None]
    assert (v["attn.pattern"][np.broadcast_to(later[:, None], v["attn.pattern"].shape)] == 0).all()
    for i in range(len(ids)):
        rows = example == i
        z = np.einsum("thk,khd->thd", v["attn.pattern"][rows][:, :, :len(ids[i])], v["attn.v"][rows])
        assert np.allclose(z, v["attn.z"][rows], atol=1e-12)
    bias = v["attn_out"] - v["attn.result"].sum(axis=1)
    assert np.allclose(bias, bias[0], atol=1e-12) and np.abs(bias).max() > 0
    assert np.allclose(v["resid_pre"] + v["attn_out"], v["resid_mid"], atol=1e-12)
    assert np.allclose(v["resid_mid"] + v["mlp_out"], v["resid_post"], atol=1e-12)


def test_heads_and_positions(run_ids):
    """Chosen heads and positions are rows of the whole; negative positions count from the end."""
    ids = some_prompts(6)
    sites = ["blocks.[0-1].attn.z", "blocks.0.attn.pattern", "blocks.2.attn.k", "logits"]
    whole = files.datasets(run_ids(ids, {"kind": "capture", "sites": sites}, name="whole"))
    part = files.datasets(run_ids(ids, {"kind": "capture", "positions": [-1, 1],
                                        "sites": ["blocks.[0-1].attn.z[0,2]", "logits",
                                                  "blocks.0.attn.pattern[1]", "blocks.2.attn.k"]},
                                  name="part"))
    rows = whole["activations/rows"]
    lengths = np.array([len(p) for p in ids])
    chosen = (rows[:, 1] == 1) | (rows[:, 1] == lengths[rows[:, 0]] - 1)
    assert (part["activations/rows"] == rows[chosen]).all()
    for layer in (0, 1):
        z = whole[f"activations/blocks.{layer}.attn.z"]
        for head in (0, 2):
            name = f"activations/blocks.{layer}.attn.z[{head}]"
            assert (part[name] == z[chosen][:, head]).all()
        assert f"activations/blocks.{layer}.attn.z[1]" not in part
    assert (part["activations/blocks.0.attn.pattern[1]"] ==
            whole["activations/blocks.0.attn.pattern"][chosen][:, 1]).all()
    assert np.allclose(part["activations/logits"], whole["activations/logits"][chosen], atol=1e-5)


def test_text_positions(causa, text_model, tmp_path):
    """Subjects and {after: text} name the tokens that cover or follow the text."""
    text = "The capital of France is the city of"
    rows = [{"clean": text, "subject": "France"}]
    place = {}
    for name, positions in (("subject", "subject"), ("subject_last", "subject_last"),
                            ("after", {"after": "capital"}), ("last", "last")):
        config = files.write_config(tmp_path / f"{name}.yaml", {
            "kind": "capture", "sites": ["embed"], "positions": positions}, rows, model=text_model)
        causa("run", config, f"output={tmp_path / name}.h5")
        got = files.datasets(tmp_path / f"{name}.h5")
        place[name] = got["activations/rows"][:, 1].tolist()
        pieces = [p.decode() for p in got["data/pieces"]]
    assert "".join(pieces) == text
    ends = np.cumsum([len(p) for p in pieces])
    first, last = text.index("France"), text.index("France") + len("France")
    starts = ends - [len(p) for p in pieces]
    expected = [t for t in range(len(pieces)) if ends[t] > first and starts[t] < last]
    assert place["subject"] == expected and place["subject_last"] == expected[-1:]
    after = text.index("capital") + len("capital")
    assert place["after"] == [min(t for t in range(len(pieces)) if starts[t] >= after)]
    assert place["last"] == [len(pieces) - 1]


def test_gold_target(run_ids):
    """The answer when there is one, else the prompt's own next token, read one place earlier."""
    ids = [3, 14, 15, 92, 65]
    values = files.datasets(run_ids([{"clean_ids": ids, "answer_ids": 7}, {"clean_ids": ids}],
                                    {"kind": "jacobian"}))
    assert values["data/target"].tolist() == [7, 65]
    assert values["data/position"].tolist() == [4, 3]
    assert values["attribution/semantic/score"][-1] == 0  # what comes later cannot matter
    cut = files.datasets(run_ids([{"clean_ids": ids[:-1], "answer_ids": [65]}],
                                 {"kind": "jacobian"}, name="cut"))
    assert np.allclose(cut["attribution/semantic/score"],
                       values["attribution/semantic/score"][5:9], rtol=1e-5)


# ---- laws ----


@pytest.mark.parametrize("method", [JACOBIAN, {"kind": "capture", "positions": "last",
                                               "sites": ["blocks.1.attn.z", "final_norm"]}])
def test_batches_order_and_threads(run_ids, method):
    """Micro-batches, the order of prompts and threads change nothing but float32 rounding."""
    ids = some_prompts(20)
    first = files.datasets(run_ids(ids, method, name="first"))
    others = {"one": run_ids(ids, method, "batch=1", name="one"),
              "few": run_ids(ids, method, "batch=70", name="few"),
              "threads": run_ids(ids, method, name="threads", arguments=["--threads", 2])}
    for path in others.values():
        other = files.datasets(path)
        assert other.keys() == first.keys()
        for name, value in first.items():
            if value.dtype.kind == "f":
                assert files.share(other[name], value) <= 1e-5, name
            else:
                assert (other[name] == value).all(), name
    back = files.datasets(run_ids(ids[::-1], method, name="back"))
    if method is JACOBIAN:
        offsets = first["data/offsets"]
        pieces = [first["attribution/semantic/score"][a:b] for a, b in zip(offsets, offsets[1:])]
        assert files.share(back["attribution/semantic/score"],
                           np.concatenate(pieces[::-1])) <= 1e-5
    else:
        assert files.share(back["activations/final_norm"],
                           first["activations/final_norm"][::-1]) <= 1e-5


def test_equal_runs_give_equal_bytes(run_ids):
    ids = some_prompts(20)
    one, two = (run_ids(ids, JACOBIAN, name=name) for name in ("one", "two"))
    files.same_bytes(one, two)


def test_stored_config_repeats_the_run(causa, run_ids, tmp_path):
    first = run_ids(some_prompts(5), JACOBIAN, "seed=7", "batch=50", "data.limit=4")
    with h5py.File(first, "r") as file:
        (tmp_path / "again.yaml").write_text(file.attrs["config"])
    before = first.read_bytes()
    assert causa("run", tmp_path / "again.yaml", check=False).returncode == 2  # exists
    again = tmp_path / "again.h5"
    causa("run", tmp_path / "again.yaml", f"output={again}")
    files.same_bytes(first, again)
    assert first.read_bytes() == before
    causa("run", tmp_path / "again.yaml", "--overwrite")
    assert files.attributes(first)["@seed"] == "7"


# ---- the file ----


def test_result_file(run_ids, tmp_path, auto_backend):
    path = run_ids([{"id": "ä", "clean_ids": [1, 2, 3]}, {"id": "b", "clean_ids": [4, 5]}], JACOBIAN)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["result.h5", "result.json", "result.yaml"]
    with h5py.File(path, "r") as file:
        root = file.attrs
        assert root["schema_version"] == 1 and root["seed"] == 42
        for key in ("tool", "tool_version", "git_revision", "status", "method", "config",
                    "config_sha256", "backend", "precision", "model_path", "model_type",
                    "model_sha256", "tokenizer_sha256", "data_sha256"):
            assert isinstance(root[key], str), key
        assert (root["tool"], root["status"], root["method"]) == ("causa", "complete", "jacobian")
        assert root["backend"] == auto_backend and root["model_type"] == "gpt2"
        assert len(root["conventions"]) >= 3 and all(map(str, root["conventions"]))
        run = file["run"].attrs
        for key in ("started", "wall_seconds", "command_line", "hostname", "device", "ranks",
                    "threads", "peak_host_bytes", "peak_device_bytes", "tokens_per_second", "flops"):
            assert key in run, key
        assert run["command_line"].startswith("causa run ") and run["ranks"] == 1
        assert len(file["run/log/message"]) == len(file["run/log/level"])
        assert file["data/id"].asstr()[()].tolist() == ["ä", "b"]
        assert file["data/tokens"].dtype == np.int32 and file["data/offsets"].dtype == np.int64
        assert file["data/offsets"][()].tolist() == [0, 3, 5]
        assert h5py.check_string_dtype(file["data/pieces"].dtype).encoding == "utf-8"
        assert file["attribution/semantic/score"].dims[0].label == "token"
        assert file["predictions/token_ids"].dims[1].label == "rank"
        assert file["baseline/clean"].dtype == np.float64
        assert set(file["attribution/semantic"].attrs) >= {"target", "units", "position"}


def test_pairs_and_answers_are_stored(causa, text_model, tmp_path):
    rows = [{"clean": "Mary and the house", "corrupted": "John and the house",
             "answer_ids": "7|8", "wrong_ids": "9"},
            {"clean": "the", "corrupted": "the house and the", "answer_ids": "1", "wrong_ids": "2"}]
    config = files.write_config(tmp_path / "pairs.yaml", {"kind": "capture", "sites": ["embed"]},
                                rows, model=text_model, suffix=".csv")
    path = tmp_path / "pairs.h5"
    causa("run", config, f"output={path}", "data.mismatch=skip")
    v = files.datasets(path)
    assert v["data/answer_ids"].tolist()[:2] == [7, 8]
    assert v["data/wrong_ids"].tolist()[0] == 9
    assert "row 2" in v["data/excluded"][-1].decode()
    lengths = np.diff(v["data/offsets"])
    assert len(v["data/corrupted_tokens"]) == lengths.sum()
    assert b"".join(v["data/corrupted_pieces"]).decode().startswith("John")
    with path.open("rb") as file:
        assert file.read(4) == b"\x89HDF"


def test_peak_memory_is_the_runs_own(run_ids):
    """A large program that starts a run, a notebook for instance, does not count."""
    large = b"1" * 600_000_000
    with h5py.File(run_ids([[1, 2, 3]], JACOBIAN)) as file:
        assert 1_000_000 < file["run"].attrs["peak_host_bytes"] < len(large) / 2


def test_log_file(run_ids, tmp_path):
    log = tmp_path / "log.jsonl"
    done = run_ids([[1, 2, 3]], JACOBIAN, check=False, arguments=["--log", log, "-q"])
    assert done.returncode == 0 and done.stderr == "" and done.stdout == ""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {"time", "level", "message"} <= lines[0].keys()
    assert any("wrote" in line["message"] for line in lines)
