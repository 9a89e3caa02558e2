"""Settings of the probes. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from microtome.core.config import Config
from microtome.core.errors import bad_value

Positive = Annotated[int, Field(gt=0)]
Shrinkage = Annotated[float, Field(gt=0, lt=1)]


class ProbeConfig(Config):
    """What is decoded from each layer, how, and against what it is held."""

    tasks: tuple[str, ...] = ()
    """Labels to probe for; left out, all that the images have."""
    site: Literal["pre", "post"] = "post"
    """Probe a layer's own output (pre) or what its nonlinearity makes of it (post)."""
    folds: Annotated[int, Field(ge=3)] = 5
    """Parts of the images; each is predicted from the others. Shrinkages are chosen inside those others."""
    shrinkages: tuple[Shrinkage, ...] = (0.95, 0.8, 0.5, 0.2, 0.05, 0.005)
    """Shares of the identity in the within-class covariance that linear probes choose from."""
    max_dimensions: Positive = 256
    """Principal components of a layer that probes see; they are found without labels."""
    min_images: Positive = 5
    """Classes with fewer images are left out; at least one a fold is needed."""
    permutations: Annotated[int, Field(ge=20)] = 100
    """Label permutations behind each p-value and null band."""
    controls: Positive = 5
    """Control tasks: random labels with the structure of the true ones."""
    mlp: bool = True
    """Probe with an MLP too."""
    mlp_hidden: Positive = 64
    """Hidden units of the MLP."""
    mlp_dimensions: Positive = 64
    """Principal components of a layer that the MLP sees."""
    mlp_steps: Positive = 200
    """Most gradient steps of the MLP; it stops when an inner split no longer improves."""
    mlp_lr: Annotated[float, Field(gt=0)] = 0.01
    """Learning rate of the MLP (Adam)."""
    logistic: bool = False
    """Fit exact multinomial logistic regression too (scikit-learn, one at a time: slow)."""
    logistic_penalties: tuple[Annotated[float, Field(gt=0)], ...] = (0.01, 1.0, 100.0)
    """Inverse penalties C that logistic regression chooses from."""
    description_length: bool = True
    """Measure the online code length of the labels."""
    bootstraps: Annotated[int, Field(ge=200)] = 1000
    """Resamplings of the images behind each interval."""
    decodable_share: Annotated[float, Field(gt=0, le=1)] = 0.95
    """A label counts as decodable from the first layer that reaches this share of the best layer's accuracy
    above chance."""

    @field_validator("shrinkages")
    @classmethod
    def _some(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value:
            raise bad_value("shrinkages", value, "none to choose from", "give one or more between 0 and 1")
        return tuple(sorted(set(value), reverse=True))
