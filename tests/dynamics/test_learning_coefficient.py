"""The local learning coefficient where it is known: quadratic losses, whose coefficient is half the rank."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from microtome.core.errors import MicrotomeError
from microtome.dynamics.learning_coefficient import Chains, judge, learning_coefficient

N = 500


def squared(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return ((output - target) ** 2).mean()


def regression(d: int, rank: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Linear regression at its optimum; only ``rank`` of the ``d`` directions change the loss."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, rank, generator=generator, dtype=torch.float64)
    mix = torch.linalg.qr(torch.randn(d, rank, generator=generator, dtype=torch.float64))[0]
    x = x @ mix.T
    y = x.sum(1, keepdim=True) + 0.3 * torch.randn(N, 1, generator=generator, dtype=torch.float64)
    model = nn.Linear(d, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_((torch.linalg.pinv(x) @ y).T)
    return model, x, y


@pytest.mark.parametrize(("d", "rank"), [(8, 8), (12, 4)])
def test_half_the_rank(d: int, rank: int) -> None:
    model, x, y = regression(d, rank)
    before = model.weight.detach().clone()
    found = learning_coefficient(
        model, x, y, squared, step_sizes=(3e-4, 1e-3), chains=4, draws=300, localization=1.0, batch_size=N
    )
    assert found.value == pytest.approx(rank / 2, rel=0.25) and found.trusted
    assert torch.equal(model.weight, before) and model.training, "the model stays as it was"
    assert found.sweep[0].trace.shape == (4, 300)
    assert found.as_dict()["traces"].keys() == {"0.0003", "0.001"}


def test_small_steps_are_not_believed() -> None:
    """Chains that have not gone anywhere give next to nothing, and the verdict says so."""
    model, x, y = regression(8, 8)
    found = learning_coefficient(model, x, y, squared, step_sizes=(1e-9, 1e-7, 1e-5), draws=40)
    assert found.value < 2 and not found.trusted
    assert "step size" in found.verdict


def test_chains_that_run_away_are_named() -> None:
    model, x, y = regression(8, 8)
    found = learning_coefficient(model, x, y, squared, step_sizes=(1e-3, 1.0), draws=60, localization=1.0)
    assert [row["chains"] for row in found.rows()][1] == "diverged"
    assert found.step_size == 1e-3 and math.isfinite(found.value)


def test_same_seed_same_numbers() -> None:
    model, x, y = regression(4, 4)
    how = {"step_sizes": (1e-3,), "draws": 10, "batch_size": 32}
    a, b = (learning_coefficient(model, x, y, squared, seed=3, **how) for _ in range(2))
    assert a.value == b.value != learning_coefficient(model, x, y, squared, seed=4, **how).value


def chains(size: float, level: float, slope: float = 0.0) -> Chains:
    noise = np.random.default_rng(0).normal(size=(2, 100)) / 10
    return Chains(size, level + slope * np.linspace(-1, 1, 100) + noise, 50)


def test_verdicts() -> None:
    chosen, words, trusted = judge([chains(1e-5, 1), chains(1e-4, 5), chains(1e-3, 5.5)])
    assert chosen.step_size == 1e-3 and trusted and "agree" in words
    chosen, words, trusted = judge([chains(1e-5, 1), chains(1e-4, 5), chains(1e-3, 20)])
    assert chosen.step_size == 1e-3 and not trusted and "to 20 over the sweep" in words
    _, words, trusted = judge([chains(1e-5, 1, slope=3), chains(1e-4, -5)])
    assert not trusted and "no step size" in words


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": torch.zeros(3, 1)}, "one label each"),
        ({"draws": 2}, "too few"),
        ({"step_sizes": ()}, "not positive"),
        ({"loss": lambda o, t: (o - t) ** 2}, "not one finite number"),
    ],
)
def test_bad_settings(change: dict, said: str) -> None:
    model, x, y = regression(4, 4)
    given = {"labels": y, "loss": squared, "draws": 8} | change
    with pytest.raises(MicrotomeError, match=said):
        learning_coefficient(model, x, **given)
