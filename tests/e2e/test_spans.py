# SPDX-License-Identifier: MIT
"""Targets of several tokens, and scores of words, of the method `jacobian`.

A span's cotangent is the sum over its positions, so everything that is linear in the cotangent is
the sum over single targets; scores are stored as float32, so sums agree to 1e-6 of the largest.
"""

import files
import h5py
import numpy as np
import pytest

F64 = ("backend=ref", "precision=f64")
SCOPES = ["semantic", "input_x_gradient"]
PATHS = ["integrated_gradients", "path_semantic"]
PROMPTS = [[3, 1, 4, 15, 9, 2, 6], [5, 35, 8, 9, 7]]
ANSWERS = [[9, 3], [2]]


def method(**more):
    return {"kind": "jacobian", "scopes": SCOPES, "target": "gold", **more}


def of(path, *names):
    with h5py.File(path) as file:
        return [file[name][:].astype(float) for name in names]


def near(got, expected, share=1e-6):
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= share * np.abs(expected).max()


@pytest.mark.parametrize("model", ["gpt2", "llama3-gqa"])
def test_signed_scores_of_a_span_are_sums(run_ids, model):
    positions = [1, 2, -2]
    span = run_ids(PROMPTS, method(position=positions, span=True), *F64, model=model, name="span")
    matrix = run_ids(PROMPTS, method(position=positions), *F64, model=model, name="matrix")
    reads = [1, 2, 5, 1, 2, 3]
    with h5py.File(span) as one, h5py.File(matrix) as several:
        for name in ("data/target", "data/position", "baseline/clean", "predictions/probability",
                     "attribution/positions", "attribution/position_offsets"):
            assert np.array_equal(one[name][:], several[name][:]), name
        assert one["attribution/positions"][:].tolist() == reads
        assert one["data/target"][:].tolist() == [4, 15, 6, 8, 9, 7]
        start = one["data/offsets"][:]
        for scope in SCOPES:
            blocks = several[f"attribution/{scope}/matrix_offsets"][:]
            signed = several[f"attribution/{scope}/signed_matrix"][:].astype(float)
            norms = several[f"attribution/{scope}/matrix"][:].astype(float)
            for i, prompt in enumerate(PROMPTS):
                block = slice(blocks[i], blocks[i + 1])
                got = slice(start[i], start[i + 1])
                near(one[f"attribution/{scope}/signed"][got],
                     signed[block].reshape(3, len(prompt)).sum(axis=0))
                triangle = norms[block].reshape(3, len(prompt)).sum(axis=0)
                score = one[f"attribution/{scope}/score"][got]
                assert np.all(score <= triangle * (1 + 1e-6)) and np.any(score < 0.999 * triangle)


def test_span_of_one_position_is_that_position(run_ids):
    scopes = SCOPES + PATHS
    alone = run_ids(PROMPTS, method(scopes=scopes, position=2), *F64, name="alone")
    span = run_ids(PROMPTS, method(scopes=scopes, position=2, span=True), *F64, name="span")
    for scope in scopes:
        names = [f"attribution/{scope}/{name}" for name in ("score", "signed")]
        for a, b in zip(of(alone, *names), of(span, *names)):
            assert np.array_equal(a, b)


def test_paths_of_a_span_are_complete(run_ids):
    """signed adds up to the change of the sum; the residual says by how much it does not."""
    path = run_ids(PROMPTS, method(scopes=PATHS, position=[0, 2, 3], span=True, steps=64), *F64)
    for scope in PATHS:
        parts = []
        for position in (0, 2, 3):
            single = run_ids(PROMPTS, method(scopes=[scope], position=position, steps=64), *F64,
                             name=f"{scope}-{position}")
            parts.append(of(single, f"attribution/{scope}/signed", f"attribution/{scope}/residual"))
        signed, residual = of(path, f"attribution/{scope}/signed", f"attribution/{scope}/residual")
        near(signed, sum(part[0] for part in parts))
        rounding = 1e-6 * np.abs(signed).sum()  # it is a difference of sums of float32 scores
        assert np.abs(residual - sum(part[1] for part in parts)).max() <= rounding


