# SPDX-License-Identifier: MIT
"""Options of edge attribution that have no effect or do not go together are refused, each with a way
out."""

import files
import pytest
from test_eap import EAP, PAIR, demo, pairs  # noqa: F401 (fixtures)


@pytest.fixture
def refused(causa, tmp_path, text_model):
    """refused(method, code) -> what an attribution with these options says in place of a result."""
    def run(method, code=2, model=text_model, rows=(PAIR,)):
        config = files.write_config(tmp_path / "bad.yaml", {**EAP, **method}, list(rows), model=model)
        done = causa("run", config, f"output={tmp_path / 'bad.h5'}", check=False)
        assert done.returncode == code, done.stderr
        assert "bad.yaml:" in done.stderr and not (tmp_path / "bad.h5").exists()
        return done.stderr

    return run


@pytest.mark.parametrize("level", ["edge", "node", "neuron", "hidden"])
@pytest.mark.parametrize("key, value", [("select", "greedy"), ("select", "threshold"), ("absolute", False)])
def test_a_rule_without_circuits(refused, level, key, value):
    said = refused({"variant": "eap", "level": level, "circuit": {key: value}})
    cure = "level edge, node or neuron" if level == "hidden" else "method.circuit.sizes"
    words = [f"method.circuit.{key}: expected", cure, f"got {str(value).lower()} "]
    assert all(word in said for word in words), said


@pytest.mark.parametrize("level", ["edge", "node", "neuron", "hidden"])
def test_a_number_without_a_file(refused, level):
    said = refused({"variant": "eap", "level": level, "circuit": {"number": 1}})
    assert "method.circuit.number: expected method.circuit.file beside it" in said


@pytest.mark.parametrize("more, words", [
    ({"circuit": {"select": "greedy"}}, ["method.circuit.select", "as it is"]),
    ({"circuit": {"absolute": False}}, ["method.circuit.absolute", "as it is"]),
    ({"circuit": {"number": 0, "fractions": [0.1]}}, ["method.circuit.number", "expected auto beside method.circuit.fractions"]),
    ({"per_example": True}, ["method.per_example", "nothing is attributed"]),
    ({"by_position": True}, ["method.by_position", "nothing is attributed"]),
    ({"bootstrap": 3}, ["method.bootstrap", "nothing is attributed"]),
    ({"compare": ["exact"]}, ["method.compare", "nothing is attributed"]),
], ids=lambda value: value[0] if isinstance(value, list) else "")
def test_beside_a_file(demo, tmp_path, more, words):  # noqa: F811
    demo({"variant": "eap", "circuit": {"sizes": [9]}}, "data.limit=1", name="given")
    given = {"file": str(tmp_path / "given.h5"), **more.get("circuit", {})}
    done = demo({**more, "circuit": given}, "data.limit=1", check=False)
    assert done.returncode == 2 and all(word in done.stderr for word in words), done.stderr


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("key, more", [("sizes", {}), ("fractions", {}), ("thresholds", {"select": "threshold"})])
def test_a_list_of_nothing(causa, demo, tmp_path, command, given, key, more):  # noqa: F811
    """It made no circuit, and without any the run stopped by an assertion once all was attributed."""
    circuit = {key: [], **more}
    if given:
        demo({"variant": "eap", "circuit": {"sizes": [9]}}, "data.limit=1", name="given")
        circuit["file"] = str(tmp_path / "given.h5")
    for faithfulness in (False, True):
        method = {**EAP, "variant": "eap", "circuit": circuit, "evaluate": {"faithfulness": faithfulness}}
        config = files.write_config(tmp_path / "bad.yaml", method, files.id_pairs(2))
        done = causa(command, config, f"output={tmp_path / 'bad.h5'}", check=False)
        words = ["bad.yaml:", f"method.circuit.{key}: expected at least one {key[:-1]}, got an empty list"]
        assert done.returncode == 2 and all(word in done.stderr for word in words), done.stderr
        assert not (tmp_path / "bad.h5").exists()


def test_defaults_may_stand_anywhere(demo):  # noqa: F811
    """A resolved config has them all, and must repeat its run."""
    for level in ("edge", "hidden"):
        demo({"variant": "eap", "level": level, "circuit": {"select": "top", "absolute": True, "number": "auto"}})


@pytest.mark.parametrize("method, what", [
    ({"variant": "exact"}, "variant exact"), ({"variant": "eap", "level": "node"}, "level node"),
    ({"variant": "ig-activations", "level": "hidden"}, "level hidden")], ids=str)
def test_one_mean_of_all_sources(refused, method, what):
    said = refused({**method, "ablation": "mean", "compat": "eap-ig"})
    words = ["method.ablation: expected patching, zero or mean-positional", f"compat eap-ig and {what}",
             "got mean", "hint: compat none"]
    assert all(word in said for word in words), said


@pytest.mark.parametrize("option", ["circuit.file", "evaluate.truth"])
@pytest.mark.parametrize("form", ["h5", "json"])
def test_columns_of_another_graph(causa, pairs, refused, tmp_path, option, form):  # noqa: F811
    """The file is of the same model, but keys and values have other columns: of three, of nine."""
    rows = files.id_pairs(2)
    section, key = option.split(".")
    for written, read, numbers in (("native", "query", ("9 a layer", "3 a layer")),
                                   ("query", "native", ("3 a layer", "9 a layer"))):
        pairs({"variant": "eap", "kv_columns": written, "circuit": {"sizes": [9]}}, rows, name="own")
        if form == "json":
            causa("convert", tmp_path / "own.h5", tmp_path / "own.json", "--overwrite")
        given = {section: {key: str(tmp_path / f"own.{form}")}}
        said = refused({"kv_columns": read, **given}, 3, files.MODELS / "smollm2", rows)
        words = [f"of kv_columns {read}, {numbers[0]}", f"of kv_columns {written}, {numbers[1]}",
                 f"hint: method.kv_columns={written}"]
        assert all(word in said for word in words), said
        assert "another model" not in said
        pairs({"variant": "eap", "kv_columns": written, **given}, rows, name="read")
