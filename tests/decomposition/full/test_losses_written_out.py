"""Every loss and every gradient of the full step against loops over rows and positions."""

from typing import Any

import pytest
import torch
from written_out import WrittenOut, method, tokens

from microtome.decomposition.masks import Draws, draw_key

NUMBER = 6
LOSSES: list[dict[str, Any]] = [
    {"name": "faithfulness"},
    {"name": "faithfulness", "relative": True},
    {"name": "importance_minimality", "pnorm": 0.9, "p_anneal_final_p": 0.5, "p_anneal_start_frac": 0.2},
    {"name": "importance_minimality", "pnorm": 2.0, "beta": 0.3, "eps": 1e-6},
    {"name": "smooth_l0"},
    {"name": "frequency", "scale": 3.0},
    {"name": "schatten", "pnorm": 1.5},
    {"name": "unmasked_recon"},
    {"name": "ci_masked_recon"},
    {"name": "ci_masked_recon", "sites": "layerwise"},
    {"name": "ci_masked_recon", "sites": "subset"},
    {"name": "stochastic_recon"},
    {"name": "stochastic_recon", "sites": "layerwise"},
    {"name": "stochastic_recon", "sites": "subset"},
    {"name": "stochastic_recon", "sites": "subset", "routing": {"type": "static_probability", "p": 0.4}},
    {"name": "hidden_acts_recon"},
    {"name": "hidden_acts_recon", "masks": "ci"},
]
SETTINGS: list[dict[str, Any]] = [
    {},
    {
        "use_delta_component": True,
        "sampling": "binomial",
        "sigmoid_type": "leaky_hard",
        "output_loss_type": "mse",
        "n_mask_samples": 2,
    },
]


def named(loss: dict[str, Any]) -> str:
    return "-".join(str(value) for value in loss.values() if not isinstance(value, dict))


@pytest.mark.parametrize("settings", SETTINGS, ids=["paper", "later"])
@pytest.mark.parametrize("loss", LOSSES, ids=named)
def test_each_loss_and_its_gradients(loss: dict[str, Any], settings: dict[str, Any]) -> None:
    made = method(losses=[{**loss, "coeff": 0.7}], **settings)
    (configured,) = made.losses.values()
    x = tokens(3, 2)
    generator = torch.Generator().set_state(made.generator.get_state())
    found = made.compute(x, NUMBER)
    written = WrittenOut(made, x, Draws(draw_key(generator)), NUMBER)
    expected = written.loss(configured)
    label = configured.label
    torch.testing.assert_close(found[label].double(), expected.detach(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found["total"].double(), 0.7 * expected.detach(), rtol=1e-6, atol=1e-9)
    parameters = list(made.parameters.values())
    grads = torch.autograd.grad(0.7 * expected.sum(), parameters, allow_unused=True)
    assert any(grad is not None and bool(grad.any()) for grad in grads)
    for name, parameter, grad in zip(made.parameters, parameters, grads, strict=True):
        own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        grad = torch.zeros_like(parameter) if grad is None else grad
        torch.testing.assert_close(own, grad, rtol=1e-7, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


def test_a_loss_without_coefficient_is_told_and_moves_nothing() -> None:
    made = method(losses=[{"name": "stochastic_recon"}, {"name": "faithfulness", "coeff": 1.0}])
    found = made.compute(tokens(), 0)
    torch.testing.assert_close(found["total"], found["faithfulness"])
    assert bool((found["stochastic_recon"] > 0).all())
    assert all(p.grad is None for name, p in made.parameters.items() if name.startswith("gates."))
