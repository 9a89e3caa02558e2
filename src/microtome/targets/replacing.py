"""Putting something else in place of a layer's forward pass, and taking it away again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from microtome.targets.site_kinds import base_class


def has_own_forward(layer: nn.Module) -> bool:
    """Whether the layer's class computes more, or something else, than the class of nn that it comes from."""
    base = base_class(layer)
    return base is not None and type(layer).forward is not base.forward


@contextmanager
def replaced(layer: nn.Module, call: Callable[..., Tensor], *, inside: bool) -> Iterator[None]:
    """The layer computing ``call`` in place of its forward pass.

    ``inside``: in place of what its class reaches by ``super().forward``, so that what the class does around
    it stays: a scaled embedding still scales.
    """
    if inside:
        own = type(layer)
        base = base_class(layer)
        assert base is not None
        # Comes between the two in the order in which super() looks for methods.
        between = type("Site", (base,), {"forward": lambda _, *args, **kwargs: call(*args, **kwargs)})
        layer.__class__ = type(own.__name__, (own, between), {"__module__": own.__module__})
        try:
            yield
        finally:
            layer.__class__ = own
        return
    before: Any = layer.__dict__.get("forward")
    layer.__dict__["forward"] = call  # an attribute on the instance hides the class's method
    try:
        yield
    finally:
        layer.__dict__.pop("forward", None)
        if before is not None:
            layer.__dict__["forward"] = before
