# SPDX-License-Identifier: MIT
"""Activation patching through the command line: laws, formulas, messages, interruption.

tests/method/test_patch.c compares every kind of cell with a whole forward.
"""

import json
import re
import signal
import time

import files
import h5py
import numpy as np
import pytest
from files import id_pairs
from test_resume import start

PAIR = {"clean": "When John and Mary went", "corrupted": "When Mary and John went",
        "subject": "John", "answer": " the", "wrong": " a"}
SWAP = {"kind": "patch", "sites": ["blocks.*.resid_pre"]}
RESTORE = {**SWAP, "style": "restore", "noise": {"draws": 3}}
EVERY_SITE = ["embed", "blocks.*.resid_pre", "blocks.*.resid_mid", "blocks.*.resid_post",
              "blocks.*.attn_out", "blocks.*.mlp_out", "blocks.*.mlp.pre", "blocks.*.mlp.post",
              "blocks.*.attn.q", "blocks.*.attn.q[*]", "blocks.*.attn.k[*]", "blocks.*.attn.v[*]",
              "blocks.*.attn.pattern", "blocks.*.attn.pattern[*]", "blocks.*.attn.z[*]",
              "blocks.*.attn.result[*]"]
# Student's t, 97.5 %, for two and three values
T2, T3 = 12.7062, 4.3027


# ---- laws


@pytest.mark.parametrize("direction", ["denoise", pytest.param("noise", marks=pytest.mark.long)])
def test_nothing_is_patched_before_the_difference(patch, direction):
    rows = id_pairs(4)
    got = patch({**SWAP, "sites": EVERY_SITE, "direction": direction}, rows,
                model=files.MODELS / "smollm2")
    target = got["baseline/corrupted" if direction == "denoise" else "baseline/clean"]
    for i, row in enumerate(rows):
        first = int(np.flatnonzero(np.array(row["clean_ids"]) != row["corrupted_ids"])[0])
        value, effect = got["patch/value"][i], got["patch/effect"][i]
        assert (value[:, :first] == target[i]).all()
        assert (effect[:, :first] == (direction == "noise")).all()
        assert (value[:, first:len(row["clean_ids"])] != target[i]).any(axis=1).all()
        assert np.isfinite(value[:, :len(row["clean_ids"])]).all()
        assert np.isnan(value[:, len(row["clean_ids"]):]).all()
        assert np.isnan(effect[:, len(row["clean_ids"]):]).all()


@pytest.mark.parametrize("method", [SWAP, RESTORE], ids=["swap", "restore"])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_everything_is_patched(patch, method, direction):
    """The stream of one layer at all tokens that differ: the other run, bit for bit."""
    row = {**PAIR, "subject": PAIR["clean"]}
    got = patch({**method, "sites": ["embed", "blocks.*.resid_pre", "blocks.*.resid_post"],
                 "positions": "subject", "direction": direction}, [row])
    assert got["patch/value"].shape == (1, 5, 1)
    source = "clean" if direction == "denoise" else "corrupted"
    assert (got["patch/value"] == got[f"baseline/{source}"]).all()
    # over draws: rounding of the mean of the corrupted runs
    assert np.allclose(got["patch/effect"], direction == "denoise", rtol=0, atol=1e-14)
    assert got["baseline/clean"] != got["baseline/corrupted"]


@pytest.mark.parametrize("method", [SWAP, RESTORE], ids=["swap", "restore"])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.reference
def test_laws_of_stored_float32(patch, method, direction):
    """Beside patterns, whose probabilities are stored and rounded where other cells' are not: nothing
    patched is the target, the whole stream the source, and no cell knows the others, bit for bit."""
    streams = ["embed", "blocks.*.resid_pre", "blocks.*.resid_post"]
    mixed = [*EVERY_SITE, "final_norm"]
    method = {**method, "direction": direction, "positions": [0, -1, "whole"]}  # 0: no difference
    got = {name: patch({**method, "sites": sites}, [PAIR], "precision=f32", name=name)
           for name, sites in [("mixed", mixed), ("streams", streams)]}
    runs = ["corrupted", "clean"]
    target, source = runs if direction == "denoise" else runs[::-1]
    value = got["mixed"]["patch/value"][0]
    sites = [name.decode() for name in got["mixed"]["patch/site"]]
    assert value[:, 0].tobytes() == np.repeat(got["mixed"][f"baseline/{target}"], len(value)).tobytes()
    stream = [i for i, name in enumerate(sites) if name == "embed" or "resid_p" in name]
    assert (value[stream, 2] == got["mixed"][f"baseline/{source}"][0]).all()
    assert (value[:-1, 1] != value[:-1, 0]).any()
    alone = got["streams"]
    assert [sites[i] for i in stream] == [name.decode() for name in alone["patch/site"]]
    assert value[stream].tobytes() == alone["patch/value"][0].tobytes()
    for run in runs:
        assert got["mixed"][f"baseline/{run}"] == alone[f"baseline/{run}"]


