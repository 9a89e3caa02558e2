"""What differs between two moments of training: dimensions always, and states where they were kept."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from microtome.core.config_keys import nearest
from microtome.core.errors import MicrotomeError, bad_value
from microtome.dynamics.moments import CriticalMoment
from microtome.dynamics.run import DynamicsRun
from microtome.measures.weight_change import relative

if TYPE_CHECKING:
    from torch import nn

# The first of these that a run has is compared layer by layer; the rest stands beside it.
PREFERRED = (
    "participation_ratio",
    "participation_ratio_singular_values",
    "entropy_rank",
    "effective_rank_90",
)
FEWEST_PAIRS = 5
NO_STATES = "dimensionality only: {why}, so that activations, attention and weights cannot be compared"


@dataclass
class AnalysisResult:
    """What a comparison found. ``moment`` is like ``before_jump_to_after_jump``.

    ``measurements`` holds ``step_before``, ``step_after``, ``loss_before``, ``loss_after``, ``loss_change``,
    ``layer_changes`` (layer -> ``before``, ``after``, ``change``, ``relative_change`` of ``measure``), the
    same for every measure under ``measures``, ``usual_changes`` (layer -> what as long a span changes
    elsewhere in the run), ``notes`` on what could not be compared, and, where states were kept, ``states``,
    ``weights``, ``filters``, ``probe``, ``representations`` and ``attention``.
    ``visualizations`` maps a picture's name to its file, once it is drawn.
    """

    experiment: str
    moment: str
    measurements: dict[str, Any]
    visualizations: dict[str, Any] = field(default_factory=dict)


def compare(
    run: DynamicsRun,
    a: int | CriticalMoment,
    b: int | CriticalMoment,
    *,
    model: "nn.Module | None" = None,
    measure: str | None = None,
    other: DynamicsRun | None = None,
) -> AnalysisResult:
    """Compare ``run`` at training step ``a`` with ``b`` (of ``other``, if another run is given).

    Measures are those recorded nearest to the steps; states are the nearest checkpoints. ``model`` is the
    network to load them into; built-in tasks know theirs. Raises ``MicrotomeError`` for moments out of order,
    for two runs with different layers, and for a probe or a state that does not fit the model.
    """
    second = run if other is None else other
    _same_layers(run, second)
    steps = (_step(a), _step(b))
    rows = [_nearest(r, step) for r, step in ((run, steps[0]), (second, steps[1]))]
    if other is None and steps[0] >= steps[1]:
        raise MicrotomeError(
            f"steps {steps[0]} and {steps[1]}: moments out of order; give the earlier one first"
        )
    notes: list[str] = []
    if other is None and rows[0] == rows[1]:
        notes.append(
            f"steps {steps[0]} and {steps[1]} have the same nearest record, that of step"
            f" {run.steps()[rows[0]]}; nothing was measured between them"
        )
    else:
        notes += _records_that_stand_in((run, second), steps, rows)
    found = {
        "step_before": int(run.steps()[rows[0]]),
        "step_after": int(second.steps()[rows[1]]),
        **_losses(run, second, rows),
        **dimension_changes(run, second, rows, measure),
        "notes": notes,
    }
    if other is None:
        found["usual_changes"] = usual_changes(run, found["measure"], rows)
    found |= _states(run, second, steps, model, notes)
    name = run.name if other is None else f"{run.name} and {second.name}"
    return AnalysisResult(name, f"{_word(a)}_to_{_word(b)}", found)


def change(before: float, after: float) -> dict[str, float]:
    """``before``, ``after``, ``change``, and ``relative_change`` as a share of before (NaN from 0)."""
    return {
        "before": before,
        "after": after,
        "change": after - before,
        "relative_change": relative(after - before, before),
    }


def dimension_changes(
    run: DynamicsRun, second: DynamicsRun, rows: list[int], measure: str | None = None
) -> dict[str, Any]:
    """``measure`` (the name), ``layer_changes`` and ``measures`` between two records."""
    shared = [name for name in run.measures if name in second.measures]
    if not shared:
        raise MicrotomeError(f"{run.name} and {second.name}: no measure in common; record the same ones")
    if measure is not None and measure not in shared:
        near = nearest(measure, shared)
        mend = f"did you mean {near}?" if near else f"choose {', '.join(shared)}"
        raise bad_value("measure", measure, "was not recorded", mend)
    chosen = measure or next((name for name in PREFERRED if name in shared), shared[0])
    table = {
        name: {
            layer: change(
                float(run.values[name][rows[0], run.layers.index(layer)]),
                float(second.values[name][rows[1], second.layers.index(layer)]),
            )
            for layer in run.layers
        }
        for name in shared
    }
    return {"measure": chosen, "layer_changes": table[chosen], "measures": table}


def usual_changes(run: DynamicsRun, measure: str, rows: list[int]) -> dict[str, float]:
    """How much each layer's measure changes elsewhere in the run over a span of this length.

    The median absolute change between records that lie about as many steps apart (half to twice), outside
    the span that is compared; NaN with fewer than five such pairs.
    """
    steps, values = run.steps(), run.values[measure]
    span = steps[rows[1]] - steps[rows[0]]
    ends = np.clip(np.searchsorted(steps, steps + span), 0, len(steps) - 1)
    apart = steps[ends] - steps
    outside = (steps[ends] <= steps[rows[0]]) | (steps >= steps[rows[1]])
    starts = np.flatnonzero((apart >= span / 2) & (apart <= span * 2) & (apart > 0) & outside)
    changes = np.abs(values[ends[starts]] - values[starts])
    enough = len(starts) >= FEWEST_PAIRS
    return {
        layer: float(np.nanmedian(changes[:, place]))
        if enough and np.isfinite(changes[:, place]).any()
        else np.nan
        for place, layer in enumerate(run.layers)
    }


def _losses(run: DynamicsRun, second: DynamicsRun, rows: list[int]) -> dict[str, float]:
    pair = [_scalar(r, "loss", int(r.steps()[row])) for r, row in ((run, rows[0]), (second, rows[1]))]
    return {"loss_before": pair[0], "loss_after": pair[1], "loss_change": pair[1] - pair[0]}


def _scalar(run: DynamicsRun, name: str, step: int) -> float:
    """The scalar logged nearest to a step; NaN when it never was."""
    steps, values = run.scalar(name)
    return float(values[np.abs(steps - step).argmin()]) if len(steps) else float("nan")


def _states(
    run: DynamicsRun,
    second: DynamicsRun,
    steps: tuple[int, int],
    model: "nn.Module | None",
    notes: list[str],
) -> dict[str, Any]:
    """What the kept states tell, or nothing and a note that says why."""
    kept = [r.checkpoint_steps() for r in (run, second)]
    if not all(kept):
        notes.append(NO_STATES.format(why="no model states were kept"))
        return {"states": None}
    chosen = nearest_states(kept, steps)
    if run is second and chosen[0] == chosen[1]:
        notes.append(
            NO_STATES.format(why=f"the state of step {chosen[0]} is the nearest one to both moments")
        )
        return {"states": None}
    from microtome.dynamics.state_comparison import compare_kept

    for step, used, word in zip(steps, chosen, ("before", "after"), strict=True):
        if used != step:
            notes.append(f"the state {word} is that of step {used}, the nearest one kept to step {step}")
    found = {"states": {"before": chosen[0], "after": chosen[1]}}
    return found | compare_kept((run, second), chosen, model, notes)


def nearest_states(kept: list[list[int]], steps: tuple[int, int]) -> tuple[int, int]:
    """The kept steps nearest to two moments; of two equally near, the one further outside."""
    before = min(kept[0], key=lambda step: (abs(step - steps[0]), step))
    after = min(kept[1], key=lambda step: (abs(step - steps[1]), -step))
    return before, after


def _same_layers(run: DynamicsRun, second: DynamicsRun) -> None:
    if set(run.layers) != set(second.layers):
        only = sorted(set(run.layers) ^ set(second.layers))
        raise MicrotomeError(
            f"{run.name} and {second.name}: different layers, such as {only[0]};"
            " compare runs of one architecture"
        )


def _records_that_stand_in(
    runs: tuple[DynamicsRun, DynamicsRun], steps: tuple[int, int], rows: list[int]
) -> list[str]:
    """A note for each moment at which nothing was measured, such as a step after the last."""
    used = [int(run.steps()[row]) for run, row in zip(runs, rows, strict=True)]
    return [
        f"the measures {word} are those of step {found}, the record nearest to step {step}"
        for step, found, word in zip(steps, used, ("before", "after"), strict=True)
        if found != step
    ]


def _step(moment: int | CriticalMoment) -> int:
    return int(moment.step if isinstance(moment, CriticalMoment) else moment)


def _word(moment: int | CriticalMoment) -> str:
    return moment.moment_type if isinstance(moment, CriticalMoment) else f"step_{moment}"


def _nearest(run: DynamicsRun, step: int) -> int:
    """Row of the record nearest to a step, the first of two equally near."""
    if not len(run.steps()):
        raise MicrotomeError(f"{run.name}: nothing was measured; record the run again")
    return int(np.abs(run.steps() - step).argmin())
