from pathlib import Path

import pytest
import torch

from microtome.data.images import digits
from microtome.targets.loading import load_target
from microtome.training.classify import accuracy, cross_entropy, fit_digits, train_digits
from microtome.training.config import DigitsTrainConfig


def test_digits_are_learnt_on_images_not_seen() -> None:
    target, losses = fit_digits(DigitsTrainConfig(n_instances=2, steps=700, batch_size=128, device="cpu"))
    assert losses.shape == (2,)
    assert (accuracy(target, digits().test) >= 0.95).all()


def test_cross_entropy_of_a_network_that_knows_nothing() -> None:
    target, _ = fit_digits(DigitsTrainConfig(n_instances=2, steps=1, batch_size=8, device="cpu"))
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.zero_()
    test = digits().test
    assert test.y is not None
    losses = cross_entropy(target, test.all(2), test.y.expand(2, -1))
    assert losses.tolist() == pytest.approx([2.302585, 2.302585])
    assert accuracy(target, test).tolist() == pytest.approx([35 / 355] * 2)


def test_run_folder(tmp_path: Path) -> None:
    config = DigitsTrainConfig(n_instances=3, keep=2, steps=30, hidden_sizes=(12, 8), device="cpu")
    run = train_digits(config, runs_root=tmp_path, show_progress=False)
    assert run.kind == "train-digits" and len(run.summary["test_accuracy"]) == 2
    loaded = load_target(run.path)
    assert loaded.target.n_instances == 2 and loaded.data == {"kind": "digits", "split": "train"}
    assert list(loaded.target.sites()) == ["layers.0", "layers.1", "layers.2"]
    expected, _ = fit_digits(config)
    x = digits().test.all(2)
    torch.testing.assert_close(loaded.target(x), expected(x))
