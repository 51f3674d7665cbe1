# SPDX-License-Identifier: MIT
"""Edge attribution through the command line: what the file holds, laws, messages, interruption.

tests/method/test_eap*.c compare scores with golden vectors and finite differences.
"""

import itertools
import json
import signal

import files
import h5py
import numpy as np
import pytest
from test_patch import id_pairs
from test_resume import start

DEMO = files.ROOT / "experiments" / "demo-model"
LAYERS, HEADS = 4, 8
EAP = {"kind": "eap"}
PAIR = {"clean": "When John and Mary went", "corrupted": "When Mary and John went",
        "answer": " the", "wrong": " a"}


@pytest.fixture
def demo(causa, tmp_path):
    """demo(method, key=value...) -> the datasets of a result: seven pairs of two lengths."""
    def run(method, *overrides, task="ioi", name="r", check=True):
        config = tmp_path / f"{name}.yaml"
        files.write_config(config, {**EAP, **method}, [{"clean": "unused"}], model=DEMO)
        return_ = causa("run", config, f"data.file={DEMO / task}.csv", "data.limit=7",
                        f"output={tmp_path / name}.h5", "--overwrite", *overrides, check=check)
        return files.datasets(tmp_path / f"{name}.h5") if check else return_

    return run


@pytest.fixture
def pairs(causa, tmp_path):
    """pairs(method, rows, key=value...) -> the datasets of a result on ref, in float64."""
    def run(method, rows, *overrides, model="smollm2", name="p"):
        config = files.write_config(tmp_path / f"{name}.yaml", {**EAP, **method}, rows,
                                    model=files.MODELS / model, backend="ref", precision="f64")
        causa("run", config, f"output={tmp_path / name}.h5", "--overwrite", *overrides)
        return files.datasets(tmp_path / f"{name}.h5")

    return run


def near(got, expected, limit):
    assert np.isfinite(got).all() and files.share(got, expected) <= limit


def edges(result, name="edges/score"):
    return result[name][..., result["edges/valid"].astype(bool)]


# ---- the file


def names_of_graph():
    layer = lambda l, parts: [f"a{l}.h{h}{part}" for part in parts for h in range(HEADS)] + [f"m{l}"]
    sources = ["input", *itertools.chain(*(layer(l, [""]) for l in range(LAYERS)))]
    into = [*itertools.chain(*(layer(l, ["<q>", "<k>", "<v>"]) for l in range(LAYERS))), "logits"]
    return sources, into


def test_names_and_edges(demo):
    """A source has edges into everything that is computed later."""
    result = demo({"variant": "eap"})
    sources, into = names_of_graph()
    assert [name.decode() for name in result["edges/source"]] == sources
    assert [name.decode() for name in result["edges/destination"]] == into
    assert [name.decode() for name in result["nodes/name"]] == sources
    depth = {"input": -1, "logits": 2 * LAYERS}
    for l in range(LAYERS):
        depth[f"m{l}"] = 2 * l + 1
    when = lambda name: depth.get(name, 2 * int(name[1:name.find(".")]) if "." in name else None)
    earlier = np.array([[when(u) < when(v) for v in into] for u in sources])
    assert (result["edges/valid"].astype(bool) == earlier).all() and earlier.sum() == 1519
    assert (np.isfinite(result["edges/score"]) == earlier).all()
    near(result["nodes/score"], np.nansum(result["edges/score"], axis=1), 1e-6)


def test_baseline(demo, causa, tmp_path):
    result = demo({}, "method.rule=gauss-legendre", "method.steps=12")
    clean, corrupted = result["baseline/clean"], result["baseline/corrupted"]
    assert clean.shape == corrupted.shape == (7,) and (clean > corrupted).all()
    assert result["data/position"].tolist() == (np.diff(result["data/offsets"]) - 1).tolist()
    assert result["baseline/predicted"].tolist() == result["data/answer_ids"].tolist()
    told = files.attributes(tmp_path / "r.h5")
    assert told["@status"] == "complete" and told["baseline@accuracy"] == "1.0"
    assert told["baseline@metric"] == "logit_diff" and told["edges@variant"] == "ig-inputs"
    for name in ("clean", "corrupted", "residual"):
        assert float(told[f"baseline@{name}_mean"]) == pytest.approx(result[f"baseline/{name}"].mean())
    # the input's node explains the change of the loss, but for the residual
    explained = (clean - corrupted).mean() - result["baseline/residual"].mean()
    assert result["nodes/score"][0] == pytest.approx(explained, rel=1e-5)
    text = causa("inspect", tmp_path / "r.h5").stdout
    assert "clean_mean" in text and "/edges/score" in text


