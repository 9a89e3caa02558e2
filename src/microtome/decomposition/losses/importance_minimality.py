"""Importance minimality: as few subcomponents as possible should matter for each input."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.loss_configs import ImportanceMinimality

if TYPE_CHECKING:
    from microtome.decomposition.step import Step


def importance_minimality(
    step: "Step", config: ImportanceMinimality, state: dict[str, Any] | None = None
) -> Iterator[Float[Tensor, " K"]]:
    """``sum_c [m_c + beta m_c log2(1 + s_c)]``, m_c the mean and s_c the sum over the whole batch of
    ``(u_c + eps)^p``; a part for every site's call. Source: SPD paper (beta = 0), the later SPD code.
    """
    del state
    p = config.p_at(step.fraction)
    for name, calls in step.upper.items():
        for i, upper in enumerate(calls):
            mean = (upper + config.eps).pow(p).flatten(1, -2).mean(1)
            if not config.beta:
                yield mean.sum(-1)
                continue
            whole = step.whole_batch.mean(f"{name} {i}", mean)
            n_positions = step.n_rows * upper[0, 0, ..., 0].numel()
            yield (whole + config.beta * whole * torch.log2(1 + n_positions * whole)).sum(-1)
