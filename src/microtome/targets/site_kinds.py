"""Layers whose weight can be decomposed: what their weight matrix is, what reaches it and what leaves it.

Every kind is ``output = input @ matrix (+ bias)`` once its input has been put into rows.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from microtome.targets.network import SiteKind

SUPPORTED = "nn.Linear, nn.Embedding, transformers Conv1D, nn.Conv2d with groups=1"


class LayerKind(ABC):
    """How layers of one class become sites. ``kind`` is the ``Site.kind`` of theirs."""

    kind: ClassVar[SiteKind]

    @abstractmethod
    def matrix(self, layer: Any) -> Tensor:
        """``[d_in, d_out]``, a view of the layer's weight."""

    def bias(self, layer: Any) -> Tensor | None:
        """``[d_out]``."""
        return layer.bias

    def rows(self, layer: Any, value: Tensor) -> Tensor:  # noqa: ARG002
        """What the layer is given as what its matrix multiplies, the batch axis staying first."""
        return value

    def output(self, layer: Any, value: Tensor, out: Tensor) -> Tensor:  # noqa: ARG002
        """The layer's output for ``value``, out of the product's rows."""
        return out


class Linear(LayerKind):
    kind = "linear"

    def matrix(self, layer: nn.Linear) -> Tensor:
        return layer.weight.T


class Conv1D(LayerKind):
    """The linear layer of transformers' GPT-2, its weight stored input first."""

    kind = "linear"

    def matrix(self, layer: Any) -> Tensor:
        return layer.weight


class Embedding(LayerKind):
    """Ids choose rows of the weight."""

    kind = "embedding"

    def matrix(self, layer: nn.Embedding) -> Tensor:
        return layer.weight

    def bias(self, layer: nn.Embedding) -> Tensor | None:  # noqa: ARG002
        return None


class Conv2d(LayerKind):
    """A linear layer on the patches of an image: ``[B, positions, channels * height * width]``."""

    kind = "conv2d"

    def matrix(self, layer: nn.Conv2d) -> Tensor:
        return layer.weight.flatten(1).T

    def rows(self, layer: nn.Conv2d, value: Tensor) -> Tensor:
        padded = _padded(layer, value)
        patches = nn.functional.unfold(
            padded,
            layer.kernel_size,  # pyright: ignore[reportArgumentType]
            dilation=layer.dilation,  # pyright: ignore[reportArgumentType]
            stride=layer.stride,  # pyright: ignore[reportArgumentType]
        )
        return patches.mT

    def output(self, layer: nn.Conv2d, value: Tensor, out: Tensor) -> Tensor:
        padded = _padded_size(layer, value)
        size = [
            (n - d * (k - 1) - 1) // s + 1
            for n, k, s, d in zip(padded, layer.kernel_size, layer.stride, layer.dilation, strict=True)
        ]
        return out.mT.reshape(out.shape[0], out.shape[-1], *size)


def _edges(layer: nn.Conv2d) -> list[int]:
    """Left, right, top, bottom padding; 'same' puts the odd one right and below, as torch does."""
    return list(layer._reversed_padding_repeated_twice)


def _padded(layer: nn.Conv2d, value: Tensor) -> Tensor:
    edges = _edges(layer)
    if not any(edges):
        return value
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return nn.functional.pad(value, edges, mode=mode)


def _padded_size(layer: nn.Conv2d, value: Tensor) -> tuple[int, int]:
    left, right, top, bottom = _edges(layer)
    return value.shape[-2] + top + bottom, value.shape[-1] + left + right


_BY_CLASS: dict[type, LayerKind] = {nn.Linear: Linear(), nn.Embedding: Embedding(), nn.Conv2d: Conv2d()}
_CONV1D = Conv1D()


def base_class(layer: nn.Module) -> type | None:
    """The class of those that can be decomposed that the layer is one of."""
    for kind in type(layer).__mro__:
        if kind in _BY_CLASS or (kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers.")):
            return kind
    return None


def kind_of(layer: nn.Module) -> LayerKind | None:
    """How the layer is decomposed; None when it cannot be."""
    base = base_class(layer)
    if base is None or obstacle(layer) is not None:
        return None
    return _BY_CLASS.get(base, _CONV1D)


def obstacle(layer: nn.Module) -> str | None:
    """Why a layer of a class that can be decomposed cannot be."""
    if isinstance(layer, nn.Conv2d) and layer.groups != 1:
        return f"groups={layer.groups}"
    if isinstance(layer, nn.Embedding) and layer.max_norm is not None:
        return "max_norm, which changes the weight at every use"
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        return f"weight of type {getattr(weight, 'dtype', type(weight).__name__)}"
    return None


def input_width(module: nn.Module) -> int | None:
    """How many numbers the module reads at a position, where its class tells; else its first layer's."""
    kind = kind_of(module)
    if kind is not None:
        return kind.matrix(module).shape[0] if kind.kind == "linear" else None
    if isinstance(module, nn.LayerNorm):
        return module.normalized_shape[-1]
    own = module._parameters.get("weight")
    if own is not None:
        return own.shape[0] if own.ndim == 1 and not isinstance(module, _PER_CHANNEL) else None
    widths = (input_width(child) for child in module.children())
    return next((width for width in widths if width is not None), None)


_PER_CHANNEL = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.PReLU)


def identity(width: int, like: Tensor, n_instances: int) -> Tensor:
    """The weight of an inserted identity, ``[K, width, width]``."""
    return torch.eye(width, dtype=like.dtype, device=like.device).expand(n_instances, -1, -1)
