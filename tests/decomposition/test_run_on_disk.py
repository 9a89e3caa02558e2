"""What a run does to its folder: occupied, locked, on a disk that is full."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import (
    Captured,
    Patch,
    Whole,
    assert_same_run,
    settings,
    start,
    write_yaml,
)

import microtome
from microtome.cli.main import main
from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.core.runs import RunFolder
from microtome.decomposition.decompose import resume

pytestmark = pytest.mark.usefixtures("without_pictures")


def test_a_cut_off_checkpoint_is_passed_over_for_the_one_before(target: Path, tmp_path: Path) -> None:
    run = start("spd", target, tmp_path / "run", steps=20)
    newest, before = (run.path / "checkpoints" / f"step_{n}.safetensors" for n in (20, 10))
    newest.write_bytes(newest.read_bytes()[:500])
    assert torch.isfinite(microtome.load(run.path).component_weights("linear1")).all()
    before.write_bytes(b"")
    with pytest.raises(CannotLoad, match=r"step_10.safetensors: truncated") as error:
        microtome.load(run.path)
    assert "\n" not in str(error.value)


def test_a_folder_that_holds_something_is_refused(target: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    start("spd", target, out, steps=2)
    before = sorted(file.name for file in out.iterdir())
    with pytest.raises(MicrotomeError, match="already holds a run"):
        start("spd", target, out, steps=2)
    assert sorted(file.name for file in out.iterdir()) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(MicrotomeError, match="already holds files"):
        start("spd", target, tmp_path / "mine")
    (tmp_path / "file").write_text("")
    with pytest.raises(MicrotomeError, match="is a file"):
        start("spd", target, tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_told(target: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(MicrotomeError, match="cannot be written"):
        start("spd", target, tmp_path / "locked" / "run")


def fill_disk(monkeypatch: Patch, after: int) -> None:
    """The disk takes ``after`` more files and no byte beyond."""
    replace, left = os.replace, [after]

    def full(source: Any, goal: Any, **more: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device", str(goal))
        replace(source, goal, **more)

    monkeypatch.setattr(os, "replace", full)


@pytest.mark.parametrize("files", [0, 1, 3, 5])
def test_a_disk_that_is_full_at_the_start_leaves_nothing(
    files: int,
    target: Path,
    tmp_path: Path,
    monkeypatch: Patch,
    capsys: Captured,
) -> None:
    config = write_yaml(tmp_path / "config.yaml", settings("spd", target))
    out = tmp_path / "new" / "run"
    with monkeypatch.context() as patch:
        fill_disk(patch, files)
        assert main(["decompose", str(config), "--out_dir", str(out), "--quiet"]) == 2
    message = capsys.readouterr().err.strip()
    assert "the disk is full" in message and "\n" not in message
    assert not out.exists()


def test_a_disk_that_fills_up_keeps_the_last_checkpoint(
    target: Path, whole: Whole, tmp_path: Path, monkeypatch: Patch
) -> None:
    with monkeypatch.context() as patch:
        fill_disk(patch, 10)  # five files of the start, step 0, and two steps with a model file each
        with pytest.raises(MicrotomeError, match="the disk is full"):
            start("spd", target, tmp_path / "run")
    run = RunFolder.open(tmp_path / "run")
    assert run.checkpoint_steps()[-1] == 20
    assert list(run.path.rglob("*.partial")) == []
    assert_same_run(resume(run.path, progress=False), whole("spd"))
