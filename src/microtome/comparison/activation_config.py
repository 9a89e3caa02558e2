"""Settings of the comparison of activations. Imports no torch."""

from pydantic import Field

from microtome.core.config import Config


class ActivationConfig(Config):
    """Statistics and principal components of activations."""

    images: int = Field(default=512, ge=4)
    """Images that principal components and dimensions are computed from at most, chosen by their content."""
    components: int = Field(default=2, ge=1)
    """Principal components that are drawn."""


class SimilarityConfig(Config):
    """How alike the networks see the images."""

    images: int = Field(default=512, ge=4)
    """Images that Gram matrices are made of at most, chosen by their content."""
    permutations: int = Field(default=100, ge=20)
    """Permutations of the images for the null of CKA; fewer where layers and images are many."""
    second_opinion_images: int = Field(default=256, ge=4)
    """Images for Procrustes distance and RSA at most."""
    directions: int = Field(default=10, ge=1)
    """Principal directions whose span is compared."""
