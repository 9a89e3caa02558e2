"""Steps on faithfulness alone, before the training begins."""

from typing import Any

import torch
from torch import Tensor

from microtome.decomposition.losses.faithfulness import faithfulness_loss


def faithfulness_warm_up(method: Any, config: Any) -> Tensor | None:
    """Move the subcomponents towards the target's weights, by AdamW at a constant rate.

    ``faithfulness_warmup_steps`` steps at ``faithfulness_warmup_lr``; the gates stay as they are. Needs no
    inputs and draws no random numbers. The last loss ``[K]``; None where there is nothing to do.
    """
    steps = getattr(config, "faithfulness_warmup_steps", 0)
    members = [t for name, t in method.parameters.items() if name.startswith("components.")]
    if not steps or not members:
        return None
    adam = torch.optim.AdamW(
        members,
        lr=config.faithfulness_warmup_lr,
        weight_decay=config.faithfulness_warmup_weight_decay,
        fused=True,
    )
    factors = method.factors if hasattr(method, "factors") else method.subcomponents.all_factors
    loss = None
    for _ in range(steps):
        loss = faithfulness_loss(method.network.sites, factors())
        for member, grad in zip(members, torch.autograd.grad(loss.sum(), members), strict=True):
            # The fused optimiser walks memory: a transposed gradient would go to the wrong weights.
            member.grad = torch.empty_like(member).copy_(grad)
        adam.step()
    for member in members:
        member.grad = None
    return None if loss is None else loss.detach()
