"""What a changed network's output is worth, input by input."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from microtome.decomposition.evaluation.output_errors import NO_LABEL

HIGHER_IS_BETTER = {"accuracy": True, "cross_entropy": False, "kl": False, "mse": False}


def measure_rows(
    output: Float[Tensor, "S B *d"],
    wanted: Float[Tensor, "B *d"],
    kind: str,
    labels: Int[Tensor, "B *T"] | None = None,
) -> dict[str, Float[Tensor, "S B"]]:
    """Measures of S networks' outputs on B inputs, means over an input's positions.

    ``mse`` or ``kl`` (as ``kind`` says, nats) from the target's output ``wanted``; with ``labels`` their
    ``cross_entropy`` (nats) and ``accuracy`` over the positions that have one (-100 elsewhere).
    """
    s, b = output.shape[:2]
    found: dict[str, Tensor] = {}
    if kind == "kl":
        both = log_softmax(output, -1), log_softmax(wanted, -1).expand_as(output)
        found["kl"] = kl_div(*both, log_target=True, reduction="none").sum(-1).reshape(s, b, -1).mean(-1)
    else:
        found["mse"] = (output - wanted).square().reshape(s, b, -1).mean(-1)
    if labels is not None:
        true = labels.expand(s, *labels.shape)
        has = (true != NO_LABEL).reshape(s, b, -1)
        n = has.sum(-1).clamp(min=1)
        losses = cross_entropy(output.flatten(0, -2), true.flatten(), reduction="none", ignore_index=NO_LABEL)
        found["cross_entropy"] = losses.reshape(s, b, -1).sum(-1) / n
        hits = ((output.argmax(-1) == true).reshape(s, b, -1) & has).sum(-1)
        found["accuracy"] = hits.to(torch.float32) / n
    return found
