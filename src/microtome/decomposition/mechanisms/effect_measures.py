"""What a changed network's output is worth, input by input."""

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

# Measure -> whether a larger value is better
HIGHER_IS_BETTER = {"accuracy": True, "cross_entropy": False, "kl": False, "mse": False}


def measure_rows(
    output: Float[Tensor, "S B *d"],
    wanted: Float[Tensor, "B *d"],
    kind: str,
    labels: Int[Tensor, "B *T"] | None = None,
) -> dict[str, Float[Tensor, "S B"]]:
    """Measures of S networks' outputs on B inputs, means over an input's positions.

    ``mse`` or ``kl`` (as ``kind`` says, nats) from the target's output ``wanted``; with ``labels`` their
    ``cross_entropy`` (nats) and ``accuracy``. Labels of text ``[B, T]`` are the tokens: each position is held
    to the next token, the last to none.
    """
    s, b = output.shape[:2]
    found: dict[str, Tensor] = {}
    if kind == "kl":
        one = log_softmax(output, -1), log_softmax(wanted, -1).expand_as(output)
        found["kl"] = kl_div(*one, log_target=True, reduction="none").sum(-1).reshape(s, b, -1).mean(-1)
    else:
        found["mse"] = (output - wanted).square().reshape(s, b, -1).mean(-1)
    if labels is not None:
        logits = output
        if labels.ndim == 2:
            logits, labels = output[:, :, :-1], labels[:, 1:]
        true = labels.expand(s, *labels.shape)
        losses = cross_entropy(logits.flatten(0, -2), true.flatten(), reduction="none")
        found["cross_entropy"] = losses.reshape(s, b, -1).mean(-1)
        found["accuracy"] = (logits.argmax(-1) == true).float().reshape(s, b, -1).mean(-1)
    return found
