# SPDX-License-Identifier: MIT
"""Every command: what it prints, its JSON, its exit codes."""

import json
import os
import re

import files
import h5py
import pytest
from files import JACOBIAN, MODELS

COMMANDS = ["run", "plan", "inspect", "doctor", "tokens", "report", "help"]


@pytest.fixture
def config(tmp_path):
    return files.write_config(tmp_path / "c.yaml", JACOBIAN, [{"clean_ids": [1, 2, 3]}])


# ---- help and arguments ----


def test_version(causa):
    text = causa("--version").stdout
    assert re.match(r"causa \d+\.\d+\.\d+ \(", text)
    for word in ("libraries: hdf5", "backend ref", "backend cpu", "backend cuda"):
        assert word in text


def test_help(causa):
    text = causa("help").stdout
    assert text == causa().stdout == causa("--help").stdout == causa("-h").stdout
    for word in COMMANDS + ["jacobian", "capture", "gpt2", "--verbose"]:
        assert word in text, word
    for command in COMMANDS:
        text = causa("help", command).stdout
        assert text.startswith(f"usage: causa {command}")
        assert command == "help" or text == causa(command, "--help").stdout
    for word in ("--resume", "--points A:B", "--shard I/N"):
        assert word in causa("help", "run").stdout and word not in causa("help", "tokens").stdout
    assert "--version" in causa("help").stdout and "--version" not in causa("help", "run").stdout
    assert "exit codes: 0 ok" in causa("help").stdout
    text = causa("help", "config").stdout
    for key in ("name", "memory", "data.mismatch", "method.kind", "method.sites", "method.target"):
        assert re.search(rf"^{re.escape(key)} ", text, re.MULTILINE), key


@pytest.mark.parametrize("arguments, words", [
    (["rnu"], ["unknown command 'rnu'", "did you mean 'causa run'?"]),
    (["xyzzy"], ["unknown command 'xyzzy'", "causa help lists the commands"]),
    (["help", "xyzzy"], ["'xyzzy'"]),
    (["run", "--resmue"], ["unknown option '--resmue'", "did you mean --resume?"]),
    (["run", "-x"], ["unknown option '-x'"]),
    (["run", "--points"], ["--points needs a value"]),
    (["run", "c.yaml", "--threads", "0"], ["--threads", "1 to 4096", "'0'"]),
    (["run", "c.yaml", "--threads="], ["--threads", "1 to 4096", "''"]),
    (["run", "c.yaml", "--quiet=yes"], ["--quiet takes no value"]),
    (["inspect", "--resume", "x"], ["causa inspect takes no --resume"]),
    (["run"], ["expected a config file"]),
    (["plan"], ["expected a config file"]),
    (["inspect"], ["expected a model or a result file"]),
    (["doctor"], ["expected one model"]),
    (["tokens"], ["expected a model"]),
    (["report"], ["expected one result file"]),
    (["run", "nowhere.yaml"], ["nowhere.yaml", "No such file"]),
])
def test_usage_errors(causa, arguments, words):
    done = causa(*arguments, check=False)
    assert done.returncode == 2 and done.stdout == ""
    for line in done.stderr.splitlines():
        assert line.startswith(("causa: error: ", "causa: hint: "))
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize("option, words", [
    (["--points", "x:3"], "--points: expected two numbers"),
    (["--points", "1:x"], "got '1:x'"),
    (["--points", "0:9"], "--points: expected A < B <= 1, got 0:9"),
    (["--shard", "2/2"], "--shard: expected I < N, got 2/2"),
    (["--shard", "1"], "--shard: expected two numbers"),
])
def test_ranges(causa, config, option, words):
    done = causa("run", config, *option, check=False)
    assert done.returncode == 2 and words in done.stderr


# ---- plan ----