def test_last_token_of_the_last_layer_is_everything(patch):
    got = patch({**SWAP, "sites": ["blocks.1.resid_post"], "positions": "last"}, [PAIR])
    assert got["patch/value"][0, 0, 0] == got["baseline/clean"][0]


@pytest.mark.parametrize("method, rows, model", [
    (SWAP, id_pairs(5), files.MODELS / "smollm2"),
    (SWAP, id_pairs(5), files.MODELS / "gpt2"),
    ({**SWAP, "direction": "noise"}, id_pairs(5), files.MODELS / "smollm2"),
    ({**RESTORE, "noise": {"draws": 1}}, None, None),
], ids=["llama", "gpt2", "noise", "restore"])
def test_final_norm_and_logits(patch, text_model, method, rows, model):
    """At the last token the source run, bit for bit; before it the target, for nothing reads there."""
    method = {**method, "sites": ["final_norm", "blocks.*.resid_post", "logits"]}
    rows, model = rows or rows_with_subjects(), model or text_model
    got = patch(method, rows, model=model)
    runs = ["corrupted", "clean"]
    target, source = runs[::-1] if method.get("direction") == "noise" else runs
    lengths = np.diff(got["data/offsets"])
    for i, length in enumerate(lengths):
        for site in (0, -1):
            value = got["patch/value"][i, site]
            assert value[length - 1] == got[f"baseline/{source}"][i]
            assert (value[:length - 1] == got[f"baseline/{target}"][i]).all()
            assert np.isnan(value[length:]).all()
        assert got["patch/value"][i, -2, length - 1] == got[f"baseline/{source}"][i]
    for batch in (1, 9):
        again = patch(method, rows, f"batch={batch}", model=model, name="b")
        assert again["patch/value"].tobytes() == got["patch/value"].tobytes()


def rows_with_subjects():
    texts = ["When John and Mary went", "The man who saw John left", "John ran", "So did John"]
    return [{"id": str(i), "clean": text, "subject": "John", "answer": " the", "wrong": " a"}
            for i, text in enumerate(texts)]


@pytest.mark.parametrize("method, rows, model", [
    (SWAP, id_pairs(6), files.MODELS / "smollm2"),
    (RESTORE, rows_with_subjects(), None),
], ids=["swap", "restore"])
@pytest.mark.long
def test_batch_and_order_do_not_matter(patch, text_model, method, rows, model):
    """Noise belongs to the prompt, not to its row; cells do not know what they are packed with."""
    method, model = {**method, "sites": EVERY_SITE}, model or text_model
    expected = patch(method, rows, model=model)
    names = ("patch/value", "patch/effect", "baseline/clean", "baseline/corrupted")
    for batch in (3, 16, 50):
        got = patch(method, rows, f"batch={batch}", model=model, name="b")
        for name in names:
            assert got[name].tobytes() == expected[name].tobytes(), (batch, name)
    got = patch(method, rows[::-1], model=model, name="r")
    for name in names:
        assert np.array_equal(got[name][::-1], expected[name], equal_nan=True), name


