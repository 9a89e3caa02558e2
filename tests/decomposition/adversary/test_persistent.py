"""Adversaries that live on: what they do at a step, what moves them, and that nothing but tensors is kept."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from adversary_steps import tms_step, trainer
from torch import Tensor

from microtome.core.errors import MicrotomeError
from microtome.decomposition.adversary.sources import masks_of
from microtome.decomposition.loss_configs import PersistentPGDRecon
from microtome.decomposition.losses.persistent_pgd_recon import persistent_pgd_recon
from microtome.decomposition.mask_makers import stochastic_masks
from microtome.decomposition.masks import Draws
from microtome.decomposition.step import Step

State = dict[str, Tensor]
SCOPES: dict[str, dict[str, Any]] = {
    "single_source": {"type": "single_source"},
    "broadcast_across_batch": {"type": "broadcast_across_batch"},
    "repeat_across_batch": {"type": "repeat_across_batch", "n_sources": 3},
    "per_batch_per_position": {"type": "per_batch_per_position"},
}
SIGN = {"type": "sign", "step_size": 0.2}
ADAM = {"type": "adam", "lr": 0.05, "beta1": 0.5, "beta2": 0.9}


def config(**settings: Any) -> PersistentPGDRecon:
    return PersistentPGDRecon.model_validate({"coeff": 1.0, "optimizer": SIGN, **settings})


def one_step(step: Step, wanted: PersistentPGDRecon, state: State | None, *, weight: float = 1.0) -> Tensor:
    """The loss as a trainer runs it: the backward pass of each part before the next is asked for."""
    inputs = [t for n in step.factors for t in (*step.factors[n], step.lower[n][0])]
    total = torch.zeros(step.n_instances, dtype=torch.float64)
    for part in persistent_pgd_recon(step, wanted, state):
        total += part.detach()
        if inputs[0].requires_grad and part.requires_grad:
            torch.autograd.backward((weight * part).sum(), inputs=inputs)
    return total


def objective(step: Step, raw: dict[str, Tensor], read: Callable[[Tensor], Tensor]) -> Tensor:
    sources = {n: [read(raw[n])] for n in step.lower}
    return step.recon(masks_of(step, sources, dict.fromkeys(step.lower)))


def raw_of(state: State) -> dict[str, Tensor]:
    return {n: state[f"source.{n}.0"].clone() for n in ("linear1", "linear2")}


def gradient(step: Step, raw: dict[str, Tensor], read: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    leaves = {n: t.clone().requires_grad_() for n, t in raw.items()}
    found = torch.autograd.grad(objective(step, leaves, read).sum(), list(leaves.values()))
    return dict(zip(leaves, found, strict=True))


def spread(scope: str, rows: int) -> Callable[[Tensor], Tensor]:
    """A stored source at every row: row b has the source b modulo their number."""
    if scope in ("single_source", "broadcast_across_batch"):
        return lambda raw: raw
    return lambda raw: torch.stack([raw[:, b % raw.shape[1]] for b in range(rows)], dim=1)


@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("scope", SCOPES)
def test_sign_ascent_from_the_losses_own_backward_pass(scope: str, delta: bool):
    step = tms_step(grad=True, delta=delta)
    read = spread(scope, 6)
    state: State = {}
    one_step(step, config(scope=SCOPES[scope]), state)
    rows = {"repeat_across_batch": 3, "per_batch_per_position": 6}.get(scope, 1)
    assert state["source.linear1.0"].shape == (2, rows, 4 + delta)
    before = raw_of(state)
    value = one_step(step, config(scope=SCOPES[scope]), state, weight=0.3)
    assert torch.allclose(value, objective(step, before, read), atol=1e-7)
    for name, grad in gradient(step, before, read).items():
        wanted = (before[name] + 0.2 * grad.sign()).clamp(0, 1)
        assert torch.allclose(state[f"source.{name}.0"], wanted.to(torch.float32), atol=1e-6)


@pytest.mark.parametrize("trained", [True, False])
def test_adam_with_sigmoids_and_warm_up_written_out(trained: bool):
    """The same, whether the gradient comes by with somebody's backward pass or nobody asks for one."""
    step = tms_step(grad=trained)
    wanted = config(optimizer=ADAM, use_sigmoid_parameterization=True, n_warmup_steps=2)
    state: State = {}
    one_step(step, wanted.model_copy(update={"n_warmup_steps": 0}), state)
    raw = {n: t.double() for n, t in raw_of(state).items()}
    moments = {n: [state[f"{m}.{n}.0"].double().clone() for m in ("first", "second")] for n in raw}
    if trained:
        one_step(step, wanted, state, weight=7.0)
    else:
        with torch.no_grad():
            one_step(step, wanted, state)
    for t in (2, 3, 4):
        for name, grad in gradient(step, raw, torch.sigmoid).items():
            m, v = moments[name]
            moments[name] = [0.5 * m + 0.5 * grad, 0.9 * v + 0.1 * grad**2]
            m, v = moments[name]
            raw[name] = raw[name] + 0.05 * (m / (1 - 0.5**t)) / ((v / (1 - 0.9**t)).sqrt() + 1e-8)
    assert int(state["ascents"]) == 4
    for name, value in raw.items():
        assert torch.allclose(state[f"source.{name}.0"].double(), value, atol=1e-5)


