"""From the settings of a comparison to networks and images that fit each other."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from microtome.comparison.arms import Arm
from microtome.comparison.config import CompareConfig
from microtome.comparison.image_order import canonical_order
from microtome.core.config import read_yaml
from microtome.core.errors import bad_value
from microtome.data.image_sources import open_images
from microtome.data.labelled_images import LabelledImages
from microtome.targets.image_network import (
    INITIAL,
    ImageNetwork,
    check_takes,
    initial_of,
    open_network,
    untrained,
)

Note = Callable[[str], None]
FEWEST_IMAGES = 20


@dataclass(frozen=True)
class Material:
    """What a comparison works on: the arms, their untrained floors, and the images."""

    arms: tuple[Arm, ...]
    floors: dict[str, Arm]
    images: LabelledImages
    support: LabelledImages | None


def prepare(
    config: CompareConfig,
    note: Note,
    networks: Sequence[tuple[ImageNetwork, ...]] | None = None,
    images: LabelledImages | None = None,
) -> Material:
    """Open networks and images, where they are not given.

    Raises ``MicrotomeError`` in one line for what does not fit together.
    """
    arms = tuple(_arms(config, networks))
    images = _check_images(_images(config, arms[0].networks[0], images, note), config.labels)
    for arm in arms:
        for network in arm.networks:
            check_takes(network, images)
    support = None
    if config.adapt_steps:
        images, support = _split_support(images, config)
    return Material(arms, _floors(arms, config), images, support)


def _arms(config: CompareConfig, given: Sequence[tuple[ImageNetwork, ...]] | None) -> Sequence[Arm]:
    named: list[tuple[str | None, Sequence[str]]] = [
        (config.name_a, config.model_a),
        (config.name_b, config.model_b),
    ]
    named += [(name, references) for name, references in config.further]
    opened = given or [
        tuple(open_network(reference, architecture=config.architecture) for reference in references)
        for _, references in named
    ]
    names = _names([name for name, _ in named][: len(opened)], opened)
    for name, networks in zip(names, opened, strict=True):
        _check_seeds(name, networks)
    return [
        Arm(name, networks, tuple(initial_of(network) for network in networks))
        for name, networks in zip(names, opened, strict=True)
    ]


def _check_seeds(arm: str, networks: Sequence[ImageNetwork]) -> None:
    """Raise ``MicrotomeError`` unless the networks are seeds: of one architecture, and none of them twice.

    One network given twice has no spread between its seeds, and everything would differ.
    """
    first, seen = networks[0], dict[str, ImageNetwork]()
    shapes = {name: weight.shape for name, weight in first.module.named_parameters()}
    for network in networks:
        if {name: weight.shape for name, weight in network.module.named_parameters()} != shapes:
            raise bad_value(
                arm,
                network.name,
                f"other weights than those of {first.name}; seeds share an architecture",
                "give it as an arm of its own, --more NAME=reference",
            )
        twin = seen.setdefault(network.digest, network)
        if network.digest and twin is not network:
            raise bad_value(
                arm, network.name, f"the same weights as {twin.name}", "give each seed of an arm once"
            )


def _names(given: Sequence[str | None], opened: Sequence[tuple[ImageNetwork, ...]]) -> list[str]:
    """What the arms are called: as asked, else after how they were trained, else a, b, c."""
    own = ["" if name else _algorithm(networks[0]) for name, networks in zip(given, opened, strict=True)]
    known = [each for each in own if each]
    if len(set(known)) < len(known):
        own = [""] * len(own)
    names = [
        name or trained or "abcdefghijklmnopqrstuvwxyz"[i % 26]
        for i, (name, trained) in enumerate(zip(given, own, strict=True))
    ]
    for name in names:
        if names.count(name) > 1 or name.startswith("untrained"):
            raise bad_value(
                "name",
                name,
                "stands for two arms" if names.count(name) > 1 else "is taken",
                "choose others with --name-a, --name-b",
            )
        if any(sign in name for sign in "/\\ \t"):
            raise bad_value("name", name, "cannot be part of a file name", "leave out blanks and slashes")
    return names


def _algorithm(network: ImageNetwork) -> str:
    """How a network of ours was trained; empty for its initialisation and for any other network."""
    if network.source is not None and network.source.name == INITIAL:
        return ""
    return str(training_of(network).get("algorithm", ""))


def _images(
    config: CompareConfig, network: ImageNetwork, given: LabelledImages | None, note: Note
) -> LabelledImages:
    images = given or _open_images(config, network, note)
    # In an order that depends on what they show, so that no result depends on how files were sorted.
    images = images.rows(canonical_order(images))
    unknown = [label for label in config.labels if label not in images.labels]
    if unknown:
        raise bad_value(
            "labels", unknown[0], "the images have no such label", f"choose {', '.join(images.labels)}"
        )
    if config.labels:
        images = replace(images, labels={name: images.labels[name] for name in config.labels})
    if config.max_images is not None and len(images) > config.max_images:
        note(f"looking at {config.max_images} of {len(images)} images (--max-images)")
        images = images.rows(evenly(images, config.max_images, config.seed))
    return images


def _open_images(config: CompareConfig, network: ImageNetwork, note: Note) -> LabelledImages:
    source, trained = config.data, training_of(network)
    if source is None and config.problem_number is None and trained:
        from microtome.training.few_shot_config import FewShotTrainConfig
        from microtome.training.few_shot_data import unseen_images

        images = unseen_images(FewShotTrainConfig.from_mapping(trained))
        note(f"no --data: looking at images that {network.name} was not trained on ({images.source})")
        return images
    if source is None and config.problem_number is not None:
        source = f"same-different#{config.problem_number}"
        note(f"no --data: images are generated for problem {config.problem_number}")
    if source is None:
        source = "digits"
        note("no --data: looking at the digits")
    return open_images(
        source,
        problem=config.problem_number if "#" not in source else None,
        split=config.split,
        size=config.image_size or network.size,
        channels=config.channels or network.channels,
        limit=config.max_images,
    )


def training_of(network: ImageNetwork) -> dict[str, Any]:
    """The settings of the run of ours that a network comes from; empty for any other network."""
    folder = network.source.parent if network.source is not None else None
    if folder is None or not (folder / "network.json").is_file() or not (folder / "config.yaml").is_file():
        return {}
    return read_yaml(folder / "config.yaml")


def _check_images(images: LabelledImages, asked: Collection[str]) -> LabelledImages:
    """The images with the labels that tell them apart. Raises ``MicrotomeError`` when there are too few."""
    if len(images) < FEWEST_IMAGES:
        raise bad_value("data", images.source, f"{len(images)} images", f"give at least {FEWEST_IMAGES}")
    single = [name for name, each in images.labels.items() if len(np.unique(each.values)) < 2]
    labels = {name: each for name, each in images.labels.items() if name not in single}
    if single and (not labels or any(name in asked for name in single)):
        raise bad_value(
            "data", images.source, f"one class only of {single[0]}", "give images of several classes"
        )
    return replace(images, labels=labels)


def evenly(images: LabelledImages, count: int, seed: int) -> np.ndarray:
    """Rows of ``count`` images, drawn evenly over the classes of the first label, in their old order."""
    rng = np.random.default_rng(seed)
    classes = next(iter(images.labels.values())).values if images.labels else np.zeros(len(images), int)
    # Rank within the own class, in random order; the lowest ranks of all classes go first.
    order = rng.permutation(len(images))
    rank = np.empty(len(images))
    for value in np.unique(classes):
        own = order[classes[order] == value]
        rank[own] = np.arange(len(own)) + rng.random(len(own)) * 0.5
    return np.sort(np.argsort(rank, kind="stable")[:count])


def _split_support(images: LabelledImages, config: CompareConfig) -> tuple[LabelledImages, LabelledImages]:
    """The images that are looked at, and ``support`` of each class that the adaptation learns from."""
    if not images.labels:
        raise bad_value(
            "adapt_steps", config.adapt_steps, "the images have no labels", "give labelled images"
        )
    name, labels = next(iter(images.labels.items()))
    rng = np.random.default_rng([config.seed, 1])
    taken = np.zeros(len(images), bool)
    for value in np.unique(labels.values):
        own = np.flatnonzero(labels.values == value)
        if len(own) < 2 * config.support:
            raise bad_value(
                "support",
                config.support,
                f"{name} {labels.names[value]} has {len(own)} images",
                f"use at most {len(own) // 2}",
            )
        taken[rng.permutation(own)[: config.support]] = True
    return images.rows(np.flatnonzero(~taken)), images.rows(np.flatnonzero(taken))


def _floors(arms: Sequence[Arm], config: CompareConfig) -> dict[str, Arm]:
    """Untrained networks for each arm; arms of one architecture share theirs."""
    made: dict[str, Arm] = {}
    floors = {}
    for arm in arms:
        network = arm.networks[0]
        key = repr(sorted((k, str(v)) for k, v in network.architecture.items()))
        if not network.architecture:
            key = network.name
        if key not in made:
            seeds = [1_000_003 * (config.seed + 1) + len(made) * 1009 + i for i in range(config.untrained)]
            name = "untrained" if not made else f"untrained {arm.name}"
            made[key] = Arm(name, tuple(untrained(network, seed) for seed in seeds))
        floors[arm.name] = made[key]
    return floors
