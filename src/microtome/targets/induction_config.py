"""Architecture of the induction-head toy. Imports no torch."""

from typing import Literal

from pydantic import PositiveInt, model_validator

from microtome.core.config import Config
from microtome.core.errors import bad_value

SPECIAL_TOKENS = 2  # the beginning of a sequence, and the token that marks a pair


class InductionModelConfig(Config):
    """A small causal transformer that learns to carry on what it has seen (Olsson et al. 2022)."""

    n_instances: PositiveInt = 1
    """Networks side by side, on the leading axis."""
    vocab_size: PositiveInt = 64
    """Ordinary tokens; two special ones come on top."""
    seq_len: PositiveInt = 32
    """Tokens a sequence."""
    d_model: PositiveInt = 32
    """Width of the residual stream."""
    n_heads: PositiveInt = 1
    """Attention heads of each layer."""
    n_layers: PositiveInt = 2
    ff_fanout: PositiveInt = 4
    """Neurons of an MLP, as a multiple of d_model."""
    use_ff: bool = False
    """Whether an MLP follows each attention."""
    use_pos_encoding: bool = True
    """Add sinusoids to what queries and keys are made of; the residual stream holds no positions."""
    pos_encoding: Literal["projected", "added"] = "projected"
    """`projected`: sinusoids are added before the projections to queries and keys, so that a head can look at
    the previous token. `added`: after them, as in the SPD code; heads then look around, not at, a place."""
    use_layer_norm: bool = False
    device: str = "auto"
    """Read from old files; the run's own `device` decides."""

    @model_validator(mode="after")
    def _check(self) -> "InductionModelConfig":
        if self.d_model % (2 * self.n_heads):
            raise bad_value(
                "n_heads", self.n_heads, f"{self.d_model} is no even number a head", "use a divisor"
            )
        return self
