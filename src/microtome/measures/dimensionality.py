"""How many dimensions a layer's activations fill: several measures of one spectrum.

The spectrum is that of ``X^T X`` for activations ``X [n, d]`` (rows are samples): its eigenvalues lambda are
the squared singular values sigma of ``X``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from microtome.core.errors import MicrotomeError, bad_value

Measure = Callable[[np.ndarray], np.ndarray]
Layout = Literal["auto", "channels_first", "features_last"]

ACCURACY = 1e-10  # relative, of sums of singular values
EPSILON = float(np.finfo(np.float64).eps)
SMALL = 1e-8  # eigenvalues below so much of the largest are computed a second time where it matters
MOST_ROWS = 1024


# -- measures of eigenvalues [..., m], largest first; zeros at the end change none of them


def stable_rank(eigenvalues: Float[np.ndarray, "*L m"]) -> Float[np.ndarray, "*L"]:
    """Squared Frobenius norm over squared spectral norm: sum(lambda) / lambda_1."""
    return _ratio(eigenvalues.sum(-1), eigenvalues[..., 0])


def participation_ratio(eigenvalues: Float[np.ndarray, "*L m"]) -> Float[np.ndarray, "*L"]:
    """(sum lambda)^2 / sum lambda^2, the literature's participation ratio."""
    return _ratio(eigenvalues.sum(-1) ** 2, (eigenvalues * eigenvalues).sum(-1))


def participation_ratio_singular_values(eigenvalues: Float[np.ndarray, "*L m"]) -> Float[np.ndarray, "*L"]:
    """(sum sigma)^2 / sum sigma^2: the same of singular values, as the ``ndt`` library has it."""
    return _ratio(np.sqrt(eigenvalues).sum(-1) ** 2, eigenvalues.sum(-1))


def effective_rank_90(eigenvalues: Float[np.ndarray, "*L m"]) -> Float[np.ndarray, "*L"]:
    """The fewest directions that hold 90 % of sum(lambda)."""
    cumulated = np.cumsum(eigenvalues, -1)
    total = cumulated[..., -1]
    count = (_ratio(cumulated, total[..., None]) < 0.9).sum(-1) + 1.0
    return np.where(total > 0, count, total)  # 0 of nothing, NaN of NaN


def nuclear_norm_ratio(eigenvalues: Float[np.ndarray, "*L m"]) -> Float[np.ndarray, "*L"]:
    """Nuclear norm over spectral norm: sum(sigma) / sigma_1."""
    singular = np.sqrt(eigenvalues)
    return _ratio(singular.sum(-1), singular[..., 0])


def entropy_rank(eigenvalues: Float[np.ndarray, "*L m"]) -> Float[np.ndarray, "*L"]:
    """exp of the entropy of sigma / sum(sigma): RankMe (Garrido et al. 2023), or effective rank."""
    singular = np.sqrt(eigenvalues)
    total = singular.sum(-1)
    shares = _ratio(singular, total[..., None])
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(-1)
    return np.where(total == 0, 0.0, np.exp(entropy))


MEASURES: dict[str, Measure] = {
    "stable_rank": stable_rank,
    "participation_ratio": participation_ratio,
    "participation_ratio_singular_values": participation_ratio_singular_values,
    "effective_rank_90": effective_rank_90,
    "nuclear_norm_ratio": nuclear_norm_ratio,
    "entropy_rank": entropy_rank,
}


def register(name: str, function: Measure) -> None:
    """Add a measure: a function of eigenvalues ``[..., m]`` (largest first, zeros at the end) to ``[...]``.

    Raises ``MicrotomeError`` for a name that is taken.
    """
    if name in MEASURES and MEASURES[name] is not function:
        raise bad_value("name", name, "a measure of that name is there already", "choose another name")
    MEASURES[name] = function


def known_measures(names: Sequence[str] | None) -> list[str]:
    """The names, checked; None is all of them. Raises ``MicrotomeError`` for one that nobody registered."""
    for name in names or ():
        if name not in MEASURES:
            raise bad_value("measures", name, "no such measure", f"choose from {', '.join(MEASURES)}")
    return list(MEASURES if names is None else dict.fromkeys(names))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """``above / below``; 0 where both are 0 (all activations are 0: no dimensions)."""
    return above / np.where(below == 0, 1.0, below)


# -- from activations to rows


def rows_of(
    activation: Tensor,
    layout: Layout = "auto",
    conv: Literal["mean", "flatten"] = "mean",
    most_rows: int | None = None,
) -> Float[Tensor, "n d"]:
    """One row a sample: the matrix that is measured.

    ``[n, d]`` stays as it is. ``features_last`` (tokens ``[B, T, D]``) becomes ``[B * T, D]``.
    ``channels_first`` (convolutions ``[B, C, H, W]``) is averaged over space to ``[B, C]``, or flattened to
    ``[B, C * H * W]``. ``auto`` takes three axes as tokens, four and more as convolutions. Where rows and
    columns are both more than ``most_rows``, so many rows evenly spaced are taken.
    """
    if activation.dim() < 2:
        rows = activation.reshape(-1, 1)
    elif activation.dim() == 2:
        rows = activation
    elif layout == "features_last" or (layout == "auto" and activation.dim() == 3):
        rows = activation.reshape(-1, activation.shape[-1])
    elif conv == "mean":
        rows = activation.mean(dim=tuple(range(2, activation.dim())))
    else:
        rows = activation.reshape(len(activation), -1)
    if most_rows is not None and min(rows.shape) > most_rows:
        rows = rows[torch.linspace(0, len(rows) - 1, most_rows, device=rows.device).round().long()]
    return rows