def test_strongest_edges_are_told(demo, causa, tmp_path):
    result = demo({})
    done = demo({}, check=False)
    score = edges(result)
    strongest = f"{score[np.abs(score).argmax()]:.4g}"
    lines = done.stdout.splitlines()
    assert lines[0].startswith("strongest edges of 1519") and lines[1].split()[0] == strongest


def test_scores_of_pairs(demo):
    for method in ({"variant": "eap"}, {"variant": "exact"}, {"steps": 3}):
        result = demo({**method, "per_example": True})
        assert result["edges/score_per_example"].shape == (7, *result["edges/score"].shape)
        each = edges(result, "edges/score_per_example").astype(np.float64)
        near(edges(result), each.mean(axis=0), 1e-6)
        assert (np.isnan(result["edges/score_per_example"]) == np.isnan(result["edges/score"])).all()
        assert "edges/score_per_example" not in demo(method)


def test_nodes_alone(demo):
    """The level node sums what the level edge scores one by one; gradients at other places."""
    for method in ({"variant": "eap"}, {"steps": 3}, {"variant": "clean-corrupted"},
                   {"variant": "ig-activations", "steps": 2},
                   {"variant": "eap", "ablation": "mean"}):
        result = demo({**method, "level": "node"})
        near(result["nodes/score"], demo(method)["nodes/score"], 1e-5)
        assert not any(name.startswith("edges/") for name in result)


# ---- laws


def test_one_point(demo):
    """One point at the clean end is the plain variant; the mean with one at the corrupted end is
    clean-corrupted; the midpoint is the node of Gauss and Legendre."""
    plain = edges(demo({"variant": "eap"}))
    path = lambda rule: edges(demo({"rule": rule, "steps": 1}))
    near(path("right"), plain, 1e-5)
    near(edges(demo({"variant": "clean-corrupted"})), (plain + path("left")) / 2, 1e-5)
    near(path("gauss-legendre"), path("midpoint"), 1e-5)
    assert files.share(path("left"), plain) > 1e-3


def test_rules_of_choice(demo):
    for variant, rule in (("ig-inputs", "left"), ("ig-activations", "right")):
        auto = edges(demo({"variant": variant, "steps": 2}))
        near(edges(demo({"variant": variant, "steps": 2, "rule": rule})), auto, 1e-7)


def test_own_sites_and_all_sites(demo):
    """The path of the input is ig-inputs. The peers' average over all paths: at the clean end every
    path has the gradients of the clean run behind its site, and none into it."""
    inputs = demo({"rule": "right", "steps": 2})
    own = demo({"variant": "ig-activations", "steps": 2})
    near(own["edges/score"][0], inputs["edges/score"][0], 1e-5)
    plain = demo({"variant": "eap"})["edges/score"].astype(np.float64)
    all_ = demo({"variant": "ig-activations", "steps": 1, "compat": "eap-ig", "batch_size": 1})
    near(all_["edges/score"][:, -1], plain[:, -1], 1e-5)
    sources = ~np.isnan(plain[:, -2])
    share = 2 * LAYERS / (2 * LAYERS + 1)
    near(all_["edges/score"][sources, -2], share * plain[sources, -2], 1e-5)


@pytest.mark.parametrize("compat", ["eap-ig", "mib"])
def test_compatible_scale(demo, compat):
    """A pair's scores are divided by the size of its batch, the last one being smaller; those that
    are kept of each pair too, so that their mean is the score."""
    result = demo({"variant": "eap", "per_example": True, "compat": compat, "batch_size": 3})
    theirs = edges(result, "edges/score_per_example").astype(np.float64)
    each = edges(demo({"variant": "eap", "per_example": True}), "edges/score_per_example").astype(np.float64)
    size = np.array([3, 3, 3, 3, 3, 3, 1])[:, None]
    near(theirs, each / size, 1e-6)
    near(edges(result), theirs.mean(axis=0), 1e-6)
    one = demo({"variant": "eap", "compat": compat, "batch_size": 1})
    near(edges(one), each.mean(axis=0), 1e-6)


