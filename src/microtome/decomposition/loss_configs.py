"""The losses of SPD, each with its settings. Imports no torch.

``coeff`` null or 0: the loss is reported and not trained on.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from microtome.core.config import Config, Probability
from microtome.core.errors import bad_value
from microtome.decomposition.schedule_config import Schedule

SitesMasked = Literal["all", "layerwise", "subset"]


class LossConfig(Config):
    """What all losses have."""

    coeff: NonNegativeFloat | None = None
    """Weight in the total; null or 0 only reports the loss."""

    @property
    def label(self) -> str:
        """The loss' name in metrics: ``stochastic_recon``, ``pgd_recon_subset``."""
        name, sites = str(getattr(self, "name")), getattr(self, "sites", "all")  # noqa: B009
        return name if sites == "all" else f"{name}_{sites}"

    @property
    def trained(self) -> bool:
        """Whether the loss adds to what is trained on."""
        return bool(self.coeff)


class UniformKSubset(Config):
    """At each position k sites are masked: k uniform in 1 to M, then k of the M sites."""

    type: Literal["uniform_k_subset"] = "uniform_k_subset"


class StaticProbability(Config):
    """At each position each site is masked with probability ``p``."""

    type: Literal["static_probability"] = "static_probability"
    p: Probability


Routing = Annotated[UniformKSubset | StaticProbability, Field(discriminator="type")]


class ReconConfig(LossConfig):
    """Reconstruction of the target's output with some sites masked."""

    sites: SitesMasked = "all"
    """`all` at once, `layerwise` (one at a time, averaged), or a random `subset` at each position."""
    routing: Routing = UniformKSubset()
    """How the subset is drawn."""


class Faithfulness(LossConfig):
    """The subcomponents of a site sum to its weight: ``sum ||W - VU||^2 / N`` over all sites.

    ``relative``: the mean over sites of ``||W - VU||^2 / ||W||^2``.
    """

    name: Literal["faithfulness"] = "faithfulness"
    relative: bool = False


class ImportanceMinimality(LossConfig):
    """``sum over sites and subcomponents of mean_b (u + eps)^p + beta mean_b(.) log2(1 + sum_b(.))``."""

    name: Literal["importance_minimality"] = "importance_minimality"
    pnorm: NonNegativeFloat = 1.0
    p_anneal_start_frac: Probability = 1.0
    """Share of the steps after which p begins to move."""
    p_anneal_final_p: NonNegativeFloat | None = None
    """p at the end, reached linearly; null keeps p constant."""
    p_anneal_end_frac: Probability = 1.0
    """Share of the steps after which p is at its final value."""
    eps: NonNegativeFloat = 1e-12
    beta: NonNegativeFloat = 0.0
    """Weight of the frequency term, which presses on subcomponents that many rows use."""

    @model_validator(mode="after")
    def _check(self) -> "ImportanceMinimality":
        _in_order(
            "p_anneal_start_frac", self.p_anneal_start_frac, "p_anneal_end_frac", self.p_anneal_end_frac
        )
        return self

    def p_at(self, fraction: float) -> float:
        """p when ``fraction`` of the training is done."""
        if self.p_anneal_final_p is None:
            return self.pnorm
        return annealed(
            self.pnorm, self.p_anneal_final_p, self.p_anneal_start_frac, self.p_anneal_end_frac, fraction
        )


class SmoothedCount(LossConfig):
    """A smooth count ``u^2 / (u^2 + gamma^2)`` of what matters; gamma is annealed linearly."""

    gamma: PositiveFloat = 1.0
    final_gamma: PositiveFloat = 0.01
    anneal_start_frac: Probability = 0.0
    """Share of the steps after which gamma begins to fall."""
    anneal_end_frac: Probability = 1.0
    """Share of the steps after which gamma is at its final value."""

    @model_validator(mode="after")
    def _check(self) -> "SmoothedCount":
        _in_order("anneal_start_frac", self.anneal_start_frac, "anneal_end_frac", self.anneal_end_frac)
        return self

    def gamma_at(self, fraction: float) -> float:
        """Gamma when ``fraction`` of the training is done."""
        return annealed(self.gamma, self.final_gamma, self.anneal_start_frac, self.anneal_end_frac, fraction)


class SmoothL0(SmoothedCount):
    """``sum over sites and subcomponents of mean_b u^2 / (u^2 + gamma^2)``: how many of them matter."""

    name: Literal["smooth_l0"] = "smooth_l0"


class Frequency(SmoothedCount):
    """``sum f log2(1 + scale f)`` with f the mean over rows of a subcomponent's ``u^2 / (u^2 + gamma^2)``."""

    name: Literal["frequency"] = "frequency"
    scale: PositiveFloat = 1.0


class Schatten(LossConfig):
    """``mean_b sum u^p (||V_c||^2 + ||U_c||^2)``: small subcomponents where they matter."""

    name: Literal["schatten"] = "schatten"
    pnorm: PositiveFloat = 1.0


class UnmaskedRecon(LossConfig):
    """Reconstruction by all subcomponents."""

    name: Literal["unmasked_recon"] = "unmasked_recon"


