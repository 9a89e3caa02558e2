"""Running a network for a look, so that its training goes on as if nobody had looked."""

import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Buffers = list[tuple[nn.Module, str]]


def call(model: nn.Module, probe: Any) -> Any:
    """The model's output: a mapping is keyword arguments, a tuple or list positional ones."""
    if isinstance(probe, Mapping):
        return model(**probe)
    if isinstance(probe, (tuple, list)):
        return model(*probe)
    return model(probe)


@contextmanager
def undisturbed(model: nn.Module, changing: Buffers | None = None) -> Iterator[None]:
    """In the block the model is in eval mode, without gradients, autocast and compiled code.

    Afterwards everything is as before: the training flag of every module, the random states of torch (CPU and
    the model's devices), numpy and Python, and the buffers ``changing`` (see ``buffers_that_change``).
    """
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(_random_states(model))
        stack.enter_context(_uncompiled(model))
        # Weights that autocast cast without gradients would stay in its cache, and training would use them.
        for kind in {"cpu", *(tensor.device.type for tensor in model.parameters())}:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        # The fused encoder layer of eval mode calls none of the modules inside it.
        fused = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        stack.callback(torch.backends.mha.set_fastpath_enabled, fused)
        stack.enter_context(_restored(changing or []))
        training = [module for module in model.modules() if module.training]
        try:
            for module in training:
                module.training = False
            yield
        finally:
            for module in training:
                module.training = True


def buffers_that_change(model: nn.Module, run: Any) -> Buffers:
    """The buffers that ``run()`` writes into or replaces; all are put back as they were."""
    every = [(module, name) for module in model.modules() for name in module._buffers]
    before = {(id(m), n): (m._buffers[n], _version(m._buffers[n])) for m, n in every}

    def changed(module: nn.Module, name: str) -> bool:
        old, version = before[id(module), name]
        new = module._buffers.get(name)
        return new is not old or _version(new) != version

    with _restored(every, changed):
        run()
        return [(module, name) for module, name in every if changed(module, name)]


def _version(tensor: Tensor | None) -> int:
    return -1 if tensor is None or tensor.is_inference() else tensor._version


@contextmanager
def _restored(buffers: Buffers, only: Any = None) -> Iterator[None]:
    kept = []
    for module, name in buffers:
        old = module._buffers[name]
        kept.append((module, name, old, None if old is None else old.clone()))
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, old, values in kept:
                if only is not None and not only(module, name):
                    continue
                if old is not None and values is not None:
                    old.copy_(values)
                module._buffers[name] = old


@contextmanager
def _random_states(model: nn.Module) -> Iterator[None]:
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    used = {tensor.device for tensor in model.parameters() if tensor.device.type == "cuda"}
    cuda = {device: torch.cuda.get_rng_state(device) for device in used}
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        for device, state in cuda.items():
            torch.cuda.set_rng_state(state, device)


@contextmanager
def _uncompiled(model: nn.Module) -> Iterator[None]:
    """Compiled modules do not notice new hooks: in the block they run as they were written."""
    if is_compiled(model):
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        yield


def is_compiled(model: nn.Module) -> bool:
    """Whether the model or a part of it was given to ``torch.compile``."""
    return any(
        getattr(part, "_compiled_call_impl", None) is not None or hasattr(part, "_orig_mod")
        for part in model.modules()
    )
