"""Layers of an exported network as the ``nn.Conv2d``, ``nn.Linear``, ... that they were before the export."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def put_plain_layers(module: nn.Module) -> None:
    """Replace, in place, every part that is one convolution, linear layer, norm or nonlinearity.

    What looks layers up by their class, such as statistics of batch norm, then works as with any network.
    Parts that do more than one thing stay as they are.
    """
    for name, part in list(module.named_modules()):
        graph = getattr(part, "graph", None)
        if not name or not isinstance(graph, torch.fx.Graph) or any(True for _ in part.children()):
            continue
        plain = _plain_layer(part, graph)
        if plain is not None:
            parent, _, last = name.rpartition(".")
            setattr(module.get_submodule(parent), last, plain.train(part.training))


def _plain_layer(part: nn.Module, graph: torch.fx.Graph) -> nn.Module | None:
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    steps = [node for node in graph.nodes if node.op == "call_function"]
    if len(inputs) != 1 or len(steps) != 1 or steps[0].args[:1] != (inputs[0],):
        return None
    output = next(node for node in graph.nodes if node.op == "output")
    if output.args[0] not in (steps[0], (steps[0],), [steps[0]]) or steps[0].kwargs:
        return None
    operation = str(steps[0].target)
    make = _LAYERS.get(operation.removeprefix("aten.").removesuffix(".default"))
    tensors = dict(part.named_parameters(recurse=False)) | dict(part.named_buffers(recurse=False))
    arguments = [
        tensors.get(str(value.target)) if isinstance(value, torch.fx.Node) else value
        for value in steps[0].args[1:]
    ]
    named = [value for value in steps[0].args[1:] if isinstance(value, torch.fx.Node)]
    if make is None or any(node.op != "get_attr" or str(node.target) not in tensors for node in named):
        return None
    return make(*arguments)


def _conv2d(
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = (1, 1),
    padding: Any = (0, 0),
    dilation: Any = (1, 1),
    groups: int = 1,
) -> nn.Module:
    out, d_in, height, width = weight.shape
    layer = nn.Conv2d(
        d_in * groups,
        out,
        (height, width),
        tuple(stride) * (2 // len(stride)),
        tuple(padding) * (2 // len(padding)),
        tuple(dilation) * (2 // len(dilation)),
        groups,
        bias is not None,
        device=weight.device,
        dtype=weight.dtype,
    )
    return _with(layer, weight=weight, bias=bias)


def _linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> nn.Module:
    out, d_in = weight.shape
    layer = nn.Linear(d_in, out, bias is not None, device=weight.device, dtype=weight.dtype)
    return _with(layer, weight=weight, bias=bias)


def _batch_norm(
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor | None,
    variance: torch.Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> nn.Module | None:
    if weight is None or bias is None or (training and mean is not None):
        return None
    layer = nn.BatchNorm2d(len(weight), eps, momentum, track_running_stats=mean is not None)
    return _with(layer.to(weight), weight=weight, bias=bias, running_mean=mean, running_var=variance)


def _layer_norm(
    shape: list[int],
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> nn.Module | None:
    if weight is None or bias is None:
        return None
    return _with(nn.LayerNorm(shape, eps).to(weight), weight=weight, bias=bias)


def _with(layer: nn.Module, **tensors: torch.Tensor | None) -> nn.Module:
    """The layer holding these very tensors, so that shared weights stay shared."""
    for name, value in tensors.items():
        if value is not None:
            setattr(layer, name, value)
    return layer


_LAYERS: dict[str, Callable[..., nn.Module | None]] = {
    "conv2d": _conv2d,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "relu": nn.ReLU,
    "relu_": nn.ReLU,
}
