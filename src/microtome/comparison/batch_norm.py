"""Batch norms without running statistics: what a network says of an image must not depend on its batch."""

from typing import Literal

from torch import nn

from microtome.data.labelled_images import LabelledImages
from microtome.targets.image_network import ImageNetwork

Mode = Literal["frozen", "batch", "native"]


def needs_calibration(module: nn.Module) -> list[str]:
    """Names of the batch norms that have no running statistics and so use those of the batch."""
    raise NotImplementedError


def frozen(
    network: ImageNetwork, images: LabelledImages, mode: Mode = "frozen", batch_size: int = 32
) -> ImageNetwork:
    """A copy whose batch norms use statistics of the data set, whatever its order and the batches.

    "batch" lets every batch norm use the batch's own statistics; "native" leaves the network as it is.
    """
    raise NotImplementedError