@pytest.mark.parametrize("metric, task", [
    ("logit_diff", "ioi"), ("prob_diff", "ioi"), ("prob", "ioi"), ("logprob", "ioi"),
    ("kl", "ioi"), ("js", "ioi"), ("greater_than", "greater_than"),
])
def test_metrics_are_explained(demo, metric, task):
    """A fine path explains the change of every metric's loss: sign and gradient belong together.
    kl and js grow when the model changes, so they are losses themselves."""
    result = demo({"rule": "gauss-legendre", "steps": 40, "level": "node"}, f"metric={metric}",
                  task=task)
    change = result["baseline/corrupted"] - result["baseline/clean"]
    loss = change if metric in ("kl", "js") else -change
    assert (loss > 0).mean() > 0.8
    assert result["nodes/score"][0] == pytest.approx(loss.mean(), rel=0.02)
    assert np.abs(result["baseline/residual"]).max() <= 0.1 * np.abs(loss).max()


def test_exact(demo):
    """Ablating the input is the corrupted run; the last MLP has one edge. The path explains what
    edges do one by one, while the model is so sure of its answers that the clean end alone does
    not."""
    result = demo({"variant": "exact"})
    nodes = demo({"variant": "exact", "level": "node"})["nodes/score"]
    loss = result["baseline/clean"] - result["baseline/corrupted"]
    assert nodes[0] == pytest.approx(loss.mean(), rel=1e-5)
    assert nodes[-1] == pytest.approx(result["edges/score"][-1, -1], rel=1e-4)
    alike = lambda method: np.corrcoef(edges(result), edges(demo(method)))[0, 1]
    assert alike({"steps": 5}) > 0.95 and alike({"variant": "ig-activations"}) > 0.95
    assert alike({"variant": "eap"}) < 0.5


def test_ablations(pairs):
    """The mean of one prompt at its positions is the prompt: nothing is ablated. Zero and mean need
    no corrupted prompts."""
    rows = [{k: v for k, v in row.items() if k != "corrupted_ids"} for row in id_pairs(3)]
    alone = pairs({"variant": "eap", "ablation": "mean-positional"}, rows[:1])
    zero = pairs({"variant": "eap", "ablation": "zero"}, rows[:1])
    assert np.abs(edges(alone)).max() <= 1e-12 * np.abs(edges(zero)).max()
    assert alone["baseline/corrupted"] == pytest.approx(alone["baseline/clean"], rel=1e-12)
    short = [{**row, "clean_ids": [5 + i]} for i, row in enumerate(rows)]
    mean = pairs({"variant": "eap", "ablation": "mean"}, short)
    positional = pairs({"variant": "eap", "ablation": "mean-positional"}, short)
    near(edges(mean), edges(positional), 1e-7)
    for ablation in ("zero", "mean"):
        near(edges(pairs({"rule": "right", "steps": 1, "ablation": ablation}, rows)),
             edges(pairs({"variant": "eap", "ablation": ablation}, rows)), 1e-7)


# ---- finer and coarser scores


def test_scores_at_positions(pairs):
    """They sum to the score, and are 0 where clean and corrupted have the same tokens so far."""
    rows = id_pairs(4, least=9, most=10)
    for method in ({"steps": 3}, {"variant": "ig-activations", "steps": 2}):
        result = pairs({**method, "by_position": True}, rows)
        at = edges(result, "edges/score_by_position")
        assert at.shape[0] == 9
        near(at.astype(np.float64).sum(axis=0), edges(result), 1e-6)
        near(edges(pairs(method, rows)), edges(result), 1e-7)
        first = min(int(np.flatnonzero(np.array(row["clean_ids"]) != row["corrupted_ids"])[0])
                    for row in rows)
        assert first > 0 and not at[:first].any() and at[first:].any(axis=1).all()


