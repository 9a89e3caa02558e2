"""Evaluations of networks that read tokens: held-out text, next tokens, and repeating sequences."""

from pathlib import Path

import pytest
import torch
from small_language_runs import language_settings, make_model
from torch.nn import functional

from microtome.cli.main import main
from microtome.core.runs import RunFolder
from microtome.data.induction import InductionSequences
from microtome.decomposition.config import config_from_mapping
from microtome.decomposition.decompose import run_config
from microtome.decomposition.evaluation.inputs import batches, inputs_of
from microtome.decomposition.evaluation.output_errors import NO_LABEL
from microtome.decomposition.evaluation.run import evaluate
from microtome.decomposition.result import load


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A few steps on a language model of a few thousand weights."""
    folder = make_model(tmp_path_factory.mktemp("lm"))
    config = config_from_mapping(language_settings(folder, steps=3, save_freq=None, n_eval_steps=1))
    return run_config(config, out_dir=folder / "run", progress=False)


def test_a_language_model_on_held_out_text(run: RunFolder, capsys: pytest.CaptureFixture[str]):
    words = ["--n_eval_steps", "2", "--pgd_n_steps", "2", "--batch_size", "4", "--quiet", "--no-pictures"]
    assert main(["decompose", "evaluate", str(run.path), *words]) == 0
    out = capsys.readouterr().out
    assert "2 batches of 4 (text held out from the training)" in out
    assert "not measured  one component a feature" in out
    found = evaluate(run.path, n_eval_steps=2, batch_size=4, metrics=["recon", "ci_l0", "alive"])
    assert found.about["inputs_seen"] == 2 * 4 * 12
    d = load(run.path)
    source, _ = inputs_of(d, None, torch.device("cpu"))
    ce = []
    for x, _ in batches(source, 2, 4, 1, 0, torch.device("cpu")):
        logits = d.target(x)[0]
        ce.append(functional.cross_entropy(logits[:, :-1].flatten(0, 1), x[0, :, 1:].flatten()).item())
    assert found.values["ce/target"][0] == pytest.approx(sum(ce) / 2, rel=1e-5)
    assert found.margins["ce/target"] is not None
    l0 = sum(found.values[f"l0/{site}"][0] for site in d.sites)
    assert found.values["l0/all"][0] == pytest.approx(l0)
    assert 0 <= found.values["accuracy/ci"][0] <= 1
    ce = {
        name: run.summary[f"cross_entropy_{name}"][0] for name in ("target", "causal_importance", "ablated")
    }
    share = (ce["ablated"] - ce["causal_importance"]) / (ce["ablated"] - ce["target"])
    told = run.summary["ce_recovered_causal_importance"][0]
    assert told == pytest.approx(share) if ce["ablated"] > ce["target"] else told is None


def test_text_that_was_trained_on_is_not_called_held_out(run: RunFolder):
    d = load(run.path)
    assert inputs_of(d, None, torch.device("cpu"))[1] == "text held out from the training"
    for train, measured in (("test", "test"), ("all", "test"), ("train", "all")):
        assert d.data is not None
        d.data = {**d.data, "split": train, "held_out_split": measured}
        _, what = inputs_of(d, None, torch.device("cpu"))
        assert what == "text that it was trained on among it"


def test_repeating_sequences_are_asked_what_can_be_known():
    source = InductionSequences(vocab_size=6, seq_len=12, period=(3, 4))
    ((x, labels),) = batches(source, 1, 5, 2, 0, torch.device("cpu"))
    assert labels is not None
    assert labels.shape == x.shape == (2, 5, 12)
    for row, wanted in zip(x.flatten(0, 1).tolist(), labels.flatten(0, 1).tolist(), strict=True):
        for t in range(12):
            known = t < 11 and row[t] in row[:t]
            assert wanted[t] == (row[t + 1] if known else NO_LABEL)


def test_text_that_is_gone_is_told(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    text = run.path.parent / "text.txt"
    moved = text.rename(tmp_path / "text.txt")
    try:
        assert main(["decompose", "evaluate", str(run.path), "--quiet"]) == 2
        err = capsys.readouterr().err.strip().splitlines()
        assert "text.txt" in err[-1]
    finally:
        moved.rename(text)
