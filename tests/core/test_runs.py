"""Run folders: whole or absent, never half written."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from microtome.core import atomic
from microtome.core.atomic import atomic_path, write_text
from microtome.core.config import Config
from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.core.runs import RunFolder, find_latest, list_runs, timestamp


class Settings(Config):
    steps: int = 3


def start(path, kind="train-tms", **more):
    return RunFolder.create(path, Settings(), kind=kind, seed=4, command=["microtome", "x"], **more)


def everything_below(path):
    return sorted(str(file.relative_to(path)) for file in path.rglob("*"))


def fail_with(number):
    def write(*_):
        raise OSError(number, os.strerror(number))

    return write


# -- atomic writes


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    file = tmp_path / "a.txt"
    write_text(file, "old")
    with atomic_path(file) as temporary:
        temporary.write_text("ne")
        assert file.read_text() == "old"
        assert temporary.parent == file.parent
        temporary.write_text("new")
    assert file.read_text() == "new"
    assert everything_below(tmp_path) == ["a.txt"]


def test_a_failed_write_leaves_nothing_and_keeps_the_old_file(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(KeyError), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise KeyError("stop")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert everything_below(tmp_path) == ["a.txt"]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_flush_to_disk", fail_with(errno.ENOSPC))
    with pytest.raises(MicrotomeError, match="the disk is full") as caught:
        write_text(tmp_path / "a.txt", "text")
    assert "\n" not in str(caught.value)
    assert everything_below(tmp_path) == []


def test_files_get_ordinary_rights(tmp_path):
    before = os.umask(0o022)
    try:
        write_text(tmp_path / "a.txt", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


def test_a_kill_in_the_middle_of_a_write_keeps_the_old_file(tmp_path):
    script = (
        "import sys, time; from microtome.core.atomic import atomic_path\n"
        "with atomic_path(sys.argv[1]) as t:\n"
        "    t.write_text('half'); print('ready', flush=True); time.sleep(60)\n"
    )
    file = tmp_path / "a.txt"
    file.write_text("old")
    with subprocess.Popen([sys.executable, "-c", script, str(file)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"ready"
        process.kill()
    assert file.read_text() == "old"


# -- starting


def test_a_new_run_says_what_it_was_made_with(tmp_path):
    run = start(tmp_path / "deep" / "run")
    assert run.config == {"steps": 3}
    assert run.kind == "train-tms"
    environment = run.environment
    assert environment["seed"] == 4
    assert environment["command"] == ["microtome", "x"]
    assert environment["versions"]["torch"] == torch.__version__
    assert not run.finished
    assert RunFolder.open(run.path).config == run.config


def test_a_folder_with_a_run_is_refused(tmp_path):
    start(tmp_path / "run", kind="decompose-spd")
    with pytest.raises(MicrotomeError, match=r"already holds a run \(decompose-spd\).*--resume"):
        start(tmp_path / "run")
    with pytest.raises(MicrotomeError, match="already holds a run"):
        start(tmp_path / "run", reuse=True)


def test_a_folder_with_other_files_is_refused_and_kept(tmp_path):
    (tmp_path / "config.yaml").write_text("mine: 1")
    with pytest.raises(MicrotomeError, match=r"already holds files \(config.yaml\)"):
        start(tmp_path)
    assert (tmp_path / "config.yaml").read_text() == "mine: 1"
    with pytest.raises(MicrotomeError, match="is a file"):
        start(tmp_path / "config.yaml")


def test_an_empty_folder_will_do_and_a_measurement_may_be_made_again(tmp_path):
    start(tmp_path, kind="magnitude")
    start(tmp_path, kind="magnitude", reuse=True)


@pytest.mark.parametrize("existing", [False, True])
def test_a_start_that_fails_leaves_nothing(tmp_path, monkeypatch, existing):
    path = tmp_path / "deep" / "run"
    if existing:
        path.mkdir(parents=True)
    before = everything_below(tmp_path)
    calls = []

    def fill_up(file):
        calls.append(file)
        if len(calls) == 2:  # config.yaml fits, environment.json does not
            fail_with(errno.ENOSPC)()

    monkeypatch.setattr(atomic, "_flush_to_disk", fill_up)
    with pytest.raises(MicrotomeError, match="the disk is full"):
        start(path)
    assert len(calls) == 2
    assert everything_below(tmp_path) == before


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic.tempfile, "mkstemp", lambda **_: fail_with(errno.EACCES)())
    with pytest.raises(MicrotomeError, match=r"cannot be written \(Permission denied\)"):
        start(tmp_path / "run")
    assert everything_below(tmp_path) == []


def test_opening_what_is_no_run(tmp_path):
    with pytest.raises(CannotLoad, match="no such run folder"):
        RunFolder.open(tmp_path / "none")
    with pytest.raises(CannotLoad, match="not a run folder"):
        RunFolder.open(tmp_path)


# -- metrics


def test_metrics_survive_a_cut_line_and_go_back_for_a_resume(tmp_path):
    run = start(tmp_path / "run")
    for step in range(4):
        run.log(step, {"loss": torch.tensor([1.0, float("nan")]), "count": np.int64(step)})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    assert [row["step"] for row in run.metrics()] == [0, 1, 2, 3]
    assert run.metrics()[1] == {"step": 1, "loss": [1.0, None], "count": 1}
    run.drop_metrics_after(1)
    run.log(2, {"loss": 0.5})
    assert [row["step"] for row in run.metrics()] == [0, 1, 2]
    assert all(json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines())


# -- results


def test_arrays_and_json_come_back(tmp_path):
    run = start(tmp_path / "run")
    arrays = {"a": np.arange(6).reshape(2, 3), "b": np.float32(2.5)}
    assert run.save_arrays("numbers", arrays) == run.path / "results" / "numbers.npz"
    back = run.load_arrays("numbers")
    assert set(back) == {"a", "b"}
    np.testing.assert_array_equal(back["a"], arrays["a"])
    run.save_json("more/x.json", {"a": torch.ones(2), "path": Path("x"), "inf": float("inf")})
    assert run.load_json("more/x.json") == {"a": [1.0, 1.0], "path": "x", "inf": None}


def test_results_that_are_missing_or_broken(tmp_path):
    run = start(tmp_path / "run")
    with pytest.raises(CannotLoad, match="no such results"):
        run.load_arrays("none")
    (run.path / "results").mkdir()
    np.savez(run.path / "results" / "code.npz", a=np.array([object()], dtype=object))
    with pytest.raises(CannotLoad, match="not an npz file"):
        run.load_arrays("code")
    (run.path / "results" / "cut.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(CannotLoad, match="truncated"):
        run.load_arrays("cut")
    write_text(run.path / "x.json", "{")
    with pytest.raises(CannotLoad, match="truncated or not JSON"):
        run.load_json("x.json")


def test_a_figure_is_saved_and_closed(tmp_path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    run = start(tmp_path / "run")
    figure = plt.figure(figsize=(1, 1))
    assert run.save_figure("a", figure, dpi=40) == run.path / "plots" / "a.png"
    assert not plt.fignum_exists(figure.number)
    assert run.save_figure("b", plt.figure(figsize=(1, 1)), dpi=40, where="").parent == run.path
    assert (run.path / "b.png").read_bytes().startswith(b"\x89PNG")


# -- checkpoints


def test_checkpoints_keep_tensors_of_every_kind_and_only_the_last_two(tmp_path):
    run = start(tmp_path / "run")
    assert run.latest_checkpoint() is None
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "view": base.T,
        "same": base,
        "expanded": torch.ones(3).expand(2, 3),
        "number": torch.tensor(3),
        "state": torch.Generator().manual_seed(1).get_state(),
        "parameter": torch.nn.Parameter(torch.zeros(2)),
    }
    for step in (0, 5, 10):
        run.save_checkpoint(step, tensors, {"step": step, "text": "ü"})
    assert run.checkpoint_steps() == [5, 10]
    newest = run.latest_checkpoint()
    assert newest is not None
    step, back, extra = newest
    assert (step, extra) == (10, {"step": 10, "text": "ü"})
    assert set(back) == set(tensors)
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor.detach())


def test_a_broken_newest_checkpoint_falls_back_to_the_one_before(tmp_path):
    run = start(tmp_path / "run")
    run.save_checkpoint(1, {"a": torch.ones(2)}, {})
    run.save_checkpoint(2, {"a": torch.zeros(2)}, {}).write_bytes(b"cut")
    newest = run.latest_checkpoint()
    assert newest is not None
    assert newest[0] == 1
    (run.path / "checkpoints" / "step_1.safetensors").write_bytes(b"cut")
    with pytest.raises(CannotLoad, match="truncated"):
        run.latest_checkpoint()


def test_a_disk_that_fills_during_a_checkpoint_keeps_the_last_good_one(tmp_path, monkeypatch):
    run = start(tmp_path / "run")
    run.save_checkpoint(1, {"a": torch.ones(2)}, {})
    monkeypatch.setattr(atomic, "_flush_to_disk", fail_with(errno.ENOSPC))
    with pytest.raises(MicrotomeError, match="the disk is full"):
        run.save_checkpoint(2, {"a": torch.ones(2)}, {})
    assert everything_below(run.path / "checkpoints") == ["step_1.safetensors"]


WRITES = {
    "checkpoint": "run.save_checkpoint(1, tensors)",
    "state dict": "run.save_state_dict('a.pth', tensors)",
    "arrays": "run.save_arrays('a', {'a': numpy.zeros(200_000)})",
    "metrics": "[run.log(step, {'a': [1.0] * 1000}) for step in range(200)]",
}


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the size of files")
def test_files_that_do_not_fit_on_the_real_system(tmp_path):
    """Every kind of write meets a real failing write(2), through each library's own error."""
    run = start(tmp_path / "run")
    script = (
        "import resource, sys, numpy, torch; from microtome.core.runs import RunFolder\n"
        "from microtome.core.errors import MicrotomeError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "run, tensors = RunFolder.open(sys.argv[1]), {'a': torch.zeros(200_000)}\n"
    )
    for name, call in WRITES.items():
        script += f"try: {call}\nexcept MicrotomeError as error: print({name!r}, '|', error)\n"
    done = subprocess.run(
        [sys.executable, "-c", script, run.path], capture_output=True, text=True, check=True
    )
    lines = dict(line.split(" | ") for line in done.stdout.splitlines())
    assert set(lines) == set(WRITES)
    assert all("the disk is full" in text for text in lines.values())
    files = [name for name in everything_below(run.path) if "." in name]
    assert files == ["config.yaml", "environment.json", "metrics.jsonl"]