def test_neurons_and_hidden_units(demo):
    """Coordinates of a node's output sum to its score; so do an MLP's hidden units, since they make
    all that differs in its output."""
    own = {"variant": "ig-activations", "steps": 2}
    peer = {**own, "compat": "eap-ig", "batch_size": 7}
    for method in ({"variant": "eap"}, {"steps": 3}, own, peer):
        nodes = demo({**method, "level": "node"})["nodes/score"]
        neurons = demo({**method, "level": "neuron"})["neurons/score"]
        assert neurons.shape == (1 + LAYERS * (HEADS + 1), 128)
        near(neurons.astype(np.float64).sum(axis=1), nodes, 1e-5)
    for method in ({"variant": "eap"}, own):
        hidden = demo({**method, "level": "hidden"})["hidden/score"]
        assert hidden.shape == (LAYERS, 352)
        nodes = demo({**method, "level": "node"})["nodes/score"]
        near(hidden.astype(np.float64).sum(axis=1), nodes[HEADS + 1::HEADS + 1], 1e-5)


def test_shared_keys_and_values(demo):
    """A column of a key/value head is the sum over its query heads'."""
    query = demo({"steps": 3})
    native = demo({"steps": 3, "kv_columns": "native"})
    names = [name.decode() for name in native["edges/destination"]]
    assert names[HEADS:HEADS + 5] == ["a0.kv0<k>", "a0.kv1<k>", "a0.kv2<k>", "a0.kv3<k>", "a0.kv0<v>"]
    columns = {name.decode(): i for i, name in enumerate(query["edges/destination"])}
    expected = np.stack([
        query["edges/score"][:, [columns[f"{l}.h{h}{i}"] for h in heads]].astype(np.float64).sum(axis=1)
        if heads else query["edges/score"][:, columns[name]]
        for name in names
        for l, i in [(name.split(".")[0], name[-3:])]
        for heads in [[2 * int(name.split("kv")[1][0]) + h for h in (0, 1)] if "kv" in name else []]
    ], axis=1)
    valid = native["edges/valid"].astype(bool)
    assert (np.isfinite(expected) == valid).all()
    near(native["edges/score"][valid], expected[valid], 1e-6)
    near(native["nodes/score"], query["nodes/score"], 1e-6)


def test_intervals(demo, causa, tmp_path):
    """Around the means, the same for other batches, wider for fewer pairs."""
    result = demo({"variant": "eap", "bootstrap": 200, "per_example": True})
    low, high = (edges({**result, "edge": result["edges/interval"][..., i]}, "edge") for i in (0, 1))
    score, each = edges(result), edges(result, "edges/score_per_example")
    assert (low <= high).all() and (low >= each.min(axis=0) - 1e-6).all()
    inside = (low <= score) & (score <= high)
    assert inside.mean() > 0.95
    # a normal interval of seven pairs is about as wide
    width = 2 * 1.96 * each.std(axis=0) / np.sqrt(len(each))
    assert 0.7 < np.median((high - low)[width > 0] / width[width > 0]) < 1.3
    other = demo({"variant": "eap", "bootstrap": 200}, "batch=20")["edges/interval"]
    assert np.allclose(other, result["edges/interval"], rtol=1e-3, atol=1e-5, equal_nan=True)
    seed = demo({"variant": "eap", "bootstrap": 200}, "seed=7")["edges/interval"]
    assert not np.allclose(seed, result["edges/interval"], rtol=1e-3, atol=1e-5, equal_nan=True)


def concordance(a, b):
    """Kendall's tau-b from every pair."""
    up, with_b = (np.sign(x[:, None] - x[None, :]) for x in (a, b))
    return (up * with_b).sum() / np.sqrt((up != 0).sum() * (with_b != 0).sum())


def kept(circuit, source, destination):
    """Sources of a circuit [F, R] with an edge out and, but the input, one in."""
    inputs = [[v for v, name in enumerate(destination) if name.split("<")[0] == u] for u in source]
    return np.array([circuit[u].any() and (name == "input" or circuit[:, inputs[u]].any())
                     for u, name in enumerate(source)])


