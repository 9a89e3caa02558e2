"""The arrays that pictures of probes are drawn from, by task, arm and what they hold."""

import numpy as np

from microtome.comparison.arms import Arms
from microtome.comparison.probe_config import ProbeConfig
from microtome.comparison.probe_results import TaskResult

SHRINKAGES = "shrinkages"


def key(*names: str) -> str:
    """Name of an array: ``task/arm/what``."""
    return "/".join(names)


def store(arrays: dict[str, np.ndarray], result: TaskResult, arms: Arms, settings: ProbeConfig) -> None:
    """Add one task's arrays: correctness of every image, nulls, untrained networks, curves of training."""
    task = result.task.name
    arrays[SHRINKAGES] = np.array(settings.shrinkages)
    arrays[key(task, "chance")] = np.array([result.task.chance, 1 / len(result.task.classes)])
    if result.blocks:
        arrays[key(task, "known")] = np.array(result.blocks)
    for arm in arms.given:
        for kind in ("linear", "MLP", "logistic"):
            values = result.correct(arm.name, kind)
            if values is not None:
                arrays[key(task, arm.name, kind, "correct")] = values.astype(bool)
        arrays[key(task, arm.name, "null")] = result.null(arm.name)
        first = result.networks[arm.name][0]
        arrays[key(task, arm.name, "inner")] = np.stack([one.inner for one in first])
        if first[0].sent is not None:
            arrays[key(task, arm.name, "sent")] = np.stack([np.asarray(one.sent) for one in first])
        if first[0].curves is not None:
            for what in ("steps", "train", "inner"):
                curves = [(one.curves or {})[what] for one in first]
                arrays[key(task, arm.name, f"MLP {what}")] = _padded(curves)
        floor = arms.floors.get(arm.name)
        for kind in ("linear", "MLP"):
            values = None if floor is None else result.correct(floor.name, kind)
            if values is not None:
                arrays[key(task, arm.name, kind, "untrained")] = values.mean(2)
    for a, b in arms.pairs:
        arrays[key(task, a.name, b.name, "noise")] = _noise(arrays, task, a.name, b.name)


def _padded(curves: list[np.ndarray]) -> np.ndarray:
    """Curves of unequal length as one array, NaN after their ends."""
    longest = max(len(curve) for curve in curves)
    return np.stack([np.pad(c.astype(float), (0, longest - len(c)), constant_values=np.nan) for c in curves])


def _noise(arrays: dict[str, np.ndarray], task: str, a: str, b: str) -> np.ndarray:
    """How far apart two untrained networks are by chance: 95 % of their differences, a layer."""
    floors = [arrays.get(key(task, arm, "linear", "untrained")) for arm in (a, b)]
    spreads = [f.var(1, ddof=1) for f in floors if f is not None and f.shape[1] > 1]
    return 1.96 * np.sqrt(sum(spreads)) if len(spreads) == 2 else np.array([])
