"""What the residual MLP is trained to compute from its inputs."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.core.errors import bad_value

LabelType = Literal["act_plus_resid", "abs"]


def label_coefficients(n_features: int, seed: int = 0, trivial: bool = False) -> Float[Tensor, " n_features"]:
    """Coefficients ``c``: ones when ``trivial``, else uniform in [1, 2) from torch's own stream of ``seed``.

    The stream is that of the original APD code, so that old label functions can be drawn again.
    """
    if trivial:
        return torch.ones(n_features)
    return torch.rand(n_features, generator=torch.Generator().manual_seed(seed)) + 1


@dataclass(frozen=True)
class ResidLabels:
    """``act(c * x) + x`` (``act_plus_resid``) or ``|c * x|`` (``abs``), for every feature on its own."""

    coefficients: Float[Tensor, "*K n_features"]
    label_type: LabelType = "act_plus_resid"
    act_fn_name: Literal["relu", "gelu"] = "relu"

    def __call__(self, x: Float[Tensor, "K *B n_features"]) -> Float[Tensor, "K *B n_features"]:
        """Labels of the inputs ``x``."""
        c = self.coefficients.to(x)
        if c.ndim == 2:  # one row an instance
            c = c.reshape(c.shape[0], *(1 for _ in range(x.ndim - 2)), c.shape[-1])
        if self.label_type == "abs":
            return (c * x).abs()
        act = torch.relu if self.act_fn_name == "relu" else torch.nn.functional.gelu
        return act(c * x) + x


def feature_importances(n_features: int, importance_val: float | int | None) -> Float[Tensor, " n_features"]:
    """Weight of each feature in the loss: ``importance_val ** i``, or one without it."""
    if importance_val is None or importance_val == 1:
        return torch.ones(n_features)
    if not 0 < importance_val <= 1:
        raise bad_value("importance_val", importance_val, "not a discount", "use a number from 0 to 1")
    return torch.as_tensor(importance_val).pow(torch.arange(n_features))
