# SPDX-License-Identifier: MIT
"""Results that exist, runs that are stopped, sweeps."""

import json
import signal
import time

import files
import h5py
import numpy as np
import pytest
from files import JACOBIAN


@pytest.fixture(scope="module")
def long_run(causa, tmp_path_factory):
    """Config of a run of some seconds in many micro-batches, and its uninterrupted result."""
    folder = tmp_path_factory.mktemp("long")
    rng = np.random.default_rng(5)
    count = 300 if files.BACKEND == "ref" else 100  # simulated devices are slow
    rows = [{"clean_ids": rng.integers(0, 400, rng.integers(40, 60)).tolist()}
            for _ in range(count)]
    config = files.write_config(folder / "long.yaml", JACOBIAN, rows, backend=files.BACKEND, batch=64)
    whole = folder / "whole.h5"
    causa("run", config, f"output={whole}")
    return config, whole


def start(causa, config, path, *arguments):
    """Starts a run and returns it when some micro-batches are done."""
    process = causa("run", config, f"output={path}", *arguments, wait=False)
    temporary = path.with_name(path.name + ".tmp")
    deadline = time.monotonic() + 60
    while not temporary.exists() or temporary.stat().st_size == 0:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    time.sleep(0.2)
    return process



@pytest.mark.parametrize("number", [
    signal.SIGTERM,
    pytest.param(signal.SIGUSR1, marks=pytest.mark.long),
    pytest.param(signal.SIGINT, marks=pytest.mark.long),
])
def test_stop_and_resume(causa, long_run, tmp_path, number):
    config, whole = long_run
    path = tmp_path / "out.h5"
    process = start(causa, config, path)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else 75), errors
    assert number.name in errors and "--resume goes on" in errors
    checkpoint = tmp_path / "out.h5.checkpoint"
    assert [p.name for p in tmp_path.iterdir()] == [checkpoint.name]
    with h5py.File(checkpoint, "r") as file:
        assert file.attrs["status"] == "partial"
        scores = file["attribution/semantic/score"][()]
    assert np.isnan(scores).any() and not np.isnan(scores[:40]).any()
    done = causa("run", config, f"output={path}", "--resume")
    assert "going on at example" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    files.same_bytes(path, whole)
    assert files.attributes(path)["@status"] == "complete"


def test_killed_run_leaves_no_result(causa, long_run, tmp_path):
    config, whole = long_run
    path = tmp_path / "out.h5"
    process = start(causa, config, path)
    process.kill()
    process.communicate()
    assert not path.exists() and not (tmp_path / "out.h5.checkpoint").exists()
    causa("run", config, f"output={path}", "--resume")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    files.same_bytes(path, whole)


def test_checkpoint_of_another_config(causa, long_run, tmp_path):
    """It is not continued, and the run says so."""
    config, _ = long_run
    path = tmp_path / "out.h5"
    process = start(causa, config, path)
    process.terminate()
    process.communicate()
    done = causa("run", config, f"output={path}", "--resume", "data.limit=5")
    assert "made by another configuration" in done.stderr
    assert len(files.datasets(path)["data/id"]) == 5


def test_two_runs_on_one_file(causa, long_run, tmp_path):
    config, whole = long_run
    path = tmp_path / "out.h5"
    process = start(causa, config, path)
    second = causa("run", config, f"output={path}", check=False)
    assert second.returncode == 1 and "another process is writing this file" in second.stderr
    process.communicate(timeout=60)
    assert process.returncode == 0
    files.same_bytes(path, whole)


def test_existing_result(causa, run_ids, tmp_path):
    path = run_ids([[1, 2, 3]], JACOBIAN)
    before = path.read_bytes()
    config = tmp_path / "result.yaml"
    for arguments, words in (([], "the file exists already"),
                             (["--resume", "seed=3"], "another configuration")):
        done = causa("run", config, f"output={path}", *arguments, check=False)
        assert done.returncode == 2 and words in done.stderr and str(path) in done.stderr
        assert "hint:" in done.stderr and "--overwrite" in done.stderr
        assert path.read_bytes() == before
    done = causa("run", config, f"output={path}", "--resume")
    assert "is complete already" in done.stderr and path.read_bytes() == before
    causa("run", config, f"output={path}", "--overwrite", "seed=3")
    assert files.attributes(path)["@seed"] == "3"


