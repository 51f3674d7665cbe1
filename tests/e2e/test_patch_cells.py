# SPDX-License-Identifier: MIT
"""Activation patching of several tokens at once: sets in a list, the whole prompt, subjects of ids."""

import files
import h5py
import pytest
from files import id_pairs

PAIR = {"clean": "When John and Mary went", "corrupted": "When Mary and John went",
        "answer": " the", "wrong": " a"}
SWAP = {"kind": "patch", "sites": ["blocks.*.resid_pre"]}
RESTORE = {**SWAP, "style": "restore", "noise": {"draws": 3}}


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_the_whole_stream_of_a_layer_is_the_other_run(patch, direction):
    """Of pairs without a subject, bit for bit; a set of all tokens is the same cell."""
    rows = id_pairs(4)
    every = list(range(min(len(row["clean_ids"]) for row in rows)))
    rows = [{**row, "clean_ids": row["clean_ids"][:len(every)],
             "corrupted_ids": row["corrupted_ids"][:len(every)]} for row in rows]
    method = {**SWAP, "sites": ["embed", "blocks.*.resid_pre", "blocks.*.resid_post"],
              "direction": direction}
    source = "clean" if direction == "denoise" else "corrupted"
    for positions in ("whole", [every, "whole", [every[-1]]]):
        got = patch({**method, "positions": positions}, rows, model=files.MODELS / "smollm2")
        value = got["patch/value"]
        assert (got["baseline/clean"] != got["baseline/corrupted"]).any()
        assert (value[:, :, 0] == got[f"baseline/{source}"][:, None]).all()
    assert (value[:, :, 1] == value[:, :, 0]).all() and (value[:, :, 2] != value[:, :, 0]).any()


def test_sets_of_tokens(causa, patch, tmp_path):
    """Two tokens at once are no sum of both; tokens between them are left alone, and one that is
    named alone is the cell of its index. Of the last block's stream and the final norm only the last token
    counts."""
    rows = id_pairs(3, least=9, most=10)
    for row in rows:  # all of it differs from token 1 on
        row["corrupted_ids"] = row["clean_ids"][:1] + [(t + 1) % 390 for t in row["clean_ids"][1:]]
    model = files.MODELS / "smollm2"
    method = {**SWAP, "sites": ["blocks.*.resid_pre", "blocks.1.resid_post", "final_norm",
                               "blocks.0.attn.z[3]"]}
    sets = patch({**method, "positions": [[1, 3], "last", [3], [1, 2, 3], [0], [0, 3], [-1, 1]]},
                 rows, model=model, name="sets")
    one = patch({**method, "positions": [1, 3, -1]}, rows, model=model, name="one")["patch/value"]
    value, target = sets["patch/value"], sets["baseline/corrupted"][:, None]
    assert (value[:, :, 1] == one[:, :, 2]).all()
    assert (value[:, :, 2] == one[:, :, 1]).all()
    first = value[:, 0]  # the stream that enters block 0: every token matters
    for alone in (one[:, 0, 0], one[:, 0, 1], first[:, 3], target[:, 0]):
        assert (first[:, 0] != alone).all()
    assert (value[:, :, 4] == target).all()  # the prompts begin alike
    assert (value[:, :, 5] == value[:, :, 2]).all()
    for site in (2, 3):
        assert (value[:, site, 6] == sets["baseline/clean"]).all()
        assert (value[:, site, 0] == target[:, 0]).all()
    assert [name.decode() for name in sets["patch/position_name"]] == [
        "[1, 3]", "last", "3", "[1, 2, 3]", "0", "[0, 3]", "[-1, 1]"]
    assert sets["patch/position"].tolist() == [1, -1, 3, 1, 0, 0, -1]
    with h5py.File(tmp_path / "sets.h5") as file:
        (tmp_path / "again.yaml").write_text(file.attrs["config"])
    causa("run", tmp_path / "again.yaml", f"output={tmp_path / 'again.h5'}")
    files.same_bytes(tmp_path / "sets.h5", tmp_path / "again.h5")
    causa("report", tmp_path / "sets.h5", "-o", tmp_path / "pages")
    page = (tmp_path / "pages" / "sets.html").read_text()
    assert "[1, 2, 3]" in page and "where a head does most: " in page


def test_terminal_names_sets(causa, tmp_path, text_model):
    positions = [{"after": "Mary"}, "whole", [2, 4]]
    config = files.write_config(tmp_path / "c.yaml", {**SWAP, "positions": positions}, [PAIR],
                                model=text_model, backend=files.BACKEND)
    text = causa("run", config, f"output={tmp_path / 'c.h5'}").stdout
    assert {line.split(None, 2)[2] for line in text.splitlines() if "blocks." in line} <= {
        'after "Mary"', "whole", "[2, 4]"}
    assert 'after "Mary"\n' in text and "whole\n" in text


def test_subject_of_ids(patch):
    """Noise on tokens [1, 3) of a row of ids, however the span is written; all of them restored."""
    method = {**RESTORE, "positions": "subject"}
    rows = [{"clean_ids": [3, 1, 4, 15, 9], "answer_ids": [5], "wrong_ids": [6]}]
    got = patch(method, [{**rows[0], "subject_span": [1, 3]}], model=files.MODELS / "smollm2")
    assert got["data/subject"].tolist() == [[1, 3]]
    assert (got["patch/value"][0, 0] == got["baseline/clean"]).all()
    assert got["baseline/clean"] != got["baseline/corrupted"]
    same = patch(method, [{**rows[0], "subject_span": "1:3"}], model=files.MODELS / "smollm2")
    assert (same["patch/value"] == got["patch/value"]).all()
