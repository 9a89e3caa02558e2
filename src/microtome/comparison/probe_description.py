"""Minimum description length: how short the labels become when probes may look at a layer."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from microtome.comparison.probe_lda import AT_ONCE, discriminants, scores
from microtome.comparison.probe_spectrum import eigen
from microtome.core.seeds import stream_seed

FIRST_BLOCK = 8  # images sent before anything is learnt, at least
TEMPERATURES = (1.0, 0.5, 0.25, 0.1, 0.03)  # posteriors of few images are too sure of themselves
UNIFORM = 0.01  # share of the uniform distribution in every forecast, so that no label costs without bound


@dataclass(frozen=True)
class OnlineCode:
    """Bits for every image's label, ``[L, n]``, in the order of the rows; ``order`` is that of sending."""

    bits: Float[np.ndarray, "L n"]
    order: Int[np.ndarray, " n"]
    blocks: tuple[int, ...]  # images known at the start of each block, then all

    @property
    def sent(self) -> Float[np.ndarray, "L n"]:
        """Bits spent after each image, in the order of sending."""
        return self.bits[:, self.order].cumsum(1)


def block_starts(n: int) -> tuple[int, ...]:
    """Images known at the start of each block, doubling; the last number is ``n``."""
    starts = [min(max(FIRST_BLOCK, n // 64), n)]
    while starts[-1] < n:
        double = 2 * starts[-1]
        starts.append(double if 1.25 * double < n else n)  # no short last block
    return tuple(starts)


def online_code(
    x: Float[Tensor, "n r"],
    labelings: Int[np.ndarray, "L n"],
    n_classes: int,
    shrinkages: tuple[float, ...],
    seed: int,
) -> OnlineCode:
    """Code length of labels sent in a random order, each forecast from those already sent.

    The probe is fitted anew whenever the number of known labels has doubled (Voita and Titov 2020,
    arXiv:2003.12298). Shrinkage and temperature are not chosen with hindsight: the code is that of the
    Bayesian mixture of all of them and of the uniform code, at most ``log2`` of their number longer than
    the best. The first block costs ``log2(c)`` bits an image.
    """
    n = len(x)
    order = np.random.default_rng(stream_seed(seed, "order of sending")).permutation(n)
    starts = block_starts(n)
    x = x[torch.from_numpy(order)]
    per = len(shrinkages) * n_classes * max(max(x.shape), n // 2)
    block = max(1, AT_ONCE // per)
    bits = []
    for at in range(0, len(labelings), block):
        labels = torch.from_numpy(np.ascontiguousarray(labelings[at : at + block][:, order]))
        bits.append(_mixture(_forecasts(x, labels, n_classes, shrinkages, starts), n_classes, starts[0]))
    unsorted = np.empty((len(labelings), n))
    unsorted[:, order] = np.concatenate(bits)
    return OnlineCode(unsorted, order, starts)


def _forecasts(
    x: Tensor, labels: Tensor, n_classes: int, shrinkages: tuple[float, ...], starts: tuple[int, ...]
) -> Tensor:
    """Log-probability (nats) that every expert gave to each label after the first block, ``[L, E, m]``."""
    grid = torch.tensor(shrinkages, dtype=torch.float64).expand(len(labels), -1)
    one_hot = torch.nn.functional.one_hot(labels, n_classes).to(x.dtype)
    found = []
    for start, stop in pairwise(starts):
        known = eigen(x[:start])
        sums = one_hot[:, :start].mT @ x[:start]
        fitted = discriminants(known, sums, one_hot[:, :start].sum(1), grid, smoothing=1.0)
        values = scores(known.project(x[start:stop]), *fitted).permute(1, 2, 0, 3)  # [L, G, m, c]
        truth = labels[:, None, start:stop, None].expand(-1, values.shape[1], -1, -1)
        for temperature in TEMPERATURES:
            cooled = values * temperature
            sure = (cooled.gather(-1, truth)[..., 0] - cooled.logsumexp(-1)).exp()
            found.append(((1 - UNIFORM) * sure + UNIFORM / n_classes).log())
    n_t = len(TEMPERATURES)
    return torch.cat([torch.cat(found[i : i + n_t], 1) for i in range(0, len(found), n_t)], -1)


def _mixture(forecasts: Tensor, n_classes: int, first: int) -> np.ndarray:
    """Bits of each label under the mixture of the experts and the uniform code, ``[L, n]``."""
    n_labelings, _, m = forecasts.shape
    uniform = forecasts.new_full((n_labelings, 1, m), -float(np.log(n_classes)))
    experts = torch.cat([forecasts, uniform], 1)
    total = experts.cumsum(-1).logsumexp(1) - float(np.log(experts.shape[1]))
    nats = -torch.diff(total, dim=-1, prepend=total.new_zeros(n_labelings, 1))
    start = nats.new_full((n_labelings, first), float(np.log(n_classes)))
    return (torch.cat([start, nats], 1) / float(np.log(2))).numpy()
