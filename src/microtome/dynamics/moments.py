"""Critical moments of a run: where to look before and after, and which states a re-run should keep."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from microtome.core.config_keys import nearest
from microtome.core.errors import bad_value
from microtome.dynamics.run import DynamicsRun

BY = ("jump", "ramp", "period", "loss")
LOSSES = ("probe_loss", "loss", "test_loss", "val_loss")
# What each kind's statistic must reach to be found at all: the unit that makes kinds comparable.
UNITS = {"jump": 4.6, "ramp": 8.0}
WORDS = {
    "jump": ("before_jump", "during_jump", "after_jump"),
    "ramp": ("before_ramp", "during_ramp", "after_ramp"),
    "period": ("before_critical_period", "critical_period", "after_critical_period"),
    "loss": ("before_loss_change", "loss_change", "after_loss_change"),
}


@dataclass
class CriticalMoment:
    """A training step worth looking at.

    ``moment_type`` is ``before_jump``, ``during_jump`` or ``after_jump``, the same with ``ramp``, or
    ``critical_period`` or ``loss_change``, with ``before_`` and ``after_`` too; ``jump_info`` holds what was
    found there.
    """

    experiment_name: str
    step: int
    moment_type: str
    jump_info: dict[str, Any] | None = None


@dataclass
class Change:
    """Something that happened to a run between two records, and how much it stands out."""

    kind: str
    first: int  # record before
    middle: int
    last: int  # record after
    strength: float
    info: dict[str, Any] = field(default_factory=dict)


def identify(
    run: DynamicsRun, num_jumps: int = 5, by: Sequence[str] = BY, span: int | None = None
) -> list[CriticalMoment]:
    """The moments of the ``num_jumps`` foremost changes: before, during and after each.

    A change is a jump or a ramp of one or more layers at once, a period in which layers agree, or a jump or
    ramp of the loss. The strongest of each kind come first, then the second of each, and so on; strength is
    how far a statistic exceeds what its own test asks for, which has no units.
    ``span`` is the number of training steps before and after; left out, the course before and after is taken
    from the change itself. Both lie at least one record away. A smooth run has no moments. Raises
    ``MicrotomeError``.
    """
    for name in by:
        if name not in BY:
            near = nearest(name, list(BY))
            raise bad_value("by", name, "no kind of change", f"did you mean {near}?" if near else "see BY")
    if num_jumps < 1:
        raise bad_value("num_jumps", num_jumps, "nothing to look for", "take 5")
    if span is not None and span < 0:
        raise bad_value("span", span, "negative", "give a number of training steps")
    changes = _ranked(find_changes(run, by))
    steps = run.steps()
    return [moment for change in changes[:num_jumps] for moment in _three(run.name, steps, change, span)]


def plan(moments: Sequence[CriticalMoment]) -> list[int]:
    """The training steps whose states a re-run should keep, ascending."""
    return sorted({moment.step for moment in moments})


def checkpoint_plan(moments: Sequence[CriticalMoment]) -> dict[str, Any]:
    """The documented plan: for each experiment its changes and ``checkpoint_steps``."""
    names = dict.fromkeys(moment.experiment_name for moment in moments)
    plans = {}
    for name in names:
        mine = [moment for moment in moments if moment.experiment_name == name]
        jumps = [
            {**(mine[place + 1].jump_info or {}), "checkpoints": [m.step for m in mine[place : place + 3]]}
            for place in range(0, len(mine) - 2, 3)
        ]
        plans[name] = {"jumps": jumps, "checkpoint_steps": plan(mine)}
    return plans


def told(run: DynamicsRun, moments: Sequence[CriticalMoment]) -> list[str]:
    """Lines about the moments of one run, one a change."""
    if not moments:
        return [f"{run.name}: no moments; nothing stands out of a smooth course"]
    lines = [f"{run.name}: {len(moments) // 3} changes, the strongest of each kind first:"]
    for place in range(0, len(moments) - 2, 3):
        before, during, after = moments[place : place + 3]
        info = during.jump_info or {}
        layers = info.get("layers", [])
        where = ", ".join(layers[:3]) + (f" and {len(layers) - 3} more" if len(layers) > 3 else "")
        joined = "of" if info.get("layer") else "with"  # a logged number is nobody's; layers moved with it
        what = f"{info.get('measure', '')} {joined} {where}" if info.get("measure") and where else where
        lines.append(
            f"  {info.get('kind', 'change'):<6} at step {during.step}"
            f" (before {before.step}, after {after.step}): {what or info.get('measure', '')}"
        )
    return lines


def find_changes(run: DynamicsRun, by: Sequence[str] = BY) -> list[Change]:
    """Every change of a run, those of several layers at the same time as one."""
    from microtome.dynamics.analyse import analyse_run

    analysis = analyse_run(run)
    steps = run.steps()
    found: list[Change] = []
    for jump in analysis.jumps:
        kind = _kind_of(jump.layer, jump.measure, "jump")
        place = jump.index
        around = (place - 1, place, min(place + 1, len(steps) - 1))
        found.append(Change(kind, *around, _strength(jump.z, "jump"), _info(jump, "jump", jump.step)))
    for ramp in analysis.ramps:
        kind = _kind_of(ramp.layer, ramp.measure, "ramp")
        width = ramp.end - ramp.start
        first, middle, last = (_near(steps, ramp.middle + shift * width) for shift in (-1, 0, 1))
        facts = _info(ramp, "ramp", int(steps[middle]))
        found.append(Change(kind, first, middle, last, _strength(ramp.z, "ramp"), facts))
    limit = max(analysis.coordination.limit, 1e-9)
    for period in analysis.coordination.periods:
        middle = (period.first + period.last) // 2
        info = {"kind": "period", "step": int(steps[middle]), **asdict(period), "layers": list(period.layers)}
        strength = 1 + float(np.log(period.coordination / limit))
        found.append(Change("period", period.first, middle, period.last, strength, info))
    return list(_merged([change for change in found if change.kind in by]))


def _strength(statistic: float, kind: str) -> float:
    """1 at what the test asks for; its logarithm, because clean series reach any height."""
    return 1 + float(np.log(max(abs(statistic), UNITS[kind]) / UNITS[kind]))


def _kind_of(layer: str, measure: str, kind: str) -> str:
    return "loss" if not layer and measure in LOSSES else kind


def _info(found: Any, kind: str, step: int) -> dict[str, Any]:
    """The facts of a jump or ramp, with the documented names among them."""
    facts = {"kind": kind, **asdict(found), "step": step, "layers": [found.layer] if found.layer else []}
    direction = "increase" if found.size > 0 else "decrease"
    return {**facts, "magnitude": abs(found.size), "direction": direction}


def _merged(changes: list[Change]) -> Iterable[Change]:
    """Changes of one kind whose middles lie within each other's span, as the strongest of them."""
    kept: list[Change] = []
    for change in sorted(changes, key=lambda change: -change.strength):
        same = next((other for other in kept if other.kind == change.kind and _overlap(other, change)), None)
        if same is None:
            kept.append(change)
            continue
        layers = [*same.info["layers"], *change.info["layers"]]
        same.info["layers"] = list(dict.fromkeys(layers))
    return kept


