"""An image network ready to be looked into, wherever it came from."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from microtome.data.labelled_images import LabelledImages


@dataclass(frozen=True)
class ImageNetwork:
    """A network in evaluation mode, frozen, with what is known of its input.

    ``channels`` and ``size`` are the input's, when the network fixes them; inputs are ``(x / 255 - mean) /
    std`` of eight-bit images. ``architecture`` rebuilds it untrained; ``digest`` is that of its weights.
    """

    module: nn.Module
    name: str
    channels: int | None = None
    size: int | None = None
    mean: float = 0.5
    std: float = 0.5
    architecture: dict[str, Any] = field(default_factory=dict)
    source: Path | None = None
    digest: str = ""


def open_network(
    reference: str,
    *,
    architecture: str | None = None,
    images: LabelledImages | None = None,
    device: str | torch.device = "cpu",
) -> ImageNetwork:
    """The network that ``reference`` means, in evaluation mode and frozen.

    A ``.pt``, ``.pth`` or ``.safetensors`` checkpoint (its class inferred from names and shapes, or given as
    ``architecture="package.module:Class(width=64)"``), ``package.module:Class(width=64)@checkpoint.pt`` or
    without a checkpoint, a ``torch.export`` file (``.pt2``), ``hf:name`` or a Hugging Face folder, a run
    folder of ``train few-shot``, or ``latest``. ``images`` are looked at where the input's shape has to be
    known. Raises ``MicrotomeError`` in one line.
    """
    raise NotImplementedError


def untrained(network: ImageNetwork, seed: int) -> ImageNetwork:
    """The same architecture, initialised afresh from ``seed``; the global random state stays as it is."""
    raise NotImplementedError


def initial_of(network: ImageNetwork) -> ImageNetwork | None:
    """The network's own initialisation, where the run folder that it comes from holds one."""
    raise NotImplementedError
