"""Settings of the comparison of weights. Imports no torch."""

from pydantic import Field, PositiveInt

from microtome.core.config import Config


class WeightsConfig(Config):
    """What is measured of the weights, and how much is spent on it."""

    components: int = Field(default=10, ge=2)
    """Principal components whose span is compared between networks; the pictures show the first two."""
    small: float = Field(default=1e-3, gt=0)
    """A weight below this absolute value counts as small in the sparsity."""
    sweeps: PositiveInt = 20
    """Rounds of weight matching at most."""
    floor_pairs: PositiveInt = 4
    """Alignments with an untrained network at most, for each pair of arms."""
    large: PositiveInt = 4_000_000
    """Networks with more weights than this stand beside two untrained networks instead of all of them."""
    barrier_points: PositiveInt = 3
    """Networks between two that are evaluated, evenly spaced."""
    barrier_images: PositiveInt = 128
    """Images they are evaluated on, at most; fewer where images are large."""
    pictures: PositiveInt = 24
    """Layers that get pictures of their own, evenly over depth; the overview always holds all."""