# -- from rows to eigenvalues


def gram(x: Float[Tensor, "n d"], center: bool = False) -> Float[Tensor, "m m"]:
    """The smaller of ``X X^T`` and ``X^T X`` in float64. ``center`` subtracts each column's mean."""
    if x.device.type == "mps":  # which has no float64
        x = x.cpu()
    x = x.to(torch.float64)
    if center:
        x = x - x.mean(0, keepdim=True)
    return x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x


def spectrum(
    x: Float[Tensor, "n d"] | Sequence[Float[Tensor, "_ _"]],
    center: bool = False,
    grams: Sequence[Float[Tensor, "_ _"]] | None = None,
) -> Float[np.ndarray, "*L m"]:
    """Eigenvalues of ``X^T X``, largest first, ``m = min(n, d)``; of several matrices ``[L, m]``, batched.

    Matrices of unequal size have zeros at the end, which change no measure. From the smaller Gram matrix in
    float64; where its rounding would change a sum of singular values by more than 1e-10, the small ones are
    computed a second time (``_refined``). A matrix that holds NaN or infinity gives NaN. ``grams`` are the
    Gram matrices (``gram``) where they are there already.
    """
    several = [x] if isinstance(x, Tensor) else list(x)
    grams = [gram(one, center) for one in several] if grams is None else grams
    found = eigenvalues_of(grams)
    for place in _too_rough(found, [len(matrix) for matrix in grams]):
        values = _refined(several[place], grams[place], center)
        found[place, : len(values)] = values
    return found[0] if isinstance(x, Tensor) else found


def eigenvalues_of(grams: Sequence[Float[Tensor, "_ _"]]) -> Float[np.ndarray, "L m"]:
    """Eigenvalues of symmetric matrices, largest first, zeros at the end; one batch for each size."""
    if not grams:
        raise MicrotomeError("activations: none to measure; give at least one layer")
    by_size: dict[int, list[int]] = {}
    for place, matrix in enumerate(grams):
        by_size.setdefault(len(matrix), []).append(place)
    found = np.zeros((len(grams), max(by_size)))
    for size, places in by_size.items():
        # One copy to the CPU for all of a size: each copy from a GPU waits for it.
        stacked = torch.stack([grams[place] for place in places]).detach().cpu()
        # What is not finite in X shows on the diagonal of its Gram matrix.
        finite = torch.diagonal(stacked, dim1=-2, dim2=-1).sum(-1).isfinite()
        whole = bool(finite.all())
        if not whole:
            stacked[~finite] = 0.0
        values = torch.linalg.eigvalsh(stacked).clamp_min_(0.0)
        if not whole:
            values[~finite] = torch.nan
        found[places, :size] = values.numpy()[:, ::-1]
    return found


def _too_rough(eigenvalues: Float[np.ndarray, "L m"], sizes: Sequence[int]) -> list[int]:
    """Where rounding of the Gram matrix may change the sum of singular values by more than the accuracy.

    An eigenvalue is off by about eps * lambda_1, a singular value sigma by that over 2 sigma, and one of
    nothing by its root.
    """
    rounding = 4 * EPSILON * eigenvalues[:, :1]
    singular = np.sqrt(eigenvalues)
    with np.errstate(over="ignore"):
        error = np.minimum(np.sqrt(rounding), rounding / np.maximum(2 * singular, 1e-300))
    limits = ACCURACY * singular.sum(-1)
    return [i for i, size in enumerate(sizes) if error[i, :size].sum() > limits[i]]


def _refined(x: Float[Tensor, "n d"], matrix: Float[Tensor, "m m"], center: bool) -> Float[np.ndarray, " m"]:
    """All eigenvalues of the Gram matrix, largest first, the small ones as exact as the large ones.

    Singular values below 1e-4 of the largest come from a second Gram matrix, that of ``X`` projected on their
    directions: there the largest of them sets the rounding, which is 1e-12 of the whole. Four times faster
    than singular values of ``X``.
    """
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    small = eigenvalues < SMALL * eigenvalues[-1]
    rows = x.detach().to(matrix.device, torch.float64)
    rows = rows - rows.mean(0, keepdim=True) if center else rows
    tall = rows if rows.shape[0] > rows.shape[1] else rows.T
    projected = tall @ vectors[:, small]
    eigenvalues[small] = torch.linalg.eigvalsh(projected.T @ projected)
    return eigenvalues.clamp_min_(0.0).flip(0).cpu().numpy()


def measure_spectra(
    eigenvalues: Float[np.ndarray, "L m"], measures: Sequence[str] | None = None
) -> Float[np.ndarray, "L M"]:
    """Every measure of every row of eigenvalues, a column a measure."""
    with np.errstate(over="ignore", invalid="ignore"):  # numbers too large to square give NaN
        return np.stack([MEASURES[name](eigenvalues) for name in known_measures(measures)], axis=-1)


def measure_all(
    activations: Mapping[str, Tensor], measures: Sequence[str] | None = None, center: bool = False
) -> dict[str, dict[str, float]]:
    """Every measure of every layer: ``{layer: {measure: value}}``.

    ``activations`` maps a layer to what it gave out; anything but ``[n, d]`` goes through ``rows_of``. Raises
    ``MicrotomeError`` for no layers and for measures that are not registered.
    """
    names = known_measures(measures)
    table = measure_spectra(spectrum([rows_of(x.detach()) for x in activations.values()], center), names)
    return {
        layer: dict(zip(names, row, strict=True))
        for layer, row in zip(activations, table.tolist(), strict=True)
    }
