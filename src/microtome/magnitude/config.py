"""Settings of a magnitude sweep. Imports no torch."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from microtome.core.config import Config, Probability
from microtome.core.errors import bad_value

Inches = Annotated[float, Field(gt=0, le=200)]


class MagnitudeConfig(Config):
    """Sweeps the magnitude of one input feature through a decomposed network and draws how it responds."""

    model_path: str = "latest"
    """The decomposition: a run folder, its name, or latest."""
    output_dir: Path | None = None
    """Where results go; null makes a new folder in runs."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    feature_idx: int = Field(0, ge=0)
    """The input feature that is swept, all others being 0."""
    features: str | None = None
    """Several features instead of feature_idx: a list such as 0,5,10, or all."""
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
    """Draw the components whose causal importance exceeds this somewhere in the sweep."""
    pre_activation: bool = False
    """Show neurons before their nonlinearity."""
    max_neurons: int | None = Field(None, ge=1)
    """Draw at most so many neurons, those that respond most; null draws all."""
    summary_only: bool = False
    """Draw the overview row only."""
    instance: int = Field(0, ge=0)
    """Which of the decomposition's seeds is drawn."""

    @field_validator("features", mode="before")
    @classmethod
    def _as_words(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return ",".join(str(item) for item in value)
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    def chosen_features(self, n_features: int) -> list[int]:
        """The features to sweep, of a network with ``n_features`` inputs.

        Raises ``MicrotomeError`` for a feature that the network does not have, naming the range.
        """
        if self.features is None:
            return [_known(self.feature_idx, n_features, "feature_idx")]
        words = self.features.replace(" ", "").strip(",")
        if words == "all":
            return list(range(n_features))
        try:
            chosen = [int(word) for word in words.split(",")]
        except ValueError:
            mend = "write a list such as 0,5,10, or all"
            raise bad_value("features", self.features, "is no list of feature numbers", mend) from None
        return [_known(index, n_features, "features") for index in dict.fromkeys(chosen)]


def _known(index: int, n_features: int, field: str) -> int:
    if not 0 <= index < n_features:
        raise bad_value(field, index, f"the network has {n_features} inputs", f"choose 0 to {n_features - 1}")
    return index