def test_circuits_against_a_true_one(demo, causa, tmp_path):
    """Edges and nodes in common, counted from the circuits that both files hold; also where the
    circuit of one file is set against that of another."""
    demo({"circuit": {"sizes": [60]}, "variant": "eap"}, name="truth")
    causa("convert", tmp_path / "truth.h5", tmp_path / "known.json")
    truth = files.datasets(tmp_path / "truth.h5")["circuits/in_circuit"][0].astype(bool)
    against = {"evaluate": {"truth": str(tmp_path / "known.json")}}
    result = demo({"steps": 3, "circuit": {"sizes": [20, 60, 400]}, **against})
    circuits = result["circuits/in_circuit"].astype(bool)
    assert truth.sum() > 10 and 0 < (circuits[1] & truth).sum() < truth.sum()
    with h5py.File(tmp_path / "r.h5") as file:
        source, destination = (file[f"edges/{end}"].asstr()[()] for end in ("source", "destination"))
    sets = {"edges": (circuits.reshape(3, -1), truth.ravel()),
            "nodes": (np.array([kept(c, source, destination) for c in circuits]),
                      kept(truth, source, destination))}
    for kind, (own, other) in sets.items():
        both, of = (own & other).sum(axis=1), f"circuits/truth/{kind}"
        assert (result[f"{of}/common"] == both).all()
        near(result[f"{of}/precision"], both / own.sum(axis=1), 1e-12)
        near(result[f"{of}/recall"], both / other.sum(), 1e-12)
        near(result[f"{of}/iou"], both / (own | other).sum(axis=1), 1e-12)
        assert ((0 <= result[f"{of}/chance"]) & (result[f"{of}/chance"] <= 1)).all()
    given = demo({"circuit": {"file": str(tmp_path / "r.h5"), "number": 1}, **against}, name="given")
    assert given["circuits/truth/edges/iou"] == result["circuits/truth/edges/iou"][1]


def test_comparison(demo, tmp_path):
    """Another variant in the same run: its own scores, and how well they agree."""
    result = demo({"steps": 3, "compare": ["eap", "exact"]})
    own = edges(result).astype(np.float64)
    told = files.attributes(tmp_path / "r.h5")
    for variant in ("eap", "exact"):
        other = edges(result, f"compare/{variant}/score").astype(np.float64)
        near(other, edges(demo({"variant": variant}, name="o")), 1e-5)
        value = lambda name: float(told[f"compare/{variant}@{name}"])
        assert value("pearson") == pytest.approx(np.corrcoef(own, other)[0, 1], abs=1e-5)
        assert value("pearson_absolute") == pytest.approx(
            np.corrcoef(np.abs(own), np.abs(other))[0, 1], abs=1e-5)
        assert value("kendall") == pytest.approx(concordance(own, other), abs=1e-6)
        assert value("kendall_absolute") == pytest.approx(
            concordance(np.abs(own), np.abs(other)), abs=1e-6)
        assert result[f"compare/{variant}/iou"][-1] == result[f"compare/{variant}/node_iou"][-1] == 1
        assert (result[f"compare/{variant}/node_iou"] >= 0).all()
    assert float(told["compare/exact@pearson"]) > 0.95 > float(told["compare/eap@pearson"])


def test_metrics_whose_lower_value_is_better(pairs, tmp_path):
    """Of kl, js and rank the metric is the loss itself, and the conventions name them all."""
    for metric in ("kl", "js", "rank"):
        result = pairs({"variant": "exact", "level": "node"}, files.id_pairs(4), f"metric={metric}")
        change = (result["baseline/corrupted"] - result["baseline/clean"]).mean()
        assert change != 0 and result["nodes/score"][0] == pytest.approx(change, rel=1e-5), metric
    assert "plus it for kl, js, rank)" in files.attributes(tmp_path / "p.h5")["@conventions"]


def test_comparison_takes_ten_shares_of_its_own(demo, causa):
    """Whatever circuits are asked for; help and the table of results say so."""
    result = demo({"variant": "eap", "compare": ["ig-inputs"],
                   "circuit": {"sizes": [7], "absolute": False}})
    shares = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]
    assert result["compare/ig-inputs/size"].tolist() == [int(1519 * share) for share in shares]
    row = " ".join(causa("help", "config").stdout.split("method.compare ")[1].split("method.circuit.select")[0].split())
    assert "not pruned" in row and "method.circuit picks" in row
    readme = (files.ROOT / "results" / "README.md").read_text(encoding="utf-8")
    assert "whatever `method.circuit` asks for" in readme


# ---- batches


