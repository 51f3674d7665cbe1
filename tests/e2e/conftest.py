# SPDX-License-Identifier: MIT
"""Fixtures of the end-to-end tests: the binary, and results that several tests read."""

import os
import pathlib
import re
import subprocess

import files
import h5py
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


# Why a test is left out on a device: markers, since tests run on `ref` in float64 otherwise.
MARKERS = {"float64": "its limits are those of float64, which only ref has",
           "reference": "equal bits are promised by ref alone, whatever runs beside",
           "long": "long on a simulated device, where shorter tests show the same"}


def pytest_configure(config):
    for name, reason in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {reason}")


def pytest_collection_modifyitems(items):
    simulated = "simt" in pathlib.Path(os.environ.get("CAUSA", "")).parts
    left_out = {"float64": files.PRECISION != "f64", "reference": files.BACKEND != "ref",
                "long": files.BACKEND == "cuda" and simulated}
    for item in items:
        for name, reason in MARKERS.items():
            if left_out[name] and item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def causa():
    """Runs the binary in the repository root: causa("run", "x.yaml") -> CompletedProcess."""
    binary = str(ROOT / os.environ.get("CAUSA", "build/causa"))  # wherever a test runs it

    def call(*arguments, check=True, wait=True, **options):
        command, pipe = [binary, *map(str, arguments)], subprocess.PIPE
        options = {"cwd": ROOT, "text": True, "env": files.environment(), **options}
        if not wait:
            return subprocess.Popen(command, stdout=pipe, stderr=pipe, **options)
        done = subprocess.run(command, stdout=pipe, stderr=pipe, timeout=300, **options)
        assert done.returncode >= 0, f"{arguments}: killed by signal {-done.returncode}"
        if check:
            assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done

    return call


@pytest.fixture(scope="session")
def cuda_missing(causa, tmp_path_factory):
    """Why backend=cuda does not run here, or None."""
    config = files.write_config(tmp_path_factory.mktemp("cuda") / "c.yaml", files.JACOBIAN,
                                [{"clean_ids": [1, 2, 3]}])
    done = causa("plan", config, "backend=cuda", check=False)
    return done.stderr.strip() if done.returncode else None


@pytest.fixture(scope="session")
def auto_backend(cuda_missing):
    """What backend=auto takes."""
    return "cpu" if cuda_missing else "cuda"


@pytest.fixture(scope="session")
def cuda_build(causa):
    """Skips where the program has no CUDA backend."""
    line, = [line for line in causa("--version").stdout.splitlines()
             if line.startswith("backend cuda")]
    if "make CUDA=1" in line:
        pytest.skip("this build has no CUDA backend: nvcc and cuBLAS were not found")
    if "simulated" in line:
        pytest.skip("the device of this build is simulated")
    return line


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
    """The file of configs/capture-smollm2.yaml, but from the model and the prompts of the demo."""
    with h5py.File(demo_result, "r") as file:
        blocks = re.split(r"^(?=\w)", file.attrs["config"], flags=re.MULTILINE)
    kept = [block for block in blocks if block.startswith(("model:", "data:"))]
    config, path = results / "capture.yaml", results / "capture-smollm2.h5"
    config.write_text("name: capture\n" + "".join(kept) +
                      "method: {kind: capture, sites: ['blocks.*.resid_post', blocks.0.attn.z]}\n")
    causa("run", config, f"output={path}")
    return path


@pytest.fixture(scope="session")
def sweep_result(causa, results):
    """The demo with its leaf at three layers."""
    causa("run", "configs/demo.yaml", "sweep={method.layer: [0, 1, 2]}",
          f"output={results / 'sweep'}")
    return results / "sweep" / "index.h5"


@pytest.fixture(scope="session")
def matrix_result(causa, results):
    path = results / "matrix.h5"
    causa("run", "configs/demo.yaml", f"output={path}", "method.position=all",
          "method.scopes=[semantic, temperature, fisher, input_x_gradient]")
    return path


@pytest.fixture(scope="session")
def evaluation_result(causa, results):
    """AOPC and leave-one-out of prompts of ids on a fixture."""
    path = results / "evaluation.h5"
    method = {**files.JACOBIAN, "scopes": ["semantic", "input_x_gradient"],
              "evaluate": {"aopc": {"fractions": [0.2, 0.5]}, "loo": True}}
    config = files.write_config(results / "evaluation.yaml", method,
                                [{"clean_ids": [3, 1, 4, 15, 9, 2]}, {"clean_ids": [6, 5, 35]}])
    causa("run", config, f"output={path}")
    return path


@pytest.fixture(scope="session")
def patch_results(causa, results):
    """The configurations of activation patching, as they are."""
    names = ["causal-tracing", "patch-ioi"]
    for name in names:
        causa("run", f"configs/{name}.yaml", f"output={results / name}.h5")
    return [results / f"{name}.h5" for name in names]


@pytest.fixture(scope="session")
def eap_results(causa, results):
    """The configurations of edge attribution, as they are."""
    names = ["ioi-eap-ig", "greater-than-exact"]
    for name in names:
        causa("run", f"configs/{name}.yaml", f"output={results / name}.h5")
    return [results / f"{name}.h5" for name in names]


@pytest.fixture(scope="session")
def text_model(tmp_path_factory):
    """A small Llama that reads text: weights of a fixture, a vocabulary that fits a tokenizer."""
    return files.write_text_model(tmp_path_factory.mktemp("models") / "text")


@pytest.fixture
def run_ids(causa, tmp_path):
    """run_ids(prompts of ids, method, key=value...) -> path of a result of a fixture model."""
    def run(prompts, method, *overrides, model="gpt2", check=True, name="result", arguments=()):
        rows = [row if isinstance(row, dict) else {"clean_ids": row} for row in prompts]
        config = files.write_config(tmp_path / f"{name}.yaml", method, rows,
                                    model=files.MODELS / model)
        path = tmp_path / f"{name}.h5"
        done = causa("run", config, f"output={path}", *overrides, *arguments, check=check)
        return path if check else done

    return run


@pytest.fixture
def patch(causa, tmp_path, text_model):
    """patch(method, rows, key=value...) -> the datasets of a result, on ref in float64."""
    def run(method, rows, *overrides, model=text_model, backend=files.BACKEND, name="p"):
        precision = "f64" if backend == "ref" else "f32"
        config = files.write_config(tmp_path / f"{name}.yaml", method, rows, model=model,
                                    backend=backend, precision=precision)
        causa("run", config, f"output={tmp_path / name}.h5", "--overwrite", *overrides)
        return files.datasets(tmp_path / f"{name}.h5")

    return run
