# SPDX-License-Identifier: MIT
"""AOPC and leave-one-out of the method `jacobian` against runs of changed prompts, and laws.

The models are fixtures with one more meaning: token BLANK, which no prompt holds, has a zero
embedding, so that zeroing a token's embedding and putting BLANK in its place are one thing.
Captured logits are float32, so agreement with them ends at 1e-5.
"""

import json
import math
import signal
import struct
import time

import files
import h5py
import numpy as np
import pytest

MODELS = ["gpt2", "mistral-window"]
F64 = ("backend=ref", "precision=f64")
BLANK = 40
SCOPES = ["semantic", "temperature", "input_x_gradient"]
FRACTIONS = [0.1, 0.3, 0.6]


def prompts_of(count=4, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, BLANK, rng.integers(5, 14)).tolist() for _ in range(count)]


def method(aopc=None, loo=False, scopes=SCOPES, **more):
    evaluate = {"loo": loo}
    if aopc is not None:
        evaluate["aopc"] = {"fractions": FRACTIONS, **aopc}
    return {"kind": "jacobian", "scopes": scopes, "target": "argmax", "evaluate": evaluate, **more}


def write_blank_model(folder, model, mean=False):
    """A fixture whose embedding of BLANK is zero, or the mean of all."""
    source = files.MODELS / model
    raw = bytearray((source / "model.safetensors").read_bytes())
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + size])
    name, = [key for key in header if "embed_tokens" in key or "wte" in key]
    (rows, width), start = header[name]["shape"], 8 + size + header[name]["data_offsets"][0]
    table = np.frombuffer(raw, "<f4", rows * width, start).reshape(rows, width).astype(float)
    blank = np.delete(table, BLANK, axis=0).mean(axis=0) if mean else np.zeros(width)
    place = start + 4 * width * BLANK
    raw[place:place + 4 * width] = blank.astype("<f4").tobytes()
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(raw)
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    return folder


@pytest.fixture(scope="module")
def blank_models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blank")
    return {model: write_blank_model(folder / model, model) for model in MODELS}


@pytest.fixture
def log_p(run_ids):
    """log_p(prompts, model) -> float64 log-probabilities after each prompt, run on its own."""
    def run(prompts, model):
        path = run_ids(prompts, {"kind": "capture", "sites": ["logits"], "positions": "last"}, *F64,
                       model=model, name="captured", arguments=["--overwrite"])
        with h5py.File(path) as file:
            logits = file["activations/logits"][:].astype(float)
        top = logits.max(axis=1, keepdims=True)
        return logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))

    return run


def sets_of(file, scope):
    """The ablated tokens per prompt and fraction."""
    group, count = file[f"evaluation/aopc/{scope}"], file["evaluation/aopc/count"][:]
    offsets, ablated = group["ablated_offsets"][:], group["ablated"][:]
    for i, row in enumerate(count):
        mine = ablated[offsets[i]:offsets[i + 1]].tolist()
        if scope == "random":
            ends = np.cumsum(row)
            yield [mine[end - n:end] for n, end in zip(row, ends)]
        else:
            yield [mine[:n] for n in row]


def changed(prompt, tokens, ablation):
    if ablation == "delete":
        return [id for t, id in enumerate(prompt) if t not in tokens]
    return [BLANK if t in tokens else id for t, id in enumerate(prompt)]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("ablation", ["zero", "pad", "delete"])
