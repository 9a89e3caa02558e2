"""Walking in a straight line from one network's weights to another's: how much worse is it in between?

Linear mode connectivity (Frankle et al. 2020): the barrier is the largest rise of the loss above the straight
line between the losses of the two ends. Batch norms take the statistics of the images at every point, without
which any average of two networks fails for trivial reasons (Jordan et al. 2023, REPAIR).
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from microtome.data.labelled_images import LabelledImages
from microtome.hooks import first_tensor
from microtome.targets.image_network import ImageNetwork

PIXELS = 3 << 19  # numbers of input in one evaluation
FEWEST = 32


@dataclass(frozen=True)
class Barrier:
    """Rise of the loss at every point between two networks. ``kind`` is ``cross-entropy (nats)`` or ``output
    drift``: the squared distance of the outputs from the mixture of both networks' outputs, in units of their
    variance over images."""

    kind: str
    points: Float[np.ndarray, " points"]
    rise: Float[np.ndarray, " points"]
    height: float
    low: float
    high: float
    n: int


def path_images(images: LabelledImages, most: int) -> np.ndarray:
    """Rows of the images a path is evaluated on: evenly spaced, fewer where images are large."""
    n = len(images)
    count = min(n, most, max(FEWEST, PIXELS // max(images.pixels[0].numel(), 1)))
    return np.unique(np.linspace(0, n - 1, count).round().astype(int))


@torch.no_grad()
def barriers(
    network: ImageNetwork,
    a: Mapping[str, Tensor],
    ends: Sequence[Mapping[str, Tensor]],
    images: LabelledImages,
    rows: np.ndarray,
    points: int,
) -> list[Barrier]:
    """Barriers between weights ``a`` and each of ``ends``, with 95 % intervals over images.

    All are of the network's architecture, and the ends compute one and the same function (they are the same
    weights, numbered differently), so that it is evaluated once.
    """
    module = _with_batch_statistics(network.module)
    x = images.inputs(rows, mean=network.mean, std=network.std)
    own = module.state_dict()

    def output(b: Mapping[str, Tensor], share: float) -> Tensor:
        for key, tensor in own.items():
            tensor.copy_(torch.lerp(a[key], b[key], share) if tensor.is_floating_point() else a[key])
        return first_tensor(module(x)).flatten(1).double()

    shares = np.linspace(0, 1, points + 2)
    first, last = output(ends[0], 0.0), output(ends[0], 1.0)
    target = _labels(images, rows, first.shape[1])
    found = []
    for end in ends:
        outputs = [first, *(output(end, float(share)) for share in shares[1:-1]), last]
        if target is None:
            kind, losses = "output drift", _drift(outputs, shares)
        else:
            kind = "cross-entropy (nats)"
            losses = torch.stack([_cross_entropy(out, target) for out in outputs])
        found.append(_highest(kind, losses, shares))
    return found


def _highest(kind: str, losses: Tensor, shares: np.ndarray) -> Barrier:
    line = torch.stack([torch.lerp(losses[0], losses[-1], float(share)) for share in shares])
    rises = (losses - line).numpy()  # [points, images]
    means, n = rises.mean(1), rises.shape[1]
    top = 1 + int(means[1:-1].argmax())
    height, reach = float(means[top]), 1.96 * float(rises[top].std(ddof=1)) / n**0.5
    return Barrier(kind, shares, means, height, height - reach, height + reach, n)


def _with_batch_statistics(module: nn.Module) -> nn.Module:
    module = copy.deepcopy(module).eval()
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.training = True
    return module


def _labels(images: LabelledImages, rows: np.ndarray, width: int) -> Tensor | None:
    for labels in images.labels.values():
        if len(labels.names) == width:
            return torch.as_tensor(labels.values[rows]).long()
    return None


def _cross_entropy(out: Tensor, target: Tensor) -> Tensor:
    """Of logits, or of probabilities where a network ends in a softmax."""
    ends_in_softmax = bool((out >= 0).all()) and bool(
        torch.allclose(out.sum(1), torch.ones(len(out)).double(), atol=1e-4)
    )
    log_p = out.clamp_min(1e-12).log() if ends_in_softmax else F.log_softmax(out, 1)
    return F.nll_loss(log_p, target, reduction="none")


def _drift(outputs: list[Tensor], shares: np.ndarray) -> Tensor:
    first, last = outputs[0], outputs[-1]
    spread = (first.var(0, correction=0).sum() + last.var(0, correction=0).sum()) / 2
    return torch.stack(
        [
            (out - torch.lerp(first, last, float(share))).square().sum(1) / spread.clamp_min(1e-12)
            for out, share in zip(outputs, shares, strict=True)
        ]
    )