def test_noise_depends_on_seed_and_draw(patch):
    rows, names = rows_with_subjects(), ("patch/value", "baseline/corrupted")
    first = patch(RESTORE, rows)
    assert all(np.array_equal(first[n], patch(RESTORE, rows, name="again")[n], equal_nan=True)
               for n in names)
    other = patch(RESTORE, rows, "seed=7", name="seed")
    assert (other["baseline/corrupted"] != first["baseline/corrupted"]).all()
    assert (other["baseline/clean"] == first["baseline/clean"]).all()
    one = patch(RESTORE, rows, "method.noise.draws=1", name="one")["baseline/corrupted"]
    two = patch(RESTORE, rows, "method.noise.draws=2", name="two")["baseline/corrupted"]
    assert (one != two).all()


def test_backends_agree(patch):
    """float32: values of order 1 to 10, so 1e-4 is some hundred roundings."""
    method = {**RESTORE, "sites": EVERY_SITE, "windows": 2}
    exact, fast = patch(method, rows_with_subjects()), \
        patch(method, rows_with_subjects(), backend="cpu", name="cpu")
    assert np.allclose(exact["patch/value"], fast["patch/value"], rtol=1e-4, atol=1e-4,
                       equal_nan=True)


def test_patterns_and_what_they_read(patch):
    """A head's pattern changes its z where it reads, but not what it reads: neither nothing nor z."""
    rows = id_pairs(2)
    sites = [f"blocks.0.attn.{part}[1]" for part in ("pattern", "z")]
    got = patch({**SWAP, "sites": sites}, rows, model=files.MODELS / "smollm2")
    for i, row in enumerate(rows):
        first = int(np.flatnonzero(np.array(row["clean_ids"]) != row["corrupted_ids"])[0])
        pattern, z = got["patch/value"][i][:, first]
        assert pattern != z and pattern != got["baseline/corrupted"][i]


# ---- what the file says


def test_effects_and_means(patch):
    rows = id_pairs(3, least=8, most=9)
    got = patch(SWAP, rows, model=files.MODELS / "smollm2")
    clean, corrupted = got["baseline/clean"], got["baseline/corrupted"]
    effect = (got["patch/value"] - corrupted[:, None, None]) / (clean - corrupted)[:, None, None]
    assert np.allclose(got["patch/effect"], effect, rtol=1e-14, atol=1e-15)
    assert np.allclose(got["patch/mean_value"], got["patch/value"].mean(0), rtol=1e-14)
    assert np.allclose(got["patch/mean_effect"], effect.mean(0), rtol=1e-12, atol=1e-14)
    half = T3 * effect.std(0, ddof=1) / np.sqrt(3)
    assert np.allclose(got["patch/mean_effect_interval"], half, rtol=1e-4, atol=1e-14)
    ratio = (got["patch/value"].mean(0) - corrupted.mean()) / (clean.mean() - corrupted.mean())
    assert np.allclose(got["patch/ratio_of_means"], ratio, rtol=1e-12, atol=1e-13)
    assert got["data/position"].tolist() == [7, 7, 7]


def test_subjects(patch):
    got = patch(RESTORE, rows_with_subjects())
    for i, (first, end) in enumerate(got["data/subject"]):
        pieces = got["data/pieces"][got["data/offsets"][i]:got["data/offsets"][i + 1]]
        assert b"".join(pieces[first:end]).strip() == b"John"


def subject_roles(first, end, length):
    return [0] * first + ([1] + [2] * (end - first - 2) if end > first + 1 else []) + [3] + \
        tail_roles(length - end)


def tail_roles(count):
    return ([4] + [5] * (count - 2) if count > 1 else []) + [6] * (count > 0)


def pair_roles(clean, corrupted):
    differs = np.flatnonzero(np.array(clean) != corrupted)
    first, end = int(differs[0]), int(differs[-1]) + 1
    inside = [2 if t in differs else 3 for t in range(first + 1, end)]
    return [0] * first + [1] + inside + tail_roles(len(clean) - end)


def several_differences(count=5):
    rng, rows = np.random.default_rng(4), id_pairs(count, least=4, most=15)
    for row in rows:
        clean = row["clean_ids"]
        places = rng.choice(np.arange(1, len(clean)), rng.integers(1, 4), replace=False)
        row["corrupted_ids"] = [i + 1 if t in places else i for t, i in enumerate(clean)]
    rows[0]["corrupted_ids"] = rows[0]["clean_ids"][:-1] + [7]  # the last token alone
    return rows


