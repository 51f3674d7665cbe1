# SPDX-License-Identifier: MIT
"""The report script on small files made here: what is on the page, what is drawn, what is refused."""

import html.parser
import pathlib
import re
import subprocess
import sys

import h5py
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "src" / "report"

PROMPTS = [
    ["<|bos|>", "When", " Mary", " and", " John", " went", " to", " the", " store", ",", " John",
     " gave", " a", " drink", " to"],
    ["def", " f", "(x", "):", "\n", "\t", "return", " x", " <", "b", "> &", " \"", "y", "\""],
    ["気", "候", " émoji", " 🎉", "\u202e", "\x07", "", " \ufffd", "\n", "\n", "done"],
]
TARGETS = [" Mary", "\n", None]
SCOPES = ["semantic", "fisher", "integrated_gradients"]


def text_type():
    return h5py.string_dtype("utf-8")


def write_head(file, method, prompts):
    file.attrs.update({
        "schema_version": 1, "tool": "causa", "tool_version": "0.1", "status": "complete",
        "method": method, "backend": "cpu", "precision": "f32", "seed": 42,
        "model_path": "models/<demo>", "model_type": "gpt2", "config_sha256": "ab" * 32,
        "config": f"name: demo-{method}\ndata:\n  limit: 3\n  file: prompts.csv\nmodel: models/demo\n",
    })
    file.attrs.create("conventions", ["sign: higher is <better>", "target: raw logit"], dtype=text_type())
    flat = [piece for prompt in prompts for piece in prompt]
    lengths = [len(prompt) for prompt in prompts]
    file["data/id"] = np.array([f"prompt {i}" for i in range(len(prompts))], dtype=text_type())
    file["data/tokens"] = np.arange(len(flat), dtype=np.int32)
    file["data/offsets"] = np.concatenate([[0], np.cumsum(lengths)])
    file["data/pieces"] = np.array(flat, dtype=text_type())
    file["data/position"] = np.array(lengths, dtype=np.int64) - 1
    run = file.create_group("run")
    run.attrs.update({"wall_seconds": 1.5, "ranks": 2, "peak_host_bytes": 3 << 20, "flops": 2.5e12})
    run["log/level"] = np.array(["info"], dtype=text_type())
    run["log/message"] = np.array(["loaded <model>"], dtype=text_type())
    return len(flat)


def write_jacobian(path, prompts=PROMPTS, targets=TARGETS):
    rng = np.random.default_rng(1)
    with h5py.File(path, "w", track_order=True) as file:
        total = write_head(file, "jacobian", prompts)
        file["data/target"] = np.array([-1 if t is None else 7 for t in targets], dtype=np.int32)
        file["data/target_piece"] = np.array([t or "" for t in targets], dtype=text_type())
        attribution = file.create_group("attribution", track_order=True)
        for scope in SCOPES:
            group = attribution.create_group(scope)
            group["score"] = (rng.random(total) ** 4 * 10).astype(np.float32)
            group.attrs.update({"target": "gold", "units": "logit per unit of embedding"})
        probability = np.tile(np.array([.61, .2, .07, .04, .03, .01, .005, .001], np.float32),
                              (len(prompts), 1))
        file["predictions/probability"] = probability
        file["predictions/token_ids"] = np.tile(np.arange(7, 15, dtype=np.int32), (len(prompts), 1))
        file["predictions/pieces"] = np.array(
            [[" Mary", " him", "\n", " <i>", "the", " Johnathan Smith", " 気", " x"]] * len(prompts),
            dtype=text_type())
        file.create_group("evaluation/aopc/semantic").attrs["aopc"] = -1.23456


def write_capture(path):
    rng = np.random.default_rng(2)
    with h5py.File(path, "w") as file:
        write_head(file, "capture", PROMPTS)
        rows = np.array([(i, t) for i, p in enumerate(PROMPTS) for t in range(len(p))], np.int64)
        for layer in range(4):
            for name, width in (("resid_post", (16,)), ("attn.z", (4, 8))):
                scale = (1 + layer) * np.where(rows[:, 1] == 0, 30, 1)
                values = rng.standard_normal((len(rows), *width)) * scale.reshape(-1, *[1] * len(width))
                file[f"activations/blocks.{layer}.{name}"] = values.astype(np.float32)
        file["activations/final_norm"] = np.full((len(rows), 4), 3.0, np.float32)
        file["activations/rows"] = rows


def run(*arguments):
    return subprocess.run([sys.executable, "-B", str(SCRIPT), *map(str, arguments)],
                          capture_output=True, text=True, timeout=120)


class Checker(html.parser.HTMLParser):
    """Keeps the visible text of a page and sees that every tag is closed in order."""

    VOID = {"meta", "img", "line", "rect", "stop", "br"}

    def __init__(self):
        super().__init__()
        self.open, self.text, self.sources = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)


def read_page(path):
    checker = Checker()
    checker.feed(path.read_text(encoding="utf-8"))
    assert checker.open == []
    for source in checker.sources:  # self-contained
        assert source.startswith(("data:image/png;base64,", "#"))
    return "".join(checker.text)


