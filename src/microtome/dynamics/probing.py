"""Run a network in a kept state on the recorded probe: activations, attention, loss and accuracy."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from microtome.attention_patterns import record_attention
from microtome.core.errors import MicrotomeError
from microtome.dynamics.attachment import Taps, plain_name, unwrapped
from microtome.dynamics.looking import probe_scalars
from microtome.dynamics.undisturbed import call, undisturbed

LABELS = "labels"
_ORDERED = re.compile(r"inputs?[._]?(\d*)")


@dataclass(frozen=True)
class Probed:
    """What a network did on the probe: activations as rows ``[n, d]``, as they were measured.

    ``loss`` (cross-entropy in nats, or mean squared error) and ``accuracy`` are None without labels.
    """

    activations: dict[str, Tensor]
    attention: dict[str, Tensor]
    loss: float | None
    accuracy: float | None


def run_probe(
    model: nn.Module,
    state: Mapping[str, Tensor] | None,
    probe: Mapping[str, Tensor],
    layers: Sequence[str] = (),
    conv: Literal["mean", "flatten"] = "mean",
) -> Probed:
    """Load ``state`` into ``model`` (None leaves it) and run it on the probe in evaluation mode.

    Raises ``MicrotomeError`` for a state or a probe that does not fit, and an unknown layer.
    """
    model = unwrapped(model)
    if state is not None:
        load(model, state)
    taps = Taps(model, list(dict.fromkeys(layer.partition("#")[0] for layer in layers)), conv)
    with undisturbed(model), taps.listening(), record_attention(model) as attention:
        output = run_on(model, probe)
    rows = {layer: taps.rows[layer] for layer in layers if layer in taps.rows}
    scalars = probe_scalars(output, probe.get(LABELS))
    return Probed(
        rows, dict(attention), *(_number(scalars.get(f"probe_{name}")) for name in ("loss", "accuracy"))
    )


def _number(value: Tensor | None) -> float | None:
    return None if value is None else float(value)


def load(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a kept state. Raises ``MicrotomeError`` with the first tensor that does not fit."""
    own = {plain_name(name): tensor for name, tensor in model.state_dict().items()}
    odd = sorted(set(own) ^ set(state)) + [
        name for name in own if name in state and own[name].shape != state[name].shape
    ]
    if odd:
        raise MicrotomeError(f"{odd[0]}: the state does not fit the model; give the model that was recorded")
    model.load_state_dict({name: state[plain_name(name)] for name in model.state_dict()})


def run_on(model: nn.Module, probe: Mapping[str, Tensor]) -> Any:
    """The model's output on a stored probe. Raises ``MicrotomeError`` in one line when it cannot take it."""
    given = inputs_of(probe)
    try:
        return call(model, given)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:140]
        shapes = ", ".join(f"{name} {list(x.shape)}" for name, x in probe.items() if name != LABELS)
        raise MicrotomeError(
            f"probe ({shapes}): does not fit the model ({said}); give the model that was recorded"
        ) from None


def inputs_of(probe: Mapping[str, Tensor]) -> Any:
    """What the model is called with: one tensor, several in order (``inputs_0`` ...), or by their names."""
    given = {name: tensor for name, tensor in probe.items() if name != LABELS}
    if all(_ORDERED.fullmatch(name) for name in given):
        ordered = [given[name] for name in sorted(given, key=lambda name: int(re.sub(r"\D", "", name) or 0))]
        return ordered[0] if len(ordered) == 1 else ordered
    return given