def assert_means_by_role(got, roles):
    """roles: per prompt, one a token. Means over the tokens of a role, then over prompts."""
    for name, mean in (("effect", "mean_effect"), ("value", "mean_value")):
        per_prompt = np.full((len(roles), got["patch/value"].shape[1], 7), np.nan)
        for i, mine in enumerate(roles):
            for role in set(mine):
                at = np.flatnonzero(np.array(mine) == role)
                per_prompt[i, :, role] = got[f"patch/{name}"][i][:, at].mean(axis=1)
        held = np.isfinite(per_prompt[:, 0]).sum(axis=0)
        assert got["patch/prompts_by_role"].tolist() == held.tolist()
        for role in range(7):
            stored, mine = got[f"patch/{mean}_by_role"][:, role], per_prompt[:, :, role]
            assert np.isnan(stored).all() if held[role] == 0 else \
                np.allclose(stored, np.nanmean(mine, axis=0), rtol=1e-12, atol=1e-14), role


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_pairs_come_together_by_role(patch, tmp_path, direction):
    rows = several_differences()
    got = patch({**SWAP, "direction": direction}, rows, model=files.MODELS / "smollm2")
    assert_means_by_role(got, [pair_roles(r["clean_ids"], r["corrupted_ids"]) for r in rows])
    assert got["patch/role"][1] == b"first differing token"
    with h5py.File(tmp_path / "p.h5") as file:
        shared = np.tile(2 * got["patch/prompts_by_role"] >= len(rows), (len(got["patch/site"]), 1))
        effects = got["patch/mean_effect_by_role"][shared]
        far = effects[np.argmax(np.abs(effects - (direction == "noise")))]
        assert file["patch"].attrs["aligned_by"] == "role"
        assert file["patch"].attrs["strongest_effect"] == far


def test_subjects_come_together_by_role(patch):
    got = patch({**RESTORE, "sites": ["blocks.*.resid_post", "blocks.0.attn_out"]},
                rows_with_subjects())
    lengths = np.diff(got["data/offsets"])
    assert_means_by_role(got, [subject_roles(*map(int, (*span, n)))
                               for span, n in zip(got["data/subject"], lengths)])
    assert got["patch/role"][3] == b"last subject token"


def test_prompts_built_alike_keep_their_positions(patch, tmp_path):
    rows = id_pairs(3, least=8, most=9)
    for row in rows:
        row["corrupted_ids"] = [*row["clean_ids"][:3], 7, *row["clean_ids"][4:]]
    got = patch(SWAP, rows, model=files.MODELS / "smollm2")
    assert_means_by_role(got, [pair_roles(r["clean_ids"], r["corrupted_ids"]) for r in rows])
    with h5py.File(tmp_path / "p.h5") as file:
        assert file["patch"].attrs["aligned_by"] == "position"
    assert "patch/role" not in patch({**SWAP, "positions": "last"}, rows,
                                     model=files.MODELS / "smollm2", name="last")


def test_terminal_names_roles(causa, tmp_path):
    """The last token of the last layer is everything, wherever it stands in its prompt."""
    config = files.write_config(tmp_path / "c.yaml", {**SWAP, "sites": ["blocks.1.resid_post"]},
                                several_differences(), model=files.MODELS / "smollm2")
    done = causa("run", config, f"output={tmp_path / 'c.h5'}", "backend=ref")
    assert "1.000  blocks.1.resid_post    at last token" in done.stdout, done.stdout


def test_interval_over_draws(patch):
    """Restoring everything gives the clean run in every draw, so only the corrupted runs vary."""
    row = {**PAIR, "subject": PAIR["clean"]}
    method = {**RESTORE, "sites": ["embed"], "positions": "subject"}
    runs = [patch({**method, "noise": {"draws": draws}}, [row]) for draws in (1, 2)]
    first = runs[0]["baseline/corrupted"][0]
    second = 2 * runs[1]["baseline/corrupted"][0] - first
    clean, mean = runs[1]["baseline/clean"][0], runs[1]["baseline/corrupted"][0]
    effects = (clean - np.array([first, second])) / (clean - mean)
    half = T2 * effects.std(ddof=1) / np.sqrt(2)
    assert runs[1]["patch/effect_interval"][0, 0, 0] == pytest.approx(half, rel=1e-4)
    assert "patch/effect_interval" not in runs[0]
    assert np.isnan(runs[1]["patch/mean_effect_interval"]).all()  # one prompt


