# SPDX-License-Identifier: MIT
"""What is wrong with configs, data, models, outputs and memory is said in one sentence that names the
place; the exit code tells the kind, and nothing is left behind."""

import ctypes
import json
import resource
import signal
import subprocess
import sys

import files
import pytest
from files import JACOBIAN, MODELS

CAPTURE = {"kind": "capture", "sites": ["embed"]}


def check(done, code, *words):
    """Exit code, only causa's own lines on stderr, every word in them."""
    assert done.returncode == code, done.stderr
    errors = [line for line in done.stderr.splitlines() if ": error: " in line]
    assert errors and "Assertion" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    return errors


@pytest.fixture
def refuse(causa, tmp_path):
    """refuse(config text, code, words…): runs it in an empty folder, in which nothing may appear."""
    def call(text, code, *words, arguments=()):
        path = tmp_path / "bad.yaml"
        path.write_text(text)
        (tmp_path / "out").mkdir(exist_ok=True)
        done = causa("run", path, *arguments, check=False, cwd=tmp_path)
        check(done, code, *words)
        assert list((tmp_path / "out").iterdir()) == []
        assert not (tmp_path / "results").exists()
        return done

    return call


@pytest.fixture
def refuse_rows(causa, tmp_path):
    """The same for a prompt file, with a model that has a tokenizer or a method of one's own."""
    def call(rows, code, *words, method=CAPTURE, model=MODELS / "gpt2", name="rows.json", extra=()):
        folder = tmp_path / "case"
        folder.mkdir(exist_ok=True)
        data = folder / name
        if isinstance(rows, bytes):
            data.write_bytes(rows)
        else:
            files.write_prompts(data, rows)
        config = folder / "case.yaml"
        config.write_text(json.dumps({"name": "case", "model": str(model), "method": method,
                                      "data": {"file": str(data)}}))
        done = causa("run", config, f"output={folder / 'out.h5'}", *extra, check=False)
        errors = check(done, code, *words)
        assert {p.name for p in folder.iterdir()} == {name, "case.yaml"}
        data.unlink()
        return errors

    return call


# ---- configs ----

GOOD = f"""name: x
model: {MODELS / "gpt2"}
output: out/x.h5
data:
  file: p.json
method:
  kind: jacobian
  target: "#5:#9"
"""


@pytest.mark.parametrize("old, new, words", [
    ("output", "outptu", ["bad.yaml:3:1: outptu:", "did you mean 'output'?"]),
    ("  target", "  taget", ["bad.yaml:8:3: method.taget:", "did you mean 'target'?"]),
    ("name: x", "name: a/b", ["bad.yaml:1:7: name:", "'a/b'"]),
    ("name: x\n", "", ["name: expected text (required), got nothing"]),
    ("  kind: jacobian", "  kind: jacobain", ["bad.yaml:7:9: method.kind: expected one of",
                                             "'jacobain'", "did you mean 'jacobian'?"]),
    ("data:\n  file: p.json", "data: p.json", ["bad.yaml:4:7: data: expected a map"]),
    ("name: x", "name: [x", ["bad.yaml:2:"]),
    ("name: x", "name: x\nname: y", ["bad.yaml:2:1: name:", "once"]),
    ("name: x", "name: x\nseed: -1", ["bad.yaml:2:7: seed: expected an integer of at least 0"]),
    ("name: x", "name: x\nseed: many", ["bad.yaml:2:7: seed: expected an integer", "'many'"]),
    ("name: x", "name: x\nbatch: 0", ["bad.yaml:2:8: batch:", "at least 1", "'0'"]),
    ("name: x", "name: x\nmemory: 2XB", ["bad.yaml:2:9: memory: expected a size", "'2XB'"]),
    ("name: x", "name: x\nprecision: f16", ["bad.yaml:2:12: precision:", "f32, bf16, f64"]),
    ("name: x", "name: x\nprecision: f64\nbackend: cpu", ["bad.yaml:2:12: precision:", "backend=ref"]),
    ("name: x", "name: x\nbackend: gpu", ["bad.yaml:2:10: backend:", "'gpu'"]),
    ("name: x", "name: x\nsweep: {method.stpes: [1]}", ["method.stpes"]),
    ("name: x", "name: x\nsweep: {seed: 1}", ["sweep", "list"]),
    ("#5:#9", "#5:#5", ["bad.yaml:8:11: method.target: expected two different tokens"]),
    ("#5:#9", "#434", ["method.target: expected a token id from #0 to #433", "'#434'"]),
    ("#5:#9", "house", ["method.target: the model has no tokenizer"]),
    ("jacobian\n  target: \"#5:#9\"", "capture\n  sites: [blocks.3.embed]",
     ["bad.yaml:8:10: method.sites", "below 3"]),
    ("jacobian\n  target: \"#5:#9\"", "capture\n  sites: [blocks.0.resid_pots]",
     ["'resid_pots'", "did you mean 'resid_post'?"]),
    ("jacobian\n  target: \"#5:#9\"", "capture\n  sites: []", ["method.sites", "at least one"]),
    ("jacobian\n  target: \"#5:#9\"", "capture\n  sites: [embed, embed]", ["embed twice"]),
    ("jacobian\n  target: \"#5:#9\"", "capture\n  sites: embed\n  positions: first",
     ["bad.yaml:9:14: method.positions: expected all, last, subject"]),
])
def test_configs(refuse, tmp_path, old, new, words):
    files.write_prompts(tmp_path / "p.json", [{"clean_ids": [1, 2, 3]}])
    assert GOOD.count(old) == 1
    refuse(GOOD.replace(old, new), 2, *words)


