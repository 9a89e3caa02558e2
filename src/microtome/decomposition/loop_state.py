"""Everything that a loop needs to go on as if it had never stopped, as named tensors."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from microtome.core.errors import CannotLoad

if TYPE_CHECKING:
    from microtome.decomposition.loop import Loop

WARMED_UP = "loop/warmed_up"
NOT_PARAMETERS = ("target/", "optimizer/", "random/", "method/", "data/", "loop/")
"""Beginnings of the names of what is in a checkpoint besides the trained parameters."""


def state_of(loop: "Loop") -> dict[str, Tensor]:
    """Parameters, optimiser, random streams, what losses remember, and the place in streamed data.

    The tensors themselves, to be written at once: a second copy would be as large as all that is trained.
    """
    tensors = {name: tensor.detach() for name, tensor in loop.method.parameters.items()}
    for name, tensor in loop.method.parameters.items():
        for key, value in loop.optimiser.state_of(tensor).items():
            tensors[f"optimizer/{name}/{key}"] = value
    tensors["random/data"] = loop.data_generator.get_state()
    tensors["random/method"] = loop.method.generator.get_state()
    tensors[WARMED_UP] = torch.tensor(loop.warmed_up)
    for prefix, owner in (("method", loop.method), ("data", loop.data)):
        tensors |= {f"{prefix}/{name}": value.detach() for name, value in _own_state(owner).items()}
    return tensors


def restore(loop: "Loop", step: int, tensors: Mapping[str, Tensor]) -> None:
    """Go back to a saved state.

    Raises ``CannotLoad`` where the configuration was edited so that the state does not fit it.
    """
    if step > loop.config.steps:
        raise CannotLoad(f"steps={loop.config.steps}: the run is at step {step} already; give at least that")
    for name, tensor in loop.method.parameters.items():
        saved = tensors.get(name)
        if saved is None or saved.shape != tensor.shape:
            shape = "none" if saved is None else list(saved.shape)
            raise CannotLoad(
                f"{name}: the configuration asks for shape {list(tensor.shape)}, the checkpoint has"
                f" {shape}; undo the changes to config.yaml, or start a new run"
            )
    for name, tensor in loop.method.parameters.items():
        with torch.no_grad():
            tensor.copy_(tensors[name])
        state = _part(tensors, f"optimizer/{name}/")
        if state:
            loop.optimiser.set_state(tensor, state)
    loop.data_generator.set_state(tensors["random/data"])
    loop.method.generator.set_state(tensors["random/method"])
    loop.warmed_up = bool(tensors.get(WARMED_UP, torch.tensor(True)))
    for prefix, owner in (("method/", loop.method), ("data/", loop.data)):
        load = getattr(owner, "load_state_tensors", None)
        if load is not None:
            load(_part(tensors, prefix))


def _own_state(owner: Any) -> dict[str, Tensor]:
    own = getattr(owner, "state_tensors", None)
    return {} if own is None else own()


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
