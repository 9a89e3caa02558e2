"""What the weights of one layer look like: their distribution, sparsity, and directions."""

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Float
from torch import Tensor

ALL_AT_ONCE = 512  # up to this size every eigenvector is found, beyond it only those asked for


@dataclass(frozen=True)
class WeightDistribution:
    """Moments and sparsity of the entries of a weight.

    ``kurtosis`` is 3 for a normal distribution, 1.8 for a uniform one. ``small`` is the share of entries
    below a given absolute value; ``hoyer`` is ``(sqrt n - |w|_1 / |w|_2) / (sqrt n - 1)``: 0 where all are
    equally large, 1 where a single one is not 0 (Hoyer 2004), whatever the scale.
    """

    norm: float
    mean: float
    std: float
    kurtosis: float
    small: float
    hoyer: float


def distribution(weight: Float[Tensor, "..."], small: float = 1e-3) -> WeightDistribution:
    """The numbers of one weight."""
    flat = weight.detach().reshape(-1)
    n = max(flat.numel(), 1)
    parts = flat.split(1 << 16)  # short enough for sums in the weight's own precision
    mean = sum(float(part.sum()) for part in parts) / n
    square = fourth = absolute = few = 0.0
    for part in parts:
        magnitude = part.abs()
        few += int((magnitude < small).count_nonzero())
        absolute += float(magnitude.sum())
        squares = (part - mean).square_()
        square += float(squares.sum())
        fourth += float(squares @ squares)
    variance = square / n
    norm = (square + n * mean**2) ** 0.5
    hoyer = (n**0.5 - absolute / norm) / (n**0.5 - 1) if norm > 0 and n > 1 else 0.0
    kurtosis = fourth / n / variance**2 if variance > 0 else float("nan")
    return WeightDistribution(norm, mean, variance**0.5, kurtosis, few / n, hoyer)


def smoothed(
    counts: Float[np.ndarray, " bins"], edges: Float[np.ndarray, " edges"]
) -> Float[np.ndarray, " bins"]:
    """A density at the middle of the bins: a Gaussian kernel estimate with Scott's bandwidth, from counts.

    From fine bins: the curve of the values themselves, at a cost that does not grow with their number.
    """
    total, step = counts.sum(), edges[1] - edges[0]
    if total == 0:
        return np.zeros(len(counts))
    middles = (edges[:-1] + edges[1:]) / 2
    mean = (counts * middles).sum() / total
    std = np.sqrt((counts * (middles - mean) ** 2).sum() / total)
    bandwidth = max(std * total ** (-1 / 5), step / 2)
    reach = min(int(np.ceil(4 * bandwidth / step)), len(counts))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * step / bandwidth) ** 2)
    return np.convolve(counts, kernel / kernel.sum(), mode="same")[: len(counts)] / (total * step)


# -- directions, from inner products of filters ------------------------------------------------------------


def filter_gram(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"] | None = None) -> Float[np.ndarray, "n m"]:
    """Inner products of filters, in float64 (float32 products where they are longer than 4,096)."""
    other = a if b is None else b
    if a.shape[1] <= 4096:
        a, other = a.double(), other.double()
    return (a @ other.T).double().numpy()


def centred_gram(gram: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n m"]:
    """Inner products after the mean filter of either side was taken away."""
    centred = gram - gram.mean(0, keepdims=True)
    centred -= centred.mean(1, keepdims=True)
    return centred


@dataclass(frozen=True)
class Principal:
    """The first principal components of some filters, from their centred inner products.

    ``vectors [n, k]`` have length 1; scores are ``vectors * sizes``; ``ratio`` are shares of the variance.
    """

    vectors: Float[np.ndarray, "n k"]
    sizes: Float[np.ndarray, " k"]
    ratio: Float[np.ndarray, " k"]

    @property
    def scores(self) -> Float[np.ndarray, "n k"]:
        return self.vectors * self.sizes


def principal(gram: Float[np.ndarray, "n n"], k: int, *, quick: bool = False) -> Principal:
    """At most ``k`` components of a centred Gram matrix; those without variance are left out.

    The sign of a component is such that its largest entry is positive. ``quick``: of more than 512 filters by
    a fixed number of block power steps, close to the largest variance but exact only where components differ.
    """
    n = len(gram)
    k = min(k, n)
    if quick and n > ALL_AT_ONCE:
        values, vectors = _power_steps(gram, k)
    else:
        values, vectors = scipy.linalg.eigh(gram, subset_by_index=[n - k, n - 1])
    order = np.argsort(-values)
    values, vectors = np.maximum(values[order], 0.0), vectors[:, order]
    total = max(float(np.trace(gram)), 0.0)
    kept = values > total * 1e-12
    values, vectors = values[kept], vectors[:, kept]
    largest = np.abs(vectors).argmax(0)
    vectors = vectors * np.sign(vectors[largest, np.arange(len(values))])
    return Principal(vectors, np.sqrt(values), values / total if total > 0 else values)


def _power_steps(gram: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    block = np.cos(np.outer(np.arange(len(gram)), np.arange(1, k + 11)))  # fixed, so that nothing is random
    single = gram.astype(np.float32)
    for _ in range(12):
        block, _ = np.linalg.qr(single @ block.astype(np.float32))
    block = block.astype(np.float64)
    values, turn = np.linalg.eigh(block.T @ gram @ block)
    return values[-k:], block @ turn[:, -k:]


def span_cosines(a: Principal, b: Principal, cross: Float[np.ndarray, "n m"]) -> Float[np.ndarray, " k"]:
    """Cosines of the principal angles between the spans of two sets of components, largest first.

    ``cross``: centred inner products of the filters of a with those of b. Empty where one side is.
    """
    inside = (a.vectors / a.sizes).T @ cross @ (b.vectors / b.sizes)
    if 0 in inside.shape:
        return np.zeros(0)
    return np.clip(np.linalg.svd(inside, compute_uv=False), 0.0, 1.0)