def test_failed_overwrite_keeps_the_old_result(causa, run_ids, tmp_path):
    path = run_ids([[1, 2, 3]], JACOBIAN)
    before = path.read_bytes()
    done = causa("run", tmp_path / "result.yaml", f"output={path}", "--overwrite",
                 "method.target=#5:#5", check=False)
    assert done.returncode == 2 and path.read_bytes() == before


# ---- sweeps ----


@pytest.fixture
def sweep(causa, tmp_path):
    rows = [{"clean_ids": [3, 1, 4, 1, 5]}, {"clean_ids": [2, 7, 1, 8]}]
    config = files.write_config(tmp_path / "s.yaml", JACOBIAN, rows,
                                sweep={"method.target": ["#5", "#7"], "method.position": [-1, 1, 2]})

    def run(*arguments, check=True):
        return causa("run", config, f"output={tmp_path / 'out'}", *arguments, check=check)

    return run


def test_sweep_product(sweep, tmp_path):
    """The first key is the slowest; index.h5 tells and links the points."""
    sweep()
    names = [f"point-{p:05d}" for p in range(6)]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == \
        ["index.h5"] + [f"{name}.h5" for name in names]
    with h5py.File(tmp_path / "out" / "index.h5", "r") as index:
        assert index["point"].asstr()[()].tolist() == names
        assert index["method.target"].asstr()[()].tolist() == ["#5"] * 3 + ["#7"] * 3
        assert index["method.position"][()].tolist() == [-1, 1, 2] * 2
        for p, name in enumerate(names):
            assert index[name].attrs["status"] == "complete"
            assert (index[name]["data/target"][()] == (5, 7)[p // 3]).all()
            assert index["clean_mean"][p] == index[name]["baseline"].attrs["clean_mean"]
        assert index.attrs["tool"] == "causa" and index.attrs["status"] == "complete"
    assert "\nsweep:" not in files.attributes(tmp_path / "out" / "point-00001.h5")["@config"]


def test_points_and_shards(sweep, tmp_path):
    """Parts of a sweep, in any order; the call that finds all points complete writes the index."""
    out = tmp_path / "out"
    points = lambda: sorted(int(p.name[6:11]) for p in out.glob("point-*.h5"))
    sweep("--points", "1:3")
    assert "--points 1:3" in h5py.File(out / "point-00001.h5")["run"].attrs["command_line"]
    assert points() == [1, 2] and not (out / "index.h5").exists()
    sweep("--shard", "0/2", "--resume")
    assert points() == [0, 1, 2, 4] and not (out / "index.h5").exists()
    done = sweep(check=False)
    assert done.returncode == 2 and "exists already" in done.stderr and points() == [0, 1, 2, 4]
    done = sweep("--shard=1/2", "--resume")
    assert points() == list(range(6)) and (out / "index.h5").exists()
    assert done.stderr.count("is complete already") == 1
    sweep("--resume")
    sweep("--overwrite")


def test_overwriting_in_parts(sweep, tmp_path):
    """No index tells points of one sweep as those of another."""
    out = tmp_path / "out"
    sweep()
    done = sweep("--points=0:2", "--overwrite", "method.scopes=[temperature]")
    assert "points not there yet: 4 of 6" in done.stderr and not (out / "index.h5").exists()
    sweep("--points=2:6", "--overwrite", "method.scopes=[temperature]")
    with h5py.File(out / "index.h5") as index:
        for p in range(6):
            assert "temperature" in index[f"point-{p:05d}/attribution"]


def test_overwriting_with_a_shorter_sweep(causa, sweep, tmp_path):
    """Points that it does not have go; files that only look like them, or are another's, stay."""
    out = tmp_path / "out"
    sweep()
    other = tmp_path / "other.yaml"
    other.write_text((tmp_path / "s.yaml").read_text().replace('"name": "s"', '"name": "other"'))
    causa("run", other, f"output={tmp_path / 'others'}")
    (out / "point-00005.h5").rename(out / "point-00005.h5.checkpoint")
    (tmp_path / "others" / "point-00003.h5").rename(out / "point-00007.h5")
    kept = {"point-7.h5": "one digit", "point-00008.h5": "no result", "point-00009.h5.old": "a copy"}
    for name, text in kept.items():
        (out / name).write_text(text)
    sweep("--points=0:1", "--overwrite", "method.scopes=[temperature]", check=False)
    assert len(list(out.glob("point-0000[0-5].h5*"))) == 6  # of this sweep, as long as before
    done = sweep("sweep.method.position=[-1]", "--overwrite")
    assert "removed points of an earlier sweep, of which this one has fewer: 4" in done.stderr
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["index.h5", "point-00000.h5", "point-00001.h5", "point-00007.h5", *kept])
    assert all((out / name).read_text() == text for name, text in kept.items())
    assert files.attributes(out / "point-00007.h5")["@config"].startswith("name: other")


def test_a_failed_overwrite_removes_no_point(sweep, tmp_path):
    sweep()
    done = sweep("sweep.method.position=[9]", "--overwrite", check=False)
    assert done.returncode == 3
    assert len(list((tmp_path / "out").glob("point-*.h5"))) == 6


@pytest.mark.parametrize("sweep, largest", [("seed: [1, 2, 3, 4, 5]", 0), ("batch: [200, 300, 200, 300]", 1)])
def test_points_leave_no_memory_to_each_other(causa, tmp_path, sweep, largest):
    """Equal points take what the first does, and others what the largest does alone: the memory of a
    point is free for the next one. Points after the first had 10 to 20 MB more of 66 without; a few stay for
    what libraries load once and for pages in part."""
    run = lambda path, *more: causa(
        "run", "configs/ioi-eap-ig.yaml", "backend=cpu", "data.file=experiments/demo-model/ioi.csv",
        "data.limit=60", "method.variant=eap", f"output={tmp_path / path}", *more)
    peak = lambda path: h5py.File(tmp_path / path)["run"].attrs["peak_host_bytes"]
    run("sweep", f"sweep={{{sweep}}}")
    key, values = sweep.split(": ")
    run("alone.h5", f"{key}={json.loads(values)[largest]}")
    last = f"sweep/point-{len(json.loads(values)) - 1:05d}.h5"
    assert peak(last) <= peak("alone.h5") + 8e6, (peak(last), peak("alone.h5"))


def test_one_failing_point(causa, tmp_path):
    """The others run all the same; exit code 6. Weights are read late, so a NaN shows late."""
    model = files.write_changed_model(tmp_path / "nan", float("nan"))
    good = files.MODELS / "smollm2"
    config = files.write_config(tmp_path / "s.yaml", JACOBIAN, [{"clean_ids": [3, 1, 4]}],
                                sweep={"model": [str(model), str(good)]})
    done = causa("run", config, f"output={tmp_path / 'out'}", check=False)
    assert done.returncode == 6
    assert "point 0 failed" in done.stderr and "NaN" in done.stderr
    assert "1 of 2 sweep points failed" in done.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["index.h5", "point-00001.h5"]
    with h5py.File(tmp_path / "out" / "index.h5", "r") as index:
        assert index["status"].asstr()[()].tolist() == ["failed", "complete"]
        assert "point-00000" not in index and "point-00001" in index
        means = index["clean_mean"][()]
        assert np.isnan(means[0]) and means[1] == index["point-00001/baseline"].attrs["clean_mean"]
        assert index["model"].asstr()[()].tolist() == [str(model), str(good)]
    done = causa("run", config, f"output={tmp_path / 'out'}", "--resume", "--json", check=False)
    assert done.returncode == 6
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["point"], line["status"]) for line in lines] == [(0, "failed"), (1, "complete")]


def test_failing_point_among_those_of_other_calls(causa, tmp_path):
    model = files.write_changed_model(tmp_path / "nan", float("nan"))
    config = files.write_config(tmp_path / "s.yaml", JACOBIAN, [{"clean_ids": [3, 1, 4]}],
                                sweep={"model": [str(model), str(files.MODELS / "smollm2")]})
    done = causa("run", config, f"output={tmp_path / 'out'}", "--points=0:1", check=False)
    assert done.returncode == 6 and "points not there yet: 1 of 2" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_every_point_is_checked_first(sweep, tmp_path):
    done = sweep("sweep.method.position=[0, 9]", check=False)
    assert done.returncode == 3 and "position 9 is outside the prompt" in done.stderr
    assert not (tmp_path / "out").exists()
