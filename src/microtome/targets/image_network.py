"""An image network ready to be looked into, wherever it came from."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn


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
