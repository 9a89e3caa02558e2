"""Settings of magnitude sweeps. Imports no torch."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from microtome.core.config import Config, Probability
from microtome.core.errors import bad_value

Inches = Annotated[float, Field(gt=0, le=200)]


class SweepConfig(Config):
    """What every sweep over magnitudes is told."""

    model_path: str = "latest"
    """The decomposition: a run folder, its name, a model file, wandb:project/run-id, or latest."""
    output_dir: Path | None = None
    """Where results go; null makes a new folder in runs."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    features: str | None = None
    """Which input features: a list such as 0,5,10, or all."""
    n_steps: int = Field(100, ge=2)
    """Number of magnitudes."""
    max_magnitude: float = Field(2.0, gt=0)
    """The largest magnitude."""
    two_sided: bool = False
    """Sweep from -max_magnitude rather than from 0."""
    figsize_per_subplot: tuple[Inches, Inches] = (2.0, 1.5)
    """Width and height of each panel in inches."""
    dpi: int = Field(150, ge=20, le=1200)
    """Dots per inch of the pictures."""
    ci_threshold: Probability = 0.1
    """A component is active where its causal importance exceeds this."""
    instance: int = Field(0, ge=0)
    """Which of the decomposition's seeds is drawn and classified."""

    @field_validator("features", mode="before")
    @classmethod
    def _as_words(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return ",".join(str(item) for item in value)
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    def listed_features(self, n_features: int) -> list[int]:
        """The features that ``features`` lists, of a network with ``n_features`` inputs.

        Raises ``MicrotomeError`` for a feature that the network does not have, naming the range.
        """
        words = ("all" if self.features is None else self.features).replace(" ", "").strip(",")
        if words == "all":
            return list(range(n_features))
        try:
            chosen = [int(word) for word in words.split(",")]
        except ValueError:
            mend = "write a list such as 0,5,10, or all"
            raise bad_value("features", self.features, "is no list of feature numbers", mend) from None
        return [known_feature(index, n_features, "features") for index in dict.fromkeys(chosen)]

    def check_instance(self, n_instances: int) -> None:
        """Raise ``MicrotomeError`` when the decomposition has no such seed."""
        if self.instance >= n_instances:
            mend = f"choose 0 to {n_instances - 1}"
            raise bad_value("instance", self.instance, f"the decomposition has {n_instances}", mend)


class MagnitudeConfig(SweepConfig):
    """Sweeps the magnitude of one input feature through a decomposed network and draws how it responds."""

    feature_idx: int = Field(0, ge=0)
    """The input feature that is swept, all others being 0; --features takes several."""
    pre_activation: bool = False
    """Show neurons before their nonlinearity."""
    max_neurons: int | None = Field(None, ge=1)
    """Draw at most so many neurons, those that respond most; null draws all."""
    max_components: int = Field(10, ge=1, le=50)
    """Draw at most so many components, those with the largest causal importance."""
    summary_only: bool = False
    """Draw the overview row only."""

    def chosen_features(self, n_features: int) -> list[int]:
        """The features to sweep: ``features``, or ``feature_idx`` alone. Raises ``MicrotomeError``."""
        if self.features is None:
            return [known_feature(self.feature_idx, n_features, "feature_idx")]
        return self.listed_features(n_features)


class ImportanceConfig(SweepConfig):
    """Sweeps every input feature's magnitude and draws the causal importances of all components."""

    n_steps: int = Field(50, ge=2)
    """Number of magnitudes."""
    max_magnitude: float = Field(1.0, gt=0)
    """The largest magnitude."""
    figsize_per_subplot: tuple[Inches, Inches] = (1.6, 1.2)
    """Width and height of each panel in inches."""
    figsize: tuple[Inches, Inches] | None = None
    """Width and height of a whole picture in inches, instead of figsize_per_subplot."""
    feature_idx: int | None = Field(None, ge=0)
    """Read for old files, where it had no effect: every feature is drawn unless --features chooses."""


def known_feature(index: int, n_features: int, field: str) -> int:
    """The feature, when a network with ``n_features`` inputs has it. Raises ``MicrotomeError``."""
    if not 0 <= index < n_features:
        raise bad_value(field, index, f"the network has {n_features} inputs", f"choose 0 to {n_features - 1}")
    return index