def test_gradients_of_what_is_trained_are_those_of_fixed_sources():
    step = tms_step(grad=True)
    state: State = {}
    one_step(step, config(), state)
    inputs = [t for n in step.factors for t in (*step.factors[n], step.lower[n][0])]
    for t in inputs:
        t.grad = None
    raw = raw_of(state)
    one_step(step, config(), state)
    wanted = torch.autograd.grad(objective(step, raw, lambda r: r).sum(), inputs)
    for tensor, grad in zip(inputs, wanted, strict=True):
        assert tensor.grad is not None and torch.allclose(tensor.grad, grad, atol=1e-7)
    assert not any(t.requires_grad for t in state.values())


def test_step_after_step_the_masks_get_worse():
    step = tms_step()
    state: State = {}
    values = [one_step(step, config(optimizer={"type": "sign", "step_size": 0.02}), state) for _ in range(20)]
    assert (values[-1] > 1.05 * values[0]).all()


def test_without_a_state_nothing_is_remembered():
    step = tms_step()
    first = one_step(step, config(n_warmup_steps=4), None)
    again = one_step(replace(step, draws=Draws(5)), config(n_warmup_steps=4), None)
    less = one_step(replace(step, draws=Draws(5)), config(), None)
    assert torch.equal(first, again) and (first > less).all()


def test_before_its_start_the_loss_is_zero_and_has_no_adversary():
    step = tms_step(grad=True)
    state: State = {}
    value = one_step(step, config(start_frac=0.5), state)
    assert not value.any() and state == {}
    assert one_step(replace(step, fraction=0.5), config(start_frac=0.5), state).all() and state


def test_sources_of_an_instance_whose_loss_has_no_weight_still_climb():
    step = tms_step(grad=True)
    weight = torch.tensor([0.0, 2.0], dtype=torch.float64)
    state: State = {}
    one_step(step, config(), state)
    before = raw_of(state)
    one_step(step, config(), state, weight=weight)  # pyright: ignore[reportArgumentType]
    for name, grad in gradient(step, before, lambda r: r).items():
        wanted = (before[name] + 0.2 * grad.sign()).clamp(0, 1).to(torch.float32)
        assert torch.allclose(state[f"source.{name}.0"][1], wanted[1], atol=1e-6)
        assert torch.allclose(state[f"source.{name}.0"][0], wanted[0], atol=1e-6)


def test_resets_begin_rows_afresh_with_no_momentum():
    step = tms_step(grad=True, rows=6)
    kept = config(optimizer=ADAM, scope=SCOPES["per_batch_per_position"])
    state: State = {}
    one_step(step, kept, state)
    plain = {n: t.clone() for n, t in state.items()}
    one_step(replace(step, draws=Draws(9)), kept, plain)
    one_step(replace(step, draws=Draws(9)), kept.model_copy(update={"reset_prob": 0.5}), state)
    rows = (state["first.linear1.0"] == 0).all(-1)
    assert 0 < int(rows.sum()) < rows.numel()
    for name in ("linear1", "linear2"):
        for kind in ("source", "first", "second"):
            key = f"{kind}.{name}.0"
            assert torch.equal(state[key][~rows], plain[key][~rows])
            assert not torch.equal(state[key][rows], plain[key][rows])


@pytest.mark.parametrize("delta", [False, True])
def test_merged_with_stochastic_masks_row_by_row(delta: bool):
    step = tms_step(grad=True, rows=40, delta=delta)
    wanted = config(adv_fraction=0.5, sites="subset", routing={"type": "static_probability", "p": 0.5})
    state: State = {}
    one_step(replace(step, draws=Draws(1)), wanted, state)
    before = raw_of(state)
    again = replace(step, draws=Draws(2))
    value = one_step(again, wanted, state)
    # The same draws, in the same order: sources' keys, rows, routes, then the stochastic masks'.
    draws = Draws(2)
    for _ in range(3):
        draws.key()
    like = step.lower["linear1"][0]
    rows = draws.uniform(draws.key(), (2, 40), slice(0, 40), like) < 0.5
    chosen = draws.uniform(draws.key(), (2, 40, 2), slice(0, 40), like) < 0.5
    routes = {n: chosen[..., i] for i, n in enumerate(step.lower)}
    stochastic = stochastic_masks(replace(step, draws=draws), routes)
    adversarial = masks_of(step, {n: [t] for n, t in before.items()}, dict.fromkeys(routes))
    found = [step.network.run(step.x, step.factors, masks) for masks in (adversarial, stochastic)]
    each = [(out - step.output).square().mean(2) for out in found]
    assert torch.allclose(value, torch.where(rows, *each).mean(1), atol=1e-7)
    assert 10 < int(rows[0].sum()) < 30
    # Only the adversarial rows move the sources.
    leaves = {n: t.clone().requires_grad_() for n, t in before.items()}
    out = step.network.run(
        step.x, step.factors, masks_of(step, {n: [t] for n, t in leaves.items()}, dict.fromkeys(routes))
    )
    errors = ((out - step.output).square().mean(2) * rows).sum()
    for (name, t), grad in zip(
        before.items(), torch.autograd.grad(errors, list(leaves.values())), strict=True
    ):
        moved = (t + 0.2 * grad.sign()).clamp(0, 1).to(torch.float32)
        assert torch.allclose(state[f"source.{name}.0"], moved, atol=1e-6)


