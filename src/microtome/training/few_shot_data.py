"""The images that few-shot training trains and tests on, divided by class."""

import re
from dataclasses import dataclass

import torch

from microtome.core.errors import MicrotomeError, bad_value
from microtome.data.few_shot import Episodes, images_of, label_of
from microtome.data.image_sources import open_images
from microtome.data.labelled_images import LabelledImages
from microtome.data.same_different import PROBLEMS, same_different_images
from microtome.training.few_shot_config import FewShotTrainConfig, kind_of

IMAGES_OF_A_PROBLEM, TEST_IMAGES_OF_A_PROBLEM = 400, 100


@dataclass(frozen=True)
class FewShotImages:
    """Training and test images without a class (or alphabet, or problem) in common, and the label to tell."""

    train: LabelledImages
    test: LabelledImages
    label: str


def few_shot_images(config: FewShotTrainConfig) -> FewShotImages:
    """Read and divide the images. Raises ``MicrotomeError`` when one half would have no class."""
    channels = config.colours or (3 if re.match(r"conv[246]", config.network) else 1)
    if kind_of(config.images) == "same-different" and config.test_images is None:
        return _same_different(config, channels)
    known = {"size": config.size, "channels": channels, "limit": config.limit}
    train = open_images(config.images, split="train", **known)
    label = config.label or next(iter(train.labels))
    if config.test_images is not None:
        return FewShotImages(train, open_images(config.test_images, split="test", **known), label)
    test = open_images(config.images, split="test", **known)
    split_by = config.split_by or label
    names = label_of(train, split_by).names
    held_out = config.held_out if config.held_out is not None else list(names[-(len(names) // 3) :])
    trained = [name for name in names if name not in held_out]
    if len(names) < 2 or not trained or not held_out:
        raise bad_value("held_out", held_out, f"{split_by} is one of {', '.join(names)}", "hold some of them")
    return FewShotImages(images_of(train, split_by, trained), images_of(test, split_by, held_out), label)


def unseen_images(config: FewShotTrainConfig) -> LabelledImages:
    """Every image of the classes that a network of these settings was not trained on.

    Of the digits that is more than the test images: nothing of a held-out digit was seen.
    """
    images = few_shot_images(config)
    if kind_of(config.images) != "digits" or config.test_images is not None or config.held_out is None:
        return images.test
    every = open_images("digits", split="all", size=config.size, channels=images.test.pixels.shape[1])
    return images_of(every, config.split_by or images.label, config.held_out)


def _same_different(config: FewShotTrainConfig, channels: int) -> FewShotImages:
    _, _, named = config.images.partition("#")
    numbers = [_problem(text) for text in named.split(",")] if named else list(PROBLEMS)
    held_out = [_problem(text) for text in config.held_out or []]
    trained = [number for number in numbers if number not in held_out]
    if not trained or not held_out:
        raise bad_value(
            "held_out", config.held_out, "nothing left to train on, or to test on", "hold some problems"
        )
    size = config.size or 128
    n = max(2, config.limit // len(trained)) if config.limit else IMAGES_OF_A_PROBLEM
    halves = [
        same_different_images(problems, count, size=size, channels=channels, split=split)
        for problems, count, split in ((trained, n, "train"), (held_out, TEST_IMAGES_OF_A_PROBLEM, "test"))
    ]
    return FewShotImages(halves[0], halves[1], config.label or "same_different")


def _problem(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise MicrotomeError(
            f"images: problem {text!r} is no number; write such as same-different#1,4,5"
        ) from None


def training_episodes(
    config: FewShotTrainConfig, images: FewShotImages, generator: torch.Generator
) -> Episodes:
    """Random tasks of the training classes."""
    return Episodes(
        images.train,
        images.label,
        ways=config.ways,
        shots=config.shots,
        queries=config.queries,
        rotations=config.rotations,
        within=config.within,
        generator=generator,
    )
