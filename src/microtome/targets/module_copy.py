"""A frozen copy of somebody's module, whatever has been wrapped around it."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from microtome.core.errors import MicrotomeError


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside ``torch.compile`` and data-parallel wrappers.

    Raises MicrotomeError for a scripted module and for layers that have no size yet.
    """
    while True:
        if hasattr(module, "_orig_mod"):
            inner: Any = module._orig_mod
        elif isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = module.module
        else:
            break
        module = inner
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise MicrotomeError(
            f"{type(module).__name__}: scripted, so that its layers cannot be replaced; pass the module that "
            "was scripted"
        )
    for name, tensor in module.named_parameters():
        if is_lazy(tensor):
            kind = type(module.get_submodule(name.rpartition(".")[0])).__name__
            raise MicrotomeError(f"{name}: {kind} has no size yet; run the module once on your data")
    return module


def copied(module: nn.Module) -> nn.Module:
    """A deep copy. Tensors that are worked out of parameters, as by the older weight_norm, come along."""
    derived: dict[int, Any] = {}
    for part in module.modules():
        for value in part.__dict__.values():
            if isinstance(value, Tensor) and not value.is_leaf:
                derived[id(value)] = value.detach().clone()
    return copy.deepcopy(module, derived)


def refresh(layer: nn.Module) -> None:
    """Work out a weight that hooks make of parameters at every call, as the older weight_norm does."""
    for hook in layer._forward_pre_hooks.values():
        if isinstance(hook, (WeightNorm, SpectralNorm)):
            hook(layer, ())
