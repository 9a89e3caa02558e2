"""The convolutional network of few-shot learning: blocks of convolution, norm, ReLU and pooling."""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from microtome.core.errors import bad_value

NORMS = ("batch_statistics", "batch", "none")


class FewShotConvNet(nn.Module):
    """``blocks`` times 3x3 convolution, norm, ReLU and 2x2 max pooling, then one linear layer.

    Vinyals et al. 2016, as used by MAML (Finn et al. 2017). ``norm`` is ``batch_statistics`` (every batch is
    normalised by its own mean and variance, also when evaluated, as MAML does), ``batch`` (running statistics
    when evaluated) or ``none``. A map that is one pixel wide is not pooled further.
    """

    def __init__(
        self,
        channels: int = 64,
        blocks: int = 4,
        in_channels: int = 1,
        image_size: int = 28,
        n_classes: int = 5,
        norm: str = "batch_statistics",
    ) -> None:
        super().__init__()
        sizes = {"channels": channels, "blocks": blocks, "in_channels": in_channels}
        for field, value in (sizes | {"image_size": image_size, "n_classes": n_classes}).items():
            if value < 1:
                raise bad_value(field, value, "too small", "use 1 or more")
        if norm not in NORMS:
            raise bad_value("norm", norm, "unknown", "use batch_statistics, batch or none")
        self.n_classes = n_classes
        ins = (in_channels, *[channels] * (blocks - 1))
        self.blocks = nn.Sequential(*[_block(d_in, channels, norm) for d_in in ins])
        width = max(1, image_size >> blocks)
        self.n_features = channels * width * width
        self.classifier = nn.Linear(self.n_features, n_classes)

    def features(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B d"]:
        """What the classifier reads: the last block's maps, flattened."""
        return torch.flatten(self.blocks(x), 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B n_classes"]:
        """Logits."""
        return self.classifier(self.features(x))


class _HalvingPool(nn.MaxPool2d):
    """2x2 max pooling that leaves maps alone which it would make empty."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, input: Tensor) -> Tensor:  # torch's name
        return input if min(input.shape[-2:]) < 2 else F.max_pool2d(input, 2)


def _block(d_in: int, d_out: int, norm: str) -> nn.Sequential:
    block = nn.Sequential()
    block.add_module("conv", nn.Conv2d(d_in, d_out, 3, padding=1))
    if norm != "none":
        block.add_module("norm", nn.BatchNorm2d(d_out, track_running_stats=norm == "batch"))
    block.add_module("relu", nn.ReLU())
    block.add_module("pool", _HalvingPool())
    return block


def infer_few_shot(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The architecture that fits names and shapes of ``state``, or None when it is not this network's."""
    convolutions = [name for name in state if re.fullmatch(r"blocks\.\d+\.conv\.weight", name)]
    if not convolutions or "classifier.weight" not in state or "blocks.0.conv.weight" not in state:
        return None
    channels, in_channels = state["blocks.0.conv.weight"].shape[:2]
    n_classes, n_features = state["classifier.weight"].shape
    blocks, width = len(convolutions), math.isqrt(n_features // channels)
    if width * width * channels != n_features:
        return None
    norm = "none"
    if "blocks.0.norm.weight" in state:
        norm = "batch" if "blocks.0.norm.running_mean" in state else "batch_statistics"
    sizes = (size for size in (28, 32, 64, 84, 105, 8, *range(1, 1025)) if max(1, size >> blocks) == width)
    return {
        "kind": "few-shot-convnet",
        "channels": channels,
        "blocks": blocks,
        "in_channels": in_channels,
        "image_size": next(sizes, width << blocks),
        "n_classes": n_classes,
        "norm": norm,
    }
