"""``microtome dictionary`` as typed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from microtome.cli.main import main
from microtome.core.errors import MicrotomeError
from microtome.core.runs import RunFolder
from microtome.dictionaries import open_dictionary

SMALL = [
    "--n_features",
    "64",
    "--k",
    "4",
    "--steps",
    "40",
    "--batch_size",
    "64",
    "--max_length",
    "32",
    "--quiet",
]


@pytest.fixture
def train(model_folder: Path, text_file: Path, tmp_path: Path):
    def run(*words: str, out: str = "run") -> int:
        where = ["--model", str(model_folder), "--dataset", str(text_file), "--out_dir", str(tmp_path / out)]
        return main(["dictionary", "train", *where, *SMALL, *words])

    return run


@pytest.fixture
def one_line(capsys: pytest.CaptureFixture[str]):
    def run(*words: str) -> str:
        assert main(["dictionary", *words]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.startswith("microtome: ")
        assert captured.err.count("\n") == 1
        return captured.err

    return run


def test_train_evaluate_and_convert(train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--layers", "0-1") == 0
    out = capsys.readouterr().out
    assert "layers.0.mlp" in out and f"Results: {tmp_path / 'run'}" in out
    run = RunFolder.open(tmp_path / "run")
    assert run.kind == "dictionary" and run.finished
    for name in ("training", "density", "quality"):
        assert (run.path / "plots" / f"{name}.png").stat().st_size > 10_000
    numbers = run.load_json("results/evaluation.json")["dictionaries"]
    assert list(numbers) == ["layers.0.mlp", "layers.1.mlp"] == run.summary["dictionaries"]
    assert {"fvu", "pca_fvu", "l0", "loss_recovered", "dead"} <= set(numbers["layers.0.mlp"])
    assert run.load_arrays("evaluation")["density.layers.0.mlp"].shape == (64,)
    assert run.metrics()[-1]["layers.1.mlp/fvu"] < 1

    file = open_dictionary(run.path, layer=1)
    assert (file.format, file.config.architecture, file.config.site) == ("sparsify", "batch_topk", "mlp")
    assert (
        main(["dictionary", "evaluate", str(run.path), "--layers", "1", "--out_dir", str(tmp_path / "e")])
        == 0
    )
    evaluated = RunFolder.open(tmp_path / "e").summary
    assert evaluated["dictionaries"] == ["layers.1.mlp"]

    other = tmp_path / "other"
    words = ["dictionary", "convert", str(run.path), "--layer", "1", "--out", str(other)]
    assert main([*words, "--format", "dictionary_learning"]) == 0
    x = torch.randn(20, 16)
    torch.testing.assert_close(open_dictionary(other).load().encode(x), file.load().encode(x))
    assert main([*words, "--format", "saelens"]) == 2  # is there already


def test_a_stopped_run_is_carried_on(train, model_folder: Path, text_file: Path, tmp_path: Path) -> None:
    train("--no-evaluate", "--layers", "0", out="whole")
    words = [
        *("--model", str(model_folder), "--dataset", str(text_file), "--out_dir", str(tmp_path / "stopped")),
        *(*SMALL, "--no-evaluate", "--layers", "0", "--save_freq", "1"),
    ]
    code = "import sys; from microtome.cli.main import main; sys.exit(main(sys.argv[1:]))"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, "dictionary", "train", *words], env=environment, stderr=subprocess.PIPE
    )
    folder = tmp_path / "stopped" / "checkpoints"
    for _ in range(1200):
        if folder.is_dir() and len(list(folder.glob("step_*.safetensors"))) > 1:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    if process.returncode == 130:  # stopped before its end
        assert "--resume" in told.decode()
        assert main(["dictionary", "train", "--resume", str(tmp_path / "stopped"), "--quiet"]) == 0
    for name in ("sae.safetensors", "cfg.json", "microtome.json"):
        whole, stopped = (tmp_path / run / "layers.0.mlp" / name for run in ("whole", "stopped"))
        assert whole.read_bytes() == stopped.read_bytes(), name
    summaries = [json.loads((tmp_path / run / "summary.json").read_text()) for run in ("whole", "stopped")]
    assert summaries[0] == summaries[1]


def test_planted(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--steps", "3", "--n_features", "256", "--quiet", "--k", "8"]
    assert main(["dictionary", "planted", *words]) == 0
    assert "mmcs_of_random_rows" in capsys.readouterr().out


def test_one_line_about_what_is_wrong(one_line, train, model_folder: Path, tmp_path: Path, capsys) -> None:
    model = ["--model", str(model_folder)]
    assert "did you mean train?" in one_line("trian")
    assert "no layer 9; choose 0-1" in one_line("train", *model, "--layers", "0,9")
    assert "n_features=3" in one_line("train", *model, "--k", "8", "--n_features", "3")
    assert "did you mean --n_features?" in one_line("train", *model, "--nfeatures", "3")
    assert "relu" in one_line("train", *model, "--architecture", "rleu")
    assert "nowhere" in one_line("train", "--model", "nowhere")
    assert "no such" in one_line("evaluate", "nowhere/at-all/x")
    assert "no dictionary in it" in one_line("evaluate", str(model_folder))
    assert "--out FOLDER" in one_line("convert", str(model_folder))
    assert "keeps its own configuration" in one_line("train", "--resume", "x", "--k", "3")
    assert "no such run" in one_line("train", "--resume", "x")
    assert train("--layers", "0", "--no-evaluate", "--steps", "2") == 0
    capsys.readouterr()
    assert "already holds a run" in one_line("train", *model, "--out_dir", str(tmp_path / "run"))


def test_text_without_a_held_out_part(train, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    import microtome.dictionaries.train as module

    real = module.read_texts

    def only_train(source: str, **more):
        if more.get("split") == "test":
            raise MicrotomeError("no such split")
        return real(source, **more)

    monkeypatch.setattr(module, "read_texts", only_train)
    assert train("--layers", "0", "--steps", "3") == 0
    captured = capsys.readouterr()
    assert "will not be judged (no such split)" in captured.err and "Trained" in captured.out
