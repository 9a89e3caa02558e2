"""Which fast path serves a target and configuration."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from microtome.decomposition.apd_config import APDConfig
from microtome.decomposition.apd_resid_mlp import ResidMLPStep
from microtome.decomposition.apd_tms import tms_step
from microtome.decomposition.apd_variation import Variation
from microtome.targets.network import Target
from microtome.targets.resid_mlp import ResidMLP
from microtome.targets.tms import TMS

Step = Callable[[dict[str, Tensor], Tensor], dict[str, Tensor]]
"""(parameters, x [K, B, d]) -> losses, each [K]; fills every parameter's ``.grad``."""


def fast_step(target: Target, config: APDConfig, varied: Variation) -> Step | None:
    """The closed form that gives what ``apd_plain`` gives, or None where only the plain way applies."""
    if config.attribution_type != "gradient" or config.topk is None or config.lp_sparsity_coeff is not None:
        return None
    if isinstance(target, TMS) and config.act_recon_coeff is None:
        return partial(tms_step, target, config, varied)
    if isinstance(target, ResidMLP):
        return ResidMLPStep(target, config, varied)
    return None
