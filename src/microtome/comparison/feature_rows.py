"""The rows of a comparison of features: how well they match, and shares of features by kind."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from microtome.comparison.arms import Arm
from microtome.comparison.feature_layer import Layer, Pairing, mean_left
from microtome.comparison.feature_matching import jackknife_error, kinds_of, mean_best, shares_of
from microtome.comparison.feature_training import TrainedDictionary
from microtome.comparison.features_config import FeaturesConfig
from microtome.comparison.part import Part, Row

ANALYSIS = "features"
LITTLE = 0.02  # room between floor and ceiling in which nothing can be told


def add_row(part: Part, statistic: str, value: float, **columns: object) -> None:
    """One more row of the table."""
    part.rows.append(Row(ANALYSIS, statistic, value, **columns))  # pyright: ignore[reportArgumentType]


def matching_rows(
    part: Part,
    layer: Layer,
    a: Arm,
    b: Arm,
    given: Pairing,
    floor: Sequence[Pairing],
    ceiling: Sequence[Pairing],
    others: Sequence[float],
    n: int,
    seed: int,
) -> None:
    """How well the features of two networks match, beside untrained networks and second dictionaries."""
    value, low, high = (
        float(np.mean([one.match.mean for one in ones])) for ones in ([given], floor, ceiling)
    )
    left = given.left_out, mean_left(floor), mean_left(ceiling)
    null = layer.shuffled(layer.own[f"{a.name}#0"], layer.own[f"{b.name}#0"], seed)
    reach = 1.96 * jackknife_error(left[0])
    above = jackknife_error(left[0] - left[1])
    p = float(2 * stats.norm.sf(abs(value - low) / above)) if above > 0 else None
    common = {"layer": layer.label, "arm": a.name, "other": b.name, "n": n, "seeds": 1}
    add_row(
        part,
        "matched features' correlation",
        value,
        low=value - reach,
        high=value + reach,
        floor=low,
        ceiling=high,
        null=null,
        p=p,
        note="p: as alike as with an untrained network; interval over images",
        **common,
    )
    if others:
        add_row(
            part,
            "matched features' correlation of two seeds",
            float(np.mean(others)),
            floor=low,
            ceiling=high,
            **common,
        )
    if high - low < LITTLE:
        part.remarks.append(
            f"{layer.label}: two dictionaries of one network agree no better ({high:.2f}) than those of"
            f" untrained networks ({low:.2f}): whether {a.name} and {b.name} share any cannot be told"
        )
        return
    index = (value - low) / (high - low)
    error = jackknife_error((left[0] - left[1]) / np.maximum(left[2] - left[1], 1e-6))
    add_row(
        part,
        "sharing of features",
        index,
        low=index - 1.96 * error,
        high=index + 1.96 * error,
        floor=0.0,
        ceiling=1.0,
        note="0: as with an untrained network, 1: as two dictionaries of one network",
        **common,
    )


def share_rows(
    part: Part,
    settings: FeaturesConfig,
    layer: Layer,
    arm: Arm,
    other: Arm,
    dictionary: TrainedDictionary,
    kinds: np.ndarray,
    own: Pairing,
    floors: Sequence[Pairing],
) -> None:
    """Shares of features by kind; the floor puts one untrained network in the other's place."""
    by_chance: dict[str, float] = {}
    if len(floors) > 1:
        low = mean_best([one.match for one in floors[1:]])
        by_chance = shares_of(
            kinds_of(
                floors[0].match.best,
                own.match.best,
                low,
                dictionary.alive,
                settings.stable,
                settings.distinct,
            )
        )
    alive = int((kinds >= 0).sum())
    for kind, share in shares_of(kinds).items():
        reach = 1.96 * (share * (1 - share) / max(alive, 1)) ** 0.5
        add_row(
            part,
            f"{kind} features",
            share,
            layer=layer.label,
            arm=arm.name,
            other=other.name,
            low=max(share - reach, 0.0),
            high=min(share + reach, 1.0),
            floor=by_chance.get(kind),
            n=alive,
            seeds=1,
            note="n: features that act; interval over features",
        )
