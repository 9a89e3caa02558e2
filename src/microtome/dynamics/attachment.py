"""Where the recorder listens: which modules of a network are layers, and what they give out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from microtome.core.config_keys import nearest
from microtome.core.errors import MicrotomeError, bad_value
from microtome.hooks import first_tensor
from microtome.measures.dimensionality import MOST_ROWS, Layout, gram, rows_of

MOST_LAYERS = 64
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
WRAPPERS = (nn.parallel.DistributedDataParallel, nn.DataParallel)


def unwrapped(model: nn.Module) -> nn.Module:
    """The network itself, out of ``torch.compile``, DistributedDataParallel and DataParallel.

    Raises ``MicrotomeError`` for a model whose weights are spread over processes: one process alone cannot
    run it.
    """
    for module in model.modules():
        kinds = {kind.__name__ for kind in type(module).__mro__}
        if kinds & {"FullyShardedDataParallel", "FSDPModule"}:
            raise bad_value(
                "model",
                type(model).__name__,
                "its weights are sharded over processes, and one process cannot run it alone",
                "record a DistributedDataParallel or unsharded model",
            )
    while True:
        if isinstance(model, WRAPPERS):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def plain_name(name: str) -> str:
    """A module's or parameter's name without the parts that wrappers put in."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def modules_of(model: nn.Module) -> dict[str, nn.Module]:
    """Every module by its plain name, in module order; a compiled one is the module inside."""
    return {plain_name(name): module for name, module in model.named_modules()}


def automatic_layers(model: nn.Module) -> list[str]:
    """The modules that own a matrix: linear maps, convolutions, embeddings, attention, recurrent layers.

    ``nn.MultiheadAttention`` counts as a whole, because it never calls the projection inside it.
    """
    found, inside = [], ()
    for name, module in modules_of(model).items():
        if inside and name.startswith(inside):
            continue
        if isinstance(module, nn.MultiheadAttention):
            inside = (*inside, f"{name}.")
        if name and _owns_matrix(module):
            found.append(name)
    return found


def _owns_matrix(module: nn.Module) -> bool:
    if "parametrizations" in module._modules:  # weight_norm and its like: the weight is computed
        return isinstance(getattr(module, "weight", None), Tensor)
    if isinstance(module, nn.MultiheadAttention):
        return True
    return any(
        name.startswith("weight") and parameter is not None and parameter.dim() >= 2
        for name, parameter in module._parameters.items()
    )


def thinned(names: Sequence[str], most: int = MOST_LAYERS) -> list[str]:
    """At most ``most`` of the names, evenly spaced, the first and the last among them."""
    if len(names) <= most:
        return list(names)
    places: list[int] = np.linspace(0, len(names) - 1, most).round().astype(int).tolist()
    return [names[place] for place in places]


class Taps:
    """Hooks on layers. While ``open``, every layer that runs leaves its rows (float64) in ``rows``.

    Their Gram matrices are in ``grams``: made at once, while the rows are still in the processor's cache.

    A module that runs twice in a forward pass, shared by two places, is two layers: ``name`` and ``name#2``.
    """

    def __init__(
        self, model: nn.Module, names: Sequence[str], conv: Literal["mean", "flatten"] = "mean"
    ) -> None:
        self.model = model
        self.conv: Literal["mean", "flatten"] = conv
        self.rows: dict[str, Tensor] = {}
        self.grams: dict[str, Tensor] = {}
        self.shapes: dict[str, str] = {}
        self.captured: dict[str, Tensor] | None = None  # a dict while activations are to be kept whole
        self.strange: dict[str, str] = {}
        self.open = False
        self._calls: dict[str, int] = {}
        self._handles: list[RemovableHandle] = []
        known = modules_of(model)
        for name in names:
            if name not in known:
                near = nearest(name, list(known))
                mend = f"did you mean {near}?" if near else "print model.named_modules() for the names"
                raise bad_value("layers", name, "the model has no such module", mend)
        self.modules = {name: known[name] for name in names}

    def attach(self, wanted: Callable[[], bool] | None = None) -> None:
        """Put the hooks on; ``wanted`` is asked at every forward pass of the model whether to listen."""
        for name, module in self.modules.items():
            layout: Layout = "channels_first" if isinstance(module, CONVOLUTIONS) else "features_last"
            hook = self._hook(name, layout)
            self._handles.append(module.register_forward_hook(hook))
        if wanted is not None:
            self._handles.append(self.model.register_forward_pre_hook(lambda _m, _a: self._begin(wanted())))

    def detach(self) -> None:
        """Take the hooks off."""
        while self._handles:
            self._handles.pop().remove()

    def clear(self) -> None:
        """Forget what was heard."""
        self.rows, self.grams, self._calls = {}, {}, {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hooks on and open for the length of the block."""
        self.clear()
        self.attach()
        self.open = True
        try:
            yield
        finally:
            self.open = False
            self.detach()

    def order(self, names: Sequence[str]) -> list[str]:
        """Layers in module order, the calls of one module in the order in which it was called."""
        place = {name: i for i, name in enumerate(modules_of(self.model))}

        def key(name: str) -> tuple[int, int]:
            base, _, number = name.partition("#")
            return place[base], int(number or 1)

        return sorted(names, key=key)

    def _begin(self, wanted: bool) -> None:
        self.open = wanted
        if wanted:
            self.clear()

    def _hook(self, name: str, layout: Layout) -> Callable[[nn.Module, Any, Any], None]:
        def hear(_module: nn.Module, _arguments: Any, output: Any) -> None:
            if not self.open:
                return
            number = self._calls[name] = self._calls.get(name, 0) + 1
            own = name if number == 1 else f"{name}#{number}"
            try:
                self._keep(own, output, layout)
            except (MicrotomeError, RuntimeError, TypeError) as error:  # never the training's problem
                self.strange[own] = " ".join(str(error).split())

        return hear

    @torch.no_grad()
    def _keep(self, name: str, output: Any, layout: Layout) -> None:
        tensor = first_tensor(output).detach()
        if not tensor.is_floating_point():
            raise MicrotomeError(f"{name}: gives {tensor.dtype}, not floating-point numbers")
        rows = rows_of(tensor, layout, self.conv, MOST_ROWS)
        if rows.device.type == "mps":  # which has no float64
            rows = rows.cpu()
        # A copy: an in-place ReLU may write over the output the moment we return.
        self.rows[name] = kept = rows.to(torch.float64, copy=True)
        self.grams[name] = gram(kept)
        if name not in self.shapes:
            self.shapes[name] = _words(tensor, rows, layout, self.conv)
        if self.captured is not None:
            self.captured[name] = tensor.clone()


def _words(tensor: Tensor, rows: Tensor, layout: Layout, conv: str) -> str:
    """How a layer's output became rows, for the record."""
    shape, made = list(tensor.shape), list(rows.shape)
    if tensor.dim() <= 2:
        how = "as it is"
    elif layout == "channels_first":
        how = "mean over space" if conv == "mean" else "channels and places as columns"
    else:
        how = "every position a row"
    if len(rows) == MOST_ROWS and tensor.numel() > rows.numel():
        how += f", {MOST_ROWS} of them evenly spaced"
    return f"{shape} -> {made}: {how}"
