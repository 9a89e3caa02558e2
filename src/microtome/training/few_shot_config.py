"""Configuration of meta-learned and plainly trained image classifiers. Torch free."""

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from microtome.core.errors import bad_value
from microtome.training.run_settings import RunSettings

__all__ = ["FewShotTrainConfig"]

Algorithm = Literal["maml", "fomaml", "reptile", "anil", "supervised"]

# What changes with the kind of images, where neither file nor flag says otherwise. The defaults below are
# those of the digits.
OF_IMAGES: dict[str, dict[str, Any]] = {
    "omniglot": {
        "label": "character",
        "split_by": "alphabet",
        "held_out": ("Balinese", "Early_Aramaic", "Tagalog"),
        "size": 28,
        "channels": 64,
        "blocks": 4,
        "ways": 5,
        "rotations": True,
        "steps": 2000,
        "test_queries": 15,
    },
    "same-different": {
        "label": "same_different",
        "split_by": "problem",
        "within": "problem",
        "held_out": ("4", "9", "22"),
        "size": 64,
        "channels": 16,
        "blocks": 4,
        "batch_size": 64,
        "ways": 2,
        "shots": 5,
        "queries": 10,
        "rotations": False,
        "inner_steps": 3,
        "steps": 300,
        "test_shots": (5,),
        "adapt_steps": (0, 1, 5, 10),
    },
    "other": {"label": None, "split_by": None, "held_out": None, "size": 28, "rotations": False},
}
# What changes with the algorithm: {algorithm: {kind of images or "": fields}}.
OF_ALGORITHM: dict[str, dict[str, dict[str, Any]]] = {
    "supervised": {"": {"steps": 600}, "omniglot": {"steps": 1500}, "same-different": {"steps": 600}},
    "reptile": {"": {"inner_steps": 5, "inner_lr": 0.1}},
}


class FewShotTrainConfig(RunSettings):
    """Training for few-shot learning: MAML and its relatives, or plain classification of the same images.

    The defaults train on seven of scikit-learn's digits and test on the others, in well under a minute of one
    core. ``--images omniglot:DIR`` and ``--images same-different`` bring their own defaults.
    """

    algorithm: Algorithm = "maml"
    """maml (through the inner loop), fomaml (first order), anil (only the head moves in the inner loop),
    reptile, or supervised (one classifier of all training classes)."""
    images: str = "digits"
    """Where the images come from: digits, same-different, same-different#1,4,5, omniglot:DIR, or whatever
    `microtome compare --data-dir` reads."""
    test_images: str | None = None
    """Images to test on; left out, those of `images` that are held out."""
    label: str | None = "digit"
    """The label whose classes are told apart; null: the images' first."""
    split_by: str | None = "digit"
    """The label whose values are divided between training and test; null: the same as `label`."""
    held_out: tuple[str, ...] | None = ("7", "8", "9")
    """Values of split_by to test on, never trained on; null: the last third of them."""
    within: str | None = None
    """The label of which one episode sees a single value, such as alphabet; null: any classes together."""
    rotations: bool = True
    """Quarter turns of a class are classes of their own in training."""
    network: str = "convnet"
    """convnet (blocks of 3x3 convolution, batch norm, ReLU, pooling), conv2, conv4, conv6, conv2lr, conv4lr,
    conv6lr (of the same-different studies), or package.module:Class(key=value)."""
    channels: PositiveInt = 32
    """Of each block of a convnet."""
    blocks: PositiveInt = 3
    """Of a convnet."""
    norm: Literal["batch_statistics", "batch", "none"] = "batch_statistics"
    """A convnet's: by the statistics of each batch (as in MAML), by running ones, or none."""
    size: PositiveInt | None = 8
    """Side of the images in pixels; null: as they are."""
    colours: Literal[1, 3] | None = None
    """Channels of the images; null: 3 for conv2, ..., conv6lr, otherwise 1."""
    limit: PositiveInt | None = None
    """Images to read at most, balanced over classes; null: all."""
    ways: PositiveInt = 3
    """Classes of an episode."""
    shots: PositiveInt = 1
    """Images of each class to learn from, in training."""
    queries: PositiveInt = 5
    """Images of each class to be judged by, in training."""
    tasks: PositiveInt = 4
    """Episodes of one step."""
    batch_size: PositiveInt = 128
    """Images of one step of `supervised`."""
    inner_steps: PositiveInt = 1
    """Gradient steps inside an episode, in training."""
    inner_lr: PositiveFloat = 0.4
    """Their learning rate. The networks named conv2lr, ... learn their own."""
    steps: PositiveInt = 300
    """Of the outer loop, or of `supervised`."""
    lr: PositiveFloat = 2e-3
    """Adam's, of the outer loop or of `supervised`."""
    lr_schedule: Literal["constant", "linear", "cosine_half"] = "cosine_half"
    init_seed: int | None = None
    """Seed of the start values; null: of seed and algorithm, so that two algorithms start from two networks
    and what they have in common was learnt."""
    test_shots: tuple[PositiveInt, ...] = (1, 5)
    """Images of each class to adapt to, at the end."""
    test_queries: PositiveInt = 10
    """Images of each class to be judged by, at the end."""
    test_episodes: PositiveInt = 100
    """Episodes at the end; the 95 % intervals are over them."""
    adapt_steps: tuple[NonNegativeInt, ...] = (0, 1, 5, 10, 20)
    """Gradient steps after which accuracy is measured at the end, rising."""
    adapt_lr: PositiveFloat = 0.03
    """Learning rate of these steps from a fresh head; a meta-learned one takes inner_lr, or its own rates."""
    print_freq: PositiveInt = 20
    """Steps between two lines of ``metrics.jsonl``."""
    seed: int = 0
    """Start values (with the algorithm), episodes and batches."""

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        kind = kind_of(str(values.get("images", "digits")))
        of_algorithm = OF_ALGORITHM.get(str(values.get("algorithm", "maml")), {})
        return OF_IMAGES.get(kind, {}) | of_algorithm.get("", {}) | of_algorithm.get(kind, {}) | dict(values)

    @model_validator(mode="after")
    def _check(self) -> "FewShotTrainConfig":
        if self.ways < 2:
            raise bad_value("ways", self.ways, "nothing to tell apart", "use 2 or more")
        if not self.adapt_steps or list(self.adapt_steps) != sorted(set(self.adapt_steps)):
            raise bad_value("adapt_steps", list(self.adapt_steps), "not rising", "write such as 0 1 5 10")
        if not self.test_shots:
            raise bad_value("test_shots", list(self.test_shots), "nothing to test", "write such as 1 5")
        if self.algorithm == "reptile" and re.match(r"conv\dlr", self.network):
            raise bad_value(
                "network", self.network, "reptile does not learn inner rates", "use maml or fomaml"
            )
        return self


def kind_of(images: str) -> str:
    """``digits``, ``omniglot``, ``same-different`` or ``other``, from the name of a source."""
    for kind in ("digits", "omniglot", "same-different"):
        if images == kind or images.startswith((f"{kind}:", f"{kind}#")):
            return kind
    return "other"
