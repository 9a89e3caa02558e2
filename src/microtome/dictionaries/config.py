"""What a dictionary is, apart from its weights. Torch free."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from microtome.core.config import Config
from microtome.core.errors import bad_value

Architecture = Literal["relu", "gated", "topk", "groupmax", "batch_topk", "jumprelu", "matryoshka"]
Site = Literal["mlp", "mlp_out", "resid"]
Normalisation = Literal["none", "layer_norm", "constant_norm"]

# Architectures that keep k features of every input, whatever their size.
COUNTED = ("topk", "groupmax")


class DictionaryConfig(Config):
    """Architecture, widths and place of a dictionary."""

    architecture: Architecture
    d_in: PositiveInt
    """Width of the activations."""
    n_features: PositiveInt
    """Rows of the decoder."""
    k: PositiveInt | None = None
    """Features kept of every input (topk, groupmax), or on average in training (batch_topk, matryoshka)."""
    subtract_b_dec: bool = True
    """Whether the decoder's bias is subtracted from the input before encoding."""
    normalisation: Normalisation = "none"
    """What is done to every single input before encoding and undone after decoding: ``layer_norm`` (mean 0,
    variance 1) or ``constant_norm`` (length sqrt(d_in)). A factor common to all inputs is folded into the
    weights instead."""
    layer_norm_eps: float = Field(default=1e-5, ge=0)
    """What ``layer_norm`` adds to the standard deviation."""
    prefixes: tuple[PositiveInt, ...] = ()
    """Sizes of the nested dictionaries of a Matryoshka dictionary, the last one all features."""
    site: Site | None = None
    """Where its activations come from: a layer's MLP, the MLP's contribution to the residual stream (after a
    norm that some models put there), or the residual stream after the layer."""
    layer: NonNegativeInt | None = None
    hook: str | None = None
    """The site as the file names it."""
    model_name: str | None = None

    @model_validator(mode="after")
    def _check(self) -> "DictionaryConfig":
        if self.architecture in COUNTED and self.k is None:
            raise bad_value("k", None, f"{self.architecture} keeps k features", "give a whole number")
        if self.k is not None and self.k > self.n_features:
            raise bad_value("k", self.k, f"there are only {self.n_features} features", "make it smaller")
        if self.architecture == "groupmax" and self.k and self.n_features % self.k:
            raise bad_value("k", self.k, f"does not divide n_features={self.n_features}", "choose a divisor")
        ascending = all(a < b for a, b in zip(self.prefixes, self.prefixes[1:], strict=False))
        if self.prefixes and not (ascending and self.prefixes[-1] == self.n_features):
            raise bad_value(
                "prefixes",
                list(self.prefixes),
                f"must grow and end with n_features={self.n_features}",
                "give increasing sizes",
            )
        return self
