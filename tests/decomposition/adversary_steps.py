"""Steps of small networks to attack, made by hand or by the trainer, and what adversaries do written out."""

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from microtome.core.distributed import Processes
from microtome.data.sparse_features import SparseFeatures
from microtome.decomposition.full_spd import FullSPD
from microtome.decomposition.masks import Draws
from microtome.decomposition.site_masks import MaskedNetwork
from microtome.decomposition.spd_config import SPDConfig
from microtome.decomposition.step import Step
from microtome.targets.config import TMSModelConfig
from microtome.targets.tms import TMS


def tms_step(
    k: int = 2,
    rows: int = 6,
    c: int = 4,
    *,
    positions: tuple[int, ...] = (),
    delta: bool = False,
    kind: str = "mse",
    grad: bool = False,
) -> Step:
    """A step on a random TMS in double precision, with causal importances that are just numbers."""
    draws = torch.Generator().manual_seed(1)
    target = (
        TMS(TMSModelConfig(n_features=5, n_hidden=2, n_instances=k, tied_weights=False)).reset(1).double()
    )
    network = MaskedNetwork(target)
    x = torch.rand(k, rows, *positions, 5, generator=draws, dtype=torch.float64)
    output, inputs = network.record(x)
    factors = {}
    for name, site in network.sites.items():
        v = torch.randn(k, site.weight.shape[1], c, generator=draws, dtype=torch.float64)
        u = torch.randn(k, c, site.weight.shape[2], generator=draws, dtype=torch.float64) / c
        factors[name] = (v.requires_grad_(grad), u.requires_grad_(grad))
    lower = {n: [torch.rand(k, rows, *positions, c, generator=draws, dtype=torch.float64)] for n in factors}
    for calls in lower.values():
        calls[0].requires_grad_(grad)
    return Step(
        network=network, x=x, output=output, inputs=inputs, factors=factors, lower=lower, upper=lower,
        gate=lower, number=3, fraction=0.3, output_loss_type=kind, use_delta=delta, sampling="continuous",
        draws=Draws(5), processes=Processes(), rows=slice(0, rows), n_rows=rows,
    )  # fmt: skip


def error_of_row(step: Step, k: int, b: int, source: Callable[[str], Tensor]) -> Tensor:
    """The error of one row of one instance, with dense matrices; ``source(site)``: its entries."""
    network = step.network.target
    assert isinstance(network, TMS)
    hidden = step.x[k, b]
    for name, site in step.network.sites.items():
        v, u = step.factors[name][0][k].detach(), step.factors[name][1][k].detach()
        g, r = step.lower[name][0][k, b].detach(), source(name)
        c = g.shape[0]
        mask = [g[i] + (1 - g[i]) * r[i] for i in range(c)]
        weight = sum(mask[i] * torch.outer(v[:, i], u[i]) for i in range(c))
        if step.use_delta:
            weight = weight + r[c] * (site.weight[k] - v @ u)
        hidden = hidden @ weight
    out = torch.relu(hidden + network.b_final[k].detach())
    wanted = step.output[k, b]
    if step.output_loss_type == "mse":
        return (out - wanted).square().mean()
    return (wanted.softmax(-1) * (wanted.log_softmax(-1) - out.log_softmax(-1))).sum()


def worst_corner(step: Step, k: int, rows: list[int]) -> float:
    """The largest mean error of ``rows`` over all sources in {0, 1}, one source for all of them."""
    sizes = {n: calls[0].shape[-1] + step.use_delta for n, calls in step.lower.items()}
    worst = 0.0
    for bits in product((0.0, 1.0), repeat=sum(sizes.values())):
        flat = torch.tensor(bits, dtype=torch.float64).split(list(sizes.values()))
        source = dict(zip(sizes, flat, strict=True))
        errors = [float(error_of_row(step, k, b, source.__getitem__)) for b in rows]
        worst = max(worst, sum(errors) / len(errors))
    return worst


def ascend_by_loops(
    step: Step, start: dict[str, Tensor], step_size: float, n_steps: int, *, shared: bool
) -> Tensor:
    """Projected sign ascent, an instance and (not shared) a row at a time: the worst mean errors, [K]."""
    n_rows, found = step.x.shape[1], []
    for k in range(step.n_instances):
        groups = [list(range(n_rows))] if shared else [[b] for b in range(n_rows)]
        reached = []
        for rows in groups:
            at = {n: s[k, 0 if shared else rows[0]].clone() for n, s in start.items()}
            worst = -1.0
            for _ in range(n_steps + 1):
                leaves = {n: s.requires_grad_() for n, s in at.items()}
                loss = torch.stack([error_of_row(step, k, b, leaves.__getitem__) for b in rows]).mean()
                worst = max(worst, float(loss.detach()))
                grads = torch.autograd.grad(loss, list(leaves.values()))
                at = {
                    n: (s.detach() + step_size * g.sign()).clamp(0, 1)
                    for (n, s), g in zip(leaves.items(), grads, strict=True)
                }
            reached.append(worst)
        found.append(sum(reached) / len(reached))
    return torch.tensor(found, dtype=torch.float64)


def trainer(k: int = 2, processes: Processes | None = None, **settings: object) -> tuple[FullSPD, Tensor]:
    """The trainer on a random TMS, and a batch."""
    target = TMS(TMSModelConfig(n_features=5, n_hidden=2, n_instances=k)).reset(1)
    config = SPDConfig.from_mapping({"C": 6, "steps": 10, "batch_size": 8, **settings})
    x = SparseFeatures(k, 5, 0.4).batch(8, torch.Generator().manual_seed(0))
    return FullSPD(target, config, list(range(k)), processes=processes), x
