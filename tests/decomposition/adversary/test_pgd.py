"""Reconstruction under sign ascent's worst masks: against loops, against every corner, and its gradients."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from adversary_steps import ascend_by_loops, error_of_row, tms_step, trainer, worst_corner

from microtome.decomposition.adversary.ascent import ascend, ascend_over
from microtome.decomposition.adversary.attack import attack_on, row_errors
from microtome.decomposition.adversary.many_batches import pgd_over_batches
from microtome.decomposition.adversary.sources import fresh_sources, masks_of
from microtome.decomposition.loss_configs import PGDRecon
from microtome.decomposition.losses.pgd_recon import pgd_recon
from microtome.decomposition.masks import Draws
from microtome.decomposition.routing import Routes
from microtome.decomposition.step import Step

SCOPES = ("shared_across_batch", "unique_per_datapoint")


def everywhere(step: Step) -> Routes:
    return dict.fromkeys(step.network.sites)


@pytest.mark.parametrize("kind", ["mse", "kl"])
@pytest.mark.parametrize("delta", [False, True])
def test_row_errors_are_those_of_masks_written_out(delta: bool, kind: str):
    step = tms_step(delta=delta, kind=kind)
    sources = fresh_sources(step, list(step.lower), "random", "unique_per_datapoint")
    errors = attack_on(step, everywhere(step))(sources)
    for k in range(step.n_instances):
        for b in range(step.x.shape[1]):
            wanted = error_of_row(step, k, b, lambda n, k=k, b=b: sources[n][0][k, b])
            assert torch.isclose(errors[k, b], wanted, atol=1e-12)
    assert torch.allclose(errors.mean(1), step.recon(masks_of(step, sources, everywhere(step))))


@pytest.mark.parametrize("scope", SCOPES)
# Not all ones with the delta component: that is the target itself, with no error and no gradient to climb.
@pytest.mark.parametrize(
    ("init", "delta"),
    [("random", False), ("random", True), ("zeroes", False), ("zeroes", True), ("ones", False)],
)
def test_the_loss_is_what_loops_over_rows_find(init: str, delta: bool, scope: str):
    step = tms_step(k=2, rows=3, delta=delta)
    config = PGDRecon(init=init, step_size=0.15, n_steps=5, mask_scope=scope)
    key = Draws(5).key()
    start = fresh_sources(step, list(step.lower), init, scope, Draws(key))
    wanted = ascend_by_loops(
        step, {n: s[0] for n, s in start.items()}, 0.15, 5, shared=scope == "shared_across_batch"
    )
    found = torch.stack(list(pgd_recon(step, config))).sum(0)
    assert torch.allclose(found, wanted, atol=1e-12)


@pytest.mark.parametrize("kind", ["mse", "kl"])
def test_a_row_of_several_positions_is_attacked_as_one(kind: str):
    """Shared sources are shared by positions too; a row's own are chosen by the row's mean error."""
    step = tms_step(k=2, rows=3, positions=(2,), kind=kind)
    flat = _positions_as_rows(step)
    shared = PGDRecon(init="zeroes", n_steps=4)
    assert torch.allclose(*(next(pgd_recon(s, shared)) for s in (step, flat)))
    own = PGDRecon(init="zeroes", n_steps=4, step_size=0.7, mask_scope="unique_per_datapoint")
    each, rows = (next(pgd_recon(s, own)) for s in (flat, step))
    assert (each >= rows).all() and (
        rows >= next(pgd_recon(step, own.model_copy(update={"n_steps": 0})))
    ).all()


def _positions_as_rows(step: Step) -> Step:
    def joined(t: torch.Tensor) -> torch.Tensor:
        return t.flatten(1, 2)

    def calls(all_calls: dict[str, list[torch.Tensor]]) -> dict[str, list[torch.Tensor]]:
        return {n: [joined(t) for t in c] for n, c in all_calls.items()}

    n = step.x.shape[1] * step.x.shape[2]
    return replace(
        step, x=joined(step.x), output=joined(step.output), inputs=calls(step.inputs),
        lower=calls(step.lower), upper=calls(step.upper), gate=calls(step.gate), rows=slice(0, n), n_rows=n,
    )  # fmt: skip


@pytest.mark.parametrize("shared", [True, False])
def test_ascent_rises_and_never_ends_below_its_start(shared: bool):
    step = tms_step(k=3, rows=5)
    scope = SCOPES[0] if shared else SCOPES[1]
    errors = attack_on(step, everywhere(step))
    for init in ("random", "ones", "zeroes"):
        start = fresh_sources(step, list(step.lower), init, scope)
        reached = [ascend_over([errors], start, 0.05, n, shared=shared)[1].sum(1) for n in (0, 1, 2, 5, 15)]
        beginning = errors(start).sum(1)
        assert torch.allclose(reached[0], beginning)
        for before, after in pairwise(reached):
            assert (after >= before).all()
        assert (reached[1] > beginning).all() and (reached[-1] > 1.02 * beginning).all()
        # Steps as large as the whole range jump about: even so the start is kept where it is the worst.
        far = ascend(errors, start, 1.0, 3, shared=shared)
        assert (errors(far).sum(1) >= beginning).all()


def test_small_steps_rise_every_time():
    step = tms_step(k=2, rows=4)
    errors = attack_on(step, everywhere(step))
    sources = fresh_sources(step, list(step.lower), "random", "shared_across_batch")
    values = []
    for _ in range(30):
        values.append(errors(sources).sum(1))
        leaves = {n: [s.detach().requires_grad_() for s in c] for n, c in sources.items()}
        flat = [s for c in leaves.values() for s in c]
        grads = torch.autograd.grad(errors(leaves).sum(), flat)
        moved = iter([(s.detach() + 1e-3 * g.sign()).clamp(0, 1) for s, g in zip(flat, grads, strict=True)])
        sources = {n: [next(moved) for _ in c] for n, c in sources.items()}
    rises = torch.stack(values).diff(dim=0)
    assert (rises > -1e-9).all()


@pytest.mark.parametrize("scope", SCOPES)
def test_the_worst_of_many_starts_is_the_worst_corner(scope: str):
    step = tms_step(k=1, rows=2, c=3, delta=True)
    shared = scope == "shared_across_batch"
    corner = (
        torch.tensor(worst_corner(step, 0, [0, 1]))
        if shared
        else torch.tensor([worst_corner(step, 0, [b]) for b in (0, 1)]).mean()
    )
    best = torch.zeros(1, dtype=torch.float64)
    for seed in range(8):
        again = replace(step, draws=Draws(seed))
        config = PGDRecon(step_size=0.1, n_steps=15, mask_scope=scope)
        (found,) = pgd_recon(again, config)
        assert (found <= corner + 1e-12).all()
        best = torch.maximum(best, found)
    assert torch.allclose(best, corner.to(torch.float64))


def test_gradients_are_those_of_the_loss_at_the_worst_sources_held_fixed():
    step = tms_step(delta=True, grad=True)
    config = PGDRecon(n_steps=4, mask_scope="unique_per_datapoint")
    inputs = [t for n in step.factors for t in (*step.factors[n], step.lower[n][0])]
    (loss,) = pgd_recon(step, config)
    found = torch.autograd.grad(loss.sum(), inputs)
    start = fresh_sources(step, list(step.lower), "random", config.mask_scope, Draws(Draws(5).key()))
    worst = ascend(attack_on(step, everywhere(step)), start, 0.1, 4, shared=False)
    assert not any(s.requires_grad for calls in worst.values() for s in calls)
    wanted = torch.autograd.grad(step.recon(masks_of(step, worst, everywhere(step))).sum(), inputs)
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other)
    assert all(t.grad is None for t in inputs)


def test_an_ascent_leaves_no_gradients_and_works_where_they_are_off():
    step = tms_step()
    with torch.no_grad():
        (loss,) = pgd_recon(step, PGDRecon(n_steps=3))
    assert not loss.requires_grad
    again = replace(step, draws=Draws(5))
    (same,) = pgd_recon(again, PGDRecon(n_steps=3))
    assert torch.equal(loss, same)


def test_before_its_start_the_loss_is_zero_and_nothing_is_attacked():
    step = tms_step(grad=True)
    (loss,) = pgd_recon(step, PGDRecon(n_steps=3, start_frac=0.31))
    assert not loss.any() and not loss.requires_grad and step.draws.drawn == 0
    (loss,) = pgd_recon(step, PGDRecon(n_steps=3, start_frac=0.3))
    assert loss.all() and loss.requires_grad


def test_layerwise_masks_one_site_at_a_time():
    step = tms_step(k=1, rows=2)
    config = PGDRecon(sites="layerwise", init="zeroes", n_steps=3, mask_scope="unique_per_datapoint")
    parts = list(pgd_recon(step, config))
    assert len(parts) == 2
    for name, part in zip(step.lower, parts, strict=True):
        routes: Routes = {name: None}
        worst = ascend(
            attack_on(step, routes),
            fresh_sources(step, [name], "zeroes", config.mask_scope), 0.1, 3, shared=False,
        )  # fmt: skip
        assert torch.allclose(part, 0.5 * step.recon(masks_of(step, worst, routes)))


def test_over_subsets_unrouted_rows_run_as_trained():
    step = tms_step(rows=40)
    config = PGDRecon(sites="subset", routing={"type": "static_probability", "p": 0.0}, n_steps=2)  # pyright: ignore[reportArgumentType]
    (loss,) = pgd_recon(step, config)
    assert torch.allclose(loss, torch.zeros_like(loss), atol=1e-20)
    half = PGDRecon(sites="subset", routing={"type": "static_probability", "p": 0.5}, n_steps=2)  # pyright: ignore[reportArgumentType]
    (some,) = pgd_recon(replace(step, draws=Draws(1)), half)
    (everything,) = pgd_recon(replace(step, draws=Draws(1)), PGDRecon(n_steps=2))
    assert (some > 0).all() and (some < everything).all()


@pytest.mark.parametrize("scope", SCOPES)
def test_instances_do_not_know_of_each_other(scope: str):
    step = tms_step(k=2)
    config = PGDRecon(init="zeroes", n_steps=6, mask_scope=scope)
    (together,) = pgd_recon(step, config)
    changed = tms_step(k=2)
    changed.factors["linear1"][0][1] *= 3.0
    (other,) = pgd_recon(changed, config)
    assert torch.equal(together[0], other[0]) and not torch.equal(together[1], other[1])


def test_inner_activations_known_from_the_step_change_nothing():
    step = tms_step(delta=True)
    sources = fresh_sources(step, list(step.lower), "random", "unique_per_datapoint")
    errors = attack_on(step, everywhere(step))
    leaves = {n: [s.requires_grad_() for s in c] for n, c in sources.items()}
    known = errors(leaves)
    with torch.no_grad():
        known_again = errors(leaves)
    plain = row_errors(
        step, step.network.run(step.x, step.factors, masks_of(step, sources, everywhere(step)))
    )
    assert torch.allclose(known, plain) and torch.equal(known, known_again)
    # The step's own are in use: wrong ones make another error.
    step.inner["linear1"][0] *= 2.0
    assert not torch.allclose(attack_on(step, everywhere(step))(leaves), plain)


def test_one_adversary_for_many_batches():
    whole = tms_step(rows=6)
    cut = [_rows(whole, slice(0, 4)), _rows(whole, slice(4, 6))]
    config = PGDRecon(init="zeroes", n_steps=7)
    (wanted,) = pgd_recon(whole, config)
    found = pgd_over_batches(cut, init="zeroes", n_steps=7)
    assert torch.allclose(found, wanted)
    alone = torch.stack([pgd_over_batches([part], init="zeroes", n_steps=7) for part in cut])
    assert (found <= (alone * torch.tensor([[4.0], [2.0]]) / 6).sum(0) + 1e-6).all()


def test_many_batches_of_subsets_repeat_what_they_drew():
    step = tms_step(rows=30)
    first = pgd_over_batches([step], sites="subset", n_steps=3)
    assert torch.equal(first, pgd_over_batches([step], sites="subset", n_steps=3))


def _rows(step: Step, rows: slice) -> Step:
    def cut(calls: dict[str, list[torch.Tensor]]) -> dict[str, list[torch.Tensor]]:
        return {n: [t[:, rows] for t in c] for n, c in calls.items()}

    return replace(
        step, x=step.x[:, rows], output=step.output[:, rows], inputs=cut(step.inputs), lower=cut(step.lower),
        upper=cut(step.upper), gate=cut(step.gate), rows=slice(0, rows.stop - rows.start),
        n_rows=rows.stop - rows.start,
    )  # fmt: skip


@pytest.mark.parametrize("sites", ["all", "layerwise", "subset"])
@pytest.mark.parametrize("scope", SCOPES)
def test_micro_batches_make_the_gradients_of_one_batch(scope: str, sites: str):
    losses = [
        {"name": "pgd_recon", "coeff": 1.0, "sites": sites, "mask_scope": scope, "n_steps": 3},
        {"name": "importance_minimality", "coeff": 0.1},
    ]
    found = []
    for pieces in (1, 4):
        method, x = trainer(losses=losses, gradient_accumulation_steps=pieces, use_delta_component=True)
        values = method.compute(x, 2)
        found.append((values, {n: p.grad for n, p in method.parameters.items()}))
    (one, one_grads), (many, many_grads) = found
    for name in one:
        assert torch.allclose(one[name], many[name], rtol=1e-5, atol=1e-7), name
    for name, grad in one_grads.items():
        other = many_grads[name]
        assert grad is not None and other is not None
        assert torch.allclose(grad, other, rtol=1e-4, atol=1e-6), name
