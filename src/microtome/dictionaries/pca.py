"""What principal components of equal rank explain: the yardstick of a dictionary."""

import torch
from jaxtyping import Float
from torch import Tensor


class SecondMoments:
    """Running count, sum and ``x^T x`` in float64."""

    def __init__(self, d: int) -> None:
        self.count = 0
        self.total = torch.zeros(d, dtype=torch.float64)
        self.products = torch.zeros(d, d, dtype=torch.float64)

    def add(self, x: Float[Tensor, "N d"]) -> None:
        """Take in more rows."""
        x = x.double().cpu()
        self.count += len(x)
        self.total += x.sum(0)
        self.products.addmm_(x.T, x)

    @property
    def mean(self) -> Float[Tensor, " d"]:
        """The mean row."""
        return self.total / max(self.count, 1)

    def scatter(self, centre: Float[Tensor, " d"]) -> Float[Tensor, "d d"]:
        """``sum (x - centre)^T (x - centre)``."""
        cross = torch.outer(self.total, centre)
        return self.products - cross - cross.T + self.count * torch.outer(centre, centre)

    def variance(self) -> float:
        """``sum |x - mean|^2``."""
        return float(self.products.trace() - self.count * self.mean.square().sum())


def unexplained_by_rank(fitted: SecondMoments, held_out: SecondMoments) -> Float[Tensor, " r"]:
    """Share of the held-out variance that the first ``r`` components leave over, ``r = 0 ... d``.

    Components and mean are those of the fitted rows. The denominator is the held-out rows' variance about
    their own mean, as for a dictionary.
    """
    covariance = fitted.scatter(fitted.mean) / max(fitted.count, 1)
    components = torch.linalg.eigh(covariance).eigenvectors.flip(1)
    scatter = held_out.scatter(fitted.mean)
    explained = ((scatter @ components) * components).sum(0)
    left = scatter.trace() - torch.cat([explained.new_zeros(1), explained.cumsum(0)])
    return (left / max(held_out.variance(), 1e-30)).clamp_min(0)