def test_plan(causa, config, tmp_path, auto_backend):
    text = causa("plan", config, "batch=10", "output=x.h5").stdout
    for word in ("batch: 10", "sweep points  1", "micro-batches 1", "examples      1 (tokens: 3",
                 "output        x.h5", "memory"):
        assert word in text, word
    plan = json.loads(causa("plan", config, "--json", "--threads", 2).stdout)
    assert (plan["examples"], plan["tokens"], plan["batches"], plan["threads"]) == (1, 3, 1, 2)
    assert plan["weight_bytes"] > 0 and plan["work_bytes"] > 0 and plan["flops"] > 0
    assert plan["points"] == 1 and plan["model_type"] == "gpt2" and plan["backend"] == auto_backend
    assert json.loads(causa("run", config, "--dry-run", "--json").stdout).keys() == plan.keys()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.json", "c.yaml"]
    repeated = tmp_path / "resolved.yaml"
    repeated.write_text(plan["config"])
    again = json.loads(causa("plan", repeated, "--json").stdout)
    assert again["config"] == plan["config"]


@pytest.mark.parametrize("more", [{}, {"OMP_PROC_BIND": "true"}, {"OMP_PLACES": "cores"}])
def test_all_processors_wherever_threads_are_bound(causa, config, more):
    """OpenMP binds the first thread to one place before main: neither the count of threads nor the
    program's second start may take that for all there is."""
    ours = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OPENBLAS_NUM_THREADS")
    environment = {**{k: v for k, v in os.environ.items() if k not in ours}, **more}
    plan = json.loads(causa("plan", config, "--json", "backend=cpu", env=environment).stdout)
    assert plan["threads"] == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("limit", [{"OMP_THREAD_LIMIT": "1"}, {"OMP_MAX_ACTIVE_LEVELS": "0"}])
def test_fewer_threads_than_wanted(causa, config, limit):
    """A library that cut its work for two threads and got one left half of it undone."""
    two = {**os.environ, "OMP_NUM_THREADS": "2", **limit}
    done = causa("doctor", MODELS / "smollm2", env=two)
    assert "failed: 0" in done.stdout and "OpenMP gives 1" in done.stderr
    plan = causa("plan", config, "--json", "backend=cpu", "--threads", 2, env=two)
    assert json.loads(plan.stdout)["threads"] == 1


def test_plan_of_a_sweep(causa, config):
    plan = json.loads(causa("plan", config, "--json", "sweep.seed=[1, 2, 3]").stdout)
    assert plan["points"] == 3
    assert plan["output"].endswith("results/c/point-00000.h5")


def test_plan_keeps_within_memory(causa, tmp_path):
    """The micro-batch shrinks with the limit, and the plan's sum stays below it."""
    rows = [{"clean_ids": list(range(40))}] * 50
    config = files.write_config(tmp_path / "m.yaml", JACOBIAN, rows)
    sizes = []
    for memory in ("100MiB", "4MiB", "2MiB"):
        plan = json.loads(causa("plan", config, "--json", f"memory={memory}").stdout)
        used = plan["weight_bytes"] + plan["work_bytes"] + plan["host_bytes"]
        assert used <= int(memory[:-3]) << 20
        sizes.append(plan["batch_rows"])
    assert sizes[0] >= sizes[1] >= sizes[2] and sizes[0] > sizes[2]


# ---- inspect ----


def test_inspect_model(causa, text_model):
    text = causa("inspect", MODELS / "gpt2").stdout
    for word in ("family        gpt2", "layers        3", "learned positions", "none: give prompts",
                 "blocks.L.attn.z", "graph"):
        assert word in text, word
    model = json.loads(causa("inspect", MODELS / "gpt2", "--json").stdout)
    layers, heads = model["layers"], model["heads"]
    assert (layers, model["width"], heads, model["vocab"]) == (3, 36, 3, 434)
    assert model["nodes"] == layers * (heads + 1) + 2
    sources = [1 + layer * (heads + 1) for layer in range(layers)]
    assert model["edges"] == sum(3 * heads * s + s + heads for s in sources) + sources[-1] + heads + 1
    assert model["tokenizer"] is None and len(model["sha256"]) == 64
    assert "resid_mid" in model["sites"]
    model = json.loads(causa("inspect", text_model, "--json").stdout)
    assert model["model_type"] == "llama" and model["tokenizer"] and model["norm"] == "RMSNorm"


