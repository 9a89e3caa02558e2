"""Activations of every matched layer in one pass over the images, pooled and written to disk as they come."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from microtome.comparison.arms import MatchedLayer
from microtome.comparison.batch_norm import Mode
from microtome.data.labelled_images import LabelledImages
from microtome.targets.image_network import ImageNetwork

Site = Literal["pre", "post"]


@dataclass(frozen=True)
class LayerStatistics:
    """Over all images and units of a layer, before any pooling; ``mean`` and ``std`` are one number a unit.

    Units are channels times positions, flattened as the layer gives them.
    """

    shape: tuple[int, ...]
    mean: Float[np.ndarray, " units"]
    std: Float[np.ndarray, " units"]
    zeros: float  # share of exact zeros
    smallest: float
    largest: float
    zeros_of_image: Float[np.ndarray, " n"]
    mean_of_image: Float[np.ndarray, " n"]


@dataclass(frozen=True)
class Positions:
    """Channel vectors at sampled positions: ``rows[i]`` is of image ``images[i]``.

    ``draw`` numbers the positions of one image; equal (image, draw) is the same place in every network.
    """

    rows: Float[Tensor, "m channels"]
    images: Int[Tensor, " m"]
    draw: Int[Tensor, " m"]


@dataclass(frozen=True)
class Activations:
    """What one network gives for all images. ``layers`` are labels; ``site`` is before or after the nonlinearity.

    A layer without a nonlinearity of its own has the same values at both sites.
    """

    arm: str
    n: int
    layers: tuple[str, ...]
    folder: Path

    def rows(self, layer: str, site: Site = "post") -> Float[np.ndarray, "n d"]:
        """Pooled activations, a read-only memory map: channels times at most ``pool x pool`` positions."""
        raise NotImplementedError

    def channels(self, layer: str, site: Site = "post") -> Float[np.ndarray, "n channels"]:
        """Mean over positions of every channel."""
        raise NotImplementedError

    def has_post(self, layer: str) -> bool:
        """Whether a nonlinearity follows the layer."""
        raise NotImplementedError

    def positions_per_image(self, layer: str) -> int:
        """How many positions were sampled of every image (1 for a layer without positions)."""
        raise NotImplementedError

    def positions(
        self,
        layer: str,
        site: Site = "post",
        max_rows: int | None = None,
        generator: torch.Generator | None = None,
        per_image: int | None = None,
    ) -> Positions:
        """Channel vectors at sampled positions, at most ``max_rows``, chosen by ``generator``.

        Generators in the same state choose the same images and positions in every network that has as many
        ``per_image``.
        """
        raise NotImplementedError

    def statistics(self, layer: str, site: Site = "post") -> LayerStatistics:
        """Statistics of the unpooled activations."""
        raise NotImplementedError


def collect(
    network: ImageNetwork,
    images: LabelledImages,
    layers: Sequence[MatchedLayer],
    arm: str,
    *,
    batch_size: int = 32,
    pool: int = 4,
    bn: Mode = "frozen",
    folder: Path,
    device: str = "cpu",
    progress: Callable[[str], None] | None = None,
    names: Mapping[str, str] | None = None,
) -> Activations:
    """Run the network once over all images and keep every layer before and after its nonlinearity.

    Found again in ``folder`` by the digests of weights, images and settings. ``names`` maps labels to module
    names where they are not ``layers[i].names[arm]``.
    """
    raise NotImplementedError