def test_answer_text_is_a_span_behind_the_prompt(run_ids):
    rows = [{"clean_ids": p, "answer_text_ids": a} for p, a in zip(PROMPTS, ANSWERS)]
    joined = [p + a for p, a in zip(PROMPTS, ANSWERS)]
    path = run_ids(rows, method(target="answer_text"), *F64, name="answer")
    with h5py.File(path) as file:
        assert file["data/tokens"][:].tolist() == sum(joined, [])
        assert file["data/target"][:].tolist() == sum(ANSWERS, [])
        assert file["attribution/positions"][:].tolist() == [6, 7, 4]
        assert file["baseline"].attrs["accuracy"] in (0, 1 / 3, 2 / 3, 1)
    first = run_ids(joined[:1], method(position=[6, 7], span=True), *F64, name="first")
    second = run_ids(joined[1:], method(), *F64, name="second")  # gold at `last`: the last token
    for scope in SCOPES:
        name = f"attribution/{scope}/score"
        whole, = of(path, name)
        parts = of(first, name) + of(second, name)
        assert np.array_equal(whole, np.concatenate(parts))


def test_batches_do_not_matter(run_ids):
    rows = [{"clean_ids": p, "answer_text_ids": a} for p, a in zip(PROMPTS, ANSWERS)] * 4
    spans = method(target="answer_text", scopes=SCOPES + PATHS)
    files.same_bytes(run_ids(rows, spans, *F64, name="whole"),
                     run_ids(rows, spans, *F64, "batch=10", name="parts"))


@pytest.mark.parametrize("row, more, code, message", [
    ({}, {"target": "answer_text"}, 3, "row 2 (id 1): column answer_text: expected a continuation"),
    ({"answer_text_ids": [1] * 500}, {"target": "answer_text"}, 3, "prompt and continuation have"),
    ({"answer_text_ids": [1]}, {"target": "answer_text", "position": [1]}, 2, "method.position: expected last"),
    ({"answer_text_ids": [1]}, {"target": "answer_text", "scopes": ["fisher"]}, 2,
     "method.scopes: expected scopes that explain a target with a span, got fisher"),
    ({}, {"position": [0, 1], "span": True, "scopes": ["temperature"]}, 2, "got temperature"),
    ({}, {"position": [0, -1], "span": True}, 3, "target gold needs a token after position"),
    ({}, {"position": {"after": "x"}, "span": True}, 3, "row 1"),
    ({}, {"position": [0, 9], "span": True}, 3, "position 9 is outside the prompt"),
    ({}, {"span": True, "evaluate": {"loo": True}}, 2, "expected one position per prompt"),
])
def test_bad_spans(run_ids, tmp_path, row, more, code, message):
    rows = [{"clean_ids": [1, 2, 3], "answer_text_ids": [4]}, {"clean_ids": [1, 2, 3], **row}]
    done = run_ids(rows, method(**more), check=False)
    assert done.returncode == code and message in done.stderr, done.stderr
    assert not list(tmp_path.glob("*.h5*"))


TEXTS = [{"clean": "Mary and John's cat\n went to Wonderland", "answer_text": " unbelievably late"},
         {"clean": "x", "answer_text": " y z"}]


def combine_signed(rule, values):
    """The largest by magnitude keeps its sign."""
    if rule == "max":
        return values.flat[np.abs(values).argmax()]
    return values.mean() if rule == "mean" else values.sum()