def test_inspect_gguf(causa):
    path = MODELS / "gguf" / "llama-q8_0.gguf"
    model = json.loads(causa("inspect", path, "--json").stdout)
    assert model["model_type"] == "llama" and "gguf" in model["format"].lower()
    assert "heads" in causa("inspect", path).stdout


def test_inspect_result(causa, run_ids):
    path = run_ids([[1, 2, 3], [4, 5]], JACOBIAN)
    text = causa("inspect", path).stdout
    for word in ("status", "complete", "/attribution/semantic/score", "[5 token]", "kind: jacobian"):
        assert word in text, word
    found = json.loads(causa("inspect", path, "--json").stdout)
    assert found["attributes"]["tool"] == "causa"
    with h5py.File(path, "r") as file:
        mean = file["baseline"].attrs["clean_mean"]
    assert text.splitlines()[1].split() == ["clean_mean", f"{mean:.6g}"]
    assert found["headlines"] == {"clean_mean": mean}
    shapes = {o["path"]: o["shape"] for o in found["objects"]}
    assert shapes["/data/offsets"] == [3] and shapes["/attribution/semantic/score"] == [5]


def test_inspect_index(causa, run_ids, tmp_path):
    """The points are named, not told: each can be inspected by itself."""
    run_ids([[1, 2, 3]], JACOBIAN, "sweep.seed=[1, 2]", f"output={tmp_path / 'out'}")
    index = tmp_path / "out" / "index.h5"
    text = causa("inspect", index).stdout
    assert "kind: jacobian" not in text and "conventions" not in text
    assert any(line.split() == ["/point-00001", "link", "point-00001.h5"]
               for line in text.splitlines())
    objects = json.loads(causa("inspect", index, "--json").stdout)["objects"]
    assert {"path": "/point-00000", "type": "link", "target": "point-00000.h5"} in objects


@pytest.mark.parametrize("command", ["inspect", "doctor", "tokens", "report"])
def test_missing_input(causa, command):
    done = causa(command, "nowhere.h5", check=False)
    assert done.returncode == 3 and "nowhere.h5" in done.stderr


def test_inspect_something_else(causa, tmp_path):
    (tmp_path / "x.h5").write_text("no HDF5")
    done = causa("inspect", tmp_path / "x.h5", check=False)
    assert done.returncode == 3 and "expected an HDF5 file" in done.stderr
    (tmp_path / "folder").mkdir()
    done = causa("inspect", tmp_path / "folder", check=False)
    assert done.returncode == 3 and "config.json" in done.stderr


# ---- doctor ----


@pytest.mark.parametrize("model", ["gpt2", "llama3-gqa"])
def test_doctor(causa, model):
    stored = MODELS / model / "reference.h5"
    text = causa("doctor", MODELS / model, "--reference", stored).stdout
    assert "failed: 0" in text and "against reference" in text and "OUT OF TOLERANCE" not in text
    report = json.loads(causa("doctor", MODELS / model, "--reference", stored, "--json").stdout)
    places = {row["place"] for row in report["comparisons"]}
    assert {"resid 0", "logits", "gradient 0"} <= places and report["failed"] == 0
    assert {row["against"] for row in report["comparisons"]} == {"ref f64", "reference"}


def test_doctor_reads_text(causa, text_model):
    text = causa("doctor", text_model, "--prompt", "Hello there").stdout
    assert "round trip checked" in text and "failed: 0" in text
    done = causa("doctor", MODELS / "gpt2", "--prompt", "Hello", check=False)
    assert done.returncode == 2 and "has no tokenizer" in done.stderr


def test_doctor_finds_another_model(causa, tmp_path):
    """Weights that differ from those of the reference: exit code 4."""
    changed = files.write_changed_model(tmp_path / "changed")
    done = causa("doctor", changed, "--reference", MODELS / "smollm2" / "reference.h5", check=False)
    assert done.returncode == 4 and "OUT OF TOLERANCE" in done.stdout
    assert "out of tolerance" in done.stderr
    done = causa("doctor", MODELS / "gpt2", "--reference", MODELS / "smollm2" / "reference.h5",
                 check=False)
    assert done.returncode == 3 and "expected" in done.stderr


# ---- tokens ----


