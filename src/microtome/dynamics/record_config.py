"""Settings of recordings and of the tasks that can be recorded from nothing. Imports no torch."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from microtome.core.config import Config
from microtome.core.errors import bad_value


class RecordingConfig(Config):
    """How a recording of your own training loop was made."""

    layers: list[str] | Literal["auto"] = "auto"
    """Modules that are measured; auto takes every module that owns a matrix."""
    when: str = "log2_then(100)"
    """The steps that are measured."""
    measures: list[str] | None = None
    """Measures by name; null takes all."""
    save: str | None = "auto"
    """States that are kept: auto, a schedule, or null for none."""
    captures: str = "never"
    """The steps at which whole activations are kept."""
    attention: bool = False
    """Keep attention patterns too."""
    on: Literal["probe", "batch"] = "probe"
    """What is measured: the fixed probe, or the training batch."""
    conv: Literal["mean", "flatten"] = "mean"
    """Convolutions: averaged over space, or every place a column."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Whatever you gave as ``config``."""


class RecordTaskConfig(Config):
    """What all built-in tasks are told."""

    seed: int = 0
    """Start values, data and probe."""
    steps: PositiveInt = 2000
    """Training steps."""
    lr: PositiveFloat = 1e-3
    """AdamW's learning rate."""
    weight_decay: NonNegativeFloat = 0.0
    """AdamW's weight decay."""
    batch_size: PositiveInt = 64
    """Samples a step."""
    device: str = "cpu"
    """cpu, cuda or auto; these networks are small."""
    threads: PositiveInt | None = None
    """Threads of one operation; left out, one."""
    when: str = "log2_then(10)"
    """The steps that are measured: log2_then(n), every(n), at(...), always, several joined by |."""
    save: str | None = "auto"
    """States that are kept: auto (around what changes), a schedule, or null for none."""
    captures: str = "never"
    """The steps at which whole activations on the probe are kept."""
    attention: bool = False
    """Keep attention patterns at those steps (at every measured one where captures is never)."""
    measures: list[str] | None = None
    """Measures by name; null takes all."""
    on: Literal["probe", "batch"] = "probe"
    """What is measured: the fixed probe, or the training batch."""
    probe_size: PositiveInt = 128
    """Samples of the fixed probe."""

    @model_validator(mode="after")
    def _check_schedules(self) -> "RecordTaskConfig":
        from microtome.dynamics.when import schedule

        for name in ("when", "captures", "save"):
            text = getattr(self, name)
            if text is None or (name == "save" and text == "auto"):
                continue
            try:
                schedule(text)
            except ValueError as error:
                raise bad_value(name, text, "not a schedule", str(error).split("; ")[-1]) from None
        return self


class DigitsConfig(RecordTaskConfig):
    """Handwritten digits (scikit-learn's, 8x8) by an MLP, a convolutional network or a small ViT."""

    architecture: Literal["mlp", "cnn", "transformer"] = "mlp"
    """mlp, cnn, or transformer (a ViT on 2x2 patches)."""


class MNISTConfig(RecordTaskConfig):
    """MNIST, or anything in its idx files, by an MLP, a convolutional network or a small ViT."""

    folder: Path = Path("data/mnist")
    """Where train-images-idx3-ubyte[.gz] and its three companions are."""
    architecture: Literal["mlp", "cnn", "transformer"] = "mlp"
    """mlp (784-512-256-10), cnn (32-64 channels), or transformer (a ViT on 7x7 patches)."""


class ModularAdditionConfig(RecordTaskConfig):
    """a + b mod p by a small transformer: it memorises first, and generalises later, at once ("grokking")."""

    p: int = Field(default=47, ge=3)
    """The modulus."""
    train_fraction: float = Field(default=0.6, gt=0, lt=1)
    """The share of all pairs that is trained on; the others are the test."""
    steps: PositiveInt = 1000
    batch_size: PositiveInt = 1_000_000
    """Pairs a step; all training pairs where there are no more."""
    lr: PositiveFloat = 1e-2
    weight_decay: NonNegativeFloat = 2.0
    d_model: PositiveInt = 64
    """Width of the residual stream; a multiple of n_heads."""
    n_heads: PositiveInt = 4
    """Attention heads."""
    d_mlp: PositiveInt = 256
    """Width of the MLP."""
    probe_size: PositiveInt = 256

    @model_validator(mode="after")
    def _check_heads(self) -> "ModularAdditionConfig":
        if self.d_model % self.n_heads:
            raise bad_value("d_model", self.d_model, "not a multiple of n_heads", "choose 32, 64 or 128")
        return self


class InductionConfig(RecordTaskConfig):
    """Random sequences that repeat: a two-layer attention-only transformer forms an induction head."""

    vocabulary: int = Field(default=32, ge=2)
    """Number of tokens."""
    half_length: PositiveInt = 16
    """Tokens before the repeat at most; each sequence repeats after half to all of so many."""
    steps: PositiveInt = 600
    batch_size: PositiveInt = 32
    d_model: PositiveInt = 64
    """Width of the residual stream; a multiple of n_heads."""
    n_heads: PositiveInt = 4
    """Attention heads of each layer."""
    when: str = "log2_then(5)"
    probe_size: PositiveInt = 32

    @model_validator(mode="after")
    def _check_sizes(self) -> "InductionConfig":
        if self.vocabulary < self.half_length:
            raise bad_value("vocabulary", self.vocabulary, "less than half_length", "no token comes twice")
        if self.d_model % self.n_heads:
            raise bad_value("d_model", self.d_model, "not a multiple of n_heads", "choose 32, 64 or 128")
        return self