@pytest.mark.parametrize("rule", [None, "sum", "max", "mean"])
def test_words(causa, text_model, tmp_path, rule):
    """Boundaries by white space in the text of the pieces; a BOS stands alone."""
    words = {} if rule is None else {"words": rule}
    config = files.write_config(tmp_path / "w.yaml", method(target="answer_text", **words), TEXTS,
                                model=text_model, backend="ref")
    path = tmp_path / "w.h5"
    causa("run", config, f"output={path}", "data.bos=0")
    combine = {"max": np.max, "mean": np.mean}.get(rule, np.sum)
    with h5py.File(path) as file:
        pieces, offsets = file["data/pieces"].asstr()[:].tolist(), file["data/word_offsets"][:]
        spans = list(zip(offsets[:-1], offsets[1:]))
        assert offsets[0] == 0 and offsets[-1] == len(pieces) and np.all(np.diff(offsets) > 0)
        assert set(file["data/offsets"][:]) <= set(offsets)
        got = ["".join(pieces[a:b]) for a, b in spans if file["data/tokens"][a] != 0]
        assert got == ["Mary", " and", " John's", " cat", "\n", " went", " to", " Wonderland",
                       " unbelievably", " late", "x", " y", " z"]
        assert max(b - a for a, b in spans) > 2
        for scope in SCOPES:
            score = file[f"attribution/{scope}/score"][:].astype(float)
            near(file[f"attribution/{scope}/word_score"][:],
                 np.array([combine(score[a:b]) for a, b in spans]))
            assert file[f"attribution/{scope}/word_score"].attrs["aggregate"] == rule or rule is None
            signed = file[f"attribution/{scope}/signed"][:].astype(float)
            merged = file[f"attribution/{scope}/word_signed"]
            near(merged[:], np.array([combine_signed(rule, signed[a:b]) for a, b in spans]))
            assert merged.attrs["aggregate"] == (rule or "sum") and (merged[:] < 0).any()


def test_words_need_text(run_ids):
    with h5py.File(run_ids(PROMPTS, method(), *F64)) as file:
        assert "word_offsets" not in file["data"] and "word_score" not in file["attribution/semantic"]


@pytest.mark.parametrize("rule", ["sum", "max", "mean"])
def test_matrices_of_words(causa, text_model, tmp_path, rule):
    """Every cell is its rule over the tokens of both words; the last row is about what follows."""
    rows = [{"clean": "Mary and John's cat", "answer": " the"}, {"clean": "Wonderland", "answer": "x"}]
    config = files.write_config(tmp_path / "w.yaml", dict(method(), target="gold", position="all",
                                                          words=rule), rows,
                                model=text_model, backend="ref")
    path = tmp_path / "w.h5"
    causa("run", config, f"output={path}", "data.bos=0")
    combine = {"max": np.max, "mean": np.mean, "sum": np.sum}[rule]
    with h5py.File(path) as file:
        tokens, words = file["data/offsets"][:], file["data/word_offsets"][:]
        row_words, row_offsets = file["attribution/word_rows"][:], file["attribution/word_row_offsets"][:]
        for i in range(2):
            spans = [(a - tokens[i], b - tokens[i]) for a, b in zip(words[:-1], words[1:])
                     if tokens[i] <= a < tokens[i + 1]]
            count, first = tokens[i + 1] - tokens[i], int(np.searchsorted(words, tokens[i]))
            mine = row_words[row_offsets[i]:row_offsets[i + 1]].tolist()
            # position 0 is about token 1; what is behind the prompt has no word
            about = sorted({k for k, (a, b) in enumerate(spans) if b > 1})
            assert mine == [first + k for k in about] + [-1]
            for scope in SCOPES:
                group = file[f"attribution/{scope}"]
                assert group["word_matrix"].attrs["aggregate"] == rule
                at = group["matrix_offsets"][:][i], group["word_matrix_offsets"][:][i:i + 2]
                block = group["matrix"][at[0]:at[0] + count * count].reshape(count, count).astype(float)
                signed = group["signed_matrix"][at[0]:at[0] + count * count]
                signed = signed.reshape(count, count).astype(float)
                got, got_signed = (group[name][slice(*at[1])].reshape(len(mine), len(spans))
                                   for name in ("word_matrix", "word_signed_matrix"))
                behind = np.arange(count) + 1
                for r, row in enumerate([spans[k] for k in about] + [(count, count + 1)]):
                    chosen = (behind >= row[0]) & (behind < row[1])
                    expected = [combine(block[chosen, a:b]) for a, b in spans]
                    assert got[r] == pytest.approx(expected, rel=1e-6)
                    expected = [combine_signed(rule, signed[chosen, a:b]) for a, b in spans]
                    assert got_signed[r] == pytest.approx(expected, rel=1e-5, abs=1e-7)
                    assert np.any(got_signed[r])
    causa("report", path, "-o", tmp_path / "pages")
    figures = {p.stem for p in (tmp_path / "pages" / "w").iterdir()}
    assert {f"prompt-000-{scope}-matrix-words" for scope in SCOPES} <= figures


