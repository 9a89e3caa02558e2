"""Which fast path serves a target and configuration."""

from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.apd_config import APDConfig
from microtome.decomposition.apd_tms import tms_step
from microtome.targets.network import Target
from microtome.targets.tms import TMS


def fast_step(
    target: Target, parameters: dict[str, Tensor], x: Float[Tensor, "K B d"], config: APDConfig
) -> dict[str, Float[Tensor, " K"]] | None:
    """One step's losses, with every parameter's ``.grad`` filled; None where only the plain way applies."""
    closed_form = config.attribution_type == "gradient" and config.topk is not None
    if not closed_form or config.lp_sparsity_coeff is not None:
        return None
    if isinstance(target, TMS) and config.act_recon_coeff is None:
        return tms_step(target, parameters, x, config)
    return None