@pytest.mark.parametrize("method", [
    {"steps": 5}, {"variant": "ig-activations", "steps": 2}, {"variant": "exact"},
    {"variant": "information-flow"}, {"variant": "eap", "ablation": "mean"}, {"level": "node"},
], ids=lambda method: "-".join(map(str, method.values())))
def test_batch_and_order_do_not_matter(pairs, method):
    rows = id_pairs(6)
    result = lambda *arguments: pairs(method, *arguments)
    expected = result(rows)
    name = "nodes/score"
    for batch in (1, 16, 50):
        got = result(rows, f"batch={batch}")
        near(got[name], expected[name], 1e-7)
        assert got["baseline/clean"] == pytest.approx(expected["baseline/clean"], rel=1e-12)
        if "edges/score" in got:
            near(edges(got), edges(expected), 1e-7)
    near(result(rows[::-1])[name], expected[name], 1e-7)


def test_sweep(causa, tmp_path):
    config = files.write_config(
        tmp_path / "s.yaml", EAP, id_pairs(3), model=files.MODELS / "gpt2",
        sweep={"method.variant": ["ig-inputs", "ig-activations"], "method.steps": [1, 3]})
    causa("run", config, f"output={tmp_path / 'out'}")
    with h5py.File(tmp_path / "out" / "index.h5") as index:
        assert index["method.steps"][()].tolist() == [1, 3, 1, 3]
        scores = [index[f"point-{p:05d}/edges/score"][()] for p in range(4)]
        assert index["clean_mean"][()] == pytest.approx(index["clean_mean"][0], rel=1e-6)
    assert all(not np.array_equal(a, b, equal_nan=True)
               for a, b in itertools.combinations(scores, 2))


# ---- interruption


@pytest.mark.parametrize("number, method", [
    (signal.SIGTERM, {"steps": 3}), (signal.SIGINT, {"steps": 3, "ablation": "mean"}),
    (signal.SIGTERM, {"steps": 3, "level": "neuron", "bootstrap": 20}),
], ids=["patching", "mean", "neurons"])
def test_stop_and_resume(causa, tmp_path, number, method):
    """The sums of the pairs that were done go on; the means are made again."""
    config = files.write_config(tmp_path / "long.yaml", {**EAP, **method, "per_example": True},
                                id_pairs(300, least=12, most=20), backend="ref", batch=64,
                                model=files.MODELS / "smollm2")
    path, whole = tmp_path / "out.h5", tmp_path / "whole.h5"
    process = start(causa, config, path)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else 75), errors
    with h5py.File(f"{path}.checkpoint", "r") as file:
        assert np.isnan(file["baseline/clean"][()]).any()
        kind = "neurons" if "level" in method else "edges"
        assert f"unfinished/{kind}" in file and f"{kind}/score" not in file
    done = causa("run", config, f"output={path}", "--resume")
    assert "going on at example" in done.stderr
    causa("run", config, f"output={whole}")
    files.same_bytes(path, whole)
    same = [{key: value for key, value in files.attributes(p).items() if not key.startswith("@")}
            for p in (path, whole)]
    assert same[0] == same[1] and "baseline@residual_mean" in same[0]
    with h5py.File(path, "r") as file:
        assert "unfinished" not in file


# ---- refusals


def without(row, *columns):
    return {key: value for key, value in row.items() if key not in columns}


LONG = {**PAIR, "corrupted": "When John and Mary went on and on"}


@pytest.mark.parametrize("method, row, more, words", [
    ({}, LONG, {}, ["row 2", "column corrupted", "tokens as in clean", "data.mismatch=skip"]),
    ({}, {**PAIR, "corrupted": PAIR["clean"]}, {},
     ["row 2", "column corrupted", "differs from clean", "the same tokens"]),
    ({}, without(PAIR, "corrupted"), {}, ["row 2", "column corrupted", "got none"]),
    ({}, {**PAIR, "wrong": PAIR["answer"]}, {},
     ["row 2", "column wrong", "other than those of answer"]),
    ({"variant": "exact"}, {**PAIR, "wrong": [" a", " the"]}, {},
     ["row 2", "column wrong", "other than those of answer"]),
    ({}, without(PAIR, "wrong"), {}, ["row 2", "column wrong", "logit_diff needs a value"]),
    ({}, without(PAIR, "answer"), {"metric": "prob"}, ["row 2", "column answer", "prob needs a value"]),
    ({}, PAIR, {"metric": "greater_than"}, ["row 1", "column label", "needs a value"]),
    ({"ablation": "mean-positional"}, {**PAIR, "clean": PAIR["clean"] + " away"}, {},
     ["row 2", "column clean", "prompts of one length"]),
], ids=lambda value: value[-1][:30] if isinstance(value, list) else "")
def test_bad_rows(causa, tmp_path, text_model, method, row, more, words):
    config = files.write_config(tmp_path / "bad.yaml", {**EAP, **method}, [PAIR, row],
                                model=text_model, **more)
    done = causa("run", config, f"output={tmp_path / 'bad.h5'}", check=False)
    assert done.returncode == 3
    assert all(word in done.stderr for word in [*words, "bad.json"]), done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.json", "bad.yaml"]


