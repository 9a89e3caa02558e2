import pytest
import torch
from torch import nn

from microtome.core.errors import Diverged
from microtome.targets.config import ResidMLPModelConfig, TMSModelConfig
from microtome.targets.resid_mlp import ResidMLP
from microtome.targets.tms import TMS
from microtome.training.optimise import Optimisation, check_final, optimise


def fit(target: TMS | ResidMLP, batches: torch.Tensor, **settings) -> None:
    optimise(
        target.parameters(),
        lambda step: (batches[step] - target(batches[step])).square().mean(dim=(1, 2)),
        Optimisation(steps=len(batches), lr=1e-2, **settings),
    )


@pytest.mark.parametrize("kind", ["tms", "resid"])
def test_side_by_side_equals_one_after_the_other(kind: str) -> None:
    if kind == "tms":
        target = TMS(TMSModelConfig(n_features=5, n_hidden=2, n_hidden_layers=1, n_instances=3)).reset(0)
    else:
        target = ResidMLP(ResidMLPModelConfig(n_features=5, d_embed=7, d_mlp=3, n_instances=3)).reset(0)
    batches = torch.rand(30, 3, 64, 5)
    alone = [target.select([k]).requires_grad_(True) for k in range(3)]
    fit(target, batches)
    for k, single in enumerate(alone):
        fit(single, batches[:, [k]])
        for name, value in single.state_dict().items():
            torch.testing.assert_close(value, target.state_dict()[name][[k]], rtol=1e-4, atol=1e-6)


def test_one_adam_step_moves_a_tied_weight_once() -> None:
    # Adam's first step is lr in the direction of the sign of the gradient, whatever its size.
    target = TMS(TMSModelConfig(n_features=5, n_hidden=2)).reset(0)
    before = target.linear1.weight.detach().clone()
    fit(target, torch.rand(1, 1, 64, 5), weight_decay=0.0)
    moved = (target.linear1.weight.detach() - before).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 1e-2), rtol=1e-2, atol=0)


def test_frozen_layers_do_not_move() -> None:
    target = TMS(TMSModelConfig(n_features=5, n_hidden=2, n_hidden_layers=1)).reset(0, hidden="random")
    before = target.linear("hidden_layers.0").weight.clone()
    fit(target, torch.rand(5, 1, 64, 5))
    assert torch.equal(target.linear("hidden_layers.0").weight, before)


def test_reports_and_schedule() -> None:
    weight = nn.Parameter(torch.ones(2))
    seen = []
    optimise(
        [weight],
        lambda step: weight.square(),
        Optimisation(steps=11, lr=0.1, lr_schedule="linear", report_every=5, weight_decay=0.0),
        lambda step, values: seen.append((step, values)),
    )
    assert [step for step, _ in seen] == [0, 5, 10]
    assert seen[0][1] == {"loss": 1.0, "losses": [1.0, 1.0], "lr": 0.1}
    assert seen[1][1]["lr"] == pytest.approx(0.1 * 6 / 11)


def test_divergence_names_step_and_instance() -> None:
    weight = nn.Parameter(torch.ones(3))

    def losses(step: int) -> torch.Tensor:
        return weight.square() * torch.tensor([1.0, 1.0, float("nan") if step == 4 else 1.0])

    with pytest.raises(Diverged, match=r"instance 2 .* at step 4 "):
        optimise([weight], losses, Optimisation(steps=10, lr=0.1))


def test_a_last_step_that_diverges_is_caught() -> None:
    with pytest.raises(Diverged, match="final"):
        check_final(torch.tensor([1.0, float("inf")]))