def test_delta_is_the_run_of_the_changed_prompt(run_ids, log_p, blank_models, model, ablation):
    prompts, aopc = prompts_of(), {"ablation": ablation}
    if ablation == "pad":
        aopc["pad"] = f"#{BLANK}"
    path = run_ids(prompts, method(aopc), *F64, model=blank_models[model])
    clean = log_p(prompts, blank_models[model])
    with h5py.File(path) as file:
        for scope in SCOPES + ["random"]:
            delta, kls, flipped = (file[f"evaluation/aopc/{scope}/{name}"][:]
                                   for name in ("delta_logprob", "kl", "flipped"))
            sets = list(sets_of(file, scope))
            runs = [changed(p, s, ablation) for p, row in zip(prompts, sets) for s in row]
            got = log_p(runs, blank_models[model]).reshape(len(prompts), len(FRACTIONS), -1)
            best = clean.argmax(axis=1)
            for i, c in enumerate(best):
                assert delta[i] == pytest.approx(got[i, :, c] - clean[i, c], abs=1e-5), (scope, i)
                kl = (np.exp(clean[i]) * (clean[i] - got[i])).sum(axis=1)
                assert kls[i] == pytest.approx(kl, abs=1e-5), (scope, i)
                assert flipped[i].tolist() == (got[i].argmax(axis=1) != c).tolist(), (scope, i)
            group = file[f"evaluation/aopc/{scope}"]
            assert group["kl_mean"][:] == pytest.approx(kls.mean(axis=0))
            assert group["flip_rate"][:] == pytest.approx(flipped.mean(axis=0))


def test_mean_is_a_token_with_the_mean_embedding(run_ids, tmp_path):
    model = write_blank_model(tmp_path / "mean", "gpt2", mean=True)
    results = [run_ids(prompts_of(), method(aopc), *F64, model=model, name=aopc["ablation"])
               for aopc in ({"ablation": "mean"}, {"ablation": "pad", "pad": f"#{BLANK}"})]
    with h5py.File(results[0]) as mean, h5py.File(results[1]) as pad:
        for scope in SCOPES + ["random"]:
            name = f"evaluation/aopc/{scope}/delta_logprob"
            assert mean[name][:] == pytest.approx(pad[name][:], abs=1e-5)  # the row is float32


def test_ablating_what_is_there_changes_nothing(run_ids):
    """A prompt of one token repeated, padded with that token."""
    path = run_ids([[7] * 9], method({"ablation": "pad", "pad": "#7"}), *F64)
    with h5py.File(path) as file:
        for scope in SCOPES + ["random"]:
            assert np.abs(file[f"evaluation/aopc/{scope}/delta_logprob"][:]).max() <= 1e-12


@pytest.mark.parametrize("target", ["argmax", "gold"])
def test_sets_and_summary(run_ids, target):
    prompts = prompts_of(6)
    with h5py.File(run_ids(prompts, method({}, target=target), *F64)) as file:
        aopc, start = file["evaluation/aopc"], file["data/offsets"][:]
        assert aopc["fraction"][:].tolist() == FRACTIONS
        held_out = target == "gold"
        expected = [[max(1, int(len(p) * f)) for f in FRACTIONS] for p in prompts]
        assert aopc["count"][:].tolist() == expected
        product = aopc["input_x_gradient/aopc_per_example"][:]
        for scope in SCOPES + ["random"]:
            for i, sets in enumerate(sets_of(file, scope)):
                assert [len(set(s)) for s in sets] == expected[i]
                assert all(0 <= t < len(prompts[i]) - held_out for s in sets for t in s)
                if scope != "random":
                    score = file[f"attribution/{scope}/score"][start[i]:start[i + 1]]
                    score = score[:len(score) - held_out]
                    best = np.argsort(-score, kind="stable")[:expected[i][-1]]
                    assert sets[-1] == best.tolist()
            group, n = aopc[scope], len(prompts)
            delta, area = group["delta_logprob"][:], group["aopc_per_example"][:]
            assert area == pytest.approx(delta @ [0.1, 0.25, 0.15], abs=1e-12)
            assert group.attrs["aopc"] == pytest.approx(area.mean())
            assert group.attrs["sem"] == pytest.approx(area.std(ddof=1) / n ** 0.5)
            assert group["delta_mean"][:] == pytest.approx(delta.mean(axis=0))
            sem = delta.std(axis=0) / n ** 0.5
            assert group["delta_sem"][:] == pytest.approx(delta.std(axis=0, ddof=1) / n ** 0.5)
            weight = np.array([0.1, 0.15])
            published = (weight ** 2 * (sem[:-1] ** 2 + sem[1:] ** 2)).sum() ** 0.5
            assert group.attrs["published_sem"] == pytest.approx(published)
            if scope == "input_x_gradient":
                assert "paired_difference" not in group.attrs
            else:
                paired = area - product
                assert group.attrs["paired_with"] == "input_x_gradient"
                assert group.attrs["paired_difference"] == pytest.approx(paired.mean())
                check_differences(group.attrs, "paired", paired)
                aligned = file["data/target"][:] == file["baseline/predicted"][:]
                assert aopc.attrs["aligned_prompts"] == aligned.sum()
                check_differences(group.attrs, "aligned", paired[aligned])


