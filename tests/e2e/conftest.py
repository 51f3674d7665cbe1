# SPDX-License-Identifier: MIT
"""Fixtures of the end-to-end tests: the binary, and results that several tests read."""

import os
import pathlib
import re
import subprocess

import h5py
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def causa():
    """Runs the binary in the repository root: causa("run", "x.yaml") -> CompletedProcess."""
    binary = os.environ.get("CAUSA", str(ROOT / "build" / "causa"))

    def call(*arguments, check=True):
        done = subprocess.run([binary, *map(str, arguments)], cwd=ROOT, capture_output=True,
                              text=True, timeout=300)
        if check:
            assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done

    return call


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """A folder that is laid out as the root of the repository: it has results/."""
    folder = tmp_path_factory.mktemp("root")
    (folder / "results").mkdir()
    return folder / "results"


@pytest.fixture(scope="session")
def demo_result(causa, results):
    path = results / "demo.h5"
    causa("run", "configs/demo.yaml", "--overwrite", f"output={path}")
    return path


@pytest.fixture(scope="session")
def capture_result(causa, results, demo_result):
    """The model and the prompts of the demo, with another method."""
    with h5py.File(demo_result, "r") as file:
        blocks = re.split(r"^(?=\w)", file.attrs["config"], flags=re.MULTILINE)
    kept = [block for block in blocks if block.startswith(("model:", "data:"))]
    config, path = results / "capture.yaml", results / "capture.h5"
    config.write_text("name: capture\n" + "".join(kept) +
                      "method: {kind: capture, sites: ['blocks.*.resid_post', blocks.0.attn.z]}\n")
    causa("run", config, f"output={path}")
    return path
