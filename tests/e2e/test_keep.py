# SPDX-License-Identifier: MIT
"""data.keep: correct leaves out the rows that the model does not answer correctly, and nothing else
changes: the result is that of a file without them."""

import csv
import json
import signal

import files
import h5py
import numpy as np
import pytest
from test_eap import DEMO, EAP
from test_resume import start

MODEL = files.MODELS / "smollm2"
METHODS = {
    "eap": {**EAP, "variant": "eap"},
    "patch": {"kind": "patch", "sites": ["blocks.*.resid_post"], "positions": "last"},
    "jacobian": {"kind": "jacobian", "target": "argmax"},
    "capture": {"kind": "capture", "sites": ["final_norm"], "positions": "last"},
}


def names(path, name="data/id"):
    with h5py.File(path) as file:
        return file[name].asstr()[:].tolist() if name in file else []


def texts(path):
    """Rows left out, by their id."""
    return {line.split("(id ")[1].split(")")[0]: line for line in names(path, "data/excluded")}


@pytest.fixture(scope="module")
def logits(causa, tmp_path_factory):
    """logits(rows of ids) -> [N] arrays [T, V], from a method that judges nothing."""
    def run(rows):
        folder = tmp_path_factory.mktemp("logits")
        config = files.write_config(folder / "l.yaml", {"kind": "capture", "sites": ["logits"]},
                                    [{"clean_ids": row} for row in rows], MODEL, backend="ref")
        causa("run", config, f"output={folder / 'l.h5'}")
        found = files.datasets(folder / "l.h5")
        owner = found["activations/rows"][:, 0]
        return [found["activations/logits"][owner == i] for i in range(len(rows))]

    return run


@pytest.fixture(scope="module")
def judged(logits):
    """Pairs of which some are answered correctly, and the ids of these."""
    rows, right = files.id_pairs(12), []
    for i, (row, own) in enumerate(zip(rows, logits([row["clean_ids"] for row in rows]))):
        order = np.argsort(-own[-1])
        # the best token alone, in a list, missing by one place, preferred to wrong but not the best
        row["answer_ids"] = ([order[0]], [order[5], order[0]], [order[1], order[2]], [order[1]])[i % 4]
        row["answer_ids"] = [int(token) for token in row["answer_ids"]]
        row["wrong_ids"] = [int(order[-1])]
        right += [row["id"]] if i % 4 < 2 else []
    return rows, right


@pytest.mark.parametrize("kind", METHODS)
def test_rows_answered_correctly(causa, tmp_path, judged, kind):
    rows, right = judged
    run = lambda name, some, *more: causa(
        "run", files.write_config(tmp_path / f"{name}.yaml", METHODS[kind], some, MODEL, backend="ref"),
        f"output={tmp_path / name}.h5", *more)
    done = run("kept", rows, "data.keep=correct", "--json")
    run("own", [row for row in rows if row["id"] in right])
    kept, own = files.datasets(tmp_path / "kept.h5"), files.datasets(tmp_path / "own.h5")
    excluded = texts(tmp_path / "kept.h5")
    assert names(tmp_path / "kept.h5") == right and len(right) == 6
    assert list(excluded) == [row["id"] for row in rows if row["id"] not in right]
    for i, row in enumerate(rows):
        if row["id"] in excluded:
            assert excluded[row["id"]].startswith(f"row {i + 1} (id {row['id']}): the model answers '")
    assert "rows left out: 6; they are listed in /data/excluded" in done.stderr
    plan = json.loads(done.stdout)
    assert (plan["examples"], plan["excluded"]) == (6, 6)
    del kept["data/excluded"]
    assert kept.keys() == own.keys()
    for name, value in kept.items():
        assert value.tobytes() == own[name].tobytes() or value.dtype == object, name
    accuracy = files.attributes(tmp_path / "kept.h5").get("baseline@accuracy", "1.0")
    assert accuracy == "1.0" and (kind == "capture" or (
        kept["baseline/predicted"] == [row["answer_ids"][-1] for row in rows if row["id"] in right]).all())


