"""The convolutional network of few-shot learning: blocks of convolution, norm, ReLU and pooling."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from microtome.core.errors import bad_value

Norm = Literal["batch_statistics", "batch", "none"]


class FewShotConvNet(nn.Module):
    """``blocks`` times 3x3 convolution, norm, ReLU and 2x2 max pooling, then one linear layer.

    Vinyals et al. 2016, as used by MAML (Finn et al. 2017). ``norm`` is ``batch_statistics`` (every batch is
    normalised by its own mean and variance, also when evaluated, as MAML does), ``batch`` (running statistics
    when evaluated) or ``none``. Pooling stops once a map is a single pixel wide.
    """

    def __init__(
        self,
        channels: int = 64,
        blocks: int = 4,
        in_channels: int = 1,
        image_size: int = 28,
        n_classes: int = 5,
        norm: Norm = "batch_statistics",
    ) -> None:
        super().__init__()
        sizes = {"channels": channels, "blocks": blocks, "in_channels": in_channels}
        for field, value in (sizes | {"image_size": image_size, "n_classes": n_classes}).items():
            if value < 1:
                raise bad_value(field, value, "too small", "use 1 or more")
        if norm not in ("batch_statistics", "batch", "none"):
            raise bad_value("norm", norm, "unknown", "use batch_statistics, batch or none")
        self.n_classes = n_classes
        layers, width = [], image_size
        for i in range(blocks):
            pooled = width >= 2
            layers.append(_block(in_channels if i == 0 else channels, channels, norm, pooled))
            width = width // 2 if pooled else width
        self.blocks = nn.Sequential(*layers)
        self.n_features = channels * width * width
        self.classifier = nn.Linear(self.n_features, n_classes)

    def features(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B d"]:
        """What the classifier reads: the last block's maps, flattened."""
        return torch.flatten(self.blocks(x), 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B n_classes"]:
        """Logits."""
        return self.classifier(self.features(x))


def _block(d_in: int, d_out: int, norm: Norm, pooled: bool) -> nn.Sequential:
    block = nn.Sequential()
    block.add_module("conv", nn.Conv2d(d_in, d_out, 3, padding=1))
    if norm != "none":
        block.add_module("norm", nn.BatchNorm2d(d_out, track_running_stats=norm == "batch"))
    block.add_module("relu", nn.ReLU())
    if pooled:
        block.add_module("pool", nn.MaxPool2d(2))
    return block
