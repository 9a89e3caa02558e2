"""Settings of ``microtome interpret``. Imports no torch."""

from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, field_validator

from microtome.core.config import Config, Probability
from microtome.core.errors import bad_value


class InterpretConfig(Config):
    """Computes and draws every figure that a decomposition allows."""

    n_samples: int = Field(default=8192, ge=16)
    """Inputs that averages and histograms are taken over."""
    topk: PositiveFloat | None = None
    """APD: components on per input, in place of the run's own topk."""
    ci_threshold: Probability = 0.1
    """SPD: a component is active when its causal importance exceeds this."""
    cutoff: NonNegativeFloat = 0.04
    """A component serves a feature when its neuron contribution (SPD: causal importance) exceeds this."""
    size_threshold: Probability = 0.05
    """Leave components out whose weights are smaller than this share of the largest component's."""
    features: str | None = None
    """Features to show one by one: a list such as 0,5,10, or all; null chooses a few."""
    instance: NonNegativeInt = 0
    """Which of the run's networks or seeds the figures show; numbers are given for each."""
    only: tuple[str, ...] | None = None
    """Draw these figures only, by name, and compute only what they need."""
    seed: int = 0
    """Of the inputs and of the random ablations."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    dpi: int = Field(default=150, ge=20, le=1200)
    """Dots per inch of the figures."""
    output_dir: Path | None = None
    """Where results go; null: into the run, or for a run of the original tools into a new folder in runs."""

    @field_validator("features", mode="before")
    @classmethod
    def _as_words(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return ",".join(str(item) for item in value)
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    def chosen_features(self, n_features: int, default: list[int]) -> list[int]:
        """The features to show; those of ``default`` that exist when none are named.

        Raises ``MicrotomeError`` for a feature that the network does not have, naming the range.
        """
        if self.features is None:
            return [index for index in default if index < n_features] or [0]
        words = self.features.replace(" ", "").strip(",")
        if words == "all":
            return list(range(n_features))
        try:
            chosen = [int(word) for word in words.split(",")]
        except ValueError:
            mend = "write a list such as 0,5,10, or all"
            raise bad_value("features", self.features, "is no list of feature numbers", mend) from None
        for index in chosen:
            if not 0 <= index < n_features:
                mend = f"choose 0 to {n_features - 1}"
                raise bad_value("features", index, f"the network has {n_features} features", mend)
        return list(dict.fromkeys(chosen))