def tokens(causa, *arguments, **options):
    return [json.loads(line) for line in
            causa("tokens", *arguments, "--json", **options).stdout.splitlines()]


def test_tokens(causa, text_model):
    texts = ["The house", "naïve 日本\n🎉", ""]
    found = tokens(causa, text_model, *texts)
    assert [f["text"] for f in found] == texts
    for f in found:
        assert len(f["ids"]) == len(f["pieces"]) == len(f["offsets"])
        raw = f["text"].encode()
        covered = set()  # tokens inside one character all cover the whole of it
        for (a, b), before in zip(f["offsets"], [[0, 0]] + f["offsets"]):
            assert before[0] <= a < b
            covered |= set(range(a, b))
        assert covered == set(range(len(raw)))
    assert "".join(found[0]["pieces"]) == "The house"
    text = causa("tokens", text_model, "The house").stdout
    assert text.endswith(f"tokens: {len(found[0]['ids'])}\n") and "id " in text and "bytes 0-" in text
    with_lines = causa("tokens", text_model, "a\nb").stdout
    assert "'\\n'" in with_lines


def test_tokens_from_stdin(causa, text_model):
    """One text a line; a line that begins with a quote is a JSON string."""
    lines = 'plain text\n"two\\nlines"\n\n"\\u0000"\n'
    found = tokens(causa, text_model, input=lines)
    assert [f["text"] for f in found] == ["plain text", "two\nlines", "", "\0"]
    text = causa("tokens", text_model, input='"quoted"\n').stdout
    assert text.count("'\"") >= 1  # not JSON without --json
    done = causa("tokens", text_model, "--json", input='fine\n"broken\n', check=False)
    assert done.returncode == 3 and "stdin: line 2" in done.stderr
    done = causa("tokens", text_model, input=b"ok\n\xff\n", text=False, check=False)
    assert done.returncode == 3 and b"stdin: line 2" in done.stderr


def test_special_tokens(causa, tmp_path):
    model = files.write_text_model(tmp_path / "llama3", "llama3")
    (with_bos,), (without,) = (tokens(causa, model, "a house", *more)
                               for more in ([], ["--no-special"]))
    assert with_bos["ids"][1:] == without["ids"] and with_bos["offsets"][0] == [0, 0]


# ---- report ----


def test_report(causa, run_ids, tmp_path):
    path = run_ids([[1, 2, 3], [4, 5]], JACOBIAN)
    done = causa("report", path, "-o", tmp_path / "pages")
    assert (tmp_path / "pages" / "result.html").exists() and "result.html" in done.stdout
    assert list((tmp_path / "pages" / "result").glob("*.png"))
    done = causa("report", tmp_path / "pages", check=False)
    assert done.returncode == 3 and "expected an HDF5 file, got a folder" in done.stderr


# ---- run ----


def test_run_json(causa, run_ids, tmp_path):
    """The plan and the output on one line of stdout, and nothing else there."""
    run_ids([[1, 2, 3]], JACOBIAN)
    done = causa("run", tmp_path / "result.yaml", f"output={tmp_path / 'x.h5'}", "--json",
                 "backend=cpu")
    line, = done.stdout.splitlines()
    found = json.loads(line)
    assert found["output"] == str(tmp_path / "x.h5") and found["status"] == "complete"
    assert found["examples"] == 1 and found["point"] == 0 and found["points"] == 1
    assert "passing over" not in done.stderr
    done = causa("run", tmp_path / "result.yaml", "sweep.seed=[1, 2]", "--json",
                 f"output={tmp_path / 'sweep'}")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(p["point"], p["output"]) for p in found] == \
        [(p, str(tmp_path / "sweep" / f"point-0000{p}.h5")) for p in (0, 1)]


def test_rows_without_answer(causa, run_ids):
    rows = [{"clean_ids": [1, 2, 3], "answer_ids": [4]}, {"clean_ids": [1, 2]}]
    done = run_ids(rows, JACOBIAN, check=False)
    assert done.returncode == 0 and done.stderr.count("answer is empty in 1 of 2 rows") == 1
    done = run_ids(rows[1:], JACOBIAN, check=False, name="none")
    assert "answer is empty" not in done.stderr
