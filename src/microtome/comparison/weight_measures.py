"""The numbers of one layer's weights, and what the pictures of weights are drawn from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from microtome.comparison.arms import Arms
from microtome.comparison.part import Part
from microtome.comparison.weight_pairs import Filters
from microtome.comparison.weights_config import WeightsConfig
from microtome.measures.dimensionality import entropy_rank, participation_ratio, stable_rank
from microtome.measures.weights import distribution, smoothed

NUMBERS = (
    "norm",
    "mean",
    "std",
    "kurtosis",
    "share_of_small_weights",
    "hoyer_sparsity",
    "spectral_norm",
    "stable_rank",
    "effective_rank",
    "participation_ratio",
)
BINS = 50
FINE = 400


@dataclass(frozen=True)
class LayerNumbers:
    """One layer of one network; ``spectrum`` are its singular values, largest first."""

    norm: float
    mean: float
    std: float
    kurtosis: float
    share_of_small_weights: float
    hoyer_sparsity: float
    spectral_norm: float
    stable_rank: float
    effective_rank: float
    participation_ratio: float
    spectrum: Float[np.ndarray, " m"]


def measure(weight: Tensor, settings: WeightsConfig) -> tuple[LayerNumbers, Filters]:
    """The numbers of a weight ``[out, ...]``, filters as rows."""
    w = weight.detach().float().cpu()
    d = distribution(w, settings.small)
    filters = Filters(w, settings.components)
    rows, columns = w.shape[0], w[0].numel()
    values = _eigenvalues(filters.gram)[: min(rows, columns)]
    return (
        LayerNumbers(
            d.norm,
            d.mean,
            d.std,
            d.kurtosis,
            d.small,
            d.hoyer,
            float(np.sqrt(values[0])),
            float(stable_rank(values[None])[0]),
            float(entropy_rank(values[None])[0]),
            float(participation_ratio(values[None])[0]),
            np.sqrt(values),
        ),
        filters,
    )


def _eigenvalues(gram: Float[np.ndarray, "n n"]) -> Float[np.ndarray, " n"]:
    """Largest first; large matrices in float32, twice as fast and exact to seven digits of the largest."""
    matrix = torch.from_numpy(gram)
    values = torch.linalg.eigvalsh(matrix.float() if len(gram) > 512 else matrix)
    return np.maximum(values.double().numpy()[::-1], 0.0)


def change_from(initial: Tensor, trained: Tensor) -> tuple[float, float]:
    """Angle in degrees between a weight and its initialisation, and ``|change| / |initialisation|``."""
    before, after = initial.double().flatten(), trained.double().flatten()
    sizes = float(before.norm()), float(after.norm())
    moved = float((after - before).norm())
    if 0.0 in sizes:
        return (0.0 if moved == 0 else 90.0), moved / sizes[0] if sizes[0] else float("nan")
    # By the distance of the directions: an arc cosine near 1 would lose half the digits.
    half = float((before / sizes[0] - after / sizes[1]).norm()) / 2
    return float(np.degrees(2 * np.arcsin(min(half, 1.0)))), moved / sizes[0]


def draw_data(
    part: Part,
    arms: Arms,
    labels: Sequence[str],
    names: Mapping[str, Mapping[str, str]],
    filters: Mapping[str, Sequence[Mapping[str, Filters]]],
    numbers: Mapping[str, Sequence[Mapping[str, LayerNumbers]]],
    settings: WeightsConfig,
) -> None:
    """Put scores, spectra and histograms of the first network of each arm into ``part.arrays``."""
    arrays = part.arrays
    arrays["arms"] = np.array([arm.name for arm in arms.given])
    arrays["layers"] = np.array(labels)
    if not labels:
        return
    chosen = sorted(
        set(np.linspace(0, len(labels) - 1, min(settings.pictures, len(labels))).round().astype(int))
    )
    if len(chosen) < len(labels):
        part.remarks.append(
            f"pictures of the weights of {len(chosen)} of {len(labels)} layers; tables hold all"
        )
    floor = arms.floors[arms.given[0].name]
    for label in [str(labels[i]) for i in chosen]:
        weights = {
            arm.name: dict(arm.networks[0].module.named_parameters(remove_duplicate=False))[
                names[arm.name][label]
            ]
            for arm in arms.given
        }
        kind = "conv" if next(iter(weights.values())).ndim > 2 else "fc"
        arrays[f"kind/{label}"] = np.array(kind)
        for arm in arms.given:
            components = filters[arm.name][0][label].components
            arrays[f"pca/{label}/{arm.name}"] = components.scores[:, :2]
            arrays[f"pca_ratio/{label}/{arm.name}"] = components.ratio[:2]
        for name in (*weights, floor.name):
            arrays[f"spectrum/{label}/{name}"] = numbers[name][0][label].spectrum
        _histograms(part, f"{label}.weight", weights)
    _norm_histograms(part, arms)


def _norm_histograms(part: Part, arms: Arms) -> None:
    """Scales of norms that have the same name in all arms."""
    found = [
        {
            name: p
            for name, p in arm.networks[0].module.named_parameters()
            if p.ndim == 1 and name.endswith("weight") and len(p) > 1
        }
        for arm in arms.given
    ]
    for name in list(found[0])[:BINS]:
        if all(name in other for other in found):
            weights = {arm.name: own[name] for arm, own in zip(arms.given, found, strict=True)}
            _histograms(part, name, weights)


def _histograms(part: Part, parameter: str, weights: Mapping[str, Tensor]) -> None:
    """Densities of the values and of their absolute values, of all arms over the same bins."""
    flat = {name: p.detach().float().flatten().cpu() for name, p in weights.items()}
    low = min(float(p.min()) for p in flat.values())
    high = max(float(p.max()) for p in flat.values())
    if low == high:
        low, high = low - 0.5, high + 0.5
    room = (high - low) * 0.05
    edges = np.linspace(low - room, high + room, FINE + 1)
    top = max(abs(low), abs(high))
    folded = np.linspace(0.0, top * 1.02, BINS + 1)
    part.arrays[f"edges/{parameter}"] = edges
    part.arrays[f"folded_edges/{parameter}"] = folded
    for name, values in flat.items():
        counts = torch.histc(values, FINE, edges[0], edges[-1]).double().numpy()
        part.arrays[f"density/{parameter}/{name}"] = smoothed(counts, edges)
        own = torch.histc(values.abs(), BINS, 0.0, folded[-1]).double().numpy()
        part.arrays[f"folded/{parameter}/{name}"] = own / (own.sum() * (folded[1] - folded[0]))
