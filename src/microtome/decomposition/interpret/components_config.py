"""Settings of ``microtome components``. Imports no torch."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt

from microtome.core.config import Config, Probability

Inches = Annotated[float, Field(gt=0, le=200)]


class ComponentsConfig(Config):
    """Pictures every component's weights, and lists which components fire for which inputs."""

    model_path: str = "latest"
    """The decomposition: a run folder, its name, latest, or what the original tools wrote."""
    threshold: Probability = 0.01
    """A component is active on an input when its causal importance (APD: attribution relative to the largest)
    exceeds this."""
    figsize: tuple[Inches, Inches] = (8.0, 6.0)
    """Width and height in inches of a site's summed matrix."""
    dpi: int = Field(default=150, ge=20, le=1200)
    """Dots per inch of the pictures."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    magnitude: float = 0.75
    """Value of the one feature that is on."""
    magnitudes: tuple[float, ...] | None = None
    """Values of the pictures that show several; null: -1 to 1, or 0 to 1 where inputs are never negative."""
    max_components: PositiveInt = 100
    """Picture at most so many components of a site, the largest; statistics are over all."""
    n_samples: int = Field(default=200, ge=1)
    """Inputs of networks whose inputs are no features."""
    instance: NonNegativeInt = 0
    """Which of the run's networks or seeds."""
    seed: int = 0
    """Of those inputs."""
    output_dir: Path | None = None
    """Where results go; null makes a new folder in runs."""