def test_all_mistakes_of_a_config_at_once(refuse):
    done = refuse(GOOD.replace("name: x", "nmae: x\nseed: no").replace("#5:#9\"", "#5\"\n  top: 1"), 2,
                  "nmae", "seed", "method.top")
    assert done.stderr.count(": error: ") == 4  # and the missing name


def test_a_wrong_kind_hides_what_methods_require(refuse):
    """Nobody knows yet which options the method takes."""
    for kind in ("  kind: captrue", "  kind:", ""):
        done = refuse(GOOD.replace("  kind: jacobian", kind), 2, "method.kind: expected one of")
        assert done.stderr.count(": error: ") == 1 and "sites" not in done.stderr


def test_missing_files(refuse, tmp_path):
    refuse(GOOD, 3, "bad.yaml:5:9: data.file", "p.json", "No such file")
    files.write_prompts(tmp_path / "p.json", [{"clean_ids": [1]}])
    refuse(GOOD.replace("models/gpt2", "models/gtp2"), 3, "bad.yaml:2:8: model:", "gtp2")
    refuse(GOOD, 2, "method.targt", arguments=["method.targt=1"])
    refuse(GOOD, 2, "command line", "seed", arguments=["seed=x"])


def test_unavailable_backend(refuse, causa, tmp_path):
    if "make CUDA=1" not in causa("--version").stdout:
        pytest.skip("this build has a CUDA backend")
    files.write_prompts(tmp_path / "p.json", [{"clean_ids": [1]}])
    refuse(GOOD, 3, "backend", "cuda", "make CUDA=1", arguments=["backend=cuda"])


# ---- data ----


@pytest.mark.parametrize("name, content, words", [
    ("rows.csv", b"", ["the file is empty"]),
    ("rows.csv", b"clean\n", ["no rows"]),
    ("rows.csv", b"clean,answer\na\n", ["line 2: expected 2 fields", "got 1"]),
    ("rows.csv", b'clean\n"a\nb', ["line 2: a quoted field is never closed"]),
    ("rows.csv", b'clean\n"a"b\n', ["line 2", "after a closing quote", "'b'"]),
    ("rows.csv", b'clean\na"b\n', ["line 2: a quote inside a field"]),
    ("rows.csv", b"clean,clean\na,b\n", ["'clean' is named twice"]),
    ("rows.csv", b"clean\n\xff\n", ["invalid UTF-8 at byte 6"]),
    ("rows.csv", b"clean\na\0b\n", ["a zero byte at byte 7"]),
    ("rows.json", b"[", ["line 1"]),
    ("rows.json", b'{"rows": []}', ["expected a list of rows"]),
    ("rows.json", b"[]", ["no rows"]),
    ("rows.json", b"[1]", ["row 1: expected an object or a text"]),
    ("rows.json", b'[{"clean": "\\ud800"}]', ["line 1"]),
    ("rows.json", b'[{"clean": "a", "clean": "b"}]', ["duplicate"]),
    ("rows.json", b'[{"clean": [["a"]]}]', ["column clean: a list inside a list"]),
    ("rows.jsonl", b'{"clean": "a"}\n{"clean"\n', ["line 2"]),
    ("rows.jsonl", b'{"clean": "a"}\n[1]\n', ["line 2: expected an object"]),
    ("rows.txt", b"a\n", ["expected a file named .csv, .jsonl or .json"]),
])
def test_prompt_files(refuse_rows, text_model, name, content, words):
    refuse_rows(content, 3, name, *words, model=text_model, name=name)


