"""The tidy rows of one task: accuracy, selectivity, code length and depth of every arm, with controls."""

from collections.abc import Iterator

import numpy as np

from microtome.comparison.arms import Arm, Arms
from microtome.comparison.part import Row
from microtome.comparison.probe_config import ProbeConfig
from microtome.comparison.probe_depth import Depth, decodable_from, image_weights
from microtome.comparison.probe_results import TaskResult, mean_intervals
from microtome.comparison.statistics import permutation_p

KINDS = ("linear", "MLP", "logistic")
ONE = "interval covers the images only: one network"


def task_rows(result: TaskResult, arms: Arms, settings: ProbeConfig, seed: int) -> list[Row]:
    """Rows of all arms; differences between arms are made elsewhere."""
    rows: list[Row] = []
    for arm in arms.given:
        floor = arms.floors.get(arm.name)
        for kind in KINDS:
            rows += _accuracies(result, arm, floor, kind)
        rows += _selectivities(result, arm)
        rows += _code_lengths(result, arm, floor)
        rows += _depths(result, arm, floor, settings, seed)
    return rows


def _accuracies(result: TaskResult, arm: Arm, floor: Arm | None, kind: str) -> Iterator[Row]:
    values = result.correct(arm.name, kind)
    if values is None:
        return
    untrained = None if floor is None else result.correct(floor.name, kind)
    null = result.null(arm.name)
    for i, (layer, (mean, low, high)) in enumerate(zip(result.layers, mean_intervals(values), strict=True)):
        yield Row(
            "probes",
            f"{kind} accuracy",
            mean,
            layer,
            arm.name,
            label=result.task.name,
            low=low,
            high=high,
            floor=None if untrained is None else float(untrained[i].mean()),
            null=float(null[i].mean()),
            n=values.shape[2],
            seeds=values.shape[1],
            # Permuted labels were given to linear probes only.
            p=permutation_p(mean, null[i], sides=1) if kind == "linear" else None,
            note=ONE if values.shape[1] == 1 else "",
        )


def _selectivities(result: TaskResult, arm: Arm) -> Iterator[Row]:
    """Accuracy above that on control labels (Hewitt and Liang 2019, arXiv:1909.03368)."""
    values = result.correct(arm.name, "linear")
    if values is None:
        return
    for i, (layer, (mean, low, high)) in enumerate(zip(result.layers, mean_intervals(values), strict=True)):
        controls = np.stack([layers[i].controls for layers in result.networks[arm.name]])
        control = float(controls.mean())
        # Controls are as random as the labels they drew: their spread is part of the interval.
        drawn = controls.mean(0)
        half = 1.96 * drawn.std(ddof=1) / np.sqrt(len(drawn)) if len(drawn) > 1 else 0.0
        value = mean - control
        yield Row(
            "probes",
            "linear selectivity",
            value,
            layer,
            arm.name,
            label=result.task.name,
            low=value - float(np.hypot(mean - low, half)),
            high=value + float(np.hypot(high - mean, half)),
            n=values.shape[2],
            seeds=values.shape[1],
            note=f"control: random labels of {result.control_types}, accuracy {control:.3g}",
        )


def _code_lengths(result: TaskResult, arm: Arm, floor: Arm | None) -> Iterator[Row]:
    bits = result.bits(arm.name)
    if bits is None:
        return
    untrained = None if floor is None else result.bits(floor.name)
    uniform = float(np.log2(len(result.task.classes)))
    intervals = mean_intervals(bits, share=False)
    for i, (layer, (mean, low, high)) in enumerate(zip(result.layers, intervals, strict=True)):
        yield Row(
            "probes",
            "description length",
            mean,
            layer,
            arm.name,
            label=result.task.name,
            low=low,
            high=high,
            floor=None if untrained is None else float(untrained[i].mean()),
            null=result.networks[arm.name][0][i].null_bits,
            n=bits.shape[2],
            seeds=bits.shape[1],
            note=f"bits an image; uniform code {uniform:.4g}",
        )


def depth_of(
    result: TaskResult, name: str, null: np.ndarray, weights: np.ndarray, share: float
) -> Depth | None:
    """Where the task becomes decodable in the networks called ``name``, by linear probes."""
    values = result.correct(name, "linear")
    return None if values is None else decodable_from(values.mean(1), null.mean(1), weights, share)


def above_chance(result: TaskResult, name: str, null_of: str = "", alpha: float = 0.05) -> bool:
    """Whether the best layer beats the best layer under each of nearly all permutations of the labels.

    Untrained networks are held against the permutations of the arm ``null_of``.
    """
    values, null = result.correct(name, "linear"), result.null(null_of or name)
    assert values is not None
    return permutation_p(float(values.mean((1, 2)).max()), null.max(0), sides=1) < alpha


def _depths(
    result: TaskResult, arm: Arm, floor: Arm | None, settings: ProbeConfig, seed: int
) -> Iterator[Row]:
    n, null = len(result.task.values), result.null(arm.name)
    weights = image_weights(n, settings.bootstraps, seed)
    depth = depth_of(result, arm.name, null, weights, settings.decodable_share)
    untrained = None
    if floor is not None and floor.name in result.networks and above_chance(result, floor.name, arm.name):
        untrained = depth_of(result, floor.name, null, weights, settings.decodable_share)
    if depth is None or not above_chance(result, arm.name):
        return
    names = result.layers
    yield Row(
        "probes",
        "decodable from layer",
        float(depth.layer + 1),
        names[depth.layer],
        arm.name,
        label=result.task.name,
        low=depth.low + 1,
        high=depth.high + 1,
        floor=None if untrained is None else float(untrained.layer + 1),
        n=n,
        seeds=len(result.networks[arm.name]),
        note=f"between {names[int(depth.low)]} and {names[int(depth.high)]}; first layer with "
        f"{settings.decodable_share:.0%} of the best accuracy above chance",
    )