def _ranked(changes: list[Change]) -> list[Change]:
    """By place within their own kind, then by strength: no kind crowds the others out."""
    changes = sorted(changes, key=lambda change: (-change.strength, change.middle))
    places = [sum(other.kind == change.kind for other in changes[:i]) for i, change in enumerate(changes)]
    order = sorted(range(len(changes)), key=lambda i: (places[i], i))
    return [changes[i] for i in order]


def _overlap(a: Change, b: Change) -> bool:
    return a.first <= b.middle <= a.last or b.first <= a.middle <= b.last


def _three(name: str, steps: np.ndarray, change: Change, span: int | None) -> list[CriticalMoment]:
    first, last, center = change.first, change.last, min(max(change.middle, 1), max(1, len(steps) - 2))
    if span is not None:
        inner = (center - 1, center) if change.kind in ("jump", "loss") else (first, last)
        middle = steps[center]
        first = min(_near(steps, middle - span), inner[0])
        last = max(_near(steps, middle + span), inner[1])
    first, last = max(0, min(first, center - 1)), min(len(steps) - 1, max(last, center + 1))
    info = {**change.info, "strength": change.strength}
    return [
        CriticalMoment(name, int(steps[record]), word, dict(info))
        for record, word in zip((first, center, last), WORDS[change.kind], strict=True)
    ]


def _near(steps: np.ndarray, step: Any) -> int:
    return int(np.abs(steps - step).argmin())
