# SPDX-License-Identifier: MIT
"""experiments/gpu: the tables of its README are those of predict.py, whose rows are those of the
benchmark, and its passes do the arithmetic of the model."""

import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
GPU = ROOT / "experiments" / "gpu"
sys.path.insert(0, str(GPU))

import kernels  # noqa: E402
import steps  # noqa: E402


def predict(*arguments):
    return subprocess.run([sys.executable, str(GPU / "predict.py"), *map(str, arguments)],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)


def test_readme_is_up_to_date():
    done = predict("--check")
    assert done.returncode == 0, done.stderr


def test_measurements_are_filled_in(tmp_path):
    readme = pathlib.Path(shutil.copy(GPU / "README.md", tmp_path))
    step = "GPT-2 small, DAS step"
    lines = {"norm_bwd": 71717.1, "attention_bwd, 4 lanes": 61616.1, step: 4567.8}
    (tmp_path / "h100.txt").write_text("== a heading\n" + "".join(
        f"{name:28} {value:10.1f} us {1.5:8.1f} GB/s\n" for name, value in lines.items()))
    assert predict("--check", readme).returncode == 1
    assert predict(readme).returncode == 0
    assert predict("--check", readme).returncode == 0
    rows = {row.split(" | ")[0].strip("| "): row for row in readme.read_text().splitlines()
            if any(number in row for number in ("71717", "61616", "4.57 ms"))}
    assert set(rows) == set(lines)


def test_kernels_are_those_of_the_benchmark():
    """Those in bf16 are columns of the same rows here."""
    source = (ROOT / "tests" / "bench" / "bench_gpu.c").read_text()
    names = set(re.findall(r'(?:\{|report\(b, )"([^"]+)", run_', source))
    ours = {name for name, _ in kernels.bench_calls(kernels.MODELS["8b"], 32768)}
    names = {name for name in names if "bf16" not in name}
    assert {name for name in ours if not name.startswith("matmul")} == names


@pytest.mark.parametrize("key", kernels.MODELS)
def test_passes_multiply_each_weight_once(key):
    """2 FLOPs a weight and row in the forward, and as many for each lane of the backward."""
    m, lanes, reads = kernels.MODELS[key], 3, 2
    batch = kernels.Batch(reads, 7)
    weights = batch.rows * m.layers * m.block_weights
    head = reads * m.width * m.vocab

    def products(step):
        return sum(call.flops * times for call, times in step.calls.items()
                   if call.kernel == "matmul")

    forward, backward = steps.Step(m), steps.Step(m)
    steps.forward(forward, batch, reads)
    steps.backward(backward, batch, reads, lanes)
    assert products(forward) == 2 * (weights + head)
    assert products(backward) == 2 * lanes * (weights + head)
