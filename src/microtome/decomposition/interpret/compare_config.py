"""Settings of ``microtome compare-runs``. Imports no torch."""

from pathlib import Path

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from microtome.core.config import Config, Probability


class CompareConfig(Config):
    """Compares the components of two decompositions: absolute cosines between their weight matrices."""

    current_model_path: str
    """The run whose alive components are looked for."""
    reference_model_path: str
    """The run in which they are looked for, among all components."""
    density_threshold: Probability = 0.001
    """A component is alive when it is active on a larger share of the inputs than this."""
    n_eval_steps: PositiveInt = 5
    """Batches over which that share is taken."""
    eval_batch_size: PositiveInt = 1024
    """Inputs in a batch. Few inputs miss components that are rarely active."""
    shuffle_data: bool = False
    """Draw other inputs than the run's own evaluation stream; both are random anyway."""
    ci_alive_threshold: NonNegativeFloat = 0.0
    """A component is active on an input when its causal importance exceeds this (APD: when in the top k)."""
    current_instance: NonNegativeInt = 0
    """Which network or seed of the current run."""
    reference_instance: NonNegativeInt = 0
    """Which network or seed of the reference run."""
    n_rotations: int = Field(default=10, ge=2, le=1000)
    """Random rotations of the reference that tell what similarity chance alone gives."""
    seed: int = 0
    """Of inputs and rotations."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    dpi: int = Field(default=150, ge=20, le=1200)
    """Dots per inch of the figure."""
    output_dir: Path | None = None
    """Where results go; null makes a new folder in runs."""
