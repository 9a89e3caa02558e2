"""Blocks of a network computed again in the backward pass instead of kept: memory for time."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from microtome.targets.site_calls import SiteCalls


@contextmanager
def recomputed(blocks: Sequence[nn.Module], calls: SiteCalls) -> Iterator[None]:
    """Inside, each block keeps its input only; the backward pass runs it again, its sites replaced as before.

    Gradients are those of an ordinary pass (torch.utils.checkpoint, without its reentrant variant).
    """
    with ExitStack() as undo:
        for block in blocks:
            block.__dict__["forward"] = _forgetful(block.forward, calls)
            undo.callback(block.__dict__.pop, "forward", None)
        yield


def _forgetful(forward: Callable[..., Any], calls: SiteCalls) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        counts = calls.counts()
        first = [True]

        def block(*args: Any, **kwargs: Any) -> Any:
            if first:
                first.clear()
                return forward(*args, **kwargs)
            with calls.active(), calls.counting_from(counts):
                return forward(*args, **kwargs)

        return checkpoint(block, *args, use_reentrant=False, **kwargs)

    return run


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The members of the outermost lists of modules: a language model's decoder layers."""
    found: list[nn.Module] = []
    for child in module.children():
        found += list(child) if isinstance(child, nn.ModuleList) else blocks_of(child)
    return found
