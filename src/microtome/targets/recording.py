"""What reaches the layers of a module while it runs as it is."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from microtome.targets.replacing import has_own_forward, replaced
from microtome.targets.site_kinds import base_class


@dataclass
class Recording:
    """``inputs``: what each layer is first given, by its name and the number of axes.

    Of a layer whose class calls ``super().forward`` it is what that call is given. ``plain``: layers of such
    classes that do not call it, and give what it would.
    """

    inputs: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    plain: set[str] = field(default_factory=set)

    def note(self, name: str, value: Tensor | None) -> None:
        """Keep the first of every number of axes."""
        if value is not None:
            self.inputs.setdefault((name, value.ndim), value)


@contextmanager
def recording(module: nn.Module, names: Iterable[str]) -> Iterator[Recording]:
    """Inside, what reaches the named modules is recorded."""
    found = Recording()
    with ExitStack() as undo:
        undo.enter_context(without_fused_attention())
        for name in names:
            layer = module.get_submodule(name)
            if has_own_forward(layer):
                undo.enter_context(_inside(found, name, layer))
            else:

                def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str = name) -> None:
                    found.note(name, first_tensor(args, kwargs))

                undo.callback(layer.register_forward_pre_hook(before, with_kwargs=True).remove)
        yield found


@contextmanager
def _inside(found: Recording, name: str, layer: nn.Module) -> Iterator[None]:
    """Record what the class hands to ``super().forward``; without that, what it is given itself."""
    base: Any = base_class(layer)
    calls = [0]

    def call(*args: Any, **kwargs: Any) -> Tensor:
        calls[0] += 1
        found.note(name, first_tensor(args, kwargs))
        return base.forward(layer, *args, **kwargs)

    def after(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        if calls[0]:
            return
        found.note(name, first_tensor(args, kwargs))
        if len(args) + len(kwargs) == 1 and isinstance(out, Tensor):
            plain = base.forward(layer, *args, **kwargs)
            if plain.shape == out.shape and torch.allclose(plain, out, rtol=1e-4, atol=1e-5):
                found.plain.add(name)

    handle = layer.register_forward_hook(after, with_kwargs=True)
    try:
        with replaced(layer, call, inside=True):
            yield
    finally:
        handle.remove()


def first_tensor(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """What a layer works on: its first tensor of numbers, of ids where there is none."""
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    return next((value for value in tensors if value.is_floating_point()), tensors[0] if tensors else None)


@contextmanager
def without_fused_attention() -> Iterator[None]:
    """The fused transformer kernel reads the weights itself and would pass the sites by."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