STORED = {
    "single_source": (1, 1),
    "broadcast_across_batch": (1, 3),
    "repeat_across_batch": (3, 3),
    "per_batch_per_position": (6, 3),
}


@pytest.mark.parametrize("scope", SCOPES)
def test_positions_have_sources_of_their_own_but_for_a_single_one(scope: str):
    step = tms_step(grad=True, positions=(3,), delta=True)
    state: State = {}
    one_step(step, config(scope=SCOPES[scope]), state)
    before = raw_of(state)
    assert before["linear2"].shape == (2, *STORED[scope], 5)
    value = one_step(step, config(scope=SCOPES[scope]), state)
    read = spread(scope, 6)
    assert torch.allclose(value, objective(step, before, read), atol=1e-7)
    for name, grad in gradient(step, before, read).items():
        wanted = (before[name] + 0.2 * grad.sign()).clamp(0, 1)
        assert torch.allclose(state[f"source.{name}.0"], wanted.to(torch.float32), atol=1e-6)
    longer = tms_step(positions=(4,), delta=True)
    if scope == "single_source":
        assert one_step(longer, config(scope=SCOPES[scope]), state).all()
    else:
        with pytest.raises(MicrotomeError, match="3 positions meet an input of 4"):
            one_step(longer, config(scope=SCOPES[scope]), state)


def test_sources_that_do_not_fit_are_refused_in_one_line():
    with pytest.raises(MicrotomeError, match=r"scope.n_sources=4.*6 rows"):
        one_step(tms_step(rows=6), config(scope={"type": "repeat_across_batch", "n_sources": 4}), {})


def losses(**settings: Any) -> list[dict[str, Any]]:
    return [
        {"name": "persistent_pgd_recon", "coeff": 0.5, "optimizer": ADAM, **settings},
        {"name": "importance_minimality", "coeff": 0.1},
    ]


@pytest.mark.parametrize("scope", SCOPES)
def test_micro_batches_move_the_sources_as_one_batch_does(scope: str):
    wanted = losses(scope={**SCOPES[scope], **({"n_sources": 4} if scope == "repeat_across_batch" else {})})
    wanted[0] |= {"n_warmup_steps": 2, "adv_fraction": 0.6, "reset_prob": 0.3}
    found = []
    for pieces in (1, 2):
        method, x = trainer(losses=wanted, gradient_accumulation_steps=pieces)
        values = [method.compute(x, i)["persistent_pgd_recon"] for i in range(3)]
        found.append((torch.stack(values), method.state_tensors()))
    (one, state), (cut, cut_state) = found
    assert torch.allclose(one, cut, rtol=1e-4, atol=1e-6)
    assert state.keys() == cut_state.keys()
    assert int(state["persistent_pgd_recon/ascents"]) == int(cut_state["persistent_pgd_recon/ascents"]) == 9
    for name, tensor in state.items():
        if "source" in name:
            assert torch.allclose(tensor, cut_state[name], atol=1e-3), name


@pytest.mark.parametrize("optimizer", [SIGN, ADAM])
def test_a_trainer_made_again_from_its_tensors_goes_on_bit_for_bit(optimizer: dict[str, Any]):
    wanted = losses(
        optimizer=optimizer, scope=SCOPES["per_batch_per_position"], reset_prob=0.2, n_warmup_steps=1
    )
    method, x = trainer(losses=wanted)
    for i in range(3):
        method.compute(x, i)
    other, _ = trainer(losses=wanted)
    other.load_state_tensors({n: t.clone() for n, t in method.state_tensors().items()})
    other.generator.set_state(method.generator.get_state())
    for i in (3, 4):
        one, two = method.compute(x, i), other.compute(x, i)
        assert torch.equal(one["total"], two["total"])
    for name, tensor in method.state_tensors().items():
        assert torch.equal(tensor, other.state_tensors()[name]), name
