# SPDX-License-Identifier: MIT
"""Information flow: what reaches an input, by the clean prompts alone."""

import files
import numpy as np
import pytest
from test_eap import EAP, demo, edges, pairs  # noqa: F401 (demo, pairs: fixtures)


def test_information_flow(demo):  # noqa: F811
    """Shares of what reaches an input: they sum to one, and need no corrupted prompts."""
    result = demo({"variant": "information-flow"})
    assert (edges(result) >= 0).all()
    assert np.nansum(result["edges/score"], axis=0) == pytest.approx(1, rel=1e-5)
    assert np.isnan(result["baseline/corrupted"]).all()


@pytest.mark.parametrize("longer", [0, 40])
def test_information_flow_reads_clean_prompts_alone(pairs, longer):  # noqa: F811
    """Without corrupted prompts, or beside some of any length, it gives the same scores."""
    rows = files.id_pairs(4)
    given = [{**row, "corrupted_ids": row["corrupted_ids"] + [7] * longer} for row in rows]
    rows = [{k: v for k, v in row.items() if k != "corrupted_ids"} for row in rows]
    method = {"variant": "information-flow", "evaluate": {}}
    alone, beside = pairs(method, rows, name="alone"), pairs(method, given, name="beside")
    assert (edges(alone) == edges(beside)).all() and edges(alone).max() > 0
    assert (alone["baseline/clean"] == beside["baseline/clean"]).all()


@pytest.mark.parametrize("method", [{"compare": ["eap"]}, {"evaluate": {"faithfulness": True}}], ids=str)
def test_who_ablates_beside_information_flow_needs_pairs(causa, tmp_path, method):
    rows = [{k: v for k, v in row.items() if k != "corrupted_ids"} for row in files.id_pairs(2)]
    config = files.write_config(tmp_path / "c.yaml", {**EAP, "variant": "information-flow", **method}, rows)
    done = causa("plan", config, check=False)
    assert done.returncode == 3 and "corrupted" in done.stderr and "internal" not in done.stderr, done.stderr