def test_all_bad_rows_are_listed(causa, tmp_path, text_model):
    rows = [PAIR, LONG, {**PAIR, "corrupted": PAIR["clean"]}, {**PAIR, "wrong": PAIR["answer"]}]
    config = files.write_config(tmp_path / "bad.yaml", EAP, rows, model=text_model)
    done = causa("run", config, f"output={tmp_path / 'bad.h5'}", check=False)
    assert all(f"row {i}" in done.stderr for i in (2, 3, 4)) and "row 1" not in done.stderr


@pytest.mark.parametrize("change, more, words", [
    ({}, {"metric": "accuracy"}, ["metric", "with a gradient, got accuracy"]),
    ({}, {"metric": "rank"}, ["metric", "with a gradient, got rank"]),
    ({"variant": "eap"}, {"metric": "kl"}, ["metric", "than kl", "is 0 in the clean run"]),
    ({"variant": "ig"}, {}, ["method.variant", "ig-inputs"]),
    ({"steps": 0}, {}, ["method.steps", "got '0'"]),
    ({"rule": "middle"}, {}, ["method.rule", "midpoint"]),
    ({"level": "head"}, {}, ["method.level", "edge, node"]),
    ({"ablation": "noise"}, {}, ["method.ablation", "mean-positional"]),
    ({"variant": "clean-corrupted", "ablation": "zero"}, {}, ["method.ablation", "patching"]),
    ({"variant": "information-flow", "ablation": "mean"}, {}, ["method.ablation", "patching"]),
    ({"variant": "information-flow", "level": "neuron"}, {}, ["method.level", "no scores of neurons"]),
    ({"level": "hidden", "circuit": {"sizes": [3]}}, {}, ["method.level", "edge, node or neuron"]),
    ({"compare": ["ig-inputs"]}, {}, ["method.compare", "other than method.variant"]),
    ({"kv_columns": "head"}, {}, ["method.kv_columns", "native"]),
    ({"compat": "acdc"}, {}, ["method.compat", "eap-ig"]),
    ({"batch_size": 0}, {}, ["method.batch_size", "got '0'"]),
], ids=lambda value: value[-1] if isinstance(value, list) else "")
def test_bad_options(causa, tmp_path, text_model, change, more, words):
    config = files.write_config(tmp_path / "bad.yaml", {**EAP, **change}, [PAIR], model=text_model,
                                **more)
    done = causa("run", config, f"output={tmp_path / 'bad.h5'}", check=False)
    assert done.returncode == 2
    assert all(word in done.stderr for word in [*words, "bad.yaml:"]), done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.json", "bad.yaml"]


def test_metrics_without_gradient_can_be_patched(demo):
    result = demo({"variant": "exact", "level": "node"}, "metric=accuracy")
    loss = result["baseline/clean"] - result["baseline/corrupted"]
    assert result["nodes/score"][0] == pytest.approx(loss.mean())


def test_mismatching_pairs_can_be_left_out(causa, tmp_path, text_model):
    config = files.write_config(tmp_path / "skip.yaml", EAP, [{**PAIR, "id": "good"}, {**LONG, "id": "long"}],
                                model=text_model)
    causa("run", config, f"output={tmp_path / 'skip.h5'}", "data.mismatch=skip")
    result = files.datasets(tmp_path / "skip.h5")
    assert [name.decode() for name in result["data/id"]] == ["good"]
    assert "row 2 (id long)" in result["data/excluded"][0].decode()
    assert np.isfinite(edges(result)).all()