def test_sites_heads_and_positions(patch, tmp_path):
    sites = ["blocks.[0,1].attn.z[2,7]", "blocks.1.attn.v[*]", "blocks.0.attn.k", "embed"]
    got = patch({**SWAP, "sites": sites, "positions": [-1, 3]}, id_pairs(2),
                model=files.MODELS / "smollm2")
    assert [name.decode() for name in got["patch/site"]] == [
        "blocks.0.attn.z[2]", "blocks.0.attn.z[7]", "blocks.1.attn.z[2]", "blocks.1.attn.z[7]",
        "blocks.1.attn.v[0]", "blocks.1.attn.v[1]", "blocks.1.attn.v[2]", "blocks.0.attn.k", "embed"]
    assert got["patch/position"].tolist() == [-1, 3]
    assert got["patch/value"].shape == (2, 9, 2)
    with h5py.File(tmp_path / "p.h5", "r") as file:
        assert dict(file["patch"].attrs).items() >= {
            "metric": "logit_diff", "style": "swap", "direction": "denoise", "positions": "list",
            "windows": 1}.items()
        assert [d.label for d in file["patch/value"].dims] == ["example", "site", "position"]


def test_windows(patch):
    """A window over all layers is the same cell wherever its middle is; one beyond an end is cut."""
    def effects(windows):
        return patch({**SWAP, "sites": ["blocks.*.mlp_out"], "windows": windows}, id_pairs(2),
                     model=files.MODELS / "llama3-gqa", name=f"w{windows}")["patch/value"]
    one, three, all_layers = effects(1), effects(3), effects(9)
    assert np.array_equal(all_layers[:, 0], all_layers[:, 2], equal_nan=True)
    assert np.array_equal(three[:, 1], all_layers[:, 1], equal_nan=True)
    assert not np.array_equal(three[:, 0], all_layers[:, 0], equal_nan=True)
    assert not np.array_equal(three[:, 0], one[:, 0], equal_nan=True)


