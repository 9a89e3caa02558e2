"""Training of small language models: runs, files, resuming, and what transformers reads back."""

import json
import math
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from microtome.cli.main import main
from microtome.core.errors import CannotLoad, Diverged, MicrotomeError
from microtome.core.runs import RunFolder
from microtome.targets.language_model import load_language_model, token_losses
from microtome.training import language_loop
from microtome.training.config import LanguageModelTrainConfig
from microtome.training.language import build_model, resume_language_model, train_language_model
from microtome.training.language_data import TokenData, read_split, tokens_of, unigram_loss
from microtome.training.language_loop import LanguageLoop
from microtome.training.language_tokenizer import train_tokenizer

# The second noun follows from the first.
HOMES = {"fox": "forest", "hare": "meadow", "owl": "barn", "heron": "river", "otter": "lake", "wolf": "hills"}
SENTENCES = [f"The {animal} of the {home} sleeps and hunts." for animal, home in HOMES.items()]
TINY = {
    "vocab_size": 300,
    "d_model": 32,
    "n_heads": 2,
    "n_key_value_heads": 1,
    "d_mlp": 48,
    "n_layers": 2,
    "context_length": 24,
    "batch_size": 8,
    "steps": 12,
    "print_freq": 4,
    "eval_freq": 8,
    "threads": 1,
    "device": "cpu",
}


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "animals.txt"
    path.write_text("\n\n".join(SENTENCES * 50))
    return path


def config(text, **changes):
    return LanguageModelTrainConfig(dataset=str(text), **{**TINY, **changes})


def train(text, tmp_path, name="run", **changes):
    return train_language_model(config(text, **changes), out_dir=tmp_path / name, show_progress=False)


