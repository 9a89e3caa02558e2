"""What a dictionary is worth on activations it was not trained on."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.dictionaries.dictionary import Dictionary, check_width
from microtome.dictionaries.pca import SecondMoments, unexplained_by_rank

COMPARED_ROWS = 2048  # decoder rows whose nearest neighbour is looked for
MOSTLY_DEAD = 0.5


@dataclass
class Quality:
    """The numbers of one dictionary."""

    n_inputs: int
    d_in: int
    n_features: int
    l0: float
    """Features that act on an input, on average."""
    fvu: float
    """Fraction of variance unexplained: ``sum |x - x_hat|^2 / sum |x - mean|^2``."""
    explained_variance: float
    cosine: float
    """Mean cosine of an input and its reconstruction."""
    length_ratio: float
    """Mean length of reconstructions over that of inputs."""
    dead: int
    """Features that acted on no input, held out or not."""
    dead_share: float
    pca_rank: int
    """The mean L0, rounded; at most the width."""
    pca_fvu: float | None
    """What that many principal components leave over; None where the rank is the width."""
    nearest_decoder_cosine: float
    """Median over features of the largest cosine with another feature's decoder row."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class QualityMeasure:
    """Sums over a stream of held-out activations, and of fitted ones for the principal components."""

    def __init__(self, dictionary: Dictionary) -> None:
        self.dictionary = dictionary
        c = dictionary.config
        self.fitted, self.held_out = SecondMoments(c.d_in), SecondMoments(c.d_in)
        self.acted = torch.zeros(c.n_features, dtype=torch.int64)
        self.acted_held_out = 0
        self.squared_error = self.cosines = self.lengths = self.lengths_hat = 0.0

    @torch.no_grad()
    def fit(self, x: Float[Tensor, "N d"]) -> None:
        """Rows of the training data: for the principal components, and to see which features act at all."""
        check_width(x, self.dictionary.config)
        self.fitted.add(x)
        self.acted += (self.dictionary.encode(x.float().to(self.dictionary.W_dec.device)) > 0).sum(0).cpu()

    @torch.no_grad()
    def add(self, x: Float[Tensor, "N d"]) -> None:
        """Rows to be judged by."""
        check_width(x, self.dictionary.config)
        self.held_out.add(x)
        x = x.float().to(self.dictionary.W_dec.device)
        f = self.dictionary.encode(x)
        x_hat = self.dictionary.decode(f, like=x)
        acts = (f > 0).sum(0).cpu()
        self.acted += acts
        self.acted_held_out += int(acts.sum())
        self.squared_error += float((x - x_hat).double().square().sum())
        self.cosines += float(torch.cosine_similarity(x, x_hat, dim=1).double().sum())
        self.lengths += float(x.norm(dim=1).double().sum())
        self.lengths_hat += float(x_hat.norm(dim=1).double().sum())

    @property
    def density(self) -> Float[Tensor, " F"]:
        """The share of all inputs on which each feature acts."""
        return self.acted.double() / max(self.n_inputs, 1)

    @property
    def n_inputs(self) -> int:
        """Inputs seen, of both kinds."""
        return self.held_out.count + self.fitted.count

    def pca(self) -> Float[Tensor, " r"]:
        """What ``r = 0 ... d`` principal components of the fitted rows leave of the held-out variance."""
        return unexplained_by_rank(self.fitted, self.held_out)

    def result(self, pca: Float[Tensor, " r"] | None = None) -> Quality:
        """The numbers."""
        c, n = self.dictionary.config, max(self.held_out.count, 1)
        l0 = self.acted_held_out / n
        fvu = self.squared_error / max(self.held_out.variance(), 1e-30)
        rank = min(round(l0), c.d_in)
        curve = self.pca() if pca is None else pca
        return Quality(
            n_inputs=self.held_out.count,
            d_in=c.d_in,
            n_features=c.n_features,
            l0=l0,
            fvu=fvu,
            explained_variance=1 - fvu,
            cosine=self.cosines / n,
            length_ratio=self.lengths_hat / max(self.lengths, 1e-30),
            dead=int((self.acted == 0).sum()),
            dead_share=float((self.acted == 0).double().mean()),
            pca_rank=rank,
            pca_fvu=float(curve[rank]) if rank < c.d_in else None,
            nearest_decoder_cosine=nearest_decoder_cosine(self.dictionary.W_dec.detach()),
        )


def nearest_decoder_cosine(W_dec: Float[Tensor, "F d"]) -> float:
    """Median over (at most 2,048 evenly spaced) rows of the largest cosine with another row."""
    rows = torch.nn.functional.normalize(W_dec.float(), dim=1)
    step = max(len(rows) // COMPARED_ROWS, 1)
    chosen = torch.arange(0, len(rows), step, device=rows.device)
    if len(rows) < 2:
        return 0.0
    cosines = rows[chosen] @ rows.T
    cosines[torch.arange(len(chosen), device=rows.device), chosen] = -1.0
    return float(cosines.amax(1).median())


def warnings_about(name: str, quality: Quality, splice: dict[str, float] | None = None) -> list[str]:
    """Lines to be said loudly: a dead dictionary, or one no better than principal components."""
    q, lines = quality, []
    if q.l0 == 0:
        lines.append(f"{name} is DEAD: no feature acts on any input")
    elif q.dead_share > MOSTLY_DEAD:
        lines.append(f"{name} is MOSTLY DEAD: {q.dead:,} of {q.n_features:,} features act on no input")
    if q.fvu >= 1:
        lines.append(f"{name} reconstructs NO BETTER THAN THE MEAN: FVU {q.fvu:.3g}")
    elif q.pca_fvu is not None and q.fvu >= q.pca_fvu:
        lines.append(
            f"{name} is NO BETTER THAN PCA: FVU {q.fvu:.3g} with {q.l0:.1f} features an input,"
            f" {q.pca_fvu:.3g} with {q.pca_rank} principal components"
        )
    if q.l0 >= q.d_in:
        lines.append(
            f"{name} is NOT SPARSE: {q.l0:.0f} features act on an input {q.d_in} wide, and as many principal"
            " components leave nothing over"
        )
    if splice is not None and splice["loss_recovered"] < 0.5:
        lines.append(
            f"{name} BREAKS THE MODEL: its reconstruction recovers {splice['loss_recovered']:.2f} of the loss"
            " between zero ablation (0) and the model itself (1)"
        )
    return lines
