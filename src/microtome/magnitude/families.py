"""The families of curves that a unified grid shows: values, names, colours, limits, words."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from microtome.plotting.style import LINES, LINES_IMPORTANCE, PALETTE, line_colours

OTHERS = "#c9cdd2"


@dataclass(frozen=True)
class GridData:
    """Responses of one site to one feature, over S magnitudes; ``neurons`` and the gate arrays may be None.

    ``components`` are the indices of the columns of the gate arrays, ``neuron_names`` those of ``neurons``.
    ``activations`` are drawn in place of the gate arrays for a method without gates. ``importance_note``
    says why no component is drawn, ``words`` what kinds of responses each family has; ``neuron_kinds`` and
    ``component_kinds`` are the kinds of those drawn.
    """

    magnitudes: Float[np.ndarray, " S"]
    outputs: Float[np.ndarray, "S d_out"]
    neurons: Float[np.ndarray, "S N"] | None
    neuron_names: Int[np.ndarray, " N"]
    components: Int[np.ndarray, " c"]
    importance: Float[np.ndarray, "S c"] | None = None
    gate_outputs: Float[np.ndarray, "S c"] | None = None
    gate_inputs: Float[np.ndarray, "S c"] | None = None
    activations: Float[np.ndarray, "S c"] | None = None
    importance_note: str = ""
    nonlinear: bool = True  # whether a nonlinearity changes the neurons
    words: dict[str, str] = field(default_factory=dict)
    neuron_kinds: Sequence[str] = ()
    component_kinds: Sequence[str] = ()


@dataclass(frozen=True)
class Family:
    """Curves ``[S, n]`` that share a panel of the overview, and of which each may have one of its own."""

    title: str
    label: str
    values: np.ndarray | None
    names: Sequence[str]
    colours: Sequence[Any]
    words: str = ""
    missing: str = ""
    limits: tuple[float, float] | None = None
    threshold: float | None = None
    own: int | None = None  # the line that is thick, the others being thin
    each: bool = True  # whether each line also has a panel of its own


def activity(data: GridData, pre_activation: bool, feature: int) -> list[Family]:
    """Neurons and outputs."""
    stage = "before" if pre_activation else "after"
    own = feature if feature < data.outputs.shape[1] else None
    outputs = range(data.outputs.shape[1])
    return [
        Family(
            f"Neurons, {stage} the nonlinearity" if data.nonlinear else "Neurons",
            "activation",
            data.neurons,
            _named("neuron", data.neuron_names, data.neuron_kinds),
            line_colours(len(data.neuron_names), LINES),
            data.words.get("neurons", ""),
            "this layer's outputs are\nno neurons",
            _limits(data.neurons),
        ),
        Family(
            "Outputs" if own is None else f"Outputs (output {feature} coloured)",
            "output",
            data.outputs,
            [f"output {i}" for i in outputs],
            [PALETTE[1] if i == own else OTHERS for i in outputs],
            data.words.get("outputs", ""),
            limits=_limits(data.outputs),
            own=own,
            each=False,
        ),
    ]


def of_components(data: GridData, threshold: float) -> list[Family]:
    """Causal importances, gate outputs and gate inputs; without gates, what components write."""
    names = _named("component", data.components)
    kinds = _named("component", data.components, data.component_kinds)
    plasma = line_colours(len(names), LINES_IMPORTANCE)
    missing = data.importance_note

    def family(title: str, label: str, values: np.ndarray | None, words: str = "", **more: Any) -> Family:
        titles = kinds if words else names
        return Family(title, label, values, titles, plasma, data.words.get(words, ""), missing, **more)

    if data.activations is not None:
        limits = _limits(data.activations)
        title = "Component activation (length of its output)"
        return [family(title, "activation", data.activations, "component activations", limits=limits)]
    return [
        family(
            f"Causal importance (if > {threshold:g})",
            "causal importance",
            data.importance,
            "causal importances",
            limits=_importance_limits(data.importance),
            threshold=threshold,
        ),
        family(
            "Gate output, before the sigmoid",
            "gate output",
            data.gate_outputs,
            limits=_limits(data.gate_outputs),
        ),
        family(
            "Gate input (inner activation)", "gate input", data.gate_inputs, limits=_limits(data.gate_inputs)
        ),
    ]


def _named(what: str, names: Int[np.ndarray, " n"], kinds: Sequence[str] = ()) -> list[str]:
    ends = [f": {kind}" for kind in kinds] if len(kinds) else [""] * len(names)
    return [f"{what} {name}{end}" for name, end in zip(names, ends, strict=True)]


def _limits(values: np.ndarray | None) -> tuple[float, float] | None:
    finite = None if values is None else values[np.isfinite(values)]
    if finite is None or not finite.size:
        return None
    low, high = float(finite.min()), float(finite.max())
    room = 0.06 * ((high - low) or 1.0)
    return low - room, high + room


def _importance_limits(values: np.ndarray | None) -> tuple[float, float]:
    # The lower-leaky sigmoid goes below 0, for strongly negative gates too far to show.
    lowest = 0.0 if values is None or not values.size else min(0.0, float(np.nanmin(values)))
    return max(lowest, -0.1) - 0.04, 1.04
