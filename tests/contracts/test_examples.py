"""The examples run from top to bottom, with few steps."""

import runpy
import sys
from pathlib import Path

import pytest

from microtome.cli.main import main
from microtome.decomposition import decompose as decompose_module

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples")


def run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [name, *words])
    monkeypatch.setattr(decompose_module, "draw_all", lambda run: [])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_train_and_decompose_tms(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    run("train_and_decompose_tms.py", folder, monkeypatch, "5")
    assert "of 5 mechanisms" in capsys.readouterr().out


def test_load_and_inspect(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Of the newest run, which the example before left there."""
    if not (folder / "runs").exists():
        run("train_and_decompose_tms.py", folder, monkeypatch, "5")
    run("load_and_inspect.py", folder, monkeypatch)
    shown = capsys.readouterr().out
    assert "linear1" in shown and "with causal-importance masks" in shown


def test_decompose_your_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    run("decompose_your_module.py", tmp_path, monkeypatch, "3")
    shown = capsys.readouterr().out
    assert "the network: 100% of letters right" in shown
    assert all(f"{site}: " in shown for site in ("embed", "up", "down", "unembed"))
    assert "of 24 important for a letter" in shown


@pytest.mark.slow
def test_your_module_comes_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    run("decompose_your_module.py", tmp_path, monkeypatch)
    shown = capsys.readouterr().out
    assert "all of its components: 100%" in shown
    assert "only those important for each letter: 100%" in shown
    used = [float(line.split(": ")[1].split(" of 24")[0]) for line in shown.splitlines() if " of 24" in line]
    assert len(used) == 4 and max(used) < 6


def test_magnitude_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """On the model that it makes itself, whose neurons answer from magnitude 0.2 on."""
    run("magnitude_sweep.py", tmp_path, monkeypatch, "3")
    shown = capsys.readouterr().out
    assert shown.split("neurons with a threshold:")[1].split("Wrote")[0].count("layers.0.mlp_in") == 2
    assert (tmp_path / "magnitude_sweep.png").is_file() and (tmp_path / "onsets.png").is_file()


def test_record_a_training_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    run("record_a_training_run.py", tmp_path, monkeypatch, "60")
    shown = capsys.readouterr().out
    assert "changes:" in shown and "layer 5: CKA" in shown
    assert (tmp_path / "runs" / "my-run" / "comparison" / "comparison_report.md").is_file()


def test_each_is_short() -> None:
    examples = sorted(EXAMPLES.glob("*.py"))
    assert examples
    for example in examples:
        assert len(example.read_text().splitlines()) < 60, example.name


def test_induction_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--steps", "2", "--batch_size", "8", "--device", "cpu", "--quiet"]
    assert main(["train", "induction", "train_induction", *small, "--out_dir", "target"]) == 0
    flags = ["--pretrained_model_path", "target", "--n_eval_steps", "1", "--faithfulness_warmup_steps", "0"]
    assert main(["decompose", "induction", *small, *flags, "--pictures=false", "--out_dir", "run"]) == 0
    run("induction_heads.py", tmp_path, monkeypatch, "run", "0.0")
    shown = capsys.readouterr().out
    assert "of 384 components matter for induction" in shown and "with nothing but them" in shown
