"""Inputs that a network cannot run on are told in one line, before anything is made of them."""

from collections.abc import Callable

import torch
from torch import Tensor

from microtome.core.errors import MicrotomeError


def try_out(run: Callable[[Tensor], object], x: Tensor) -> None:
    """Run on a few inputs ``[1, n, ...]``. Raises ``MicrotomeError`` that names their type and shape."""
    try:
        with torch.no_grad():
            run(x)
    except (RuntimeError, IndexError, TypeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        kind = f"{x.dtype} of shape [n, {', '.join(map(str, x.shape[2:]))}]"
        raise MicrotomeError(f"data: the module cannot run on {kind} ({first}); pass its inputs") from error
