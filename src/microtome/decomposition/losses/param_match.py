"""Parameter match: do the components sum to the target's weights?"""

from jaxtyping import Float
from torch import Tensor


def param_match(
    summed: dict[str, Float[Tensor, "K _ _"]], target: dict[str, Float[Tensor, "K _ _"]], n_params: int
) -> Float[Tensor, " K"]:
    """``sum_l ||sum_c P_{c,l} - W_l||^2 / n_params`` (APD paper, eq. 3: L_faithfulness).

    ``n_params`` counts the entries of every decomposed matrix of one instance, tied ones each time.
    """
    losses = [(summed[name] - weight).square().sum(dim=(-2, -1)) for name, weight in target.items()]
    total = losses[0]
    for loss in losses[1:]:
        total = total + loss
    return total / n_params
