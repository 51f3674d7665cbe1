# SPDX-License-Identifier: MIT
"""A small run on the simulated device, and what it says."""

import dataclasses
import json
import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("CAUSA", str(ROOT / "build" / "simt" / "causa"))


@dataclasses.dataclass
class Ended:
    code: int
    errors: str
    left: list  # names of the files that lie where the result belongs


@pytest.fixture(scope="session")
def run_device(tmp_path_factory):
    """run_device(VARIABLE=value…, program=…) -> Ended; the result is kept where `keep` says."""
    folder = tmp_path_factory.mktemp("device")
    prompts = [{"clean_ids": [n + 3 * i for i in range(4 + n % 3)],
                "corrupted_ids": [n + 3 * i for i in range(3 + n % 3)] + [1],
                "answer_ids": [5], "wrong_ids": [9]} for n in range(6)]
    (folder / "prompts.json").write_text(json.dumps(prompts))
    config = folder / "small.yaml"
    config.write_text(json.dumps({
        "name": "small", "model": str(ROOT / "tests/fixtures/models/llama3-gqa"),
        "data": {"file": str(folder / "prompts.json")},
        "method": {"kind": "jacobian", "target": "#5:#9"}}))

    def run(*overrides, program=PROGRAM, keep=None, **environment):
        results = folder / "results"
        results.mkdir(exist_ok=True)
        backend = [] if any(o.startswith("backend=") for o in overrides) else ["backend=cuda"]
        done = subprocess.run(
            [program, "run", config, f"output={results / 'x.h5'}", *backend, *overrides],
            cwd=ROOT, text=True, capture_output=True, timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment})
        left = sorted(path.name for path in results.iterdir())
        for path in results.iterdir():
            path.rename(keep) if keep and path.name == "x.h5" else path.unlink()
        return Ended(done.returncode, done.stderr, left)

    return run
