"""Language models from the command to the results: killed and resumed, moved elsewhere, and bad input."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_language_runs import LANGUAGE_STEPS, language_settings, make_model
from small_runs import Captured, Patch, interrupt_at, write_yaml
from test_run import CHILD
from tiny import save_model

import microtome
from microtome.cli.main import main
from microtome.core.errors import MicrotomeError
from microtome.core.runs import RunFolder
from microtome.core.tensor_files import read_safetensors
from microtome.data.loading import held_out_from_spec
from microtome.decomposition import stored_target
from microtome.decomposition.config import config_from_mapping
from microtome.decomposition.decompose import resume, run_config
from microtome.training.language_config import LanguageModelTrainConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("language"))


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The run that nothing disturbed."""
    config = config_from_mapping(language_settings(folder))
    return run_config(config, out_dir=tmp_path_factory.mktemp("whole") / "run", progress=False)


def assert_same(one: RunFolder, other: RunFolder) -> None:
    mine, theirs = one.latest_checkpoint(), other.latest_checkpoint()
    assert mine is not None and theirs is not None and mine[0] == theirs[0]
    assert mine[1].keys() == theirs[1].keys()
    assert [name for name in mine[1] if not torch.equal(mine[1][name], theirs[1][name])] == []
    assert one.metrics() == other.metrics() and one.summary == other.summary


def test_killed_and_resumed_is_the_same_run(folder: Path, whole: RunFolder, tmp_path: Path) -> None:
    config = write_yaml(tmp_path / "config.yaml", language_settings(folder))
    child = [sys.executable, "-c", CHILD.format(killed_at=5), str(config), str(tmp_path / "killed")]
    ended = subprocess.run(child, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert main(["decompose", "--resume", str(tmp_path / "killed"), "--quiet"]) == 0
    run = RunFolder.open(tmp_path / "killed")
    assert_same(run, whole)
    assert [row["step"] for row in run.metrics()] == list(range(1, LANGUAGE_STEPS + 1))


def test_killed_in_the_warm_up(folder: Path, whole: RunFolder, tmp_path: Path, monkeypatch: Patch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="carry on with"):
        patch.setattr("microtome.decomposition.loop.faithfulness_warm_up", interrupted)
        run_config(config_from_mapping(language_settings(folder)), out_dir=tmp_path / "run", progress=False)
    assert_same(resume(tmp_path / "run", progress=False), whole)


def test_a_streamed_run_goes_on_at_its_place(folder: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    settings = language_settings(folder, task={"streaming": True, "buffer_size": 20})
    config = config_from_mapping(settings)
    undisturbed = run_config(config, out_dir=tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(5, patch)
        run_config(config, out_dir=tmp_path / "run", progress=False)
    assert_same(resume(tmp_path / "run", progress=False), undisturbed)


def test_a_run_needs_neither_the_model_nor_the_tokenizer_again(
    whole: RunFolder, tmp_path: Path, folder: Path
):
    copy = shutil.copytree(whole.path, tmp_path / "moved")
    moved = folder.rename(folder.with_name("elsewhere"))
    try:
        found = microtome.load(copy)
        assert found.data is not None
        (moved / "text.txt").parent.rename(folder)  # the text is not in the run
        data = held_out_from_spec(found.data, "cpu", found.target.tokenizer)
    finally:
        if moved.exists():
            moved.rename(folder)
    x = data.batch(2, torch.Generator().manual_seed(0))
    original = microtome.load(whole.path)
    assert torch.equal(found.target(x), original.target(x))
    assert set(found.parameters) == set(original.parameters)
    assert all(name.startswith(("components.", "gates.")) for name in found.parameters)


def test_a_large_target_is_written_once(folder: Path, whole: RunFolder, tmp_path: Path, monkeypatch: Patch):
    monkeypatch.setattr(stored_target, "LARGE", 1000)
    config = config_from_mapping(language_settings(folder))
    run = run_config(config, out_dir=tmp_path / "run", progress=False)
    newest = run.path / "checkpoints" / f"step_{LANGUAGE_STEPS}.safetensors"
    assert not any(name.startswith("target/") for name in read_safetensors(newest)[0])
    assert whole.latest_checkpoint() is not None
    x = torch.arange(12).view(1, 1, 12)
    assert torch.equal(microtome.load(run.path).target(x), microtome.load(whole.path).target(x))
    assert resume(run.path, progress=False).summary == whole.summary


def test_the_text_that_a_model_was_trained_on(tmp_path: Path, folder: Path) -> None:
    trained = RunFolder.create(
        tmp_path / "runs" / "trained",
        LanguageModelTrainConfig(dataset=str(folder / "text.txt")),
        kind="train-language-model",
    )
    save_model(trained.path / "model")
    settings = language_settings(folder, pretrained_model_path="latest", steps=1, task={"dataset": "target"})
    run = run_config(
        config_from_mapping(settings), runs_root=tmp_path / "runs", out_dir=tmp_path / "run", progress=False
    )
    found = run.latest_checkpoint()
    assert found is not None and found[2]["data"]["dataset"] == str(folder / "text.txt")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"task": {"context_length": 65}}, r"context_length=65: .* reads 64 tokens; lower it"),
        ({"task": {"dataset": "nothing.txt"}}, r"nothing.txt: no such file or folder"),
        ({"task": {"dataset": "target"}}, r"dataset='target': .* no run of `train language-model`"),
        ({"tokenizer_name": "OTHER"}, r"tokenizer_name=.*: cuts text into other tokens"),
        ({"n_seeds": 2}, r"n_seeds=2: a language model is decomposed alone"),
        ({"pretrained_model_path": "wandb:a/b/runs/c"}, r"not fetched from W&B"),
        ({"target_module_patterns": ["model.layer.*"]}, r"matches no site.*model.layers"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(
    changes: dict, told: str, folder: Path, tmp_path: Path, capsys: Captured
) -> None:
    if "tokenizer_name" in changes:
        from microtome.training.language_tokenizer import save_tokenizer, train_tokenizer

        save_tokenizer(train_tokenizer(["abc abc quick brown fox"] * 9, 260), tmp_path / "other", 64)
        changes = {"tokenizer_name": str(tmp_path / "other")}
    config = write_yaml(tmp_path / "config.yaml", language_settings(folder, **changes))
    assert main(["decompose", str(config), "--out_dir", str(tmp_path / "run"), "--quiet"]) == 2
    message = capsys.readouterr().err.strip()
    assert "\n" not in message
    with pytest.raises(MicrotomeError, match=told):
        raise MicrotomeError(message)
    assert not (tmp_path / "run").exists()
