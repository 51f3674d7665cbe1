# SPDX-License-Identifier: MIT
"""Eigenpairs of the Fisher information by both ways to them, and the memory that many take.

Few pairs come from a Krylov space, which the models of the fixtures are too narrow for: these are
made here.
"""

import json
import os
import struct
import subprocess

import files
import h5py
import numpy as np
import pytest

PROMPTS = [[3, 1, 4, 15, 9, 2], [6, 5, 35]]
FISHER = {"kind": "jacobian", "target": "argmax", "scopes": ["fisher"]}


def write_wide_model(folder, width, vocabulary):
    """A Llama of one block, whose logits have a standard deviation near 3."""
    rng = np.random.default_rng(width)
    matrix = lambda rows, columns: rng.standard_normal((rows, columns)) / np.sqrt(columns)
    hidden, heads, gain = 64, 32, lambda: 1 + 0.3 * rng.standard_normal(width)
    tensors = {"model.embed_tokens.weight": 3 * matrix(vocabulary, width),
               "model.norm.weight": gain()}
    block = {"self_attn.q_proj": matrix(heads, width), "self_attn.k_proj": matrix(heads, width),
             "self_attn.v_proj": matrix(heads, width), "self_attn.o_proj": matrix(width, heads),
             "mlp.gate_proj": matrix(hidden, width), "mlp.up_proj": matrix(hidden, width),
             "mlp.down_proj": matrix(width, hidden), "input_layernorm": gain(),
             "post_attention_layernorm": gain()}
    tensors.update({f"model.layers.0.{name}.weight": value for name, value in block.items()})
    header, data = {}, b""
    for name, value in tensors.items():
        raw = value.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": value.shape,
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    config = json.loads((files.MODELS / "smollm2" / "config.json").read_text())
    config.update(hidden_size=width, head_dim=heads // 4, num_attention_heads=4,
                  num_key_value_heads=4, num_hidden_layers=1, intermediate_size=hidden,
                  vocab_size=vocabulary, attention_bias=False, mlp_bias=False)
    (folder / "config.json").write_text(json.dumps(config))
    return folder, tensors["model.embed_tokens.weight"].astype("<f4").astype(float)


def final_norm(run_ids, model, name):
    """y [N, D] at the last tokens."""
    method = {"kind": "capture", "sites": ["final_norm"], "positions": "last"}
    with h5py.File(run_ids(PROMPTS, method, *files.EXACT, model=model, name=name)) as file:
        return file["activations/final_norm"][:].astype(float)


def eigenvalues(y, w):
    """Of W^T (diag p - p p^T) W, falling."""
    z = w @ y
    p = np.exp(z - z.max())
    p /= p.sum()
    rows = np.sqrt(p)[:, None] * (w - p @ w)
    return np.linalg.eigvalsh(rows.T @ rows)[::-1]


@pytest.mark.parametrize("rank, way", [(1, "krylov"), (4, "krylov"), (40, "dense"),
                                       ("full", "dense")])
def test_both_ways(run_ids, tmp_path, rank, way):
    """y is stored as float32, which moves logits by 1e-6; Krylov pairs converge to 1e-5 of the
    largest, and an eigenvalue's error is the square of its vector's."""
    model, w = write_wide_model(tmp_path / "wide", 128, 400)
    path = run_ids(PROMPTS, dict(FISHER, rank=rank), *files.EXACT, model=model)
    with h5py.File(path) as file:
        group = file["attribution/fisher"]
        assert group.attrs["eigensolver"] == way
        values, traces = group["eigenvalues"][:], group["trace"][:]
    assert values.shape == (2, 128 if rank == "full" else rank)
    for value, trace, y in zip(values, traces, final_norm(run_ids, model, "capture")):
        expected = eigenvalues(y, w)
        assert np.abs(value - expected[:len(value)]).max() <= 1e-5 * expected[0]
        assert trace == pytest.approx(expected.sum(), rel=1e-5)
        if rank == "full":
            assert value.sum() == pytest.approx(trace, rel=1e-5 if files.PRECISION == "f32" else 1e-9)


@pytest.mark.float64
def test_the_scores_of_both_ways_agree(run_ids, tmp_path):
    """Rank 4 comes from F itself, rank 3 does not: their first pairs are the same, and every pair
    adds to the score of every token, up to the full trace."""
    model, _ = write_wide_model(tmp_path / "wide", 112, 400)
    scores, values = {}, {}
    for rank, way in ((3, "krylov"), (4, "dense"), ("full", "dense")):
        path = run_ids(PROMPTS, dict(FISHER, rank=rank), *files.EXACT, model=model, name=f"r{rank}")
        with h5py.File(path) as file:
            group = file["attribution/fisher"]
            assert group.attrs["eigensolver"] == way
            scores[rank] = group["score"][:].astype(float)
            values[rank] = group["eigenvalues"][:]
    np.testing.assert_allclose(values[4][:, :3], values[3], rtol=1e-7)
    np.testing.assert_allclose(values["full"][:, :4], values[4], rtol=1e-7)
    assert (scores[3] < scores[4]).all() and (scores[4] < scores["full"]).all()


def peak_bytes(config, output, rank):
    binary = os.environ.get("CAUSA", files.ROOT / "build" / "causa")
    command = [str(binary), "run", str(config), f"method.rank={rank}", f"output={output}",
               "backend=cpu", "--threads", "1", "-q"]
    # the kernel counts what a process was before it became this program: a shell is small
    subprocess.run(["sh", "-c", '"$@"; exit $?', "sh", *command], cwd=files.ROOT, check=True,
                   env=files.environment())
    with h5py.File(output) as file:
        return file["run"].attrs["peak_host_bytes"]


def test_memory_of_many_pairs_is_in_the_plan(causa, tmp_path):
    """From rank 1 to all of 1536 the peak grows by what the plan says, within 10 % and the 8 MiB of
    panels that LAPACK's products go through."""
    model, _ = write_wide_model(tmp_path / "wide", 1536, 1000)
    rows = [{"clean_ids": prompt} for prompt in PROMPTS]
    config = files.write_config(tmp_path / "c.yaml", FISHER, rows, model=model)
    planned, peak = {}, {}
    for rank in (1, "full"):
        plan = json.loads(causa("plan", config, "--json", "backend=cpu", f"method.rank={rank}").stdout)
        planned[rank] = plan["work_bytes"] + plan["host_bytes"]
        peak[rank] = peak_bytes(config, tmp_path / f"{rank}.h5", rank)
    growth, expected = peak["full"] - peak[1], planned["full"] - planned[1]
    assert 0.8 * expected < growth < 1.1 * expected + (8 << 20), (growth, expected)
