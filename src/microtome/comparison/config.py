"""What is compared, on which images, and which analyses are made. Imports no torch."""

import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from microtome.comparison.activation_config import ActivationConfig, SimilarityConfig
from microtome.comparison.features_config import FeaturesConfig
from microtome.comparison.probe_config import ProbeConfig
from microtome.comparison.weights_config import WeightsConfig
from microtome.core.config import Config
from microtome.core.errors import bad_value

Positive = Annotated[int, Field(gt=0)]
ANALYSES = ("weights", "activations", "similarity", "features", "probes")
NAMED = re.compile(
    r"[^=(:/\\]+="
)  # the name of an arm, and not an argument of package.module:Class(width=64)
OUTSIDE = re.compile(r",(?![^()]*\))")  # a comma outside brackets
# What each switch of the command asks for.
SWITCHES: dict[str, tuple[str, ...]] = {
    "analyze_weights": ("weights",),
    "analyze_activations": ("activations", "similarity"),
    "train_autoencoders": ("features",),
    "probe_representations": ("probes",),
}


class CompareConfig(Config):
    """Sets two or more image networks side by side: weights, activations, features, probes.

    With none of the analysis switches all are made.
    """

    renamed: ClassVar[dict[str, str]] = {
        "meta_model": "model_a",
        "baseline_model": "model_b",
        "data_dir": "data",
    }

    model_a: tuple[str, ...] = ()
    """The first network, or its seeds: checkpoint, run folder, package.module:Class(kw)@file, hf:name."""
    model_b: tuple[str, ...] = ()
    """The second network, or its seeds."""
    more: tuple[str, ...] = ()
    """Further arms, each NAME=reference[,reference ...]."""
    name_a: str | None = None
    """What the first is called in tables and pictures; null takes it from its training run, or a."""
    name_b: str | None = None
    """What the second is called; null takes it from its training run, or b."""
    architecture: str | None = None
    """package.module:Class(kw) for checkpoints whose network cannot be told from their keys."""
    data: str | None = None
    """Images: a folder, file or name such as digits; null takes those of the first network's training run."""
    problem_number: int | None = None
    """The SVRT problem: which folder of `data`, or which generated one where no data is given."""
    split: str = "test"
    """The part of the images that is looked at, where the data have parts."""
    image_size: Positive | None = None
    """Images are resized to this many pixels a side; null takes what the first network says."""
    channels: Literal[1, 3] | None = None
    """Colours of the images; null takes what the first network says."""
    max_images: Positive | None = 4096
    """Images looked at, drawn evenly over the classes when there are more; null takes all."""
    labels: tuple[str, ...] = ()
    """What is probed and drawn by, such as character; left out, every label that the images have."""
    batch_size: Positive = 32
    """Images in one forward pass. Results do not depend on it."""
    analyze_weights: bool = False
    """Compare the weights."""
    analyze_activations: bool = False
    """Compare activations: statistics, PCA, similarity of all layers."""
    train_autoencoders: bool = False
    """Train sparse dictionaries and a cross-coder on both, and match their features."""
    probe_representations: bool = False
    """Measure what can be decoded from each layer."""
    run_all: bool = False
    """Make every analysis."""
    bn: Literal["frozen", "batch", "native"] = "frozen"
    """Batch norms without running statistics: frozen on all images first, per batch, or as they are."""
    pool: Positive = 4
    """Feature maps are averaged down to this many rows and columns."""
    layer_map: tuple[str, ...] = ()
    """Layers that belong together, each a=b by module name; others are matched by order and shape."""
    untrained: Annotated[int, Field(ge=2)] = 4
    """Untrained networks of each architecture, the floor that every number stands beside."""
    adapt_steps: Annotated[int, Field(ge=0)] = 0
    """Gradient steps of adaptation on `support` images a class; the analyses are made before and after."""
    adapt_lr: Annotated[float, Field(gt=0)] = 0.01
    """Learning rate of the adaptation, the same for all arms."""
    support: Positive = 5
    """Images a class that the adaptation learns from; they are not looked at afterwards."""
    adapt_head: Literal["fresh", "own", "centroid"] = "fresh"
    """The last layer that adaptation starts from: zeros, the network's own, or the classes' mean features."""
    adapt_episodes: Positive = 100
    """Few-shot tasks that the accuracy after adaptation is measured on."""
    output_dir: Path = Path("model_analysis_results")
    """Where everything is written."""
    keep_activations: bool = False
    """Keep the activations on the disk after the run."""
    device: str = "auto"
    """Where networks run: auto, cpu, cuda, ..."""
    num_workers: Annotated[int, Field(ge=0)] = 4
    """Threads that read image files."""
    threads: Positive | None = None
    """Threads of the arithmetic; null chooses by the size of the work."""
    seed: int = 0
    """Seed of everything random: untrained networks, folds, bootstraps, dictionaries."""

    weights: WeightsConfig = WeightsConfig()
    """How weights are compared."""
    activations: ActivationConfig = ActivationConfig()
    """How activations are described."""
    similarity: SimilarityConfig = SimilarityConfig()
    """How representations are compared."""
    features: FeaturesConfig = FeaturesConfig()
    """How dictionaries are trained and matched."""
    probes: ProbeConfig = ProbeConfig()
    """How probes are made."""

    @field_validator("more")
    @classmethod
    def _arms_together(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        """An arm's further seeds with it: on the command line a comma parts the words of a list."""
        arms: list[str] = []
        for word in words:
            if arms and not NAMED.match(word):
                arms[-1] += f",{word}"
            else:
                arms.append(word)
        return tuple(arms)

    @property
    def further(self) -> list[tuple[str, tuple[str, ...]]]:
        """The arms of ``more``: names and their references."""
        parted = (arm.partition("=") for arm in self.more)
        return [(name.strip(), tuple(map(str.strip, OUTSIDE.split(text)))) for name, _, text in parted]

    @model_validator(mode="after")
    def _two_arms(self) -> "CompareConfig":
        for field in ("model_a", "model_b"):
            if not getattr(self, field):
                flag = f"--{field.replace('_', '-')}"
                raise bad_value(field, "", "no network", f"give a checkpoint with {flag}")
        for arm in self.more:
            if not NAMED.match(arm):
                raise bad_value("more", arm, "has no name", "write NAME=reference[,reference]")
        for pair in self.layer_map:
            if pair.count("=") != 1:
                raise bad_value("layer_map", pair, "is no pair", "write a=b, two module names")
        return self

    @property
    def analyses(self) -> tuple[str, ...]:
        """Names of the analyses asked for, in the order in which they are made."""
        asked = {name for switch, names in SWITCHES.items() if getattr(self, switch) for name in names}
        return ANALYSES if self.run_all or not asked else tuple(name for name in ANALYSES if name in asked)
