# SPDX-License-Identifier: MIT
"""Machines without a device, with an unfit one, with several, and with little memory."""

import re

import h5py
import numpy as np
import pytest


@pytest.mark.parametrize("environment, words", [
    ({"CA_SIMT_DEVICES": "0"}, "expected a GPU, found none"),
    ({"CA_SIMT_DRIVER": "0"}, "expected an NVIDIA driver, found none"),
    ({"CA_SIMT_DRIVER": "12040"},
     "expected a driver for CUDA 13.0 or newer, got one for CUDA 12.4"),
    ({"CA_SIMT_CAPABILITY": "61"}, "expected compute capability 7.5 or newer, got 6.1"),
    ({"CA_SIMT_FAIL": "1:46"}, "cudaGetDeviceCount: .*busy or unavailable"),
], ids=["no device", "no driver", "old driver", "old device", "busy"])
def test_without_device(run_device, environment, words):
    done = run_device(**environment)
    assert done.code == 3 and done.left == []
    assert done.errors.count("\n") == 1 and "use backend=cpu" in done.errors
    assert re.search("backend cuda.*: " + words, done.errors), done.errors


def test_index_out_of_range(run_device):
    done = run_device("backend=cuda:2", CA_SIMT_DEVICES="2")
    assert done.code == 3 and "expected a device from 0 to 1, got 2" in done.errors


@pytest.mark.parametrize("rank, device", [("1", 1), ("2", 2), ("4", 1), ("x", 0), ("-1", 0)])
def test_rank_chooses_the_device(run_device, rank, device):
    """The name of the device stands in the message of a run that fails."""
    done = run_device(OMPI_COMM_WORLD_LOCAL_RANK=rank, CA_SIMT_DEVICES="3", CA_SIMT_FULL="1")
    assert f"cuda:{device} (" in done.errors


def test_asked_device_before_rank(run_device):
    done = run_device("backend=cuda:2", SLURM_LOCALID="1", CA_SIMT_DEVICES="3", CA_SIMT_FULL="1")
    assert "cuda:2 (" in done.errors


def test_no_kernels_for_the_device(run_device):
    """The first launch returns cudaErrorNoKernelImageForDevice."""
    found = [done for done in (run_device(CA_SIMT_FAIL=f"{n}:209") for n in range(10, 40))
             if "expected kernels for this device" in done.errors]
    assert len(found) == 1 and found[0].code == 3 and "use backend=cpu" in found[0].errors


# ---- memory that the plan did not see


def scores(path):
    with h5py.File(path) as file:
        return file["attribution/semantic/score"][:]


def test_micro_batches_are_halved(run_device, tmp_path):
    """The limit is more than the device has. From some size of the device on a run goes through in
    smaller micro-batches, says so, and finds the same."""
    assert run_device(keep=tmp_path / "whole.h5").code == 0
    whole, outcomes = scores(tmp_path / "whole.h5"), []
    for kilobytes in range(38 << 10, 42 << 10, 16):  # cuBLAS, scratch and staging: 38 MiB
        done = run_device("memory=1GB", keep=tmp_path / "x.h5",
                          CA_SIMT_MEMORY=str(kilobytes << 10))
        halved = re.search(r"going on with micro-batches of up to (\d+) rows", done.errors)
        outcomes.append("halved" if done.code == 0 and halved else done.code)
        if done.code == 0:
            assert np.allclose(scores(tmp_path / "x.h5"), whole, rtol=1e-4)
        else:
            assert done.code == 5 and done.left == []
            assert done.errors.count("causa: error: ") == 1
        if outcomes[-1] == 0:
            break
    assert outcomes[0] == 5 and "halved" in outcomes and outcomes[-1] == 0


def test_message_holds_the_plan(run_device):
    done = run_device("memory=1GB", CA_SIMT_MEMORY=str(39000 << 10))
    assert done.code == 5
    assert re.search(r"weights .+ work .+ for micro-batches of up to \d+ rows", done.errors)
