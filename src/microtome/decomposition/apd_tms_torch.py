"""What kernels/apd.c does, in PyTorch: for GPUs and where there is no compiler."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from microtome.decomposition.pairs import Pairs

_CHUNK_BYTES = 1 << 21  # stays in the second-level cache of a core


def relu_attributions(
    x: Float[Tensor, "K B n"],
    whole: Float[Tensor, "K n o"],
    gating: Float[Tensor, "K n o"],
    bias: Float[Tensor, "K o"],
    maps: Float[Tensor, "K n o C"],
) -> tuple[Float[Tensor, "K B o"], Float[Tensor, "K B C"]]:
    """As ``kernels.apd.relu_attributions``, by dense products over the rows that are not all zero."""
    k, b, n = x.shape
    o, c = maps.shape[2:]
    pre = torch.baddbmm(bias.unsqueeze(1), x, whole)
    is_open = (pre if gating is whole else torch.baddbmm(bias.unsqueeze(1), x, gating)) > 0
    scores = x.new_zeros(k, b, c)
    used = x.any(dim=-1)
    chunk = b if x.device.type != "cpu" else max(16, _CHUNK_BYTES // (o * c * x.element_size()))
    for i in range(k):
        rows = used[i].nonzero().squeeze(1)
        for part in rows.split(chunk):
            effects = (x[i, part] @ maps[i].reshape(n, o * c)).view(-1, o, c).square_()
            gate = is_open[i, part].to(x.dtype).unsqueeze(1)
            scores[i, part] = torch.bmm(gate, effects).squeeze(1)
    return torch.relu(pre), scores


def topk_pass(
    x: Float[Tensor, "K B n"],
    truth: Float[Tensor, "K B o"],
    bias: Float[Tensor, "K o"],
    mask: Bool[Tensor, "K B C"],
    own: list[Float[Tensor, "K C _ _"]],
    tied: bool,
    weight: float,
    gradients: list[Float[Tensor, "K C _ _"]],
) -> tuple[Float[Tensor, " K"], Float[Tensor, "K C"]]:
    """Sum of squared errors of the masked network, samples per component; adds weighted gradients."""
    counts = mask.sum(dim=1).to(x.dtype)
    pairs = Pairs(mask & x.any(dim=-1, keepdim=True))
    with torch.enable_grad():
        parts = [part.detach().requires_grad_() for part in own]
        hidden = x
        for part in [*parts, parts[0].transpose(-1, -2)] if tied else parts:
            hidden = pairs.apply(hidden, part)
        error = (torch.relu(hidden + bias.unsqueeze(1)) - truth).square().sum(dim=(1, 2))
        if weight:
            new = torch.autograd.grad(error.sum() * weight, parts)
            for gradient, extra in zip(gradients, new, strict=True):
                gradient += extra
    return error.detach(), counts