def test_matrices_have_words_when_asked(causa, text_model, tmp_path):
    config = files.write_config(tmp_path / "w.yaml", dict(method(), target="argmax", position="all"),
                                [{"clean": "Mary and John"}], model=text_model)
    causa("run", config, f"output={tmp_path / 'w.h5'}")
    with h5py.File(tmp_path / "w.h5") as file:
        assert "word_offsets" not in file["data"] and "word_rows" not in file["attribution"]


def test_words_without_a_tokenizer_are_refused(run_ids):
    for rule in ("sum", "max", "mean"):
        done = run_ids(PROMPTS, method(words=rule), check=False)
        assert done.returncode == 2
        assert "method.words: expected auto with a model without tokenizer" in done.stderr


SERIES = "28,28,-31,2.6,29,27,19,16,19,21,15,18,18,20,21,16,7"


def test_numbers_of_a_series_are_words(causa, text_model, tmp_path):
    """Of a text with some numbers words stay words."""
    other = "When 28,28,31 and 26 went, 1 2 3 4 5 6 7 8 9 10 11 12 13 of the other men in the"
    rows = [{"clean": text, "answer": " the"} for text in (SERIES, SERIES.replace(",", ", "), other)]
    config = files.write_config(tmp_path / "s.yaml", dict(method(), target="gold"), rows,
                                model=text_model, backend="ref")
    done = causa("run", config, f"output={tmp_path / 's.h5'}", "data.bos=0")
    with h5py.File(tmp_path / "s.h5") as file:
        pieces, offsets = file["data/pieces"].asstr()[:], file["data/word_offsets"][:]
        tokens, ids = file["data/offsets"][:], file["data/tokens"][:]
        score = file[f"attribution/{SCOPES[0]}/score"][:].astype(float)
        word_score = file[f"attribution/{SCOPES[0]}/word_score"][:]
    got = [["".join(pieces[a:b]) for a, b in zip(offsets[:-1], offsets[1:])
            if first <= a < last and ids[a] != 0] for first, last in zip(tokens[:-1], tokens[1:])]
    numbers = SERIES.split(",")
    assert got[0] == [part for number in numbers for part in (number, ",")][:-1]
    assert [word.strip() for word in got[1]] == got[0]
    assert " 28,28,31" in got[2]
    near(word_score, np.add.reduceat(score, offsets[:-1]))
    # the strongest numbers by name, not the commas
    line = done.stdout.split("moved most by\n")[1].splitlines()[0]
    first = {a: k for k, a in enumerate(offsets[:-1])}
    sums = [word_score[first[a]] for a, b in zip(offsets[:-1], offsets[1:])
            if a < tokens[1] and any(c.isdigit() for c in "".join(pieces[a:b]))]
    best = int(np.argsort(-np.array(sums), kind="stable")[0])
    assert f"'{numbers[best]}' (no. {best + 1}) " in line and "','" not in line