T = {2: 12.7062, 3: 4.3027, 4: 3.1824, 5: 2.7764, 6: 2.5706}  # Student's t, 97.5 %


def check_differences(attributes, prefix, values):
    """tests/unit/test_statistics.c has the formulas; the p of all values must not be that of few."""
    n = len(values)
    told = {name: attributes[f"{prefix}_{name}"] for name in ("difference", "sem", "interval", "wilcoxon")}
    if n == 0:
        assert np.isnan(list(told.values())).all()
        return
    assert told["difference"] == pytest.approx(values.mean())
    if n > 1:
        sem = values.std(ddof=1) / n ** 0.5
        assert told["sem"] == pytest.approx(sem)
        assert told["interval"] == pytest.approx(T[n] * sem)
    ranks = np.argsort(np.argsort(np.abs(values))) + 1
    distance = abs(ranks[values > 0].sum() - n * (n + 1) / 4)
    if len(set(np.abs(values))) == n and (values != 0).all():
        error = np.sqrt(n * (n + 1) * (2 * n + 1) / 24)
        assert told["wilcoxon"] == pytest.approx(math.erfc(distance / error / 2 ** 0.5))


def test_target_aligned_prompts(run_ids):
    """Half of the prompts have what the model predicts as their answer."""
    prompts = prompts_of(6)
    with h5py.File(run_ids(prompts, method({}, target="argmax"), *F64, name="all")) as file:
        predicted = file["baseline/predicted"][:]
        assert file["evaluation/aopc"].attrs["aligned_prompts"] == 6
        group = file["evaluation/aopc/semantic"].attrs
        assert group["aligned_wilcoxon"] == group["paired_wilcoxon"]
    rows = [{"clean_ids": p, "answer_ids": [int(t) if i % 2 else (int(t) + 1) % 390]}
            for i, (p, t) in enumerate(zip(prompts, predicted))]
    with h5py.File(run_ids(rows, method({}, target="gold"), *F64)) as file:
        aopc = file["evaluation/aopc"]
        assert aopc.attrs["aligned_prompts"] == 3
        paired = aopc["semantic/aopc_per_example"][:] - aopc["input_x_gradient/aopc_per_example"][:]
        check_differences(aopc["semantic"].attrs, "aligned", paired[1::2])
        check_differences(aopc["semantic"].attrs, "paired", paired)


def test_pairs_with_random_without_a_gradient_baseline(run_ids):
    path = run_ids(prompts_of(6), method({}, scopes=["semantic", "temperature"]), *F64)
    with h5py.File(path) as file:
        aopc = file["evaluation/aopc"]
        drawn = aopc["random/aopc_per_example"][:]
        assert "paired_difference" not in aopc["random"].attrs
        for scope in ("semantic", "temperature"):
            paired, group = aopc[f"{scope}/aopc_per_example"][:] - drawn, aopc[scope].attrs
            assert group["paired_with"] == "random"
            assert group["paired_difference"] == pytest.approx(paired.mean())
            assert group["paired_sem"] == pytest.approx(paired.std(ddof=1) / 6 ** 0.5)


