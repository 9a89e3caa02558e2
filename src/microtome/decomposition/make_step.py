"""The start of a step: the target's pass, the causal importances, and the cut behind them."""

import torch
from torch import Tensor

from microtome.core.distributed import Processes
from microtome.decomposition.causal_importance.sigmoids import sigmoid_pair
from microtome.decomposition.fused_sigmoids import both_sigmoids
from microtome.decomposition.importance_functions import ImportanceFunctions
from microtome.decomposition.masks import Draws
from microtome.decomposition.site_masks import MaskedNetwork
from microtome.decomposition.spd_config import SPDConfig
from microtome.decomposition.step import Calls, Step
from microtome.decomposition.subcomponents import Factors
from microtome.targets.network import times

Attached = list[tuple[Tensor, Tensor]]
"""Causal importances with their graph, and the leaves that stand for them."""


def make_step(
    network: MaskedNetwork,
    functions: ImportanceFunctions,
    factors: Factors,
    config: SPDConfig,
    x: Tensor,
    *,
    number: int,
    fraction: float,
    draws: Draws,
    processes: Processes,
    rows: slice,
    n_rows: int,
    grad: bool = False,
    sigmoid_type: str | None = None,
) -> tuple[Step, Attached]:
    """The target's pass and the causal importances of a batch (part), the latter cut off as leaves."""
    wanted = config.importance_function
    kind = sigmoid_type or wanted.sigmoid_type
    output, inputs = network.record(x)
    lower: Calls = {}
    upper: Calls = {}
    gate: Calls = {}
    attached: Attached = []
    with torch.set_grad_enabled(grad):
        inner = None
        if functions.reads_inner:
            inner = {name: [times(a, factors[name][0]) for a in calls] for name, calls in inputs.items()}
        for name, calls in functions(inputs, inner).items():
            lower[name], upper[name], gate[name] = [], [], []
            for g in calls:
                g = g.to(torch.promote_types(g.dtype, torch.float32))
                low, up = both_sigmoids(g, kind)
                if wanted.sampling == "binomial":
                    blurred = 1.05 * g - 0.05 * draws.uniform(draws.key(), g.shape, rows, g)
                    low = sigmoid_pair(kind)[0](blurred)
                for where, importance in ((lower, low), (upper, up)):
                    leaf = importance.detach().requires_grad_(grad)
                    where[name].append(leaf)
                    if grad:
                        attached.append((importance, leaf))
                gate[name].append(g.detach())
    step = Step(
        network=network,
        x=x,
        output=output,
        inputs=inputs,
        factors=factors,
        lower=lower,
        upper=upper,
        gate=gate,
        number=number,
        fraction=fraction,
        output_loss_type=config.output_loss_type,
        use_delta=config.use_delta_component,
        sampling=wanted.sampling,
        draws=draws,
        processes=processes,
        rows=rows,
        n_rows=n_rows,
        n_mask_samples=config.n_mask_samples,
    )
    return step, attached
