# SPDX-License-Identifier: MIT
"""Every CUDA call fails once: the program says so in one sentence, releases what it holds and never
crashes. The simulated device counts the calls and makes the N-th one fail."""

import os
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("CAUSA", str(ROOT / "build" / "simt" / "causa"))
CODES = {"memory": 2, "illegal address": 700}


def run(folder, **environment):
    """backend=cuda on a device that behaves as the environment says."""
    return subprocess.run(
        [PROGRAM, "run", "configs/demo.yaml", "backend=cuda", f"output={folder / 'x.h5'}",
         "--overwrite"],
        cwd=ROOT, text=True, capture_output=True, timeout=300, env={**os.environ, **environment})


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    done = run(tmp_path_factory.mktemp("calls"), CA_SIMT_FAIL="0")
    assert done.returncode == 0, done.stderr
    return int(re.search(r"simt: (\d+) calls", done.stderr)[1])


@pytest.mark.parametrize("code", CODES.values(), ids=CODES.keys())
def test_each_call(calls, code, tmp_path):
    """All calls that open the backend, then some of those that work."""
    opening = 30
    for number in [*range(1, opening + 1), *range(opening + 7, calls, 17)]:
        done = run(tmp_path, CA_SIMT_FAIL=f"{number}:{code}")
        where = f"call {number} of {calls}: {done.stderr}"
        assert "simt:" not in done.stderr, where
        if done.returncode != 0:
            assert 1 <= done.returncode <= 9, where
            assert re.search(r"^causa: error: .+$", done.stderr, re.MULTILINE), where
        elif code == CODES["illegal address"]:
            # A device that is lost while it is closed changes nothing.
            assert number > calls - 20, where


def test_without_device(tmp_path):
    for environment in ({"CA_SIMT_DEVICES": "0"}, {"CA_SIMT_DRIVER": "0"},
                        {"CA_SIMT_DRIVER": "12040"}):
        done = run(tmp_path, **environment)
        assert done.returncode == 3 and done.stderr.count("\n") == 1
        assert re.search(r"backend cuda: expected .+ use backend=cpu", done.stderr)
    assert "expected a driver for CUDA 13.0 or newer, got one for CUDA 12.4" in done.stderr


def test_small_device(tmp_path):
    """33 MiB hold cuBLAS's workspace and little else."""
    done = run(tmp_path, CA_SIMT_MEMORY=str(33 << 20))
    assert done.returncode != 0 and "simt:" not in done.stderr
    assert re.search(r"^causa: error: .+", done.stderr, re.MULTILINE)