@pytest.mark.parametrize("row, words", [
    ({"clean_ids": []}, ["column clean_ids: expected at least one token id"]),
    ({"clean_ids": [1, 434]}, ["clean_ids: expected token ids from 0 to 433, got 434"]),
    ({"clean_ids": [1, -1]}, ["from 0 to 433, got -1"]),
    ({"clean_ids": [1, 2.5]}, ["expected token ids, got 2.5"]),
    ({"clean_ids": "1 x"}, ["expected token ids, got '1 x'"]),
    ({"clean_ids": [1] * 65}, ["the prompt has 65 tokens, but the model takes 64"]),
    ({"clean": "words"}, ["column clean: the model has no tokenizer", "clean_ids"]),
    ({"answer_ids": [1]}, ["column clean: the prompt is missing or empty"]),
    ({"clean_ids": [1], "answer": "x"}, ["column answer: the model has no tokenizer"]),
    ({"clean_ids": [1], "answer_ids": [999]}, ["column answer_ids", "999"]),
    ({"clean_ids": [1], "label": "old"}, ["column label: expected a whole number, got 'old'"]),
])
def test_rows_of_ids(refuse_rows, row, words):
    refuse_rows([{"clean_ids": [1]}, row], 3, "rows.json: row 2", *words)


@pytest.mark.parametrize("row, words", [
    ({"clean": ""}, ["row 2", "column clean: the prompt is empty"]),
    ({"clean": 7}, ["column clean: expected a text, got 7"]),
    ({"clean": "a b", "answer": "several words"},
     ["row 2", "column answer: expected one token, got \"several words\"", "begins with a space"]),
    ({"clean": "a b", "answer": []}, ["column answer: expected a text or a list of texts"]),
    ({"clean": "a b", "answer": ["a", 1]}, ["column answer: expected a list of texts"]),
    ({"clean": "a b", "subject": "c"}, ["column subject: \"c\" is not in the prompt"]),
    ({"clean": "a a", "subject": "a"}, ["more than once: give subject_span"]),
    ({"clean": "a b", "subject_span": [2, 9]}, ["column subject_span: the span is empty or outside"]),
    ({"clean": "a b", "subject_span": [1]}, ["column subject_span: expected [start, end)"]),
    ({"clean": "word " * 200}, ["tokens, but the model takes 96"]),
])
def test_rows_of_text(refuse_rows, text_model, row, words):
    refuse_rows([{"clean": "fine"}, row], 3, "rows.json", *words, model=text_model)


def test_all_bad_rows_at_once(refuse_rows):
    rows = [{"clean_ids": [1]}] + [{"clean_ids": [900 + i]} for i in range(30)]
    errors = refuse_rows(rows, 3, "row 2", "got 900", "row 21", "got 919", "... and 10 more rows")
    assert len(errors) == 21


def test_columns(refuse_rows):
    rows = [{"clean_ids": [1]}]
    refuse_rows(rows, 2, "data.columns", "did you mean 'answer'?", extra=["data.columns={anwser: x}"])
    refuse_rows(rows, 2, "has no column 'x'", extra=["data.columns={answer: x}"])
    refuse_rows(rows, 2, "data.bos", "below 434", extra=["data.bos=434"])
    refuse_rows(rows, 3, "no row is left", extra=["data.start=1"])


@pytest.mark.parametrize("method, words", [
    ({"kind": "capture", "sites": ["embed"], "positions": [3]}, ["position 3 is outside the prompt"]),
    ({"kind": "capture", "sites": ["embed"], "positions": [-4]}, ["position -4 is outside"]),
    ({"kind": "capture", "sites": ["embed"], "positions": "subject"}, ["needs the column subject"]),
    ({"kind": "capture", "sites": ["embed"], "positions": {"after": "x"}}, ["prompt as text"]),
    ({"kind": "jacobian", "target": "#1", "position": 3}, ["position 3 is outside the prompt"]),
    ({"kind": "jacobian"}, ["target gold needs a token after position 0 or an answer"]),
])
def test_positions(refuse_rows, method, words):
    long, short = {"clean_ids": [1, 2, 3, 4]}, {"id": "short", "clean_ids": [1, 2, 3]}
    if "target" not in method and method["kind"] == "jacobian":
        short["clean_ids"] = [1]
    refuse_rows([long, short] if "subject" not in str(method) else [short], 3, "(id ", *words,
                method=method)


@pytest.mark.parametrize("target, words", [
    ("several words", ["method.target: expected a text of exactly one token", "tokens: '"]),
    ("#700", ["expected a token id from #0 to #639"]),
    ("#1:several words", ["exactly one token"]),
])
def test_targets(refuse_rows, text_model, target, words):
    refuse_rows([{"clean": "a b"}], 2, *words, model=text_model,
                method={"kind": "jacobian", "target": target})


# ---- models ----


@pytest.fixture(scope="module")
def malformed(tmp_path_factory, text_model):
    folder = tmp_path_factory.mktemp("malformed")
    script = files.ROOT / "tests" / "fixtures" / "make_malformed.py"
    subprocess.run([sys.executable, script, text_model, text_model / "tokenizer.json",
                    MODELS / "gguf" / "llama-q8_0.gguf", folder], check=True, capture_output=True)
    lines = (folder / "expected.jsonl").read_text().splitlines()
    return folder, {case["name"]: case for case in map(json.loads, lines)}


