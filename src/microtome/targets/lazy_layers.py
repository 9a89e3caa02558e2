"""Layers that take their sizes from the first input (``nn.LazyLinear``), given by a checkpoint."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy


def make_definite(module: nn.Module, like: Mapping[str, Tensor]) -> None:
    """Turn lazy layers into ordinary ones, freshly initialised, of the shapes that ``like`` has.

    Layers that ``like`` does not name stay lazy.
    """
    for name, part in module.named_modules():
        prefix = f"{name}." if name else ""
        own = {**dict(part.named_parameters(recurse=False)), **dict(part.named_buffers(recurse=False))}
        lazy = {key: v for key, v in own.items() if is_lazy(v)}
        if not isinstance(part, LazyModuleMixin) or any(prefix + key not in like for key in lazy):
            continue
        for key, value in lazy.items():
            value.materialize(tuple(like[prefix + key].shape))
        _become_ordinary(part, like[f"{prefix}weight"].shape if f"{prefix}weight" in like else ())


def _become_ordinary(part: Any, shape: tuple[int, ...]) -> None:
    """What torch does after the first input: the ordinary class, no hooks, its own sizes set."""
    if hasattr(part, "in_features"):
        part.in_features = shape[1]
    elif hasattr(part, "in_channels"):
        transposed = getattr(part, "transposed", False)
        part.in_channels = shape[0] if transposed else shape[1] * int(part.groups)
    elif hasattr(part, "num_features"):
        part.num_features = shape[0]
    for hook in ("_initialize_hook", "_load_hook"):
        if hasattr(part, hook):
            getattr(part, hook).remove()
            delattr(part, hook)
    become = getattr(part, "cls_to_become", None)
    if become is not None:
        part.__class__ = become
    part.reset_parameters()