def test_areas_of_a_part_of_the_curve_say_so(causa, tmp_path):
    """CPR and CMD are benchmarks' figures of whole curves only."""
    for fractions, whole in (("[0.01,0.5]", False), ("[0.01,0.5,1]", True)):
        done = causa("run", "configs/ioi-eap-ig.yaml", f"output={tmp_path / 'c.h5'}", "--overwrite",
                     "data.limit=2", f"method.circuit.fractions={fractions}")
        line = next(line for line in done.stdout.splitlines() if line.startswith("CPR"))
        assert ("from 0.01 to 0.5 of all, not up to 1" in line) == (not whole), line


def test_peers_divide_divergences_by_the_vocabulary(demo):
    """torch's kl_div is a mean over the vocabulary there."""
    ours = demo({"steps": 2}, "metric=kl")
    theirs = demo({"steps": 2, "compat": "eap-ig", "batch_size": 1}, "metric=kl")
    vocabulary = json.loads((DEMO / "config.json").read_text())["vocab_size"]
    near(edges(theirs) * vocabulary, edges(ours), 1e-5)


def test_peers_nodes_end_at_the_clean_run(demo):
    """Their code of nodes takes the points 1/m .. 1, that of edges 0 .. (m - 1)/m."""
    theirs = demo({"level": "node", "steps": 3, "compat": "eap-ig", "batch_size": 1})
    right = demo({"level": "node", "steps": 3, "rule": "right"})
    assert (theirs["nodes/score"] == right["nodes/score"]).all()


@pytest.fixture
def circuits(causa, tmp_path):
    """The configured circuits of two pairs, in a file."""
    path = tmp_path / "circuits.h5"
    causa("run", "configs/ioi-eap-ig.yaml", f"output={path}", "data.limit=2")
    return path


def test_one_circuit_stands_for_several(causa, tmp_path, circuits):
    """The smallest that keeps nine tenths, or the one with the number; nothing is attributed."""
    def run(more, *overrides):
        out = tmp_path / "one.h5"
        done = causa("run", "configs/ioi-eap-ig.yaml", f"output={out}", "--overwrite", "data.limit=2",
                     f"method.circuit={{file: {circuits}{more}}}", *overrides)
        return files.datasets(out), done.stderr
    with h5py.File(circuits) as file:
        faithful = np.flatnonzero(file["faithfulness/normalized"][:] >= 0.9)[0]
        inside = file["circuits/in_circuit"][:]
        assert 0 < faithful < len(inside) - 1
    result, said = run("")
    assert (result["circuits/in_circuit"][0] == inside[faithful]).all()
    assert f"circuit {faithful} of {len(inside)}" in said
    # a metric without a gradient will do
    result, _ = run(", number: 2", "metric=accuracy")
    assert (result["circuits/in_circuit"][0] == inside[2]).all()
    causa("convert", circuits, tmp_path / "c.json")
    assert (tmp_path / "c.json").read_text().count('"in_graph": true') >= inside[faithful].sum()


def test_plan_of_given_circuits_has_no_attribution(causa, circuits):
    plans = [json.loads(causa("plan", "configs/ioi-eap-ig.yaml", "data.limit=2", "--json",
                              f"method.variant={variant}", f"method.circuit={{file: {circuits}}}").stdout)
             for variant in ("ig-inputs", "exact")]
    assert plans[0]["flops"] == plans[1]["flops"] > 0
    assert plans[0]["batches"] > 0 and plans[0]["tokens"] > 0


def test_no_circuit_in_the_file(causa, tmp_path, circuits):
    """Scores alone need a size; they are no circuit of ten sizes."""
    path = tmp_path / "scores.json"
    causa("convert", circuits, path)
    path.write_text(path.read_text().replace('"in_graph": true', '"in_graph": false'))
    done = causa("run", "configs/ioi-eap-ig.yaml", f"output={tmp_path / 'x.h5'}",
                 f"method.circuit={{file: {path}}}", check=False)
    assert done.returncode == 3 and "expected a circuit" in done.stderr
    assert "method.circuit.fractions" in done.stderr and not (tmp_path / "x.h5").exists()
    causa("run", "configs/ioi-eap-ig.yaml", f"output={tmp_path / 'x.h5'}", "data.limit=2",
          f"method.circuit={{file: {path}, fractions: [0.1]}}")
