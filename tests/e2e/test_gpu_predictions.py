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
    lines = {"norm_bwd": 71717.1, "attention_bwd, 4 lanes": 61616.1, step: 4567.8,
             "bf16, wide 4096 x 14336 x 4096": 81818.1, "attention_fwd_bf16": 91919.1}
    (tmp_path / "h100.txt").write_text("== a heading\n" + "".join(
        f"{name:28} {value:10.1f} us {1.5:8.1f} GB/s\n" for name, value in lines.items()))
    assert predict("--check", readme).returncode == 1
    assert predict(readme).returncode == 0
    assert predict("--check", readme).returncode == 0
    rows = {row.split(" | ")[0].strip("| "): row for row in readme.read_text().splitlines()
            if any(number in row for number in ("71717", "61616", "4.57 ms", "81818", "91919"))}
    assert set(rows) == set(lines)


def test_kernels_are_those_of_the_benchmark():
    """Each row that bench_gpu.c prints has one in the tables, and the other way round."""
    source = (ROOT / "tests" / "bench" / "bench_gpu.c").read_text()
    m = kernels.MODELS["8b"]
    names = re.findall(r'(?:\{|report\(b, )"([^"]+)", run_', source)
    kinds = re.findall(r'bench_products\(&b, \w+, \w+, "([^"]+)"', source)
    assert len(kinds) == source.count("bench_products(&b")
    names += [f"{kind} {rows} x {m.mlp} x {m.width}" for kind in kinds
              for rows in (1, 16, 256, kernels.BENCH_ROWS)]
    # by other names than literals: a case of the table of rows, a product
    reports = re.findall(r"CA_TRY\(report\(b, ([^\",]*)", source)
    assert sorted(filter(None, reports)) == ["c->name", "name"]
    ours = [name for name, _ in kernels.bench_calls(m, 32768) + kernels.bench_bf16_calls(m)]
    assert sorted(ours) == sorted(names)


def test_bf16_rows_move_what_their_types_take():
    """Values of 4 bytes, factors of 2, and what passes through scratch memory, for m, n, k."""
    m, n, k = 1000, 64, 4096

    def moved(calls):
        return 2 * sum(call.elements for call in calls)

    def computed(calls):
        return sum(call.flops for call in calls if call.kernel == "matmul")

    both, rounded = [kernels.matmul_bf16(m, n, k)], kernels.matmul_rounded(m, n, k)
    wide = kernels.matmul_wide(m, n, k)
    assert moved(both) == 2 * m * k + 2 * k * n + 4 * m * n
    assert moved(rounded) == (4 + 2) * m * k + moved(both)
    assert moved(wide) == (4 + 6) * m * k + 3 * moved(both) + 2 * 4 * m * n
    assert computed(wide) == 3 * computed(rounded) == 3 * computed(both) == 6 * m * n * k


def test_measurement_without_a_row_is_refused(tmp_path):
    readme = pathlib.Path(shutil.copy(GPU / "README.md", tmp_path))
    (tmp_path / "a100.txt").write_text(f"{'norm_fwd, unheard of':28} {12.5:10.1f} us\n")
    done = predict("--check", readme)
    assert done.returncode == 1 and "norm_fwd, unheard of" in done.stderr


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
