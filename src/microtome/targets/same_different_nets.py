"""The six networks of the same-different studies: conv2, conv4, conv6, and with learned rates conv2lr, ..."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from microtome.core.errors import bad_value


@dataclass(frozen=True)
class Plan:
    """What tells one of the networks from the others. Convolutions have stride 1, a pool follows each."""

    channels: tuple[int, ...]
    kernels: tuple[int, ...]
    widths: tuple[int, ...]  # of the fully connected layers
    pool: tuple[int, int, int]  # kernel, stride, padding
    dropout: tuple[float, float]  # of maps, of units
    listed: bool  # fully connected layers named fc_layers.0, ... with layer norms, rather than fc1, ...

    def padding(self, i: int) -> int:
        """Zero pixels around the input of convolution ``i``."""
        return 2 if self.kernels[i] == 6 else 1


_WIDE, _OVERLAPPING, _HALVING = (1024, 1024, 1024), (3, 2, 1), (2, 2, 0)
PLANS = {
    "conv2": Plan((6, 12), (2, 2), _WIDE, _OVERLAPPING, (0.1, 0.3), listed=False),
    "conv4": Plan((12, 24, 48, 96), (4, 2, 2, 2), _WIDE, _OVERLAPPING, (0.1, 0.3), listed=False),
    "conv6": Plan(
        (18, 36, 72, 144, 288, 576), (6, 2, 2, 2, 2, 2), _WIDE, _OVERLAPPING, (0.1, 0.3), listed=False
    ),
    "conv2lr": Plan((6, 12), (2, 2), _WIDE, _OVERLAPPING, (0.1, 0.3), listed=True),
    "conv4lr": Plan((32, 64, 128, 256), (3,) * 4, (512, 256, 128), _HALVING, (0.3, 0.5), listed=True),
    "conv6lr": Plan(
        (32, 64, 128, 256, 512, 1024), (3,) * 6, (1024, 512, 256), _HALVING, (0.3, 0.5), listed=True
    ),
}


class SameDifferentNet(nn.Module):
    """Convolution, batch norm, ReLU, pool (two, four or six times), three fully connected layers, classifier.

    The layouts of the same-different studies on SVRT (after Kim et al. 2018), with their names of weights.
    ``batch_statistics``: batch norm without running statistics, as in the first of their versions.
    ``learned_rates`` (of the ``lr`` networks): the inner loop's rates are parameters, and the output is the
    softmax of logits over a learned temperature; without them the output is logits.
    """

    def __init__(
        self,
        name: str = "conv2",
        *,
        image_size: int = 128,
        in_channels: int = 3,
        n_classes: int = 2,
        widths: tuple[int, ...] | list[int] | None = None,
        batch_statistics: bool = True,
        learned_rates: bool = True,
        temperature: bool = True,
    ) -> None:
        super().__init__()
        if name not in PLANS:
            raise bad_value("name", name, "unknown network", f"choose {', '.join(PLANS)}")
        self.plan = plan = PLANS[name]
        widths = plan.widths if widths is None else tuple(widths)
        before = (in_channels, *plan.channels)
        for i, out in enumerate(plan.channels):
            convolution = nn.Conv2d(before[i], out, plan.kernels[i], padding=plan.padding(i))
            self.add_module(f"conv{i + 1}", convolution)
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(out, track_running_stats=not batch_statistics))
            self.add_module(f"relu{i + 1}", nn.ReLU())
            self.add_module(f"pool{i + 1}", nn.MaxPool2d(*plan.pool))
        self.dropout2d = nn.Dropout2d(plan.dropout[0])
        side = map_side(plan, image_size)
        if side < 1:
            raise bad_value("image_size", image_size, f"too small for {name}", "use larger images")
        inputs = (plan.channels[-1] * side * side, *widths)
        layers = [nn.Linear(inputs[i], inputs[i + 1]) for i in range(len(widths))]
        self.n_layers = len(layers)
        self._add_layers(layers, plan)
        self.classifier = nn.Linear(widths[-1], n_classes)
        if plan.listed and temperature:
            self.temperature = nn.Parameter(torch.ones(1))
        self.softmax = plan.listed and learned_rates
        if self.softmax:
            self.lr_conv = nn.ParameterList([torch.full((1,), 0.01) for _ in plan.channels])
            self.lr_fc = nn.ParameterList([torch.full((1,), 0.01) for _ in layers])
            self.lr_classifier = nn.Parameter(torch.full((1,), 0.01))
        self._initialise()

    def _add_layers(self, layers: list[nn.Linear], plan: Plan) -> None:
        if plan.listed:
            self.fc_layers = nn.ModuleList(layers)
            self.layer_norms = nn.ModuleList([nn.LayerNorm(layer.out_features) for layer in layers])
        else:
            for i, layer in enumerate(layers):
                self.add_module(f"fc{i + 1}", layer)
        self.fc_relus = nn.ModuleList([nn.ReLU() for _ in layers])
        self.dropouts = nn.ModuleList([nn.Dropout(plan.dropout[1]) for _ in layers])

    def _initialise(self) -> None:
        """He et al.'s initialisation by fan-out, and of the ``lr`` networks small biases and classifier."""
        bias = 0.01 if self.plan.listed else 0.0
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.constant_(module.bias, bias)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.bias, bias)
        if self.plan.listed:
            nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def features(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B d"]:
        """What the classifier reads."""
        for i in range(1, len(self.plan.channels) + 1):
            for part in ("conv", "bn", "relu", "pool"):
                x = self.get_submodule(f"{part}{i}")(x)
            x = self.dropout2d(x)
        x = torch.flatten(x, 1)
        for i in range(self.n_layers):
            if self.plan.listed:
                x = self.layer_norms[i](self.fc_layers[i](x))
            else:
                x = self.get_submodule(f"fc{i + 1}")(x)
            x = self.dropouts[i](self.fc_relus[i](x))
        return x

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B n_classes"]:
        """Logits, or with learned rates class probabilities."""
        logits = self.classifier(self.features(x))
        return torch.softmax(logits / self.temperature.abs(), 1) if self.softmax else logits


def map_side(plan: Plan, image_size: int) -> int:
    """Width of the last pooled map for square images of ``image_size``."""
    side = image_size
    kernel, stride, padding = plan.pool
    for i, width in enumerate(plan.kernels):
        side = side + 2 * plan.padding(i) - width + 1
        side = (side + 2 * padding - kernel) // stride + 1
    return side


def infer_same_different(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The architecture that names and shapes of ``state`` belong to, None when of none of the six.

    Single weights may be missing or added: they are told when the weights are loaded.
    """
    listed = any(name.startswith("fc_layers.") for name in state)
    shapes = {
        int(match[1]): tuple(value.shape)
        for name, value in state.items()
        if (match := re.fullmatch(r"conv(\d+)\.weight", name)) and value.dim() == 4
    }
    fitting = {
        name: sum(_fits(plan, i, shape) for i, shape in shapes.items())
        - abs(len(plan.channels) - max(shapes))
        for name, plan in PLANS.items()
        if shapes and plan.listed == listed and any(_fits(plan, i, shape) for i, shape in shapes.items())
    }
    layers = _layers(state)
    if not fitting or not layers:
        return None
    name = max(fitting, key=lambda each: fitting[each])
    plan, classes = PLANS[name], state.get("classifier.weight")
    rates = any(key.startswith("lr_") for key in state)
    widths = dict(enumerate(plan.widths)) | {i: shape[0] for i, shape in layers.items()}
    return {
        "kind": "same-different",
        "name": name,
        "image_size": _image_size(plan, layers[0][1]) if 0 in layers else 128,
        "in_channels": shapes[1][1] if 1 in shapes else 3,
        "n_classes": classes.shape[0] if classes is not None and classes.dim() == 2 else 2,
        "widths": [widths[i] for i in sorted(widths)],
        "batch_statistics": not any(key.endswith(".running_mean") for key in state),
        "learned_rates": rates,
        "temperature": rates or "temperature" in state,
    }


def _fits(plan: Plan, i: int, shape: tuple[int, ...]) -> bool:
    """Whether convolution ``i`` (from 1) of the plan has kernels of this shape."""
    return i <= len(plan.channels) and (shape[0], shape[2]) == (plan.channels[i - 1], plan.kernels[i - 1])


def _layers(state: Mapping[str, Tensor]) -> dict[int, tuple[int, int]]:
    """Outputs and inputs of the fully connected layers, by number from 0."""
    found = {}
    for name, value in state.items():
        match = re.fullmatch(r"fc_layers\.(\d+)\.weight|fc([1-9]\d*)\.weight", name)
        if match and value.dim() == 2:
            found[int(match[1]) if match[1] is not None else int(match[2]) - 1] = tuple(value.shape)
    return found


_USUAL_SIZES = (128, 64, 256, 32, 96, 224, 28)


def _image_size(plan: Plan, n_inputs: int) -> int:
    """The size of images that gives the first layer ``n_inputs`` inputs: a usual one, else the least."""
    side = math.isqrt(n_inputs // plan.channels[-1])
    sizes = (size for size in (*_USUAL_SIZES, *range(1, 1025)) if map_side(plan, size) == side)
    return next(sizes, 128)