def test_sigma(patch, text_model, tmp_path):
    raw = (text_model / "model.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:8 + size])
    name, = [key for key in header if "embed_tokens" in key]
    first, last = header[name]["data_offsets"]
    table = np.frombuffer(raw[8 + size + first:8 + size + last], np.float32)

    def sigma(*overrides):
        patch(RESTORE, [PAIR], *overrides)
        with h5py.File(tmp_path / "p.h5", "r") as file:
            return file["patch"].attrs["sigma"]

    assert sigma() == pytest.approx(3 * table.astype(np.float64).std(), rel=1e-12)
    assert sigma("method.noise={sigma: 0.5, unit: absolute}") == 0.5


def test_runs_that_do_not_differ(causa, tmp_path, text_model):
    """No noise: there is nothing to normalise by, and the run says so."""
    config = files.write_config(tmp_path / "zero.yaml", {**RESTORE, "noise": {"sigma": 0}}, [PAIR],
                                model=text_model, backend=files.BACKEND)
    done = causa("run", config, f"output={tmp_path / 'zero.h5'}")
    assert "give the same metric: 1" in done.stderr
    got = files.datasets(tmp_path / "zero.h5")
    assert got["baseline/clean"] == got["baseline/corrupted"]
    assert np.isnan(got["patch/effect"]).all() and (got["patch/value"] == got["baseline/clean"]).all()
    assert files.attributes(tmp_path / "zero.h5")["patch@undefined"] == "1"


# ---- metrics


def softmax(logits):
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def final_logits(patch, text_model, prompts):
    got = patch({"kind": "capture", "sites": ["logits"], "positions": "last"},
                [{"clean": prompt} for prompt in prompts], model=text_model, name="logits")
    return got["activations/logits"].astype(np.float64)


def token(causa, model, text):
    return json.loads(causa("tokens", "--json", "--no-special", model, text).stdout)["ids"]


def test_metrics(causa, patch, text_model):
    clean, corrupted = final_logits(patch, text_model, [PAIR["clean"], PAIR["corrupted"]])
    (a,), (w,) = token(causa, text_model, PAIR["answer"]), token(causa, text_model, PAIR["wrong"])
    p, q = softmax(corrupted), softmax(clean)
    middle = (p + q) / 2
    expected = {
        "logit_diff": (clean[a] - clean[w], corrupted[a] - corrupted[w]),
        "prob_diff": (q[a] - q[w], p[a] - p[w]),
        "prob": (q[a], p[a]),
        "logprob": (np.log(q[a]), np.log(p[a])),
        "kl": (0, (q * np.log(q / p)).sum()),
        "js": (0, (q * np.log(q / middle) + p * np.log(p / middle)).sum() / 2),
        "rank": (1 + (clean > clean[a]).sum(), 1 + (corrupted > corrupted[a]).sum()),
        "accuracy": (clean.argmax() == a, corrupted.argmax() == a),
    }
    for metric, values in expected.items():
        got = patch({**SWAP, "positions": "last"}, [PAIR], f"metric={metric}")
        both = got["baseline/clean"][0], got["baseline/corrupted"][0]
        # captured logits are float32: 1e-6 of values up to ten
        assert both == pytest.approx(values, rel=1e-4, abs=1e-5), metric


def test_greater_than_by_digits(causa, patch, text_model):
    """The tokenizer writes numbers digit by digit: a first digit stands for ten numbers."""
    rows = [{"clean": "It lasted from 1847 to 18", "corrupted": "It lasted from 1801 to 18",
             "label": 47}]
    digits = [token(causa, text_model, f"0{d}") for d in range(10)]
    assert all(len(ids) == 2 for ids in digits)
    got = patch({**SWAP, "positions": "last"}, rows, "metric=greater_than")
    logits = final_logits(patch, text_model, [rows[0]["clean"], rows[0]["corrupted"]])
    p = softmax(logits)[:, [ids[1] for ids in digits]]
    numbers = np.repeat(p / 10, 10, axis=1)
    expected = numbers[:, 48:].sum(1) - numbers[:, :48].sum(1)
    assert got["baseline/clean"][0] == pytest.approx(expected[0], rel=1e-4)
    assert got["baseline/corrupted"][0] == pytest.approx(expected[1], rel=1e-4)


# ---- refusals


def without(row, *columns):
    return {key: value for key, value in row.items() if key not in columns}


@pytest.mark.parametrize("method, row, more, words", [
    (SWAP, {**PAIR, "corrupted": "When John and Mary went on and on"}, {},
     ["row 1", "column corrupted", "tokens as in clean", "data.mismatch=skip"]),
    (SWAP, {**PAIR, "corrupted": PAIR["clean"]}, {},
     ["row 1", "column corrupted", "differs from clean", "the same tokens"]),
    (SWAP, without(PAIR, "corrupted"), {}, ["row 1", "column corrupted", "got none"]),
    (RESTORE, without(PAIR, "subject"), {}, ["row 1", "column subject", "got none", "subject_span"]),
    (RESTORE, {**PAIR, "subject": "Bob"}, {}, ["row 1", 'column subject: "Bob" is not in the prompt']),
    (RESTORE, {**PAIR, "subject": "n"}, {},
     ["row 1", 'column subject: "n" is in the prompt more than once: give subject_span']),
    (RESTORE, {"clean_ids": [1, 2], "answer_ids": [5], "wrong_ids": [6], "subject": "John"}, {},
     ["row 1", "column subject", "subject_span", "in tokens in a row of token ids"]),
    (RESTORE, {**without(PAIR, "subject"), "subject_span": [3, 99]}, {},
     ["row 1", "column subject_span", "outside the prompt"]),
    ({**SWAP, "positions": [99]}, PAIR, {}, ["row 1", "column clean", "position 99", "tokens"]),
    ({**SWAP, "positions": [[1, 99], "last"]}, PAIR, {}, ["row 1", "position 99", "outside"]),
    ({**SWAP, "positions": {"after": "zebra"}}, PAIR, {},
     ["row 1", "column clean", '"zebra" is not in the prompt']),
    ({**SWAP, "positions": {"after": "n"}}, PAIR, {},
     ["row 1", "column clean", '"n" is in the prompt more than once']),
    ({**SWAP, "positions": "subject"}, without(PAIR, "subject"), {},
     ["row 1", "needs the column subject"]),
    (SWAP, without(PAIR, "wrong"), {}, ["row 1", "column wrong", "logit_diff needs a value"]),
    (SWAP, without(PAIR, "answer"), {"metric": "prob"},
     ["row 1", "column answer", "prob needs a value"]),
    (SWAP, PAIR, {"metric": "greater_than"}, ["row 1", "column label", "needs a value"]),
    (SWAP, {**PAIR, "label": 100}, {"metric": "greater_than"},
     ["row 1", "column label", "from 0 to 99, got 100"]),
], ids=lambda value: value[-1][:30] if isinstance(value, list) else "")
def test_bad_rows(causa, tmp_path, text_model, method, row, more, words):
    config = files.write_config(tmp_path / "bad.yaml", method, [row], model=text_model, **more)
    done = causa("run", config, f"output={tmp_path / 'bad.h5'}", check=False)
    assert done.returncode == 3
    assert all(word in done.stderr for word in [*words, "bad.json"]), done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.json", "bad.yaml"]


@pytest.mark.parametrize("method, bad", [
    (SWAP, {**PAIR, "corrupted": PAIR["clean"]}),
    (RESTORE, without(PAIR, "subject")),
    ({**SWAP, "positions": {"after": "John"}}, {**without(PAIR, "subject"), "clean": "When Bob and Mary went"}),
    (SWAP, without(PAIR, "wrong")),
    ({"kind": "jacobian", "target": "gold", "position": 4}, {"clean": "When John"}),
    ({"kind": "jacobian", "target": "gold", "position": [-1]}, {"clean": "When John"}),
    ({"kind": "jacobian", "target": "answer_text"}, PAIR),
    ({"kind": "jacobian", "target": "argmax", "evaluate": {"loo": True}}, {"clean": "W"}),
], ids=["pair", "subject", "positions", "metric", "position", "target", "answer", "evaluation"])
def test_all_bad_rows_are_listed(causa, tmp_path, text_model, method, bad):
    """Twenty of them, and how many more there are."""
    good = {**PAIR, "answer_text": " the end"}
    config = files.write_config(tmp_path / "bad.yaml", method, [bad, good] * 23, model=text_model)
    done = causa("run", config, f"output={tmp_path / 'bad.h5'}", check=False)
    assert done.returncode == 3, done.stderr
    rows = [int(n) for n in re.findall(r"bad\.json: row (\d+)", done.stderr)]
    assert rows == list(range(1, 41, 2)) and "... and 3 more rows" in done.stderr, done.stderr


@pytest.mark.parametrize("change, words", [
    ({"sites": ["blocks.*.resid_pree"]}, ["method.sites", "did you mean 'resid_pre'"]),
    ({"sites": ["blocks.7.resid_pre"]}, ["method.sites", "expected a layer below 2, got 7"]),
    ({"sites": ["blocks.0.attn.v[3]"]}, ["method.sites", "got 3"]),
    ({"sites": ["embed", "embed"]}, ["method.sites", "got embed twice"]),
    ({"sites": []}, ["method.sites", "at least one site"]),
    ({"positions": "first"}, ["method.positions", "expected all, last, subject"]),
    ({"positions": [[1, "last"]]}, ["method.positions", "[1, 3] inside it for several tokens"]),
    ({"windows": 0}, ["method.windows", "at least 1, got '0'"]),
    ({"noise": {"sigma": -1}}, ["method.noise.sigma", "got '-1'"]),
    ({"noise": {"draws": 0}}, ["method.noise.draws", "got '0'"]),
    ({"noise": {"sigma": 2}}, ["method.noise.sigma", "expected method.style restore beside it, got swap"]),
    ({"noise": {"sigma": 3, "draws": 2}}, ["method.noise.draws", "method.style restore"]),
    ({"windows": 3}, ["method.windows", "expected parts of attention or MLP in method.sites"]),
    ({"windows": 2, "sites": ["embed", "final_norm"]}, ["method.windows", "patched at one layer"]),
    ({"positions": [1, 2, 1]}, ["method.positions", "expected every position once, got 1 twice"]),
    ({"positions": [[1, 1]]}, ["method.positions", "got 1 twice"]),
    ({"positions": ["last", [1, 3], [3, 1]]}, ["method.positions", "got [3, 1] twice"]),
    ({"positions": [3, "last", [3]]}, ["method.positions", "got 3 twice"]),
    ({"positions": [{"after": "a"}, {"after": "a"}]}, ["method.positions", 'got after "a" twice']),
    ({"style": "swop"}, ["method.style", "swap, restore"]),
    ({"direction": "back"}, ["method.direction", "denoise, noise"]),
], ids=lambda value: value[0][7:] if isinstance(value, list) else "")
def test_bad_options(causa, tmp_path, text_model, change, words):
    config = files.write_config(tmp_path / "bad.yaml", {**SWAP, **change}, [PAIR], model=text_model)
    done = causa("run", config, f"output={tmp_path / 'bad.h5'}", check=False)
    assert done.returncode == 2
    assert all(word in done.stderr for word in [*words, "bad.yaml:"]), done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.json", "bad.yaml"]


def test_mismatching_pairs_can_be_left_out(patch):
    long = {**PAIR, "id": "long", "corrupted": "When John and Mary went on and on"}
    got = patch(SWAP, [{**PAIR, "id": "good"}, long], "data.mismatch=skip")
    assert [name.decode() for name in got["data/id"]] == ["good"]
    assert "row 2 (id long)" in got["data/excluded"][0].decode()


# ---- interruption


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.long
def test_stop_and_resume(causa, tmp_path, number):
    rows = id_pairs(300, least=12, most=20)
    method = {**SWAP, "sites": ["blocks.*.resid_pre", "blocks.1.attn.z[*]"]}
    config = files.write_config(tmp_path / "long.yaml", method, rows, backend=files.BACKEND, batch=64,
                                model=files.MODELS / "smollm2", seed=3)
    path, whole = tmp_path / "out.h5", tmp_path / "whole.h5"
    process = start(causa, config, path)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else 75), errors
    with h5py.File(f"{path}.checkpoint", "r") as file:
        values = file["patch/value"][:, 0, 0]
    assert np.isnan(values).any() and not np.isnan(values).all()
    done = causa("run", config, f"output={path}", "--resume")
    assert "going on at example" in done.stderr
    causa("run", config, f"output={whole}")
    files.same_bytes(path, whole)
    same = [{key: value for key, value in files.attributes(p).items() if key.startswith(("p", "b"))}
            for p in (path, whole)]
    assert same[0] == same[1] and "patch@strongest_effect" in same[0]


