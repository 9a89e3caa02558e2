"""Which features are shown, and the images that they act on most."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from microtome.comparison.feature_matching import FeatureMatch
from microtome.comparison.feature_training import TrainedDictionary
from microtome.comparison.features_config import FeaturesConfig
from microtome.data.labelled_images import LabelledImages

THUMBNAIL = 48


@dataclass(frozen=True)
class Card:
    """A feature of the first network beside its nearest of the second.

    ``kind``: shared, first or second (whose alone it is). ``value``: their correlation, with the
    ceiling and the floor for that feature. ``images``, ``values``: the images on which each acts most,
    and how strongly in shares of the strongest; -1 where there are fewer.
    """

    kind: str
    features: tuple[int, int]
    value: float
    ceiling: float
    floor: float
    images: Int[np.ndarray, "2 images"]
    values: Float[np.ndarray, "2 images"]


def cards_of(
    first: TrainedDictionary,
    second: TrainedDictionary,
    match: FeatureMatch,
    seen_a: Float[np.ndarray, "4 F"],
    seen_b: Float[np.ndarray, "4 G"],
    image: Int[Tensor, " m"],
    settings: FeaturesConfig,
) -> list[Card]:
    """The clearest features of every kind. ``seen``: best, ceiling, floor and kind of the features."""
    found: list[Card] = []

    def add(kind: str, pair: tuple[int, int], numbers: np.ndarray) -> None:
        top = [
            top_images(d.features[:, f], image, settings.card_images)
            for d, f in zip((first, second), pair, strict=True)
        ]
        images, values = np.stack([t[0] for t in top]), np.stack([t[1] for t in top])
        found.append(
            Card(kind, pair, float(numbers[0]), float(numbers[1]), float(numbers[2]), images, values)
        )

    best, ceiling, floor, kinds = seen_a
    order = np.argsort(-(best - floor))
    for i in [i for i in order if kinds[i] == 0][: settings.cards]:
        add("shared", (int(i), int(match.partner[i])), seen_a[:, i])
    for i in [i for i in np.argsort(best - ceiling) if kinds[i] == 1][: settings.cards]:
        add("first", (int(i), int(match.partner[i])), seen_a[:, i])
    best, ceiling, floor, kinds = seen_b
    for i in [i for i in np.argsort(best - ceiling) if kinds[i] == 1][: settings.cards]:
        add("second", (int(match.back_partner[i]), int(i)), seen_b[:, i])
    return found


def top_images(
    feature: Float[Tensor, " m"], image: Int[Tensor, " m"], count: int
) -> tuple[Int[np.ndarray, " count"], Float[np.ndarray, " count"]]:
    """The images of the largest activations, each image once, and these as shares of the largest."""
    images, values = np.full(count, -1), np.zeros(count)
    largest = torch.zeros(int(image.max()) + 1).scatter_reduce(0, image, feature, "amax")
    top, places = largest.topk(min(count, len(largest)))
    acts = top > 0
    n = int(acts.sum())
    images[:n] = places[acts].numpy()
    values[:n] = (top[acts] / top[0].clamp_min(1e-12)).numpy()
    return images, values


def thumbnails(images: LabelledImages, rows: Sequence[int]) -> dict[str, np.ndarray]:
    """Small pictures of the images shown, ``[n, h, w, 3]`` eight-bit, and which images they are."""
    chosen = np.unique(np.array(rows, dtype=np.int64))
    if not len(chosen):
        return {"thumbnail_rows": chosen, "thumbnails": np.zeros((0, 1, 1, 3), np.uint8)}
    x = images.inputs(chosen, mean=0.0, std=1.0)
    if max(x.shape[2:]) > THUMBNAIL:
        x = torch.nn.functional.adaptive_avg_pool2d(x, THUMBNAIL)
    x = x[:, :3] if x.shape[1] >= 3 else x[:, :1].expand(-1, 3, -1, -1)
    pixels = (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return {"thumbnail_rows": chosen, "thumbnails": pixels.numpy()}
