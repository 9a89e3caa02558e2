"""The layer at which a label becomes decodable, and how sure that is."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from microtome.core.seeds import stream_seed


@dataclass(frozen=True)
class Depth:
    """Index of the first layer that reaches the share, with its 95 % interval; all replicates are kept."""

    layer: int
    low: float
    high: float
    replicates: Float[np.ndarray, " B"]


def resampled_means(
    values: Float[np.ndarray, "k n"], weights: Float[np.ndarray, "B n"]
) -> Float[np.ndarray, "B k"]:
    """Means over images in every bootstrap resample; ``weights`` are those of ``image_weights``."""
    return weights @ values.T


def image_weights(n: int, replicates: int, seed: int) -> Float[np.ndarray, "B n"]:
    """Weights of each image in every bootstrap resample of the images; each row adds up to one."""
    random = np.random.default_rng(stream_seed(seed, "resampled images"))
    return random.multinomial(n, np.full(n, 1 / n), size=replicates) / n


def first_layer(
    accuracy: Float[np.ndarray, "B layers"], chance: Float[np.ndarray, " layers"], share: float
) -> Float[np.ndarray, " B"]:
    """First layer whose accuracy above chance reaches ``share`` of the best one's; NaN where none has any."""
    gain = accuracy - chance
    best = gain.max(1, keepdims=True)
    first = (gain >= share * best - 1e-12).argmax(1).astype(float)
    return np.where(best[:, 0] > 0, first, np.nan)


def decodable_from(
    correct: Float[np.ndarray, "layers n"],
    chance: Float[np.ndarray, " layers"],
    weights: Float[np.ndarray, "B n"],
    share: float,
) -> Depth | None:
    """Where a label becomes decodable, from each image's mean correctness; None at chance in every layer.

    The interval is that of a bootstrap over images that keeps an image's layers together. ``chance`` is
    the mean accuracy under permuted labels.
    """
    observed = first_layer(correct.mean(1)[None], chance, share)[0]
    if np.isnan(observed):
        return None
    replicates = first_layer(resampled_means(correct, weights), chance, share)
    known = replicates[~np.isnan(replicates)]
    low, high = np.quantile(known, (0.025, 0.975), method="nearest") if len(known) else (np.nan, np.nan)
    return Depth(int(observed), float(low), float(high), replicates)