@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_transformers_reads_back_the_same_tokenizer_and_the_same_loss(text, tmp_path, architecture):
    """transformers 5 rebuilds some tokenizers by their architecture; another splitting gives other tokens."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = train(text, tmp_path, architecture=architecture, tie_embeddings=architecture == "qwen2")
    assert run.kind == "train-language-model" and run.finished
    assert (run.path / "plots" / "loss.png").stat().st_size > 5000
    folder = run.path / "model"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in folder.iterdir()}
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.model_type == architecture
    split = read_split(config(text))
    trained = train_tokenizer(split.train, 300)
    strange = "naïve  tabs\tand\n\n line 12345 don't ÆØÅ 漢字 🦊 <|endoftext|> end "
    for sample in [strange, *split.held_out]:
        ids = tokenizer(sample)["input_ids"]
        assert ids == trained.encode(sample).ids
        assert tokenizer.decode(ids) == sample
    # The held-out loss again, token by token, from what transformers read.
    row = [token for sample in split.held_out for token in [*tokenizer(sample)["input_ids"], 0]]
    total = 0.0
    for start in range(0, len(row) - 1, 23):
        window = torch.tensor([row[start : start + 24]])
        with torch.no_grad():
            total += float(model(input_ids=window, labels=window).loss) * (window.shape[1] - 1)
    assert run.summary["held_out_loss"] == pytest.approx(total / (len(row) - 1), rel=1e-5)
    size = sum(len(sample.encode()) for sample in split.held_out)
    assert run.summary["held_out_bits_per_byte"] == pytest.approx(
        total / (len(row) - 1) * len(row) / math.log(2) / size, rel=1e-5
    )
    lm = load_language_model(str(run.path), device="cpu")
    assert (lm.family, lm.n_layers, lm.d_model, lm.context_length) == (architecture, 2, 32, 24)


def test_a_model_learns_what_the_text_repeats(text, tmp_path):
    run = train(text, tmp_path, steps=150, lr=5e-3, d_model=48, n_heads=4, d_mlp=96)
    summary = run.summary
    assert summary["held_out_loss"] < 0.5 * summary["unigram_loss"]
    losses = [row["loss"] for row in run.metrics()]
    assert losses[-1] < 0.5 * losses[0]
    lm = load_language_model("latest", device="cpu", runs_root=tmp_path)
    for animal, home in HOMES.items():
        ids = lm.tokenizer(f"The {animal} of the", return_tensors="pt")["input_ids"]
        said = lm.model.generate(ids, max_new_tokens=6, do_sample=False)[0][ids.shape[1] :]
        assert lm.tokenizer.decode(said).startswith(f" {home} sleeps")


def test_metrics_hold_losses_rates_and_speed(text, tmp_path):
    rows = train(text, tmp_path).metrics()
    assert [row["step"] for row in rows] == [4, 8, 12]
    assert [("held_out_loss" in row) for row in rows] == [False, True, True]
    assert all(row["tokens_per_second"] > 0 for row in rows)
    assert rows[0]["lr"] > rows[1]["lr"] > rows[2]["lr"] == 0  # the half wave ends on the last step


# -- stopping and going on


def stop_at(monkeypatch, step, number):
    """The process gets signal ``number`` while it takes step ``step``."""
    real = LanguageLoop._one_step

    def one_step(self):
        if self.step == step:
            signal.raise_signal(number)
        return real(self)

    monkeypatch.setattr(LanguageLoop, "_one_step", one_step)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on_bit_for_bit(text, tmp_path, monkeypatch, number):
    whole = train(text, tmp_path, "whole")
    with monkeypatch.context() as patch:
        stop_at(patch, 6, number)
        with pytest.raises(KeyboardInterrupt, match="train language-model --resume"):
            train(text, tmp_path, "stopped")
    stopped = RunFolder.open(tmp_path / "stopped")
    assert not stopped.finished and stopped.checkpoint_steps() == [0, 7]
    with pytest.raises(CannotLoad, match=r"no model in it yet, .* --resume"):
        load_language_model(str(stopped.path), device="cpu")
    resume_language_model(stopped.path, show_progress=False)
    assert same_model(whole, stopped)
    assert without_speed(whole) == without_speed(stopped)
    assert resume_language_model(stopped.path).finished  # nothing left to do


def test_a_killed_run_goes_on_from_its_last_checkpoint(text, tmp_path, monkeypatch):
    """As after SIGKILL: metrics beyond the checkpoint, half-written files, no chance to save."""

    class Killed(BaseException):
        pass

    real = LanguageLoop._one_step
    monkeypatch.setattr(language_loop, "CHECKPOINT_SECONDS", 0.0)  # one after every step

    def one_step(self):
        if self.step == 9:
            raise Killed
        return real(self)

    whole = train(text, tmp_path, "whole")
    monkeypatch.setattr(LanguageLoop, "_one_step", one_step)
    with pytest.raises(Killed):
        train(text, tmp_path, "killed")
    killed = RunFolder.open(tmp_path / "killed")
    (killed.path / "checkpoints" / "step_9.safetensors").write_bytes(b"half")
    (killed.path / ".model.partial").mkdir()
    monkeypatch.setattr(LanguageLoop, "_one_step", real)
    resume_language_model(killed.path, show_progress=False)
    assert same_model(whole, killed) and without_speed(whole) == without_speed(killed)
    assert not (killed.path / ".model.partial").exists()


def same_model(one, two):
    first, second = ((run.path / "model" / "model.safetensors").read_bytes() for run in (one, two))
    return first == second


def without_speed(run):
    return [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in run.metrics()]


def test_a_run_whose_text_has_changed_is_not_carried_on(text, tmp_path, monkeypatch):
    stop_at(monkeypatch, 3, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(text, tmp_path)
    text.write_text(text.read_text().replace("fox", "dog"))
    with pytest.raises(CannotLoad, match="has changed since the run began"):
        resume_language_model(tmp_path / "run", show_progress=False)


def test_a_loss_that_is_not_finite_stops_the_run(text, tmp_path):
    with pytest.raises(Diverged, match="lower lr"):
        train(text, tmp_path, lr=1e30, grad_clip=None, lr_warmup_pct=0.0)
    assert (tmp_path / "run" / "checkpoints" / "step_0.safetensors").is_file()


def test_start_values_depend_on_the_seed_alone(text):
    torch.manual_seed(5)
    first = build_model(config(text), 300).state_dict()
    state = torch.get_rng_state()
    again, other = (build_model(config(text, seed=seed), 300).state_dict() for seed in (0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


# -- data


def test_unigram_loss_against_counting():
    data = TokenData(torch.tensor([0, 1, 1, 2]), torch.tensor([1, 3]), 2)
    expected = -(math.log(3 / 8) + math.log(1 / 8)) / 2
    assert unigram_loss(data, 4) == pytest.approx(expected)


def test_the_tokenizer_has_seen_no_held_out_text_and_gives_the_text_back(text):
    split = read_split(config(text))
    assert len(split.held_out) >= 2
    tokenizer = train_tokenizer(split.train, 300)
    data = tokens_of(split, tokenizer, 24)
    texts = tokenizer.decode(data.held_out.tolist(), skip_special_tokens=False).split("<|endoftext|>")
    assert texts[:-1] == split.held_out and texts[-1] == ""
    windows = data.windows(50, 24, torch.Generator().manual_seed(0))
    assert windows.shape == (50, 24)
    whole = data.train.tolist()
    assert all(row in [whole[i : i + 24] for i in range(len(whole) - 23)] for row in windows.tolist()[:5])


# -- the command


FLAGS = [word for name, value in TINY.items() for word in (f"--{name}", str(value))]


def test_the_command_trains_and_says_what_came_of_it(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "language-model", "--dataset", str(text), *FLAGS, "--quiet"]) == 0
    said = capsys.readouterr()
    assert "held-out loss, nats a token" in said.out and "Trained. Results: runs" in said.out
    assert said.err == ""
    (run,) = (tmp_path / "runs").iterdir()
    assert json.loads((run / "environment.json").read_text())["kind"] == "train-language-model"
    assert main(["train", "language-model", "--resume", "latest"]) == 0
    assert "finished already" in capsys.readouterr().out
    lm = load_language_model("latest", device="cpu")
    inputs = lm.tokenizer(["The fox of the hills"], return_tensors="pt")
    assert token_losses(lm, inputs["input_ids"], inputs["attention_mask"])[1] > 3


def test_the_documented_snippet_runs(text, tmp_path, monkeypatch, capsys):
    page = Path(__file__).parents[2] / "docs" / "language-models.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    train(text, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    exec(code.replace("limit=100", "limit=9"), {})
    said = capsys.readouterr().out
    assert said.count("model.layers.0.mlp tensor") == said.count("model.layers.1.mlp tensor") == 2


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--dataset", "none.txt"], "none.txt: no such file or folder"),
        (["--dataset", "short.txt"], "no text to hold out; give a longer text"),
        (["--dataset", "empty.txt"], "no text to train on"),
        (["--dataset", "fits.txt", "--context_length", "5000"], "has only"),
        (["--d_model", "30", "--n_heads", "4"], "d_model=30: does not split into 4 heads of even width"),
        (["--n_key_value_heads", "3", "--n_heads", "4"], "n_key_value_heads=3: does not divide n_heads=4"),
        (["--vocab_size", "100"], "vocab_size=100: must be greater than or equal to 257"),
        (["--architecture", "gpt"], "architecture='gpt': must be 'qwen2' or 'llama'"),
        (["--stepps", "5"], "--stepps: unknown flag; did you mean --steps?"),
        (["--resume", "nothing"], "nothing: no such run or file"),
        (["--resume", "latest"], "no train-language-model run under"),
        (["--resume", "x", "--steps", "3"], "leave out --steps"),
        (["--resume", "x", "--out_dir", "y"], "leave out --out_dir"),
    ],
)
def test_mistakes_are_one_line(text, tmp_path, monkeypatch, capsys, words, problem):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.txt").write_text("One sentence.")
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "fits.txt").write_text(text.read_text())
    assert main(["train", "language-model", *words]) == 2
    said = capsys.readouterr().err.strip()
    assert problem in said and "\n" not in said
    assert not (tmp_path / "runs").exists()


def test_resume_is_for_language_models(capsys):
    assert main(["train", "tms", "--resume", "latest"]) == 2
    assert "--resume: unknown flag" in capsys.readouterr().err


def test_without_transformers_the_pip_command_is_named(text, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MicrotomeError, match=r"pip install 'microtome\[llm\]'"):
        train_language_model(config(text))


def test_help_imports_neither_torch_nor_transformers():
    code = (
        "import sys; from microtome.cli.main import main; main(['train', 'language-model', '--help']);"
        "print(sorted({'torch', 'transformers', 'tokenizers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--context_length" in done.stdout and done.stdout.strip().endswith("[]")
