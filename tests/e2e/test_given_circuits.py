# SPDX-License-Identifier: MIT
"""Circuits of a file, run in place of an attribution: the result has what every other one has."""

import json

import files
import numpy as np
import pytest
from test_eap import DEMO


@pytest.fixture(scope="module")
def attributed(causa, tmp_path_factory):
    """A result with scores and circuits of three pairs."""
    path = tmp_path_factory.mktemp("attributed") / "a.h5"
    causa("run", "configs/ioi-eap-ig.yaml", f"output={path}", "data.limit=3",
          "method.circuit.fractions=[0.05,0.3,1]")
    return path


@pytest.fixture
def given(causa, tmp_path):
    """given(file, key=value...) -> path of a result of a file's circuits, on the same pairs."""
    def run(circuit, *overrides):
        out = tmp_path / "given.h5"
        causa("run", "configs/ioi-eap-ig.yaml", f"output={out}", "data.limit=3", "--overwrite",
              f"method.circuit={{file: {circuit}}}", *overrides)
        return out

    return run


@pytest.mark.parametrize("more", [(), ("batch=1",), ("method.circuit.fractions=[0.1,0.5]",)])
def test_the_baseline_is_that_of_an_attribution(causa, attributed, given, more):
    path = given(attributed, *more)
    own, other = files.datasets(path), files.datasets(attributed)
    for name in ("baseline/clean", "baseline/corrupted"):
        assert np.allclose(own[name], other[name], rtol=1e-5), name
    for name in ("baseline/predicted", "data/position"):
        assert own[name].dtype == other[name].dtype and (own[name] == other[name]).all(), name
    told, theirs = files.attributes(path), files.attributes(attributed)
    assert told["baseline@metric"] == theirs["baseline@metric"] == "logit_diff"
    for name in ("clean_mean", "corrupted_mean", "accuracy"):
        assert float(told[f"baseline@{name}"]) == pytest.approx(
            float(theirs[f"baseline@{name}"]), rel=1e-5), name
    headlines = json.loads(causa("inspect", path, "--json").stdout)["headlines"]
    assert {"clean_mean", "corrupted_mean", "accuracy"} <= set(headlines)
