# SPDX-License-Identifier: MIT
"""Edge attribution beside its peers: what compat takes of their code, and what it refuses as they do."""

import html

import files
import numpy as np
import pytest
from test_eap import EAP, PAIR, demo, edges, near, pairs  # noqa: F401 (demo, pairs: fixtures)


@pytest.mark.parametrize("compat", ["eap-ig", "mib"])
@pytest.mark.long
def test_one_mean_for_all_sources(demo, compat):  # noqa: F811
    """Beside nothing, the one vector adds the same to every edge into an input: m . g_v. The path
    of activations that ends at the clean run has its gradients at the logits."""
    peer = {"compat": compat, "batch_size": 1}
    score = lambda **method: demo({**peer, **method})["edges/score"].astype(np.float64)
    mean, zero = (score(variant="eap", ablation=ablation) for ablation in ("mean", "zero"))
    added = mean - zero
    assert np.nanmax(np.abs(mean)) < 1e3 and np.nanmax(np.abs(added)) > 1e-4
    spread = np.nanmax(added, axis=0) - np.nanmin(added, axis=0)
    assert spread.max() <= 1e-5 * np.nanmax(np.abs(zero))
    path = score(variant="ig-activations", ablation="mean", steps=1)
    near(path[:, -1], mean[:, -1], 1e-5)


@pytest.mark.parametrize("compat", ["eap-ig", "mib"])
@pytest.mark.parametrize("variant", ["exact", "information-flow"])
def test_batches_are_of_gradients_alone(pairs, compat, variant):  # noqa: F811
    """Exact patching takes metrics pair by pair, and flow none: no batch's mean, no heavier last one."""
    rows = files.id_pairs(5)
    ours = pairs({"variant": variant}, rows)
    theirs = pairs({"variant": variant, "compat": compat, "batch_size": 2}, rows, name="q")
    assert np.abs(edges(ours)).max() > 1e-6
    assert (edges(theirs) == edges(ours)).all() and (theirs["nodes/score"] == ours["nodes/score"]).all()


def test_exact_divergences_are_per_entry_of_the_vocabulary(pairs):  # noqa: F811
    """The peers' metric is, whatever is scored by it; information flow has no metric."""
    rows = files.id_pairs(2)
    peer = {"compat": "eap-ig", "batch_size": 2}
    for variant, entries in (("exact", 398), ("information-flow", 1)):
        ours = pairs({"variant": variant}, rows, "metric=kl")
        theirs = pairs({"variant": variant, **peer}, rows, "metric=kl", name="q")
        near(edges(theirs) * entries, edges(ours), 1e-6)


@pytest.mark.parametrize("ablation", ["mean", "zero", "mean-positional"])
@pytest.mark.parametrize("variant", ["ig-inputs", "clean-corrupted", "information-flow"])
@pytest.mark.parametrize("compat", ["eap-ig", "mib"])
def test_paths_of_inputs_begin_at_a_prompt(causa, tmp_path, compat, variant, ablation):
    """The peers' code has patching only there; the one mean is no embedding that a path could begin
    at."""
    config = files.write_config(tmp_path / "bad.yaml", {**EAP, "variant": variant, "compat": compat},
                                [{"clean_ids": [1, 2, 3], "answer_ids": [4], "wrong_ids": [5]}])
    done = causa("run", config, f"method.ablation={ablation}", check=False)
    assert done.returncode == 2
    words = ["method.ablation: ", "expected patching", f"variant {variant}", f"got {ablation}"]
    assert all(word in done.stderr for word in words), done.stderr


def test_levels_are_named_in_full(causa, tmp_path, text_model):
    config = files.write_config(tmp_path / "bad.yaml", {**EAP, "variant": "exact"}, [PAIR],
                                model=text_model)
    for level, name in (("hidden", "hidden units"), ("neuron", "neurons")):
        done = causa("run", config, f"method.level={level}", check=False)
        assert done.returncode == 2 and f"no scores of {name}" in done.stderr


@pytest.mark.parametrize("key, value, ours", [
    ("variant", "EAP-IG-inputs", "ig-inputs"), ("variant", "eap-ig-activations", "ig-activations"),
    ("variant", "EAP-IG", "ig-inputs"), ("variant", "information-flow-routes", "information-flow"),
    ("variant", "EAP", "eap"), ("ablation", "counterfactual", "patching"),
    ("compare", "[EAP-IG-inputs]", "ig-inputs"),
])
def test_names_of_the_peers_are_understood(causa, key, value, ours):
    """Not accepted, but answered with ours."""
    done = causa("plan", "configs/ioi-eap-ig.yaml", f"method.{key}={value}", check=False)
    assert done.returncode == 2 and f"did you mean '{ours}'?" in done.stderr, done.stderr
    assert "=" not in done.stderr.split("expected")[1].split("got")[0]


@pytest.mark.parametrize("absolute", [True, False])
def test_areas_say_which_selection_they_are_of(causa, tmp_path, absolute):
    """The benchmark's two come from two selections, ours both from one."""
    path = tmp_path / "a.h5"
    done = causa("run", "configs/ioi-eap-ig.yaml", f"output={path}", "data.limit=2",
                 f"method.circuit={{fractions: [0.1, 1], absolute: {str(absolute).lower()}}}")
    told = "|score|; MIB takes CPR by signed" if absolute else "signed score; MIB takes CMD by |score|"
    assert f"both of this selection, by {told}" in done.stdout
    causa("report", path, "-o", tmp_path)
    page = html.unescape((tmp_path / "a.html").read_text())
    told = "|score|; the benchmark MIB takes CPR" if absolute else "signed score; the benchmark MIB takes CMD"
    assert f"Both are of circuits picked by {told}" in page