def test_malformed_models(causa, malformed, tmp_path):
    """Each has one thing wrong: exit code 3, and the message names what and where."""
    folder, cases = malformed
    assert len(cases) == 49
    for name, case in cases.items():
        done = causa("doctor", folder / name, check=False)
        errors = check(done, 3, name)
        assert len(errors) == 1 and " error " not in done.stdout
        message = errors[0].split(name, 1)[1]
        if name == "st-overlap":
            words = ["q_proj", "o_proj"]
        elif name == "cfg-type":
            words = ["model_type", "gpt2", "llama"]
        else:
            words = [word for part in case["says"].split(", ") for word in
                     ([part] if "." in part or part[0].isupper() else part.split())]
        for word in words:
            assert word in message, f"{name}: {message}"


def test_good_model_is_accepted(causa, text_model):
    """What the malformed ones are made of has nothing wrong."""
    assert "failed: 0" in causa("doctor", text_model).stdout


@pytest.mark.parametrize("name", ["st-nan", "st-truncated", "cfg-type", "tok-regex", "gguf-cut-data.gguf"])
def test_runs_on_malformed_models(refuse_rows, malformed, name):
    folder, _ = malformed
    refuse_rows([{"clean_ids": [1, 2]}], 3, name, model=folder / name)


def test_tokenizer_of_another_model(refuse_rows, tmp_path):
    model = files.write_text_model(tmp_path / "model", "llama2", vocabulary=620)
    refuse_rows([{"clean": "a"}], 3, "below the model's vocab_size 620", "got an id 639", model=model)


# ---- outputs and limits ----


@pytest.fixture
def good(tmp_path):
    return files.write_config(tmp_path / "good.yaml", JACOBIAN, [{"clean_ids": [1, 2, 3]}] * 50)


def test_output_places(causa, good, tmp_path):
    """Said before anything runs, by plan too."""
    for output, words in ((tmp_path / "none" / "x.h5", ["/none' to exist", "hint: create the folder"]),
                          (good / "x.h5", ["good.yaml", "got a file", "output=FILE names another place"]),
                          (tmp_path, ["got a folder"])):
        for command in ("run", "plan"):
            check(causa(command, good, f"output={output}", check=False), 2, *words)
    done = causa("run", good, "output=/proc/x.h5", check=False)
    check(done, 1, "/proc/x.h5.tmp: cannot create it")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["good.json", "good.yaml"]


def without_override():
    """Child setup: root too is refused what the mode of a folder forbids."""
    cap_dac_override, drop_from_bounding_set = 1, 24
    ctypes.CDLL(None).prctl(drop_from_bounding_set, cap_dac_override, 0, 0, 0)


def test_read_only_folder(causa, good, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    for output, more in (("x.h5", []), ("sweep", ["sweep.seed=[1, 2]"])):
        for command in ("run", "plan"):
            done = causa(command, good, f"output={closed / output}", *more, check=False,
                         preexec_fn=without_override)
            check(done, 2, f"got '{closed}': Permission denied", "hint: output=")
    assert list(closed.iterdir()) == []


def limited(limit):
    """Child setup: files of at most `limit` bytes."""
    def setup():
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it, a shell does not
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return setup


@pytest.mark.parametrize("limit", [0, 1000, 5000, 10000])
def test_full_disk(causa, good, tmp_path, limit):
    """The largest file allowed stands for a full disk: what was there stays, nothing else does."""
    path = tmp_path / "x.h5"
    done = causa("run", good, f"output={path}", check=False, preexec_fn=limited(limit))
    check(done, 1, str(path))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["good.json", "good.yaml"]
    causa("run", good, f"output={path}")
    before = path.read_bytes()
    assert len(before) > 10000
    done = causa("run", good, f"output={path}", "--overwrite", check=False, preexec_fn=limited(limit))
    check(done, 1, str(path))
    assert path.read_bytes() == before and not (tmp_path / "x.h5.tmp").exists()


@pytest.mark.parametrize("memory, words", [
    ("100KiB", ["command line:", ": memory: needs ", "(weights 259.1 KiB, work ", "limit is 100.0 KiB"]),
    ("260KiB", ["command line:", ": memory: needs ", "(weights 259.1 KiB, work ", "limit is 260.0 KiB"]),
])
@pytest.mark.parametrize("method", [JACOBIAN, CAPTURE])
def test_memory_limit(causa, tmp_path, method, memory, words):
    rows = [{"clean_ids": list(range(60))}]
    config = files.write_config(tmp_path / "m.yaml", method, rows)
    for command in ("run", "plan"):
        output = f"output={tmp_path / 'x.h5'}"
        done = causa(command, config, output, f"memory={memory}", check=False)
        check(done, 5, "memory", *words)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.json", "m.yaml"]
