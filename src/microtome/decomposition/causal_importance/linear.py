"""One scale and one shift a subcomponent, on its inner activation: the SPD paper's gates without neurons."""

from jaxtyping import Float
from torch import Tensor


def linear(
    inner: Float[Tensor, "K C N"], weight: Float[Tensor, "K C"], bias: Float[Tensor, "K C"]
) -> Float[Tensor, "K C N"]:
    """``g_c = w_c h_c + b_c``."""
    return inner * weight.unsqueeze(-1) + bias.unsqueeze(-1)
