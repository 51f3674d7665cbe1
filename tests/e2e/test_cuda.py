# SPDX-License-Identifier: MIT
"""The CUDA backend where no device can be used: an explicit name is refused with a sentence, auto
goes on elsewhere and says why. Devices are hidden, so machines with a GPU run these tests too."""

import os
import re
import subprocess

import files
import h5py
import pytest

HIDDEN = files.environment(CUDA_VISIBLE_DEVICES="-1")
# Without a driver, or with devices that are hidden.
REASON = (r"backend cuda: expected (an NVIDIA driver|a GPU), found none; [^;]* use backend=cpu")

pytestmark = pytest.mark.usefixtures("cuda_build")


def test_version(cuda_build):
    assert re.search(r"CUDA \d+\.\d+, cuBLAS \d+\.\d+\.\d+(, NCCL \d+\.\d+\.\d+)?; kernels for sm_\d+( \d+)*$", cuda_build)


def test_linked_libraries():
    """cuBLAS is found at run time; kernels need no C++ library, the runtime is inside."""
    program = os.environ.get("CAUSA", str(files.ROOT / "build" / "causa"))
    text = subprocess.run(["readelf", "-d", program], check=True, capture_output=True,
                          text=True).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", text)
    assert any(name.startswith("libcublas.so") for name in needed)
    assert not any(name.startswith(("libcudart", "libstdc++")) for name in needed)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7"])
@pytest.mark.parametrize("command", ["run", "plan"])
def test_explicit_name_is_refused(causa, tmp_path, name, command):
    """Exit status 3, one sentence with a cure, and no file."""
    done = causa(command, "configs/demo.yaml", f"backend={name}", f"output={tmp_path / 'x.h5'}",
                 check=False, env=HIDDEN)
    assert done.returncode == 3 and done.stdout == ""
    assert re.fullmatch(rf"causa: error: command line: backend: {REASON}\n", done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_auto_falls_back(causa, tmp_path):
    """It says why, once for all points of a sweep; the result names what ran."""
    done = causa("run", "configs/demo.yaml", "sweep={method.layer: [0, 1]}",
                 f"output={tmp_path / 'out'}", env=HIDDEN)
    lines = [line for line in done.stderr.splitlines() if "cuda" in line]
    assert len(lines) == 1
    assert re.fullmatch(rf"causa: warning: backend auto: passing over cuda: {REASON}", lines[0])
    with h5py.File(tmp_path / "out" / "point-00000.h5") as file:
        assert file.attrs["backend"] == "cpu" and file["run"].attrs["device"] == "cpu"
        assert file["run"].attrs["peak_device_bytes"] == 0


def test_explicit_cpu_does_not_ask(causa, tmp_path):
    done = causa("run", "configs/demo.yaml", "backend=cpu", f"output={tmp_path / 'x.h5'}",
                 env=HIDDEN)
    assert "cuda" not in done.stderr
