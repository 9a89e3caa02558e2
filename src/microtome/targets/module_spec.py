"""Describing a user's ``nn.Module`` so that a saved run can build it again, and building it."""

import importlib
from collections import OrderedDict
from typing import Any

from torch import nn

from microtome.core.errors import CannotLoad

_CONVOLUTION = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "padding_mode",
)
_BATCH_NORM = ("num_features", "eps", "momentum", "affine", "track_running_stats")

# Layers without weights or with weights given by a few numbers: class name -> constructor arguments to keep.
_PLAIN_LAYERS: dict[str, tuple[str, ...]] = {
    "Linear": ("in_features", "out_features"),
    "LayerNorm": ("normalized_shape", "eps"),
    "Dropout": ("p",),
    "ReLU": (),
    "GELU": ("approximate",),
    "SiLU": (),
    "Tanh": (),
    "Sigmoid": (),
    "Softplus": (),
    "LeakyReLU": ("negative_slope",),
    "ELU": ("alpha",),
    "Identity": (),
    "Softmax": ("dim",),
    "LogSoftmax": ("dim",),
    "Mish": (),
    "ReLU6": (),
    "Hardswish": (),
    "Flatten": ("start_dim", "end_dim"),
    "Unflatten": ("dim", "unflattened_size"),
    "Embedding": ("num_embeddings", "embedding_dim", "padding_idx"),
    "Conv1d": _CONVOLUTION,
    "Conv2d": _CONVOLUTION,
    "BatchNorm1d": _BATCH_NORM,
    "BatchNorm2d": _BATCH_NORM,
    "GroupNorm": ("num_groups", "num_channels", "eps", "affine"),
    "RMSNorm": ("normalized_shape", "eps", "elementwise_affine"),
    "Dropout2d": ("p",),
    "MaxPool2d": ("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    "AvgPool2d": ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad"),
    "AdaptiveAvgPool2d": ("output_size",),
}
_HAS_BIAS = (nn.Linear, nn.LayerNorm, nn.Conv1d, nn.Conv2d)

_MEND = "pass the module yourself: microtome.load(path, module=...)"


def module_spec(module: nn.Module) -> dict[str, Any]:
    """JSON-able description: the layers of a plain ``nn.Sequential``, else the importable class name."""
    plain = _plain_spec(module)
    if plain is not None:
        return plain
    kind = type(module)
    return {"class": f"{kind.__module__}:{kind.__qualname__}"}


def build_module(spec: dict[str, Any]) -> nn.Module:
    """The module of a ``module_spec``, weights not yet loaded.

    Raises CannotLoad when it cannot be made again from the description alone.
    """
    if "layers" in spec:
        names = spec.get("names") or [str(i) for i in range(len(spec["layers"]))]
        made = (build_module(layer) for layer in spec["layers"])
        return nn.Sequential(OrderedDict(zip(names, made, strict=True)))
    if "layer" in spec:
        if spec["layer"] not in _PLAIN_LAYERS:
            raise CannotLoad(
                f"layer {spec['layer']!r} is not one that can be rebuilt; pass the module yourself"
            )
        return getattr(nn, spec["layer"])(**spec.get("arguments", {}))
    return _import_and_call(str(spec.get("class")))


def _plain_spec(module: nn.Module) -> dict[str, Any] | None:
    if type(module) is nn.Sequential:
        layers = [_plain_spec(layer) for layer in module]
        names = list(module._modules)
        usual = names == [str(i) for i in range(len(names))]
        return None if None in layers else {"layers": layers} | ({} if usual else {"names": names})
    name = type(module).__name__
    if name not in _PLAIN_LAYERS or type(module) is not getattr(nn, name):
        return None
    arguments = {key: _jsonable(getattr(module, key)) for key in _PLAIN_LAYERS[name]}
    if isinstance(module, _HAS_BIAS):
        arguments["bias"] = module.bias is not None
    if isinstance(module, nn.LayerNorm):
        arguments["elementwise_affine"] = module.elementwise_affine
    return {"layer": name, "arguments": arguments}


def _jsonable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _import_and_call(name: str) -> nn.Module:
    module_name, _, class_name = name.partition(":")
    try:
        kind: Any = importlib.import_module(module_name)
        for part in class_name.split("."):
            kind = getattr(kind, part)
    except (ImportError, AttributeError, ValueError):
        raise CannotLoad(f"{name}: this class cannot be imported here; {_MEND}") from None
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise CannotLoad(f"{name}: not an nn.Module; {_MEND}")
    try:
        return kind()
    except TypeError as error:
        raise CannotLoad(f"{name}: needs arguments to be made ({error}); {_MEND}") from None