def test_what_the_model_says_instead(causa, tmp_path, logits):
    rows = files.id_pairs(1)
    own, = logits([rows[0]["clean_ids"]])
    said = int(own[-1].argmax())
    rows[0]["answer_ids"] = [(said + 1) % 390]
    config = files.write_config(tmp_path / "c.yaml", EAP, rows, MODEL, backend="ref")
    done = causa("run", config, "data.keep=correct", f"output={tmp_path / 'c.h5'}", check=False)
    assert done.returncode == 3 and not list(tmp_path.glob("*.h5*"))
    words = ["data.keep: ", "expected rows that the model answers correctly, got none of 1", "row 1 (id p0)",
             f"(token {said}), which is not in answer"]
    assert all(word in done.stderr for word in words), done.stderr


def test_start_and_limit_count_rows_that_are_kept(causa, tmp_path, judged):
    """As they do with rows of unequal length; those behind are not looked at, and not listed."""
    rows, right = judged
    config = files.write_config(tmp_path / "c.yaml", METHODS["eap"], rows, MODEL, backend="ref")
    for first, count, seen in ((0, 3, 5), (1, 2, 5), (2, 100, 12), (5, 1, 10)):
        out = tmp_path / f"{first}-{count}.h5"
        causa("run", config, "data.keep=correct", f"data.start={first}", f"data.limit={count}", f"output={out}",
              *([] if first else ["batch=8"]))
        assert names(out) == right[first:first + count]
        assert list(texts(out)) == [row["id"] for row in rows[:seen] if row["id"] not in right]
    done = causa("run", config, "data.keep=correct", "data.start=6", f"output={out}", "--overwrite", check=False)
    assert done.returncode == 3 and "than the 6 that data.start leaves out, got 6" in done.stderr


@pytest.mark.parametrize("metric, both", [("continuation", True), ("logit_diff", False)])
def test_continuations_are_said_token_by_token(causa, tmp_path, logits, metric, both):
    """Where the metric reads them, or there is no answer. One is right up to its last token."""
    rows, right = files.id_pairs(4), []
    for i, row in enumerate(rows):
        said = []
        for _ in range(3):
            own, = logits([row["clean_ids"] + said])
            said.append(int(own[-1].argmax()))
        wrong_at = (None, 2, None, 0)[i]
        if wrong_at is not None:
            said[wrong_at] = (said[wrong_at] + 1) % 390
        del row["answer_ids"], row["wrong_ids"]
        row["answer_text_ids"] = said
        if both:  # an answer that is never right
            row["answer_ids"] = [int(logits([row["clean_ids"]])[0][-1].argmin())]
        right += [row["id"]] if wrong_at is None else []
    method = {**EAP, "variant": "eap"} if both else {"kind": "jacobian", "target": "answer_text"}
    more = {"metric": metric} if both else {}
    config = files.write_config(tmp_path / "c.yaml", method, rows, MODEL, backend="ref", **more)
    causa("run", config, "data.keep=correct", f"output={tmp_path / 'c.h5'}")
    assert names(tmp_path / "c.h5") == right
    excluded = texts(tmp_path / "c.h5")
    assert "its number 3" in excluded["p1"] and "its number 1" in excluded["p3"]


def test_numbers_must_outweigh_the_others(causa, tmp_path):
    """Labels that the model's years are above of, and not: the metric's sign says which."""
    with (DEMO / "greater_than.csv").open() as file:
        rows = list(csv.DictReader(file))[:12]
    for i, row in enumerate(rows):
        row["label"] = int(row["label"]) if i % 3 else 98
    config = files.write_config(tmp_path / "c.yaml", {**EAP, "variant": "eap"}, rows, DEMO, metric="greater_than")
    for keep in ("all", "correct"):
        causa("run", config, f"data.keep={keep}", f"output={tmp_path / keep}.h5")
    value = files.datasets(tmp_path / "all.h5")["baseline/clean"]
    right = [row["id"] for row, own in zip(rows, value) if own > 0]
    assert 0 < len(right) < len(rows) and names(tmp_path / "correct.h5") == right
    assert all("the numbers above 98 no more than the others" in line
               for line in texts(tmp_path / "correct.h5").values())


