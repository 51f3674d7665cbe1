# SPDX-License-Identifier: MIT
"""Every CUDA call fails once: the program says so in one sentence, leaves no file, releases what it
holds and never crashes. The simulated device counts calls and allocations and makes them fail."""

import os
import re

import h5py
import numpy as np
import pytest
from conftest import ROOT

OUT_OF_MEMORY, NO_DEVICE, ILLEGAL_ADDRESS = 2, 100, 700
RUN_FAILED, NO_BACKEND, NO_MEMORY = 1, 3, 5
SANITIZED = ROOT / "build" / "simt-asan" / "causa"


@pytest.fixture(scope="module")
def count(run_device):
    """count(VARIABLE): how many calls or allocations a run makes."""
    def ask(variable, *overrides):
        done = run_device(*overrides, **{variable: "0"})
        assert done.code == 0, done.errors
        return int(re.search(r"simt: (\d+) \w+", done.errors)[1])

    return ask


def check(done, where):
    """What holds of every run; its exit code."""
    where = f"{where}: exit code {done.code}: {done.errors}"
    assert "simt:" not in done.errors and "Sanitizer" not in done.errors, where
    if done.code == 0:
        assert done.left == ["x.h5"], where
    else:
        assert done.left == [], where
        assert len(re.findall(r"^causa: error: .+$", done.errors, re.MULTILINE)) == 1, where
    return done.code


def codes_of_calls(run_device, calls, error, **options):
    """{call: exit code} when this call returns this error."""
    return {n: check(run_device(CA_SIMT_FAIL=f"{n}:{error}", **options), f"call {n}: {error}")
            for n in calls}


def phases(codes):
    """Exit codes in the order in which they first appear, without repetition of neighbours."""
    found = []
    for code in codes.values():
        if not found or found[-1] != code:
            found.append(code)
    return found


def test_device_is_lost(run_device, count):
    """While the backend opens it cannot be had, later the run fails, at last nobody asks."""
    codes = codes_of_calls(run_device, range(1, count("CA_SIMT_FAIL") + 1), ILLEGAL_ADDRESS)
    assert phases(codes) == [NO_BACKEND, RUN_FAILED, 0]
    closing = sum(code == 0 for code in codes.values())
    assert closing < 60 and sum(code == RUN_FAILED for code in codes.values()) > 100


def test_each_call_lacks_memory_once(run_device, count):
    """Asking for devices may fail in no other way than that there is none. A single failure is
    mended where memory is asked for again, and by smaller micro-batches where there are any."""
    codes = codes_of_calls(run_device, range(1, count("CA_SIMT_FAIL") + 1), OUT_OF_MEMORY)
    assert codes.pop(1) == NO_BACKEND
    assert set(codes.values()) == {NO_MEMORY, 0}
    assert sum(code == NO_MEMORY for code in codes.values()) > 20


def datasets(path):
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]})
                        if isinstance(item, h5py.Dataset) and not name.startswith("run/") else None)
    return found


@pytest.mark.parametrize("overrides", [
    ("precision=bf16",),
    ("method={kind: patch, sites: [blocks.0.attn.pattern, blocks.1.resid_mid], positions: last}",),
    ("method={kind: eap, steps: 2}",),
], ids=["bf16", "patch", "eap"])
@pytest.mark.parametrize("error", [ILLEGAL_ADDRESS, OUT_OF_MEMORY])
def test_calls_of_other_operations(run_device, count, tmp_path, overrides, error):
    """Whatever a run does, no failing call is overlooked: it fails, or its values are right. A
    sample, at other calls than those of its neighbours."""
    good, got = tmp_path / "good.h5", tmp_path / "got.h5"
    assert run_device(*overrides, keep=good).code == 0
    expected, total = datasets(good), count("CA_SIMT_FAIL", *overrides)
    for n in range(7 + error % 5, total + 1, 11):
        done = run_device(*overrides, keep=got, CA_SIMT_FAIL=f"{n}:{error}")
        assert check(done, f"call {n}: {error}") in (0, RUN_FAILED, NO_BACKEND, NO_MEMORY), n
        for name, value in datasets(got).items() if done.code == 0 else ():
            # smaller micro-batches change last bits
            if value.dtype.kind == "f":
                assert np.allclose(value, expected[name], rtol=1e-3, atol=1e-5, equal_nan=True), (n, name)


def test_no_device_at_first(run_device):
    assert codes_of_calls(run_device, [1], NO_DEVICE) == {1: NO_BACKEND}


def test_memory_ends_for_good(run_device, count):
    total = count("CA_SIMT_FULL")
    assert total > 8
    for n in range(1, total + 1):
        done = run_device(CA_SIMT_FULL=str(n))
        assert check(done, f"allocation {n}") == NO_MEMORY
        assert re.search(r"expected room for .+, got .+ free of|out of memory", done.errors)


@pytest.mark.skipif("CAUSA" in os.environ and "simt/" not in os.environ["CAUSA"],
                    reason="runs once, beside the plain build")
def test_host_memory_is_released(run_device, count):
    """AddressSanitizer looks for what the host leaks when calls fail."""
    options = {"program": str(SANITIZED), "ASAN_OPTIONS": "allocator_may_return_null=1",
               "LSAN_OPTIONS": "suppressions=.make/lsan.txt:print_suppressions=0"}
    calls = count("CA_SIMT_FAIL")
    opening = 40
    codes_of_calls(run_device, [*range(1, opening), *range(opening, calls, 7)], ILLEGAL_ADDRESS,
                   **options)
    for n in range(1, count("CA_SIMT_FULL") + 1, 2):
        check(run_device(CA_SIMT_FULL=str(n), **options), f"allocation {n}")
