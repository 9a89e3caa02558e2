"""What an evaluation measures besides the losses. Imports no torch."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from microtome.core.config import Config
from microtome.decomposition.loss_configs import AnyLoss, Routing, SitesMasked, UniformKSubset


class MetricConfig(Config):
    """What all metrics have."""

    @property
    def label(self) -> str:
        """The metric's name in results."""
        return str(getattr(self, "name"))  # noqa: B009


class CEAndKLLosses(MetricConfig):
    """Cross-entropy and KL divergence to the target, under each kind of mask (language models)."""

    name: Literal["ce_and_kl"] = "ce_and_kl"
    rounding_threshold: NonNegativeFloat = 0.0
    """Causal importances above it are 1 in rounded masks, others 0."""


class CIHistograms(MetricConfig):
    """Histograms of the causal importances of each site."""

    name: Literal["ci_histograms"] = "ci_histograms"
    n_batches_accum: PositiveInt | None = None
    """Batches to take in; null takes all."""


class CIL0(MetricConfig):
    """How many subcomponents of each site matter for an input, on average."""

    name: Literal["ci_l0"] = "ci_l0"
    groups: Mapping[str, tuple[str, ...]] | None = None
    """Sums over several sites: name -> patterns of their names."""


class CIMeanPerComponent(MetricConfig):
    """The mean causal importance of each subcomponent."""

    name: Literal["ci_mean_per_component"] = "ci_mean_per_component"


class ComponentActivationDensity(MetricConfig):
    """The share of inputs for which each subcomponent matters."""

    name: Literal["component_activation_density"] = "component_activation_density"


class IdentitySites(Config):
    """Sites that ought to have one subcomponent for each feature."""

    layer_pattern: str
    n_features: PositiveInt


class DenseSites(Config):
    """Sites that ought to have ``k`` subcomponents in use."""

    layer_pattern: str
    k: PositiveInt


class IdentityCIError(MetricConfig):
    """Entries of the causal importance matrix that are off from the pattern that it ought to have."""

    name: Literal["identity_ci_error"] = "identity_ci_error"
    identity_ci: tuple[IdentitySites, ...] | None = None
    dense_ci: tuple[DenseSites, ...] | None = None


class PermutedCIPlots(MetricConfig):
    """Pictures of the causal importances for each feature alone, sorted."""

    name: Literal["permuted_ci_plots"] = "permuted_ci_plots"
    identity_patterns: tuple[str, ...] | None = None
    dense_patterns: tuple[str, ...] | None = None


class UVPlots(MetricConfig):
    """Pictures of V and U."""

    name: Literal["uv_plots"] = "uv_plots"
    identity_patterns: tuple[str, ...] | None = None
    dense_patterns: tuple[str, ...] | None = None


class StochasticReconSubsetCEAndKL(MetricConfig):
    """Cross-entropy and KL divergence with stochastic masks at chosen sites only."""

    name: Literal["stochastic_recon_subset_ce_and_kl"] = "stochastic_recon_subset_ce_and_kl"
    include_patterns: Mapping[str, tuple[str, ...]] | None = None
    """Name -> patterns of the sites to mask."""
    exclude_patterns: Mapping[str, tuple[str, ...]] | None = None
    """Name -> patterns of the sites not to mask."""


class PGDMultiBatchRecon(MetricConfig):
    """Reconstruction with one adversarial mask for many batches: its gradient is summed over them."""

    name: Literal["pgd_multi_batch_recon"] = "pgd_multi_batch_recon"
    coeff: NonNegativeFloat | None = None
    sites: SitesMasked = "all"
    routing: Routing = UniformKSubset()
    init: Literal["random", "ones", "zeroes"] = "random"
    step_size: PositiveFloat = 0.1
    n_steps: PositiveInt = 20
    gradient_accumulation_steps: PositiveInt = 1
    """Batches to sum each step's gradient over."""

    @property
    def label(self) -> str:
        """``pgd_multi_batch_recon``, with ``_subset`` or ``_layerwise``."""
        return self.name if self.sites == "all" else f"{self.name}_{self.sites}"


EvaluationMetric = (
    CEAndKLLosses
    | CIHistograms
    | CIL0
    | CIMeanPerComponent
    | ComponentActivationDensity
    | IdentityCIError
    | PermutedCIPlots
    | UVPlots
    | StochasticReconSubsetCEAndKL
    | PGDMultiBatchRecon
)
AnyMetric = EvaluationMetric | AnyLoss
Metric = Annotated[AnyMetric, Field(discriminator="name")]
