"""One recorded run analysed: jumps, ramps, convergence and critical periods, and what to be warned of."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from microtome.core.config_keys import nearest
from microtome.core.errors import bad_value
from microtome.dynamics.convergence import convergence
from microtome.dynamics.critical_periods import Coordination, critical_periods
from microtome.dynamics.jumps import FEWEST, Jump, Method, Ramp, find_jumps, find_ramps
from microtome.dynamics.run import DynamicsRun

FLOOR = 1e-6  # of a series' largest value: less than this is rounding
# The measure that convergence and critical periods are about, unless one is named.
PREFERRED = ("participation_ratio", "participation_ratio_singular_values", "stable_rank")
NOT_COURSES = ("epoch", "lr", "learning_rate", "seconds", "time")  # logged, but no result of the training
OLD_STABLE_RANK = "the original tracker divided by the wrong norm: it is 1 whatever the layer does"


@dataclass
class RunAnalysis:
    """What was found in one run. Scalars such as the loss stand among the jumps and ramps without a layer."""

    run: DynamicsRun
    measures: list[str]  # that were searched
    jumps: list[Jump]
    ramps: list[Ramp]
    convergence: dict[str, Any]
    coordination: Coordination
    loss: np.ndarray | None  # at each record
    main_measure: str
    warnings: list[str] = field(default_factory=list)

    @cached_property
    def found(self) -> bool:
        """Whether anything but the course of a smooth training was found."""
        return bool(self.jumps or self.ramps)


def analyse_run(
    run: DynamicsRun,
    measures: Sequence[str] | None = None,
    *,
    method: Method = "level_shift",
    alpha: float = 0.01,
) -> RunAnalysis:
    """Search the measures of a run (all that are not constant) and its scalars.

    ``alpha`` is the level of one false jump in the whole run. Raises ``MicrotomeError`` for an unknown
    measure or method.
    """
    chosen = _chosen(run, measures)
    flat = [name for name in chosen if _is_degenerate(run.values[name])] if len(run.steps()) else []
    warnings = [_degenerate(run, name) for name in flat]
    living = [name for name in chosen if not _is_degenerate(run.values[name])]
    warnings += _about_records(run, chosen)
    scalars = course_scalars(run)
    jumps: list[Jump] = []
    ramps: list[Ramp] = []
    steps = run.steps()
    groups = [(name, run.layers, run.values[name].T) for name in living]
    groups += [(name, [""], values[None]) for name, values in scalars.items()]
    if len(steps) > 1:
        for name, layers, values in groups:
            level = alpha / len(groups)
            found = find_jumps(steps, values, method, level, FLOOR, layers=layers, measure=name)
            # Where whole numbers are counted, one more or less is rounding of a course that may be smooth.
            least = 1.0 if method == "level_shift" and _counts(values) else 0.0
            jumps += [jump for jump in found if abs(jump.size) > least]
        ramps = _ramps(steps, groups)
    main = _main_measure(chosen, living)
    values = run.values[main].T if main else np.zeros((0, len(steps)))
    layers = run.layers if main else []
    loss = scalars.get("probe_loss", scalars.get("loss"))
    return RunAnalysis(
        run=run,
        measures=chosen,
        jumps=sorted(jumps, key=lambda jump: (jump.index, jump.measure, jump.layer)),
        ramps=sorted(ramps, key=lambda ramp: (ramp.middle, ramp.measure, ramp.layer)),
        convergence=convergence(steps, values, layers),
        coordination=critical_periods(steps, values, layers, loss),
        loss=loss,
        main_measure=main,
        warnings=warnings,
    )


def course_scalars(run: DynamicsRun) -> dict[str, np.ndarray]:
    """Every logged number as a series over the measured steps ``[n]``: the mean since the record before.

    NaN where nothing was logged; numbers that never change, and the likes of epochs, are left out.
    """
    steps, found = run.steps(), {}
    for name in run.scalars().columns:
        if name == "step" or name in NOT_COURSES or not len(steps):
            continue
        logged, values = run.scalar(str(name))
        values = np.where(np.isfinite(values), values, np.nan)
        record = np.searchsorted(steps, logged)
        inside = (record < len(steps)) & ~np.isnan(values)
        sums = np.bincount(record[inside], values[inside], len(steps))
        counts = np.bincount(record[inside], minlength=len(steps))
        series = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
        if counts.any() and np.nanmax(series) > np.nanmin(series):
            found[str(name)] = series
    return found


def _ramps(steps: np.ndarray, groups: list[tuple[str, list[str], np.ndarray]]) -> list[Ramp]:
    """All series at once: what a ramp is compared with does not depend on how many there are."""
    from dataclasses import replace

    if not groups:
        return []
    keys = [(name, layer) for name, layers, _ in groups for layer in layers]
    numbers = [str(place) for place in range(len(keys))]
    found = find_ramps(steps, np.concatenate([values for *_, values in groups]), layers=numbers)
    return [replace(r, measure=keys[int(r.layer)][0], layer=keys[int(r.layer)][1]) for r in found]


def _counts(values: np.ndarray) -> bool:
    """Whether all values are whole numbers."""
    finite = values[np.isfinite(values)]
    return bool((finite == np.round(finite)).all())


def _chosen(run: DynamicsRun, measures: Sequence[str] | None) -> list[str]:
    if measures is None:
        return run.measures
    for name in measures:
        if name not in run.measures:
            near = nearest(name, run.measures)
            mend = f"did you mean {near}?" if near else f"choose {', '.join(run.measures)}"
            raise bad_value("measure", name, f"was not recorded in {run.name}", mend)
    return list(measures)


def _main_measure(chosen: list[str], living: list[str]) -> str:
    pool = living or chosen
    return next((name for name in PREFERRED if name in pool), pool[0] if pool else "")


def _is_degenerate(values: np.ndarray) -> bool:
    """Whether no layer's values ever move by more than rounding."""
    finite = np.where(np.isfinite(values), values, np.nan)
    known = finite[:, ~np.isnan(finite).all(axis=0)]
    if not known.size:
        return True
    ranges = np.nanmax(known, axis=0) - np.nanmin(known, axis=0)
    return bool((ranges <= FLOOR * np.nanmax(np.abs(known), axis=0)).all())


def _degenerate(run: DynamicsRun, name: str) -> str:
    values = run.values[name][np.isfinite(run.values[name])]
    if not len(values):
        return f"{name} has no finite values in {run.name}; nothing was searched in it"
    why = f" ({OLD_STABLE_RANK})" if run.original and name == "stable_rank" else ""
    return f"{name} is degenerate: {values.mean():.6g} up to rounding in every layer{why}; it has no jumps"


def _about_records(run: DynamicsRun, measures: list[str]) -> list[str]:
    told = []
    if not len(run.steps()):
        return [f"{run.name} holds no records; the recording stopped before the first one"]
    if len(run.steps()) < FEWEST:
        told.append(f"{run.name} has {len(run.steps())} records; jumps need {FEWEST}, so none were searched")
    for name in measures:
        gaps = [not np.isfinite(column).all() for column in run.values[name].T]
        if any(gaps) and np.isfinite(run.values[name]).any():
            layers = [layer for layer, gap in zip(run.layers, gaps, strict=True) if gap]
            told.append(
                f"{name} is not finite everywhere in {layers[0]}" + _more(layers) + "; left out there"
            )
    return told


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more layers" if len(names) > 1 else ""
