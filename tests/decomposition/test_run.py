"""Whole runs: killed, stopped, diverging, moved elsewhere."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_runs import (
    KILLED_AT,
    STEPS,
    Captured,
    Patch,
    Whole,
    assert_same_run,
    interrupt_at,
    settings,
    start,
    tensors,
    write_yaml,
)
from torch import Tensor

import microtome
from microtome.cli.main import main
from microtome.core.errors import Diverged
from microtome.core.runs import RunFolder
from microtome.core.tensor_files import read_safetensors
from microtome.data.loading import data_from_spec
from microtome.decomposition import decompose as decompose_module
from microtome.decomposition.config import config_from_mapping
from microtome.decomposition.decompose import resume
from microtome.decomposition.loop import Loop

pytestmark = pytest.mark.usefixtures("without_pictures")


CHILD = """
import os, signal, sys
from microtome.cli.main import main
from microtome.decomposition.loop import Loop
one_step = Loop._one_step
def step(self):
    if self.step == {killed_at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return one_step(self)
Loop._one_step = step
sys.exit(main(["decompose", sys.argv[1], "--out_dir", sys.argv[2], "--quiet"]))
"""


@pytest.mark.parametrize("method", ["spd", "apd"])
def test_killed_and_resumed_is_the_same_run(method: str, target: Path, whole: Whole, tmp_path: Path) -> None:
    config = write_yaml(tmp_path / "config.yaml", settings(method, target))
    child = [sys.executable, "-c", CHILD.format(killed_at=KILLED_AT), str(config), str(tmp_path / "killed")]
    ended = subprocess.run(child, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()

    run = RunFolder.open(tmp_path / "killed")
    assert run.checkpoint_steps() == [20, 30] and not run.finished
    assert run.metrics()[-1]["step"] == 35  # beyond the checkpoint: dropped, and written again
    (run.path / "checkpoints" / ".step_40.safetensors.abc.partial").write_bytes(b"half")
    metrics = run.path / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"step": 36, "tot')
    assert main(["decompose", "--resume", str(run.path), "--quiet"]) == 0
    assert_same_run(run, whole(method))
    assert list(run.path.rglob("*.partial")) == []


def test_resuming_a_finished_run_only_evaluates_again(whole: Whole) -> None:
    run = whole("spd")
    before, metrics, summary = tensors(run), run.metrics(), run.summary
    again = resume(run.path, progress=False)
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors(again).items())
    assert (again.metrics(), again.summary) == (metrics, summary)


@pytest.mark.parametrize("step", [23, STEPS - 1])
def test_ctrl_c_saves_and_says_how_to_go_on(
    step: int,
    target: Path,
    whole: Whole,
    tmp_path: Path,
    monkeypatch: Patch,
    capsys: Captured,
) -> None:
    config = write_yaml(tmp_path / "config.yaml", settings("spd", target))
    with monkeypatch.context() as patch:
        interrupt_at(step, patch)
        out = tmp_path / "stopped"
        assert main(["decompose", str(config), "--out_dir", str(out), "--quiet"]) == 130
    run = RunFolder.open(out)
    message = capsys.readouterr().err.strip()
    assert message.endswith(f"carry on with `microtome decompose --resume {out}`")
    assert "\n" not in message and str(step + 1) in message
    assert run.checkpoint_steps()[-1] == step + 1  # the step under way is finished first
    assert main(["decompose", "--resume", str(out), "--quiet"]) == 0
    assert_same_run(run, whole("spd"))
    assert (run.path / f"model_{STEPS}.pth").is_file()
    assert main(["decompose", "--resume", str(out), "--quiet"]) == 0
    assert "finished already" in capsys.readouterr().out


def test_ctrl_c_while_evaluating_says_how_to_go_on(
    target: Path, tmp_path: Path, monkeypatch: Patch, capsys: Captured
) -> None:
    config = write_yaml(tmp_path / "config.yaml", settings("spd", target, steps=5))
    with monkeypatch.context() as patch:
        patch.setattr(decompose_module, "draw_all", lambda run: signal.raise_signal(signal.SIGINT))
        assert main(["decompose", str(config), "--out_dir", str(tmp_path / "run"), "--quiet"]) == 130
    assert f"--resume {tmp_path / 'run'}" in capsys.readouterr().err
    assert resume(tmp_path / "run", progress=False).finished


@pytest.mark.parametrize("method", ["spd", "apd"])
def test_a_diverging_loss_stops_the_run_and_keeps_the_last_good_checkpoint(
    method: str, target: Path, tmp_path: Path, capsys: Captured
) -> None:
    values = settings(method, target, lr=1e25, lr_schedule="constant", lr_warmup_pct=0, save_freq=1)
    config = write_yaml(tmp_path / "config.yaml", values)
    assert main(["decompose", str(config), "--out_dir", str(tmp_path / "run"), "--quiet"]) == 2
    message = capsys.readouterr().err.strip()
    assert "\n" not in message
    losses = "faithfulness|recon|importance_minimality|param_match|schatten"
    assert re.search(rf"({losses}).*not finite (at|after) step \d+; use a smaller lr", message), message
    assert f"kept in {tmp_path / 'run'})" in message
    kept = microtome.load(tmp_path / "run")
    assert all(torch.isfinite(tensor).all() for tensor in kept.parameters.values())


def test_weights_that_turned_nan_are_never_saved(target: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    """The loss of a step may be finite and its update not."""
    one_step = Loop._one_step

    def poisoned(self: Loop) -> dict[str, Tensor]:
        losses = one_step(self)
        if self.step == 19:
            next(iter(self.method.parameters.values())).data[0, 0, 0] = torch.nan
        return losses

    monkeypatch.setattr(Loop, "_one_step", poisoned)
    with pytest.raises(Diverged, match=r"components.linear1.V: not finite after step 20"):
        start("spd", target, tmp_path / "run")
    assert RunFolder.open(tmp_path / "run").checkpoint_steps() == [0, 10]


def test_a_moved_run_loads_and_goes_on_without_its_target(
    target: Path, whole: Whole, tmp_path: Path, monkeypatch: Patch
) -> None:
    mine = tmp_path / "target"
    shutil.copytree(target, mine)
    with monkeypatch.context() as patch:
        interrupt_at(30, patch)
        with pytest.raises(KeyboardInterrupt):
            start("apd", mine, tmp_path / "run")
    shutil.rmtree(mine)
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    (tmp_path / "run").rename(moved)
    d = microtome.load(moved)
    x = torch.rand(2, 3, 5)
    loaded = microtome.load_target(target)
    torch.testing.assert_close(d.target(x), loaded.target(x))
    assert_same_run(resume(moved, progress=False), whole("apd"))


def test_seeds_side_by_side_start_as_they_would_alone(target: Path, tmp_path: Path) -> None:
    together = microtome.load(start("spd", target, tmp_path / "a", steps=1, seed=4, n_seeds=3).path)
    assert together.n_instances == 6  # two instances of the target, three seeds each
    first = RunFolder.open(tmp_path / "a").path / "checkpoints" / "step_0.safetensors"
    many, _ = read_safetensors(first)
    start("spd", target, tmp_path / "b", steps=1, seed=6, n_seeds=1, instances=[0])
    alone, _ = read_safetensors(tmp_path / "b" / "checkpoints" / "step_0.safetensors")
    assert torch.equal(many["components.linear1.V"][2], alone["components.linear1.V"][0])
    assert torch.equal(many["gates.linear2.w_in"][2], alone["gates.linear2.w_in"][0])
    assert not torch.equal(many["components.linear1.V"][1], many["components.linear1.V"][2])
    torch.testing.assert_close(many["target/linear1.weight"][2], many["target/linear1.weight"][0])


def test_a_configuration_tells_its_own_method(target: Path, tmp_path: Path) -> None:
    config = config_from_mapping(settings("apd", target, steps=2))
    result = microtome.decompose(target, config=config, out_dir=tmp_path / "run")
    assert result.method == "apd"


def test_the_runs_inputs_are_those_of_the_task(target: Path, tmp_path: Path) -> None:
    d = microtome.load(start("spd", target, tmp_path / "run", steps=1).path)
    assert d.data is not None and d.data["feature_probability"] == 0.1
    assert data_from_spec(d.data).spec() == d.data
