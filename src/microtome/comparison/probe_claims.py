"""Differences between arms in what can be decoded: rows with paired intervals, and claims to be judged."""

from collections.abc import Iterator

import numpy as np

from microtome.comparison.arms import Arm, Arms
from microtome.comparison.networks import one_architecture
from microtome.comparison.part import Claim, Row
from microtome.comparison.probe_config import ProbeConfig
from microtome.comparison.probe_depth import first_layer, image_weights, resampled_means
from microtome.comparison.probe_results import TaskResult, typical_difference
from microtome.comparison.probe_rows import above_chance
from microtome.comparison.statistics import Measured, difference_claims, paired_interval

IMAGES_ONLY = "interval over images alone"


def difference_rows(
    result: TaskResult,
    arms: Arms,
    settings: ProbeConfig,
    seed: int,
) -> tuple[list[Row], list[Claim]]:
    """Every pair of arms, layer by layer. Claims are the linear accuracies' differences only."""
    rows: list[Row] = []
    claims: list[Claim] = []
    for a, b in arms.pairs:
        own = _linear_claims(result, a, b, arms)
        claims += own
        rows += _linear_rows(result, a, b, arms, own)
        for kind in ("MLP", "logistic"):
            rows += _plain(
                result, a, b, f"{kind} accuracy", result.correct(a.name, kind), result.correct(b.name, kind)
            )
        rows += _plain(result, a, b, "description length", result.bits(a.name), result.bits(b.name))
        rows += _depth(result, a, b, settings, seed)
    return rows, claims


def _linear_claims(result: TaskResult, a: Arm, b: Arm, arms: Arms) -> list[Claim]:
    values = [result.correct(arm.name, "linear") for arm in (a, b)]
    assert values[0] is not None and values[1] is not None
    floors = [_floor(result, arms, arm) for arm in (a, b)]
    one = one_architecture(arms, a.name, b.name)
    if one and arms.floors.get(a.name) is not arms.floors.get(b.name):
        floors = [np.concatenate(floors, axis=1)] * 2  # heads of two widths: one kind of network below them
    measured = []
    for i, layer in enumerate(result.layers):
        floor_a = floors[0][i]
        measured.append(
            Measured(
                f"how decodable {result.task.name} is after {layer} (accuracy of linear probes)",
                layer,
                values[0][i],
                values[1][i],
                floor_a,
                floor_a if one else floors[1][i],
                scale="logit",
            )
        )
    return difference_claims("probes", a.name, b.name, measured)


def _floor(result: TaskResult, arms: Arms, arm: Arm) -> np.ndarray:
    """Accuracies of untrained networks of the arm's architecture, ``[layers, networks]``."""
    floor = arms.floors.get(arm.name)
    values = None if floor is None else result.correct(floor.name, "linear")
    return np.empty((len(result.layers), 0)) if values is None else values.mean(2)


def _linear_rows(result: TaskResult, a: Arm, b: Arm, arms: Arms, claims: list[Claim]) -> Iterator[Row]:
    known = [arm for arm in (a, b) if arm.name in arms.floors]
    floors = {id(arms.floors[arm.name]): _floor(result, arms, arm) for arm in known}
    first, second = (_accuracy(result, arm) for arm in (a, b))
    for i, (layer, claim) in enumerate(zip(result.layers, claims, strict=True)):
        seeds = [_own_spread(result, arm, i) for arm in (a, b)]
        untrained = [typical_difference(values[i]) for values in floors.values()]
        value = float(first[i] - second[i])
        note = "floor: distance of two untrained networks; ceiling: of two seeds of one arm"
        if not one_architecture(arms, a.name, b.name):
            note += f"; beyond the untrained networks' own difference {claim.effect:+.3g}, which p is of"
        yield Row(
            "probes",
            "linear accuracy difference",
            value,
            layer,
            a.name,
            b.name,
            result.task.name,
            low=claim.low + value - claim.effect,
            high=claim.high + value - claim.effect,
            floor=_mean(untrained),
            ceiling=_mean(seeds),
            n=claim.n,
            seeds=min(claim.seeds),
            p=claim.p,
            note=note,
        )


def _accuracy(result: TaskResult, arm: Arm) -> np.ndarray:
    """Mean accuracy of an arm's linear probes, ``[layers]``."""
    values = result.correct(arm.name, "linear")
    assert values is not None
    return values.mean((1, 2))


def _own_spread(result: TaskResult, arm: Arm, layer: int) -> float | None:
    values = result.correct(arm.name, "linear")
    return None if values is None else typical_difference(values[layer].mean(1))


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _plain(
    result: TaskResult, a: Arm, b: Arm, what: str, first: np.ndarray | None, second: np.ndarray | None
) -> Iterator[Row]:
    """A difference that makes no claim: paired over images, with the spread of seeds beside it."""
    if first is None or second is None:
        return
    for i, layer in enumerate(result.layers):
        value, low, high = paired_interval(first[i], second[i])
        spreads = [typical_difference(values[i].mean(1)) for values in (first, second)]
        yield Row(
            "probes",
            f"{what} difference",
            value,
            layer,
            a.name,
            b.name,
            result.task.name,
            low=low,
            high=high,
            ceiling=_mean(spreads),
            n=first.shape[2],
            seeds=min(first.shape[1], second.shape[1]),
            note=IMAGES_ONLY,
        )


def _depth(result: TaskResult, a: Arm, b: Arm, settings: ProbeConfig, seed: int) -> Iterator[Row]:
    """By how many layers the task becomes decodable earlier; images are resampled for both arms at once."""
    if not (above_chance(result, a.name) and above_chance(result, b.name)):
        return
    n = len(result.task.values)
    weights = image_weights(n, settings.bootstraps, seed)
    found = []
    for arm in (a, b):
        values, chance = result.correct(arm.name, "linear"), result.null(arm.name).mean(1)
        assert values is not None
        means = np.vstack([np.full(n, 1 / n), weights])
        found.append(first_layer(resampled_means(values.mean(1), means), chance, settings.decodable_share))
    difference = found[0] - found[1]
    known = difference[1:][np.isfinite(difference[1:])]
    if not np.isfinite(difference[0]) or not len(known):
        return
    low, high = np.quantile(known, (0.025, 0.975), method="nearest")
    yield Row(
        "probes",
        "decodable from layer difference",
        float(difference[0]),
        "",
        a.name,
        b.name,
        result.task.name,
        low=float(low),
        high=float(high),
        n=n,
        seeds=min(len(result.networks[arm.name]) for arm in (a, b)),
        note=f"layers; {IMAGES_ONLY}",
    )