class CIMaskedRecon(ReconConfig):
    """Reconstruction with the causal importances themselves as masks."""

    name: Literal["ci_masked_recon"] = "ci_masked_recon"


class StochasticRecon(ReconConfig):
    """Reconstruction with masks drawn uniformly between the causal importance and 1."""

    name: Literal["stochastic_recon"] = "stochastic_recon"


class PGDRecon(ReconConfig):
    """Reconstruction with the masks that sign ascent makes worst, found anew for every batch."""

    name: Literal["pgd_recon"] = "pgd_recon"
    init: Literal["random", "ones", "zeroes"] = "random"
    """What the ascent begins from."""
    step_size: PositiveFloat = 0.1
    n_steps: NonNegativeInt = 20
    mask_scope: Literal["unique_per_datapoint", "shared_across_batch"] = "shared_across_batch"
    """Whether each datapoint has masks of its own, or the whole batch shares them."""
    start_frac: Probability = 0.0
    """Share of the steps before which the loss is left out."""


class SignAscent(Config):
    """A step of a fixed size up the sign of the gradient."""

    type: Literal["sign"] = "sign"
    step_size: PositiveFloat = 0.1
    lr_schedule: Schedule | None = None
    """The step size over training, instead of `step_size`."""


class AdamAscent(Config):
    """Adam, upwards."""

    type: Literal["adam"] = "adam"
    lr: PositiveFloat = 0.01
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    eps: NonNegativeFloat = 1e-8
    lr_schedule: Schedule | None = None
    """The rate over training, instead of `lr`."""


class SingleSource(Config):
    """One source for every row and position."""

    type: Literal["single_source"] = "single_source"


class BroadcastAcrossBatch(Config):
    """One source a position, the same for every row."""

    type: Literal["broadcast_across_batch"] = "broadcast_across_batch"


class RepeatAcrossBatch(Config):
    """``n_sources`` rows of sources, repeated over the batch."""

    type: Literal["repeat_across_batch"] = "repeat_across_batch"
    n_sources: PositiveInt = 1


class PerBatchPerPosition(Config):
    """A source of its own for every row and position of a batch."""

    type: Literal["per_batch_per_position"] = "per_batch_per_position"


Ascent = Annotated[SignAscent | AdamAscent, Field(discriminator="type")]
Scope = Annotated[
    SingleSource | BroadcastAcrossBatch | RepeatAcrossBatch | PerBatchPerPosition,
    Field(discriminator="type"),
]


class PersistentPGDRecon(ReconConfig):
    """Reconstruction with adversarial masks that live on from step to step, with their optimiser's state."""

    name: Literal["persistent_pgd_recon"] = "persistent_pgd_recon"
    optimizer: Ascent = SignAscent()
    scope: Scope = SingleSource()
    use_sigmoid_parameterization: bool = False
    """Whether sources are sigmoids of what is trained, instead of clipped to [0, 1]."""
    reset_prob: Probability = 0.0
    """Probability that the sources start afresh at a step."""
    n_warmup_steps: NonNegativeInt = 0
    """Ascents on the same batch before the one that each step makes."""
    start_frac: Probability = 0.0
    """Share of the steps before which the loss is left out."""
    adv_fraction: Probability = 1.0
    """Share of the rows whose masks are adversarial; the others' are stochastic."""


class HiddenActsRecon(LossConfig):
    """Mean squared error of what reaches each site when the sites before it are masked."""

    name: Literal["hidden_acts_recon"] = "hidden_acts_recon"
    masks: Literal["stochastic", "ci"] = "stochastic"

    @property
    def label(self) -> str:
        """``hidden_acts_recon``, or ``hidden_acts_recon_ci``."""
        return self.name if self.masks == "stochastic" else f"{self.name}_{self.masks}"


AnyLoss = (
    Faithfulness
    | ImportanceMinimality
    | SmoothL0
    | Frequency
    | Schatten
    | UnmaskedRecon
    | CIMaskedRecon
    | StochasticRecon
    | PGDRecon
    | PersistentPGDRecon
    | HiddenActsRecon
)
Loss = Annotated[AnyLoss, Field(discriminator="name")]


def labelled(losses: Sequence[AnyLoss]) -> dict[str, AnyLoss]:
    """The losses by label; a second one of the same label gets ``_2``."""
    named: dict[str, AnyLoss] = {}
    for loss in losses:
        label, n = loss.label, 2
        while label in named:
            label, n = f"{loss.label}_{n}", n + 1
        named[label] = loss
    return named


def annealed(start: float, end: float, start_frac: float, end_frac: float, fraction: float) -> float:
    """From ``start`` to ``end``, linearly while ``fraction`` goes from ``start_frac`` to ``end_frac``."""
    if fraction < start_frac:
        return start
    done = 1.0 if fraction >= end_frac else (fraction - start_frac) / (end_frac - start_frac)
    return start + done * (end - start)


def _in_order(first: str, start: float, second: str, end: float) -> None:
    if end < start:
        raise bad_value(second, end, f"before {first}", "swap them")