def test_stop_and_resume(causa, tmp_path, judged):
    """The same rows are kept again; a checkpoint of others is not gone on with."""
    rows, right = judged
    many = [{**row, "id": f"{row['id']}-{k}"} for k in range(40) for row in rows]
    config = files.write_config(tmp_path / "long.yaml", {**EAP, "steps": 4}, many, MODEL, backend="ref", batch=32,
                                data={"file": str(tmp_path / "long.json"), "keep": "correct"})
    path, whole = tmp_path / "out.h5", tmp_path / "whole.h5"
    process = start(causa, config, path)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75 and "--resume goes on" in errors, errors
    (tmp_path / "long.json").write_text(json.dumps(many[1:]))
    done = causa("run", config, f"output={path}", "--resume", check=False)
    assert done.returncode == 3 and "expected the 240 rows that the model answered correctly" in done.stderr
    assert "hint: without --resume" in done.stderr
    (tmp_path / "long.json").write_text(json.dumps(many))
    done = causa("run", config, f"output={path}", "--resume")
    assert "going on at example" in done.stderr and "of 240" in done.stderr
    causa("run", config, f"output={whole}")
    files.same_bytes(path, whole)
    assert len(names(path)) == 240 == 40 * len(right)


def test_a_point_without_rows_fails_alone(causa, tmp_path, judged):
    rows, right = judged
    wrong = [row for row in rows if row["id"] not in right]
    files.write_prompts(tmp_path / "wrong.json", wrong)
    config = files.write_config(tmp_path / "s.yaml", METHODS["eap"], rows, MODEL, backend="ref",
                                sweep={"data.file": [str(tmp_path / "s.json"), str(tmp_path / "wrong.json")]})
    done = causa("run", config, "data.keep=correct", f"output={tmp_path / 'out'}", check=False)
    assert done.returncode == 6 and "point 1 failed" in done.stderr and "got none of 6" in done.stderr
    assert names(tmp_path / "out" / "point-00000.h5") == right


def test_rows_without_an_answer(causa, tmp_path):
    """Said before any weight is read."""
    rows = files.id_pairs(3)
    del rows[1]["answer_ids"]
    config = files.write_config(tmp_path / "c.yaml", METHODS["capture"], rows, MODEL)
    done = causa("plan", config, "data.keep=correct", check=False)
    assert done.returncode == 3 and "row 2 (id p1): column answer: data.keep correct" in done.stderr


def test_logits_that_are_not_finite(causa, tmp_path):
    """They are no answer, right or wrong. A norm's weight makes them too large for float32."""
    model = files.write_changed_model(tmp_path / "large", 3e38)
    config = files.write_config(tmp_path / "c.yaml", METHODS["capture"], files.id_pairs(3), model)
    done = causa("run", config, "data.keep=correct", f"output={tmp_path / 'c.h5'}", check=False)
    assert done.returncode == 4 and "not finite" in done.stderr


def test_plan_has_room_for_it(causa, tmp_path):
    """A method of one block takes less than the run through all of them and the head."""
    config = files.write_config(tmp_path / "c.yaml", {"kind": "capture", "sites": ["blocks.0.resid_pre"]},
                                files.id_pairs(3), MODEL)
    plans = [json.loads(causa("plan", config, "--json", f"data.keep={keep}").stdout) for keep in ("all", "correct")]
    assert plans[0]["work_bytes"] < plans[1]["work_bytes"] and plans[0]["flops"] < plans[1]["flops"]
    done = causa("plan", config, "data.keep=correct", f"memory={plans[1]['weight_bytes'] + 2000}", check=False)
    assert done.returncode == 5