# -- the end, and finding runs


def test_finishing(tmp_path):
    run = start(tmp_path / "run")
    assert run.summary == {}
    run.finish({"loss": np.float32(0.5)})
    assert run.finished
    assert run.summary == {"loss": 0.5}


def test_latest_is_by_time_of_start_not_by_name(tmp_path):
    first = start(tmp_path / "z")
    second = start(tmp_path / "a" / "inner", kind="decompose-apd")
    assert [run.path for run in list_runs(tmp_path)] == [first.path, second.path]
    assert find_latest(tmp_path) == second.path
    assert find_latest(tmp_path, "train") == first.path
    assert find_latest(tmp_path, "decompose-apd") == second.path
    with pytest.raises(CannotLoad, match="no magnitude run under"):
        find_latest(tmp_path, "magnitude")
    with pytest.raises(CannotLoad, match="no run under"):
        find_latest(tmp_path / "nothing")


def test_timestamps_sort_by_time():
    first = timestamp()
    time.sleep(0.002)
    second = timestamp()
    assert first < second
    assert len(first) == len("20240102_030405_678")


@given(st.dictionaries(st.text(min_size=1), st.floats(allow_nan=False, allow_infinity=False)))
def test_metrics_hold_any_name_and_number(tmp_path_factory, values):
    values.pop("step", None)
    run = RunFolder(tmp_path_factory.mktemp("run"))
    run.log(7, values)
    assert run.metrics() == [{"step": 7, **values}]


def test_lines_of_metrics_that_are_not_ours_are_left_out(tmp_path):
    run = RunFolder.create(tmp_path / "run", Settings(), kind="x")
    run.log(1, {"loss": 2.0})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('[1]\n{"loss": 3}\n')
    run.drop_metrics_after(5)
    assert run.metrics() == [{"step": 1, "loss": 2.0}]
