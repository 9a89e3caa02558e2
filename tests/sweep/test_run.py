"""Whole sweeps of a small program: what is recorded, resumed, stopped and told."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from microtome.cli.main import main
from microtome.core.errors import MicrotomeError
from microtome.core.runs import RunFolder
from microtome.sweep.metrics import find_metric, flatten, metric_history, trial_metrics
from microtome.sweep.record import Record, Trial
from microtome.sweep.run import load_sweep


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def statuses(result):
    return [trial.status for trial in result.trials]


# -- a sweep from end to end


def test_every_trial_is_run_and_recorded_and_a_failing_one_stops_nothing(world):
    result = world.sweep(parameters={"x": {"values": [2, 3, 1]}, "y": {"value": "a b"}})
    assert statuses(result) == ["finished", "failed", "finished"]
    assert result.trials[1].reason == "x=3 cannot be"
    assert result.trials[0].metrics == {"loss": 4.0, "step": 0.0, "l0.a": 1.5}
    assert result.best is not None and result.best.parameters == {"x": 1, "y": "a b"}
    with (result.folder / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["parameter.x"] for row in rows] == ["2", "3", "1"]
    assert [row["metric.loss"] for row in rows] == ["4.0", "", "1.0"]
    run = RunFolder.open(result.folder)
    assert run.kind == "sweep"
    assert run.summary["failed"] == 1 and run.summary["best"]["loss"] == 1.0
    assert (run.path / "plots" / "parallel_coordinates.png").stat().st_size > 1000
    assert (run.path / "plots" / "metric_by_parameter.png").is_file()
    assert "some words" in (run.path / "logs" / "trial_0001.txt").read_text()


def test_the_parameter_file_is_as_wandb_writes_it(world, pretend):
    import yaml

    result = world.sweep(
        pretend(lambda p: {"loss": 1}),
        parameters={"a": {"parameters": {"b": {"values": [[1, 2]]}}}, "c.d": {"value": None}},
    )
    content = yaml.safe_load((result.folder / "inputs" / "trial_0000.yaml").read_text())
    assert content == {"wandb_version": 1, "a": {"value": {"b": [1, 2]}}, "c.d": {"value": None}}


def test_the_same_sweep_again_runs_what_is_left(world):
    first = world.sweep()
    assert world.started == ["trial_0000", "trial_0001", "trial_0002"] or len(world.started) == 3
    world.sweep()
    assert len(world.started) == 3
    assert "3 of 3 trials are done" in world.notes[-1]
    lines = (first.folder / "trials.jsonl").read_text().splitlines(keepends=True)
    # As a kill would leave it: trial 2 still running, its last line cut short.
    (first.folder / "trials.jsonl").write_text("".join(lines[:-1]) + lines[-1][:20])
    cut = json.loads(lines[-1])["index"]
    again = world.sweep()
    assert statuses(again) == ["finished"] * 3
    assert world.started[3:] == [f"trial_{cut:04d}"]
    assert [trial.metrics["loss"] for trial in again.trials] == [4.0, 1.0, 16.0]


def test_failed_trials_are_run_again_only_when_asked(world):
    settings = {"parameters": {"x": {"values": [3, 1]}}}
    world.sweep(**settings)
    world.sweep(**settings)
    assert sorted(world.started) == ["trial_0000", "trial_0001"]
    world.sweep(**settings, retry_failed=True)
    assert world.started[2:] == ["trial_0000"]


def test_a_longer_count_goes_on_where_the_shorter_ended(world, pretend):
    random = {"method": "random", "parameters": {"x": {"min": 0.0, "max": 1.0}}}
    score = pretend(lambda p: {"loss": p["x"]})
    short = world.sweep(score, settings=world.settings(world.file(**random), count=2))
    long = world.sweep(score, settings=world.settings(world.file(**random), count=4))
    assert long.folder == short.folder
    assert [t.parameters for t in long.trials[:2]] == [t.parameters for t in short.trials]
    assert len(long.trials) == 4


def test_another_sweep_is_not_mixed_into_a_folder(world, pretend):
    score = pretend(lambda p: {"loss": 1})
    out = world.path / "out"
    world.sweep(score, out_dir=out)
    with pytest.raises(MicrotomeError, match="holds another sweep"):
        world.sweep(score, out_dir=out, parameters={"x": {"values": [9]}})
    world.sweep(score, out_dir=out)


def test_no_trial_is_started_once_the_target_is_reached(world, pretend):
    values = {"x": {"values": [5, 1, 4]}}
    result = world.sweep(
        pretend(lambda p: {"loss": p["x"]}), metric={"name": "loss", "target": 2}, parameters=values
    )
    assert [trial.parameters["x"] for trial in result.trials] == [5, 1]


def test_a_bayesian_sweep_proposes_from_what_it_saw(world, pretend):
    pytest.importorskip("optuna")
    space = {"x": {"min": 0.0, "max": 1.0}}
    settings = {"method": "bayes", "run_cap": 25, "parameters": space}
    result = world.sweep(pretend(lambda p: {"loss": (p["x"] - 0.7) ** 2}), **settings)
    assert len(result.trials) == 25 and result.best is not None
    later = [abs(trial.parameters["x"] - 0.7) for trial in result.trials[15:]]
    assert sorted(later)[5] < 0.15


def test_a_metric_that_a_search_needs_and_nobody_reports_ends_it(world, pretend):
    pytest.importorskip("optuna")
    settings = {"method": "bayes", "run_cap": 9, "parameters": {"x": {"min": 0.0, "max": 1.0}}}
    with pytest.raises(MicrotomeError, match=r"metric.name='los': no trial reported it; did you mean loss\?"):
        world.sweep(pretend(lambda p: {"loss": 1}), metric={"name": "los"}, **settings)
    (folder,) = (world.path / "runs").iterdir()
    assert len(Record(folder).load()) == 1


def test_a_metric_that_only_ranks_is_told_at_the_end(world, pretend):
    result = world.sweep(pretend(lambda p: {"loss": 1}), metric={"name": "final_closeness"})
    assert statuses(result) == ["finished"] * 3
    assert (
        "metric.name='final_closeness': no trial reported it; choose one of loss" in result.missing_metric()
    )


def test_hyperband_stops_the_trials_that_lag_behind(world):
    result = world.sweep(
        parameters={"x": {"values": [1, 50]}, "steps": {"value": 40}, "nap": {"value": 0.1}},
        early_terminate={"type": "hyperband", "min_iter": 5, "eta": 3},
    )
    assert statuses(result) == ["finished", "stopped"]
    assert result.trials[1].metrics["loss"] == 50.0  # the mean of the last report, 51 and 49
    assert 5 <= result.trials[1].metrics["step"] < 39


# -- stopping


def command(world, *more):
    return [sys.executable, "-m", "microtome", "sweep", str(world.path / "sweep.yaml"), "-j", "2", *more]


SLOW = {"x": {"values": [1, 2, 4, 5]}, "steps": {"value": 1}, "nap": {"value": 1.5}}


def test_a_killed_sweep_leaves_no_trial_running_and_carries_on(world):
    world.file(parameters=SLOW)
    process = subprocess.Popen(command(world), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wait_for(lambda: len(world.started) >= 3)
    process.kill()
    process.wait()
    (folder,) = (world.path / "runs").iterdir()
    before = Record(folder).load()
    interrupted = [trial.name for trial in before.values() if trial.status == "interrupted"]
    assert interrupted and "finished" in {trial.status for trial in before.values()}
    done = subprocess.run(command(world), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    counts = {name: world.started.count(name) for name in world.started}
    assert {name for name, n in counts.items() if n == 2} <= set(interrupted)
    assert {trial.status for trial in Record(folder).load().values()} == {"finished"}
    assert len(counts) == 4


def test_ctrl_c_stops_the_trials_and_says_how_to_carry_on(world):
    world.file(parameters=SLOW | {"nap": {"value": 30}})
    process = subprocess.Popen(command(world), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    wait_for(lambda: len(world.started) == 2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    (folder,) = (world.path / "runs").iterdir()
    assert f"microtome sweep --resume {folder}" in errors
    assert [t.status for t in Record(folder).load().values()] == ["interrupted"] * 2
    assert (folder / "sweep.csv").is_file() and not (folder / "summary.json").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_trials_end_with_the_sweep_that_was_killed(world):
    world.file(parameters=SLOW | {"nap": {"value": 60}})
    process = subprocess.Popen(command(world), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wait_for(lambda: len(world.started) == 2)
    process.kill()
    process.wait()

    def alive():
        found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        return str(world.path / "fake.py") in found or "fake.py --x" in found

    wait_for(lambda: not alive())


# -- the record and the numbers


def test_the_record_keeps_the_last_state_of_each_trial(tmp_path):
    record = Record(tmp_path)
    trial = Trial(0, {"lr": 0.1, "list": [1, None]}, status="running")
    record.write([trial])
    assert record.load()[0].status == "interrupted"
    trial.status, trial.metrics = "finished", {"loss": 1.0}
    record.write([trial, Trial(1, {})])
    with record.path.open("a") as file:
        file.write('{"index": 0, "par')
    record.write([Trial(2, {}, status="failed", reason="r")])
    loaded = record.load()
    assert {i: t.status for i, t in loaded.items()} == {0: "finished", 1: "waiting", 2: "failed"}
    assert loaded[0].parameters == trial.parameters


def test_numbers_are_found_in_what_a_trial_left(tmp_path):
    home, log = tmp_path / "trial", tmp_path / "log.txt"
    (home / "run").mkdir(parents=True)
    log.write_text('words\n{"loss": 3, "printed": 1}\n{"loss": 2}\n{"broken": \n')
    assert trial_metrics(home, log) == {"loss": 2.0, "printed": 1.0}
    assert metric_history(home, log, "loss") == [3.0, 2.0]
    (home / "run" / "environment.json").write_text("{}")
    (home / "run" / "metrics.jsonl").write_text('{"step": 1, "loss": [4, 6]}\n{"step": 2, "l0/a": 7}\n{"st')
    assert trial_metrics(home, log) == {"loss": 5.0, "printed": 1.0, "step": 2.0, "l0/a": 7.0}
    assert metric_history(home, log, "loss") == [5.0]
    (home / "run" / "summary.json").write_text(
        '{"loss": 9, "deep": {"er": [1, 2]}, "text": "no", "flag": true}'
    )
    assert trial_metrics(home, log)["loss"] == 9.0
    assert trial_metrics(home, log)["deep.er"] == 1.5


def test_a_metric_by_its_other_names():
    metrics = flatten(
        {"total": 1, "l0": {"linear1": 2}, "x/y": 3, "faithfulness": 4, "empty": [None], "bad": [1, "a"]}
    )
    assert "empty" not in metrics and "bad" not in metrics
    found = [
        find_metric(metrics, name)
        for name in ("total", "total_loss", "l0/linear1", "x.y", "faithfulness_loss")
    ]
    assert found == [1, 1, 2, 3, 4]
    assert find_metric(metrics, "nothing") is None


def test_a_result_is_a_frame_a_picture_and_a_table(world, pretend):
    result = world.sweep(pretend(lambda p: {"loss": p["x"], "other": 2}))
    loaded = load_sweep(result.folder)
    frame = loaded.frame()
    assert list(frame["x"]) == [2, 1, 4] and list(frame["metric.other"]) == [2, 2, 2]
    assert [trial.index for trial in loaded.ranked()] == [1, 0, 2]
    assert "<table" in loaded._repr_html_()
    assert len(loaded.plot().axes) == 1


# -- as typed


def test_a_sweep_as_typed(world, capsys):
    world.file(parameters={"x": {"values": [1, 3]}})
    assert main(["sweep", "sweep.yaml", "--dry-run"]) == 0
    assert "fake.py --x=1\n" in capsys.readouterr().out and not (world.path / "runs").exists()
    assert main(["sweep", "sweep.yaml", "-j2", "--quiet"]) == 1  # one of them fails
    out = capsys.readouterr().out
    assert "trial 1 failed: x=3 cannot be" in out
    assert "Best: trial 0 with loss 1 (x=1)" in out
    assert "1 of 2 trials failed" in out
    assert main(["sweep", "--resume", "latest", "--metric", "l0.a", "--goal", "maximize", "--quiet"]) == 1
    assert "Best: trial 0 with l0.a 1.5" in capsys.readouterr().out
    assert main(["runs", "--kind", "sweep"]) == 0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "needs a FILE.yaml or a recipe"),
        (["a.yaml", "b.yaml"], "not also 'b.yaml'"),
        (["nothing.yaml"], "neither a file nor a recipe"),
        (["sweep.yaml", "--engin", "ray"], "did you mean --engine"),
        (["sweep.yaml", "--engine", "slurm"], "engine='slurm'"),
        (["sweep.yaml", "--address", "auto"], "add --engine ray"),
        (["sweep.yaml", "--experiments", "tms_5-2"], "has no sections"),
        (["--resume", "nothing"], "no such run"),
        (["--resume", "latest", "--seed", "1"], "keeps its seed"),
        (["sweep.yaml", "--count", "0"], "count=0: must be greater than 0"),
    ],
)
def test_wrong_words_are_one_line_and_write_nothing(world, capsys, words, line):
    world.file()
    assert main(["sweep", *words]) == 2
    captured = capsys.readouterr()
    assert line in captured.err and captured.err.count("\n") == 1
    assert not (world.path / "runs").exists()


def test_help_imports_no_torch():
    script = (
        "import sys; from microtome.cli.main import main; code = main(['sweep', '--help'])\n"
        "assert not {'torch', 'matplotlib', 'ray', 'optuna'} & set(sys.modules); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    assert "--retry_failed" in done.stdout