@pytest.mark.parametrize("model", MODELS)
def test_leave_one_out_is_independent_runs(run_ids, log_p, blank_models, model):
    prompts = prompts_of()
    path = run_ids(prompts, method(loo=True), *F64, model=blank_models[model])
    clean = log_p(prompts, blank_models[model])
    with h5py.File(path) as file:
        start, loo = file["data/offsets"][:], file["evaluation/loo"]
        for i, prompt in enumerate(prompts):
            runs = [changed(prompt, [t], "zero") for t in range(len(prompt))]
            q = log_p(runs, blank_models[model])
            kl = (np.exp(clean[i]) * (clean[i] - q)).sum(axis=1)
            stored = loo["kl"][start[i]:start[i + 1]]
            assert stored == pytest.approx(kl, abs=1e-5)
            for scope in SCOPES:
                score = file[f"attribution/{scope}/score"][start[i]:start[i + 1]]
                rank = (stored > stored[score.argmax()]).sum()
                assert loo[f"{scope}/top1_percentile"][i] == pytest.approx(100 * rank / len(prompt))
                order = [np.argsort(np.argsort(x)) for x in (score, stored)]  # no ties here
                tenth = -(-len(prompt) // 10)
                sets = [set(np.argsort(-x, kind="stable")[:tenth]) for x in (score, stored)]
                assert loo[f"{scope}/top10_jaccard"][i] == len(sets[0] & sets[1]) / len(sets[0] | sets[1])
                assert loo[f"{scope}/spearman"][i] == pytest.approx(np.corrcoef(*order)[0, 1])
        for scope in SCOPES:
            for name in ("spearman", "kendall", "top1_percentile", "top10_jaccard"):
                assert loo[scope].attrs[name] == pytest.approx(loo[f"{scope}/{name}"][:].mean())


def test_held_out_target_is_no_candidate(run_ids):
    with h5py.File(run_ids(prompts_of(), method(loo=True, target="gold"), *F64)) as file:
        kl, last = file["evaluation/loo/kl"][:], file["data/offsets"][1:] - 1
        assert np.isnan(kl[last]).all() and np.isnan(kl).sum() == len(last)


@pytest.mark.parametrize("ablation", ["zero", "delete"])
def test_micro_batches_do_not_matter(run_ids, ablation):
    """Sums of one row do not depend on the rows beside it on `ref`."""
    prompts, evaluation = prompts_of(6), method({"ablation": ablation}, loo=True)
    whole = run_ids(prompts, evaluation, *F64, name="whole")
    parts = run_ids(prompts, evaluation, *F64, "batch=13", name="parts")
    again = run_ids(prompts, evaluation, *F64, name="again")
    files.same_bytes(whole, parts)
    files.same_bytes(whole, again)


def test_rows_in_another_order_are_the_same(run_ids):
    """The tokens drawn at random are of the prompt, not of its row."""
    prompts = prompts_of(6)
    rows = [run_ids(order, method({}, loo=True), *F64, name=name)
            for name, order in (("one", prompts), ("other", [[5, 7, 9]] + prompts[::-1]))]
    with h5py.File(rows[0]) as one, h5py.File(rows[1]) as other:
        for scope in SCOPES + ["random"]:
            assert list(sets_of(one, scope)) == list(sets_of(other, scope))[:0:-1], scope
            name = f"evaluation/aopc/{scope}/delta_logprob"
            assert np.array_equal(one[name][:], other[name][:][:0:-1]), scope
        starts = one["data/offsets"][:], other["data/offsets"][:][::-1]
        for i in range(len(prompts)):
            mine = one["evaluation/loo/kl"][starts[0][i]:starts[0][i + 1]]
            assert np.array_equal(mine, other["evaluation/loo/kl"][starts[1][i + 1]:starts[1][i]])


def test_stopped_evaluation_goes_on(causa, tmp_path):
    """Stopped after some micro-batches, then resumed: the same file."""
    config = files.write_config(tmp_path / "long.yaml", method({}, loo=True),
                                [{"clean_ids": p} for p in prompts_of(120)], backend="ref", batch=16)
    whole, path = tmp_path / "whole.h5", tmp_path / "out.h5"
    causa("run", config, f"output={whole}")
    process = causa("run", config, f"output={path}", wait=False)
    temporary, deadline = tmp_path / "out.h5.tmp", time.monotonic() + 60
    while not temporary.exists() or temporary.stat().st_size == 0:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    with h5py.File(tmp_path / "out.h5.checkpoint") as file:
        assert "aopc" not in file["evaluation/aopc/semantic"].attrs
    causa("run", config, f"output={path}", "--resume")
    files.same_bytes(path, whole)
    resumed, expected = ({k: v for k, v in files.attributes(p).items() if k.startswith("evaluation")}
                         for p in (path, whole))
    assert resumed == expected and "evaluation/aopc/semantic@aopc" in resumed


@pytest.mark.parametrize("aopc", [{}, {"ablation": "mean"}], ids=["empty", "mean"])
def test_a_given_section_is_evaluated(causa, run_ids, tmp_path, aopc):
    """With the default fractions; the stored config says so and repeats it."""
    path = run_ids(prompts_of(), {"kind": "jacobian", "target": "argmax",
                                  "evaluate": {"aopc": aopc, "randomise": {}}}, *F64)
    with h5py.File(path) as file:
        assert file["evaluation/aopc/fraction"][:].tolist() == [0.05, 0.1, 0.2]
        assert file["evaluation/aopc"].attrs["ablation"] == aopc.get("ablation", "zero")
        assert file["evaluation/randomise/fraction"][:].tolist() == [0.25, 0.5, 1]
        (tmp_path / "again.yaml").write_text(file.attrs["config"])
    causa("run", tmp_path / "again.yaml", f"output={tmp_path / 'again.h5'}")
    files.same_bytes(path, tmp_path / "again.h5")


def test_no_section_is_no_evaluation(causa, run_ids, tmp_path):
    path = run_ids(prompts_of(), {"kind": "jacobian", "target": "argmax"}, *F64)
    with h5py.File(path) as file:
        (tmp_path / "again.yaml").write_text(file.attrs["config"])
        assert "aopc" not in file.attrs["config"] and "evaluation" not in file
    causa("run", tmp_path / "again.yaml", f"output={tmp_path / 'again.h5'}")
    files.same_bytes(path, tmp_path / "again.h5")


def test_random_depends_on_the_seed(run_ids):
    results = [run_ids(prompts_of(), method({}), *F64, f"seed={seed}", name=f"seed{seed}")
               for seed in (1, 2)]
    with h5py.File(results[0]) as one, h5py.File(results[1]) as two:
        assert list(sets_of(one, "random")) != list(sets_of(two, "random"))
        assert list(sets_of(one, "semantic")) == list(sets_of(two, "semantic"))


@pytest.mark.parametrize("evaluate, more, code, message", [
    ({"loo": True}, {"position": "all"}, 2, "method.evaluate.loo: expected one position per prompt"),
    ({"aopc": {"fractions": [0.2, 1.5]}}, {}, 2, "method.evaluate.aopc.fractions"),
    ({"aopc": {"fractions": [0, 0.5]}}, {}, 2, "method.evaluate.aopc.fractions"),
    ({"aopc": {"fractions": [0.2, 0.2]}}, {}, 2, "expected rising fractions, got 0.2 after 0.2"),
    ({"aopc": {"fractions": [0.2]}}, {}, 2, "expected 2 to 64 fractions"),
    ({"aopc": {"fractions": [0.1, 0.2], "ablation": "pad"}}, {}, 2,
     "ablation: the tokenizer names no pad token"),
    ({"aopc": {"fractions": [0.1, 0.2], "pad": "#3"}}, {}, 2, "expected ablation: pad beside it"),
    ({"aopc": {"fractions": [0.1, 0.2], "ablation": "pad", "pad": "#9999"}}, {}, 2,
     "method.evaluate.aopc.pad"),
    ({"aopc": {"pad": "#3"}}, {}, 2, "expected ablation: pad beside it"),
    ({"aopc": {"fractions": None}}, {}, 2, "method.evaluate.aopc.fractions: expected"),
])
def test_bad_options(run_ids, evaluate, more, code, message):
    method = {"kind": "jacobian", "target": "argmax", "evaluate": evaluate, **more}
    done = run_ids([[1, 2, 3]], method, check=False)
    assert done.returncode == code and message in done.stderr, done.stderr


@pytest.mark.parametrize("evaluation", [method(loo=True), method({"ablation": "delete"})])
def test_one_token_has_no_order(run_ids, evaluation):
    done = run_ids([[1, 2, 3], [4]], evaluation, check=False)
    assert done.returncode == 3, done.stderr
    assert "row 2" in done.stderr and "expected at least 2 tokens to ablate" in done.stderr
