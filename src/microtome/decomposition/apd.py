"""Attribution-based Parameter Decomposition (Braun et al. 2025, arXiv:2501.14926) for the training loop."""

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.core.seeds import generator
from microtome.decomposition.apd_components import Factors, initial_parameters, site_factors
from microtome.decomposition.apd_config import APDConfig
from microtome.decomposition.apd_fast import fast_step
from microtome.decomposition.apd_plain import attributions, plain_losses
from microtome.decomposition.apd_variation import Variation
from microtome.decomposition.kernels import apd as kernels
from microtome.targets.network import Target


def start(target: Target, config: APDConfig) -> dict[str, Tensor]:
    """The components that the configuration's seed draws for every instance of ``target``."""
    gain = config.task_config.init_scale if config.task_config is not None else 1.0
    return initial_parameters(target, config.C, config.m, gain, config.seed)


class APD:
    """Components A_c B_c of every site of ``target``, and one training step of their losses.

    ``parameters``: ``<site>.A_T [K, C, m, d_in]`` (A transposed) and ``<site>.B [K, C, m, d_out]``; K is the
    target's number of instances. ``plain`` runs the equations as they stand instead of the closed forms; both
    give the same losses and gradients. The total loss is summed over instances, so that each trains as if it
    were alone.
    """

    def __init__(
        self,
        target: Target,
        config: APDConfig,
        *,
        plain: bool = False,
        parameters: dict[str, Tensor] | None = None,
        varied: Variation | None = None,
    ) -> None:
        """``parameters``: where to start, in place of what the seed draws. ``varied``: by instance."""
        self.target = target.requires_grad_(False)
        self.config = config
        self.varied = varied or Variation.of([config])
        self.fast = None if plain else fast_step(target, config, self.varied)
        self.n_instances = target.n_instances
        self.sites = target.sites()
        self.parameters: dict[str, Tensor] = parameters or start(target, config)
        device = next(iter(self.parameters.values())).device
        self.generator: torch.Generator = generator(
            config.seed, device, "apd"
        )  # APD draws nothing after the start

    def component_factors(self) -> Factors:
        """Site name to (A [K, C, d_in, m], B [K, C, m, d_out])."""
        return site_factors(self.sites, self.parameters)

    def compute(self, x: Float[Tensor, "K B d"], step: int) -> dict[str, Float[Tensor, " K"]]:
        """The losses of one batch, each [K] and detached, ``total`` included; fills every ``.grad``."""
        del step
        if self.fast is not None:
            return self._with_total(self.fast(self.parameters, x))
        for parameter in self.parameters.values():
            parameter.grad = None
        terms = plain_losses(self.target, self.component_factors(), x, self.config, self.varied.topk)
        weights = self.varied.coefficients
        total = torch.stack([(weights[name] * loss).sum() for name, loss in terms.items()]).sum()
        total.backward(inputs=list(self.parameters.values()))
        return self._with_total({name: loss.detach() for name, loss in terms.items()})

    def _with_total(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        weights = self.varied.coefficients
        losses["total"] = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum(dim=0)
        return losses

    @torch.no_grad()
    def before_step(self) -> None:
        """``unit_norm_matrices``: scale the columns of every A to length one, before the losses."""
        for rows in self._unit_rows():
            if kernels.available(rows) and rows.is_contiguous():
                kernels.unit_rows(rows.detach())
            else:
                rows.div_(torch.linalg.vector_norm(rows, dim=-1, keepdim=True))

    @torch.no_grad()
    def after_backward(self) -> None:
        """``unit_norm_matrices``: remove the part of A's gradient along its columns."""
        for rows in self._unit_rows():
            gradient = rows.grad
            if gradient is None:
                continue
            if kernels.available(rows) and rows.is_contiguous() and gradient.is_contiguous():
                kernels.project_rows(rows.detach(), gradient)
            else:
                gradient.addcmul_(rows, (gradient * rows).sum(dim=-1, keepdim=True), value=-1.0)

    def _unit_rows(self) -> list[Tensor]:
        """The A matrices that are kept at length one; their columns are the rows of ``A_T``."""
        if not self.config.unit_norm_matrices:
            return []
        return [parameter for name, parameter in self.parameters.items() if name.endswith(".A_T")]

    def attributions(self, x: Float[Tensor, "K B d"]) -> Float[Tensor, "K B C"]:
        """The configured attributions of a batch, for measures and pictures."""
        return attributions(self.target, self.component_factors(), x, self.config).detach()
