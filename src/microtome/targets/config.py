"""Architectures of the networks we build ourselves. Imports no torch."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from microtome.core.config import Config


class TMSModelConfig(Config):
    """Toy Model of Superposition: ``relu(x W [H_1 .. H_k] W^T + b)`` (Elhage et al. 2022)."""

    n_features: PositiveInt = 40
    n_hidden: PositiveInt = 10
    n_hidden_layers: NonNegativeInt = 0
    """Square matrices between ``W`` and its transpose."""
    n_instances: PositiveInt = 1
    """Networks side by side, on the leading axis."""
    tied_weights: bool = True
    """The last layer is the first one's transpose, one parameter; otherwise a matrix of its own."""
    init_bias_to_zero: bool = True
    """With ``initialisation: linear``: start from a zero bias instead of ``nn.Linear``'s uniform one."""
    device: str = "auto"
    """Read from old files; the run's own ``device`` decides."""


class ResidMLPModelConfig(Config):
    """Residual MLP: ``r_0 = x W_E; r_{i+1} = r_i + act(r_i W_in + b_in) W_out + b_out; y = r_L W_U``."""

    n_instances: PositiveInt = 1
    n_features: PositiveInt = 100
    d_embed: PositiveInt = 1000
    """Width of the residual stream."""
    d_mlp: PositiveInt = 50
    """Neurons in each layer."""
    n_layers: PositiveInt = 1
    act_fn_name: Literal["relu", "gelu"] = "relu"
    """Activation of the network, and of the labels when ``label_type`` is ``act_plus_resid``."""
    apply_output_act_fn: bool = False
    """Apply the activation to the output as well."""
    in_bias: bool = False
    out_bias: bool = False
    init_scale: PositiveFloat = 1.0
    """Gain of the xavier initialisation of the MLP matrices."""


class MLPModelConfig(Config):
    """ReLU network ``sizes[0] -> .. -> sizes[-1]`` without an activation on the output."""

    sizes: tuple[PositiveInt, ...] = Field(default=(64, 32, 10), min_length=2)
    n_instances: PositiveInt = 1
