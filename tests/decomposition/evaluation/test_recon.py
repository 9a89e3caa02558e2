"""Outputs and hidden activations under each kind of mask, against loops over rows and components."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from old_layouts import write_apd_run, write_later_spd_run
from torch import Tensor

from microtome.core.errors import MicrotomeError
from microtome.decomposition.evaluation import maskings
from microtome.decomposition.evaluation.adversarial import Adversarial, worst_masks
from microtome.decomposition.evaluation.losses import Losses
from microtome.decomposition.evaluation.many_batches import pgd_multi_batch
from microtome.decomposition.evaluation.recon import Recon
from microtome.decomposition.evaluation.run import evaluate
from microtome.decomposition.evaluation.seen import Seen, see
from microtome.decomposition.evaluation.subsets import Subsets, site_subsets
from microtome.decomposition.loss_configs import CIMaskedRecon, Faithfulness, PGDRecon
from microtome.decomposition.masks import Draws
from microtome.decomposition.metric_configs import PGDMultiBatchRecon
from microtome.decomposition.result import Decomposition, load
from microtome.decomposition.site_masks import Masks

Weights = Mapping[str, Tensor]


@pytest.fixture(scope="module")
def d(tmp_path_factory: pytest.TempPathFactory) -> Decomposition:
    """Random subcomponents and gates of a residual MLP with two layers and biases."""
    folder = tmp_path_factory.mktemp("later")
    settings = {"use_delta_component": False}
    sizes = {"d_mlp": 4, "n_layers": 2, "biases": True}
    return load(write_later_spd_run(folder, "resid_mlp", planted=False, config=settings, **sizes).checkpoint)


def inputs(d: Decomposition, rows: int = 5) -> Tensor:
    n = d.target.spec()["n_features"]
    return torch.randn(d.n_instances, rows, n, generator=torch.Generator().manual_seed(3))


def slow_pass(d: Decomposition, x: Tensor, weights: Weights) -> tuple[Tensor, dict[str, Tensor]]:
    """The output and what reaches each site, one row and one component after the other."""
    reached: dict[str, Tensor] = {}

    def site(name: str, seen: Tensor) -> Tensor:
        reached[name] = seen
        left, right = d.factors[name]
        bias = d.sites[name].bias
        out = torch.zeros(*seen.shape[:-1], right.shape[-1])
        for k in range(seen.shape[0]):
            for b in range(seen.shape[1]):
                for c in range(left.shape[1]):
                    out[k, b] += weights[name][k, b, c] * (seen[k, b] @ left[k, c]) @ right[k, c]
                if bias is not None:
                    out[k, b] += bias[k]
        return out

    with torch.no_grad():
        return d.target(x, site), reached


def error(output: Tensor, wanted: Tensor) -> list[float]:
    return [float(((a - b) ** 2).mean()) for a, b in zip(output, wanted, strict=True)]


def importances(d: Decomposition, x: Tensor) -> dict[str, Tensor]:
    found = d.causal_importances(x)
    assert found is not None
    return {name: ci.lower for name, ci in found.items()}


@pytest.mark.parametrize("masking", ["unmasked", "ci", "rounded", "other_inputs", "ablated"])
def test_errors_under_masks(d: Decomposition, masking: str):
    x = inputs(d)
    lower = importances(d, x)
    weights = {
        "unmasked": {name: torch.ones_like(ci) for name, ci in lower.items()},
        "ci": lower,
        "rounded": {
            name: torch.tensor([[[float(v > 0.4) for v in r] for r in one] for one in ci.tolist()])
            for name, ci in lower.items()
        },
        "other_inputs": {
            name: torch.stack([torch.stack([one[(b - 1) % len(one)] for b in range(len(one))]) for one in ci])
            for name, ci in lower.items()
        },
        "ablated": {name: torch.zeros_like(ci) for name, ci in lower.items()},
    }[masking]
    metric = Recon([masking], rounding_threshold=0.4)
    metric.update(see(d, x, None, Draws(0)))
    output, reached = slow_pass(d, x, weights)
    with torch.no_grad():
        wanted = d.target(x)
    assert metric.series[f"mse/{masking}"].mean.tolist() == pytest.approx(error(output, wanted), rel=1e-4)
    if masking == "ci":
        _, own = d.site_inputs(x)
        squares = sum(float((reached[name] - own[name]).square().sum()) for name in own)
        count = sum(own[name].numel() for name in own)
        assert metric.series["hidden_mse/ci"].mean[0] == pytest.approx(squares / count, rel=1e-4)
        for name in own:
            share = float((reached[name] - own[name]).square().sum() / own[name].square().sum())
            assert metric.series[f"hidden_error/ci/{name}"].mean[0] == pytest.approx(
                share, rel=1e-4, abs=1e-9
            )


def test_batches_of_one_input_have_no_other_input_to_compare_with(d: Decomposition):
    found = evaluate(d, metrics=["recon"], n_eval_steps=3, batch_size=1)
    (check,) = (check for check in found.checks if check.name == "importances are the input's")
    assert (check.status, check.why) == ("not measured", "batches of one input hold no other one")


def listed(d: Decomposition, masks: Masks) -> dict[str, Tensor]:
    found = {}
    for name in masks:
        (one,) = masks[name]
        assert one.delta is None
        found[name] = one.components
    return found


def test_random_masks_lie_between_the_importance_and_one_and_are_averaged(d: Decomposition):
    x = inputs(d)
    lower = importances(d, x)
    metric = Recon(["stochastic"], n_mask_samples=3)
    metric.update(see(d, x, None, Draws(5)))
    step = see(d, x, None, Draws(5)).step  # the same draws again
    drawn = [listed(d, maskings.stochastic(step)) for _ in range(3)]
    errors = []
    for weights in drawn:
        for name, ci in lower.items():
            assert (weights[name] >= ci - 1e-6).all() and (weights[name] <= 1.0).all()
        errors.append(error(slow_pass(d, x, weights)[0], step.output)[0])
    assert len(set(errors)) == 3
    assert metric.series["mse/stochastic"].mean[0] == pytest.approx(sum(errors) / 3, rel=1e-4)


def test_the_adversary_stays_within_its_bounds_and_beats_chance(d: Decomposition):
    x = inputs(d, 6)
    lower = importances(d, x)
    attacks = tuple(
        PGDRecon(mask_scope=scope, n_steps=15, step_size=0.2)
        for scope in ("shared_across_batch", "unique_per_datapoint")
    )
    seen = see(d, x, None, Draws(1))
    metric, chance = Adversarial(attacks), Recon(["stochastic"], n_mask_samples=4)
    metric.update(seen)
    chance.update(seen)
    shared, own = metric.series["mse/pgd"].mean[0], metric.series["mse/pgd_per_input"].mean[0]
    assert own >= shared > chance.series["mse/stochastic"].mean[0]
    for attack in attacks:
        masks = worst_masks(seen.step, attack)
        weights = {}
        for name, ci in lower.items():
            mask = masks[name][0].components.expand(ci.shape)
            assert (mask >= ci - 1e-6).all() and (mask <= 1 + 1e-6).all()
            if attack.mask_scope == "shared_across_batch":
                source = ((mask - ci) / (1 - ci))[0][:, (ci[0] < 0.99).all(0)]
                assert source.std(0).max() < 1e-3
            weights[name] = mask
        assert error(slow_pass(d, x, weights)[0], seen.step.output)[0] > 0


def test_subsets_leave_the_other_sites_as_trained(d: Decomposition):
    x = inputs(d)
    found = site_subsets(list(d.sites), {"in": ["*.mlp_in"]}, {"not_first": ["layers.0.*"]})
    assert found == {
        "in": ["layers.0.mlp_in", "layers.1.mlp_in"],
        "not_first": ["layers.1.mlp_in", "layers.1.mlp_out"],
    }
    metric = Subsets({"last": ["layers.1.mlp_out"]})
    seen = see(d, x, None, Draws(2))
    metric.update(seen)
    whole = Recon(["stochastic"])
    whole.update(see(d, x, None, Draws(2)))
    assert 0 < metric.series["mse/subset/last"].mean[0] != whole.series["mse/stochastic"].mean[0]
    with pytest.raises(MicrotomeError, match=r"exclude_patterns.all='\*': leaves no site; exclude fewer"):
        site_subsets(list(d.sites), {}, {"all": ["*"]})


def test_losses_are_those_of_the_training(d: Decomposition):
    x = inputs(d)
    seen = see(d, x, None, Draws(2))
    metric = Losses({"ci_masked_recon": CIMaskedRecon(), "faithfulness": Faithfulness()}, d.config)
    metric.update(seen)
    recon = Recon(["ci"])
    recon.update(seen)
    assert metric.series["loss/ci_masked_recon"].mean[0] == pytest.approx(recon.series["mse/ci"].mean[0])
    squares = n = 0.0
    for name, site in d.sites.items():
        missing = site.weight[0] - d.component_weights(name)[0].sum(0)
        squares, n = squares + float(missing.square().sum()), n + missing.numel()
    assert metric.series["loss/faithfulness"].mean[0] == pytest.approx(squares / n, rel=1e-4)


def test_components_of_apd_are_on_and_off_as_a_whole(tmp_path: Path):
    d = load(write_apd_run(tmp_path, planted=False, config={"topk": 2.0, "batch_topk": False}).checkpoint)
    x = torch.rand(d.n_instances, 4, 5)
    seen: Seen = see(d, x, None, Draws(0))
    lower = seen.lower()
    assert {name: tuple(ci.shape) for name, ci in lower.items()} == {"all sites": (2, 4, 7)}
    chosen = lower["all sites"]
    assert (chosen.sum(-1) == 2).all()
    metric = Recon(["ci", "unmasked"])
    metric.update(seen)
    output, _ = slow_pass(d, x, dict.fromkeys(d.sites, chosen))
    assert metric.series["mse/ci"].mean.tolist() == pytest.approx(error(output, seen.step.output), rel=1e-4)
    whole = error(d.forward(x), seen.step.output)
    assert metric.series["mse/unmasked"].mean.tolist() == pytest.approx(whole, rel=1e-4)


def test_one_adversary_for_several_batches_is_between_chance_and_one_for_each(d: Decomposition):
    rows = [(inputs(d, 4), None), (inputs(d, 4) * 0.7, None), (inputs(d, 4) * 9, None)]
    metric = PGDMultiBatchRecon(gradient_accumulation_steps=2, n_steps=10, step_size=0.2)
    found = pgd_multi_batch(d, lambda: iter(rows), metric, 3)
    alone, chance = (
        Adversarial((PGDRecon(n_steps=10, step_size=0.2),)),
        Recon(["stochastic"], n_mask_samples=4),
    )
    for number, (x, _) in enumerate(rows[:2]):
        for one in (alone, chance):
            one.update(see(d, x, None, Draws(3 + number)))
    assert chance.series["mse/stochastic"].mean[0] < float(found[0]) <= alone.series["mse/pgd"].mean[0] * 1.02
