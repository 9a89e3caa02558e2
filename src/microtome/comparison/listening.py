"""Hear every layer and the nonlinearity that follows it while a network runs, modules or functions alike."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from microtome.hooks import first_tensor, submodules

NONLINEARITIES = frozenset(
    {
        *(
            "relu",
            "relu6",
            "leaky_relu",
            "prelu",
            "rrelu",
            "elu",
            "selu",
            "celu",
            "gelu",
            "silu",
            "mish",
            "glu",
        ),
        *("softplus", "softsign", "tanh", "sigmoid", "logsigmoid", "hardtanh", "hardswish", "hardsigmoid"),
        "threshold",
    }
)
Heard = Callable[[str, Tensor], None]


def is_layer(module: nn.Module) -> bool:
    """A module without parts of its own that multiplies by a weight: convolution or linear layer."""
    weight = getattr(module, "weight", None)
    leaf = next(module.children(), None) is None
    return leaf and isinstance(weight, Tensor) and weight.ndim >= 2 and not _looks_up(module)


def _looks_up(module: nn.Module) -> bool:
    return isinstance(module, (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm))


def channels_last(module: nn.Module, output: Tensor) -> bool:
    """Whether the channels of its output are the last dimension (linear layers, tokens) or the second."""
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and weight.ndim >= 2:
        return weight.ndim == 2
    return output.ndim != 4


@contextmanager
def listening(
    module: nn.Module, names: Sequence[str], layer: Heard, nonlinearity: Heard, every: Heard | None = None
) -> Iterator[None]:
    """While the block runs, tell ``layer(name, output)`` and ``nonlinearity(name of the layer, output)``.

    The nonlinearity of a layer is the first one between it and the next layer, with as many samples. A layer
    that runs several times in one pass is told each time. Outputs are not copied and must be used at once.
    """
    current: list[str] = []

    def ran(name: str, output: Any) -> None:
        current[:] = [name]
        with torch._C.DisableTorchFunction():  # what is done with the output need not be heard
            layer(name, first_tensor(output))

    def applied(function: str, output: Tensor) -> None:
        if current:
            nonlinearity(current.pop(), output)
            if every is not None:
                every(function, output)

    with ExitStack() as stack:
        for name, part in submodules(module, names).items():
            stack.callback(part.register_forward_hook(lambda _m, _a, out, name=name: ran(name, out)).remove)
        stack.enter_context(_Nonlinearities(applied))
        yield


class _Nonlinearities(TorchFunctionMode):
    """Tells of every call of a nonlinear function, from a module or not."""

    def __init__(self, applied: Callable[[str, Tensor], None]):
        super().__init__()
        self._applied = applied

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "").split(".")[0].strip("_")
        if name in NONLINEARITIES and isinstance(output, Tensor):
            self._applied(name, output)
        return output
