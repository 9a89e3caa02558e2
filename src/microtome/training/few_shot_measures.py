"""How well a network learns new classes: accuracies of held-out episodes, beside an untrained network's."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import nn

from microtome.core.seeds import generator
from microtome.data.few_shot import Episodes
from microtome.training.adaptation import Head, adaptation_curve
from microtome.training.few_shot_config import FewShotTrainConfig
from microtome.training.few_shot_data import FewShotImages

NORMAL_95 = 1.96


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval, over ``n`` episodes."""

    mean: float
    low: float
    high: float
    n: int


def estimate(values: Float[np.ndarray, " n"]) -> Estimate:
    """The mean of independent values with its normal 95 % interval, one value a point without width."""
    n = len(values)
    half = NORMAL_95 * float(values.std(ddof=1)) / n**0.5 if n > 1 else 0.0
    mean = float(values.mean())
    return Estimate(mean, mean - half, mean + half, n)


@dataclass(frozen=True)
class Curve:
    """Accuracy of each test episode after each number of steps, ``[episodes, steps]``."""

    network: str  # trained or untrained
    head: Head
    shots: int
    steps: tuple[int, ...]
    values: Float[np.ndarray, "n s"]


def measure_few_shot(
    networks: dict[str, nn.Module],
    images: FewShotImages,
    config: FewShotTrainConfig,
    told: Callable[[int], None] = lambda _: None,
) -> list[Curve]:
    """Adapt every network to the same held-out episodes, by every head that it has.

    The ``own`` head is a meta-learned network's; a ``fresh`` one and class centroids are one protocol for
    all. ``told(n)`` hears how many episodes are done.
    """
    curves, done = [], 0
    for shots in config.test_shots:
        source = held_out_episodes(config, images, shots)
        rows: dict[tuple[str, Head], list[list[float]]] = {}
        for _ in range(config.test_episodes):
            episode = source.draw()
            for name, module in networks.items():
                for head in heads_of(name, config):
                    steps = steps_of(head, config)
                    lr = config.inner_lr if head == "own" else config.adapt_lr
                    row = adaptation_curve(module, episode, steps, lr, head)
                    rows.setdefault((name, head), []).append(row)
            done += 1
            told(done)
        curves += [
            Curve(name, head, shots, steps_of(head, config), np.array(values))
            for (name, head), values in rows.items()
        ]
    return curves


def heads_of(network: str, config: FewShotTrainConfig) -> tuple[Head, ...]:
    """The starts of adaptation that make sense for a network."""
    if network == "trained" and config.algorithm != "supervised":
        return ("own", "fresh", "centroid")
    return ("fresh", "centroid")


def steps_of(head: Head, config: FewShotTrainConfig) -> tuple[int, ...]:
    """Numbers of steps to measure after: none for centroids, and none is nothing for a fresh head."""
    if head == "centroid":
        return (0,)
    return tuple(count for count in config.adapt_steps if count or head == "own") or (1,)


def held_out_episodes(config: FewShotTrainConfig, images: FewShotImages, shots: int) -> Episodes:
    """Random tasks of the held-out classes, the same for every network that is tested."""
    return Episodes(
        images.test,
        images.label,
        ways=config.ways,
        shots=shots,
        queries=config.test_queries,
        within=config.within,
        generator=generator(config.seed, stream=f"test episodes {shots}"),
    )


def accuracy_rows(curves: list[Curve]) -> list[dict[str, Any]]:
    """One row an accuracy: shots, head, steps, trained and untrained with intervals, and their difference.

    The difference is of the same episodes, the untrained network with a fresh head where it has no own one.
    """
    untrained = {(c.shots, c.head): c for c in curves if c.network == "untrained"}
    rows = []
    for curve in (c for c in curves if c.network == "trained"):
        floor = untrained.get((curve.shots, "fresh" if curve.head == "own" else curve.head))
        for place, count in enumerate(curve.steps):
            values = curve.values[:, place]
            row = {"shots": curve.shots, "head": curve.head, "steps": count}
            row["trained"] = asdict(estimate(values))
            if floor is not None and count in floor.steps:
                below = floor.values[:, floor.steps.index(count)]
                row["untrained"] = asdict(estimate(below))
                row["difference"] = asdict(estimate(values - below))
            rows.append(row)
    return rows