def stop_inside_an_example(causa, config, path, sequences):
    """Stops a run of one example when some of its cells are done, which the checkpoint keeps."""
    process = start(causa, config, path)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75 and "finished examples: 0" in errors, errors
    with h5py.File(f"{path}.checkpoint", "r") as file:
        first, count, scored = file["unfinished/cells"][()]
        assert (first, count) == (0, sequences) and 0 < scored < file["unfinished/value"].size
        assert np.isnan(file["patch/value"][()]).all()


@pytest.mark.long
def test_stop_inside_an_example(causa, tmp_path):
    """One prompt with many cells: what was done of it is kept, and the run goes on behind it."""
    method = {**SWAP, "sites": ["blocks.*.attn.q[*]", "blocks.*.attn.z[*]"]}
    clean = [(7 * t + 3) % 390 for t in range(70)]
    pair = {"clean_ids": clean, "corrupted_ids": [clean[0], 5, *clean[2:]],
            "answer_ids": [1], "wrong_ids": [2]}
    config = files.write_config(tmp_path / "one.yaml", method, [pair], backend=files.BACKEND, batch=64,
                                model=files.MODELS / "smollm2")
    path, whole = tmp_path / "out.h5", tmp_path / "whole.h5"
    stop_inside_an_example(causa, config, path, 1)
    causa("run", config, f"output={path}", "--resume")
    causa("run", config, f"output={whole}")
    files.same_bytes(path, whole)
    with h5py.File(path, "r") as file:
        assert "unfinished" not in file