def test_jacobian_page(tmp_path):
    write_jacobian(tmp_path / "demo.h5")
    done = run(tmp_path / "demo.h5", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    page = tmp_path / "out" / "demo.html"
    assert done.stdout == f"{page}\n"
    text = read_page(page)
    for expected in ("demo-jacobian", "models/<demo>, gpt2", "prompts.csv", "higher is <better>",
                     "-1.2346", "loaded <model>", "3.0 MiB", "2.5 TFLOP", "0.6100",
                     "<predicted distribution>", "Influence", "Probability", "⏎\n", "⇥",
                     "🎉", "‹U+202E›", "␇", "/attribution/semantic/score"):
        assert expected in text, expected
    figures = {path.name for path in (tmp_path / "out" / "demo").iterdir()}
    assert figures == {f"prompt-{i:03d}-{name}.png" for i in range(3)
                       for name in [*SCOPES, "predictions"]}
    assert all((tmp_path / "out" / "demo" / name).read_bytes()[:4] == b"\x89PNG" for name in figures)


def test_heat_map_colours(tmp_path):
    """The greatest score gets the last step of Blues, the least the first; the target is red."""
    write_jacobian(tmp_path / "demo.h5")
    with h5py.File(tmp_path / "demo.h5", "a") as file:
        scores = np.linspace(2, 9, file["data/tokens"].shape[0])
        file["attribution/semantic/score"][:] = scores
    assert run(tmp_path / "demo.h5").returncode == 0
    source = (tmp_path / "demo.html").read_text(encoding="utf-8")
    first = source[source.index('class="card"'):]
    spans = re.findall(r'<span class="(\w+)" title="([^"]+)">', first[: first.index("</div>")])
    assert spans[0] == ("c0", "token 0: 2")
    assert spans[14][0] == "c255"
    assert spans[15] == ("target", "target")
    assert ".c0{background:#f7fbff}" in source and ".c255{background:#08306b;color:#fff}" in source


def test_many_prompts_are_cut(tmp_path):
    write_jacobian(tmp_path / "many.h5", PROMPTS[:1] * 53, [" Mary"] * 53)
    assert run(tmp_path / "many.h5").returncode == 0
    text = read_page(tmp_path / "many.html")
    assert "3 more prompts are in the file but not on this page." in text
    assert "prompt 49" in text and "prompt 50" not in text


def test_capture_page(tmp_path):
    write_capture(tmp_path / "acts.h5")
    done = run(tmp_path / "acts.h5")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    text = read_page(tmp_path / "acts.html")
    assert "blocks.3.attn.z" in text and "40 × 4 × 8" in text
    assert re.search(r"final_norm40 × 4float32666", text)  # norm of (3, 3, 3, 3) is 6
    figures = {path.name for path in (tmp_path / "acts").iterdir()}
    assert figures == {"norms-resid-post.png", "norms-attn-z.png", "norms-attn-z-heads.png",
                       "norms-final-norm.png"}


def test_other_methods_get_the_common_sections(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        write_head(file, "eap", PROMPTS)
    assert run(tmp_path / "x.h5").returncode == 0
    assert "Contents of the file" in read_page(tmp_path / "x.html")


def test_refusals(tmp_path):
    (tmp_path / "text.h5").write_text("no HDF5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.attrs["tool"] = "another"
    for name, words in (("none.h5", "no such file"), ("text.h5", "expected an HDF5 file"),
                        ("other.h5", 'tool = "causa"')):
        done = run(tmp_path / name)
        assert done.returncode == 3
        assert words in done.stderr and done.stderr.count("\n") == 1
    assert run().returncode == 2


@pytest.mark.parametrize("package", ["h5py", "matplotlib", "numpy"])
def test_missing_package(tmp_path, package):
    (tmp_path / f"{package}.py").write_text(f"raise ImportError('gone', name='{package}')\n")
    done = subprocess.run([sys.executable, "-B", str(SCRIPT), "x.h5"], capture_output=True, text=True,
                          env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"}, timeout=60)
    assert done.returncode == 1
    assert f"'{package}' is missing" in done.stderr and done.stderr.count("\n") == 1


def test_patch_pages(causa, patch_results, tmp_path):
    """A map per kind of site, heads apart."""
    for path in patch_results:
        causa("report", path, "-o", tmp_path)
    text = read_page(tmp_path / "causal-tracing.html")
    for expected in ("Strongest effects", "Patching resid_post", "blocks.1.resid_post", "± 95 %",
                     "0 = the corrupted run"):
        assert expected in text, expected
    figures = {path.stem for path in (tmp_path / "causal-tracing").iterdir()}
    kinds = ("resid-post", "attn-out", "mlp-out")
    assert figures == {f"patch-{name}{part}" for name in kinds for part in ("", "-interval")} | \
        {f"patch-roles-{name}" for name in kinds}
    text = read_page(tmp_path / "patch-ioi.html")
    assert "Patching attn.z, one head at a time" in text
    # the prompts differ in length: cells are named by what their token is
    table = text[text.rindex("Strongest effects"):text.rindex("Where in the prompt")]
    assert "last token" in table and "first differing token" in table
    assert "by token number" in text
    assert (tmp_path / "patch-ioi" / "patch-attn-z-one-head-at-a-time.png").exists()
    assert re.search(r"where a head does most: a [a-z ]+ · b last token", text)


def test_patch_page_of_one_position(causa, run_ids, tmp_path):
    rows = [{"clean_ids": [3, 1, 4, i], "corrupted_ids": [3, 2, 4, i], "answer_ids": [5],
             "wrong_ids": [6]} for i in range(3)]
    path = run_ids(rows, {"kind": "patch", "sites": ["blocks.*.resid_pre", "embed"],
                          "positions": "last"})
    causa("report", path, "-o", tmp_path / "pages")
    assert "last" in read_page(tmp_path / "pages" / "result.html")
    assert {p.stem for p in (tmp_path / "pages" / "result").iterdir()} == \
        {"patch-resid-pre", "patch-embed"}
