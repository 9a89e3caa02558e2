"""How far an output is from the target's, and from the truth where it is known."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

NO_LABEL = -100
# Logits held at once beside the output itself: vocabularies are large.
MAX_NUMBERS = 8_000_000


def output_errors(
    output: Float[Tensor, "K *B d"],
    wanted: Float[Tensor, "K *B d"],
    labels: Int[Tensor, "K *B"] | None,
    kind: str,
) -> dict[str, Float[Tensor, " K"]]:
    """By name, per seed: ``mse`` or ``kl`` to the target's output; with labels ``ce`` and ``accuracy``.

    ``mse``: mean over all elements. ``kl``: KL(target || output) of the softmax over the last axis in nats,
    mean over positions. ``ce``: mean cross-entropy in nats over the positions that have a label (others are
    -100). Source: SPD paper and CEandKLLosses of the later SPD code.
    """
    if kind == "mse":
        found = {"mse": (output - wanted).square().flatten(1).mean(1)}
    else:
        found = {"kl": _over_rows(_kl, output, wanted) / wanted[0, ..., 0].numel()}
    if labels is not None:
        count = (labels != NO_LABEL).flatten(1).sum(1)
        found["ce"] = _over_rows(_cross_entropy, output, labels) / count
        found["accuracy"] = _over_rows(_hits, output, labels) / count
    return found


def next_tokens(ids: Int[Tensor, "K B T"]) -> Int[Tensor, "K B T"]:
    """What follows each token; the last position has no label."""
    return functional.pad(ids[..., 1:], (0, 1), value=NO_LABEL)


def _over_rows(sums: Callable[[Tensor, Tensor], Tensor], output: Tensor, other: Tensor) -> Tensor:
    """Sums per seed over all positions, a few rows at a time, in double precision."""
    flat, rest = output.flatten(1, -2), other.reshape(len(other), -1, *other.shape[output.ndim - 1 :])
    rows = max(1, MAX_NUMBERS // (flat.shape[0] * flat.shape[-1]))
    # Narrow numbers would round the logarithms that are added up.
    wide = torch.promote_types(output.dtype, torch.float32)
    parts = [
        sums(a.to(wide), b).double() for a, b in zip(flat.split(rows, 1), rest.split(rows, 1), strict=True)
    ]
    return torch.stack(parts).sum(0)


def _kl(output: Tensor, wanted: Tensor) -> Tensor:
    log_p = wanted.to(output.dtype).log_softmax(-1)
    return (log_p.exp() * (log_p - output.log_softmax(-1))).sum(-1).sum(-1)


def _cross_entropy(output: Tensor, labels: Tensor) -> Tensor:
    each = functional.cross_entropy(
        output.flatten(0, 1), labels.flatten(), ignore_index=NO_LABEL, reduction="none"
    )
    return each.view(labels.shape).sum(-1)


def _hits(output: Tensor, labels: Tensor) -> Tensor:
    return (output.argmax(-1) == labels).sum(-1)
