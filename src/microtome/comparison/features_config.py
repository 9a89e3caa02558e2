"""Settings of the comparison of features. Imports no torch."""

from pydantic import Field, PositiveInt

from microtome.core.config import Config, Probability


class FeaturesConfig(Config):
    """Dictionaries of the channels at every place, trained on each network and on two together."""

    layers: PositiveInt = 12
    """Layers that are looked at, at most: evenly over depth."""
    max_rows: PositiveInt = 8192
    """Channel vectors of one layer, at most; the same images and places in all networks."""
    expansion: PositiveInt = 4
    """Features for every channel."""
    max_features: PositiveInt = 128
    """Features of a dictionary, at most; also at most a quarter of the vectors that it learns from."""
    k: PositiveInt = 8
    """Features that act at a time, at most; also at most a quarter of the channels."""
    steps: PositiveInt = 300
    """Training steps of a dictionary."""
    batch_size: PositiveInt = 256
    """Channel vectors a step."""
    held_out: Probability = 0.2
    """Share of the images on which explained variance is measured."""
    floor_networks: int = Field(default=2, ge=1)
    """Untrained networks of each architecture whose features stand beside."""
    seeds: PositiveInt = 3
    """Networks of an arm that are looked at, at most."""
    groups: int = Field(default=20, ge=5)
    """Groups of images that are left out in turn for intervals (jackknife)."""
    stable: Probability = 0.5
    """Correlation with a feature of the same network's other dictionary from which on a feature is stable."""
    distinct: Probability = 0.1
    """How much higher that must be than with untrained networks' features; else the feature is everyone's."""
    cards: PositiveInt = 3
    """Features drawn of each kind (shared, the first's only, the second's only)."""
    card_images: PositiveInt = 6
    """Top-activating images drawn of a feature."""
